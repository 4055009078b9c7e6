"""Handlers that do not do their work in the call itself, and hooks that fail in odd ways."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import sys
import threading
import types

from django_srq import RetryLater, queues
from django_srq.queue.backoff import Backoff
from tests.support.handlers import _say

# -- Their work is done when their result is awaited.


def plain(function):
    """A decorator without functools.wraps."""

    def wrapper(payload):
        return function(payload)

    return wrapper


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


async def working(payload):
    await asyncio.sleep(0)
    _say(f"did {payload}")


class Async:
    async def __call__(self, payload):
        await working(payload)

    async def method(self, payload):
        await working(payload)


class SyncOverAsync:
    def __call__(self, payload):
        return working(payload)


class Awaited:
    """A class with awaitable instances that are no coroutines."""

    def __init__(self, payload):
        self.payload = payload

    def __await__(self):
        return working(self.payload).__await__()


class AsyncCallLater:
    """A class that does its work when an instance is made; nobody is to call the instance."""

    def __init__(self, payload):
        _say(f"did {payload}")

    async def __call__(self):
        raise AssertionError


@types.coroutine
def old_style(payload):
    yield from working(payload).__await__()


async def twice(payload):
    """Forgets to await the coroutine."""
    return working(payload)


def in_executor(payload):
    return _executor.submit(_say, f"did {payload}")


def in_executor_a_coroutine(payload):
    return _executor.submit(working, payload)


def on_a_loop_of_its_own(payload):
    loop = asyncio.new_event_loop()
    _loops.append((loop, None))
    return loop.create_task(working(payload))


def on_a_loop_beside(payload):
    loop = _loop_beside()
    made: concurrent.futures.Future[object] = concurrent.futures.Future()
    loop.call_soon_threadsafe(lambda: made.set_result(loop.create_task(working(payload))))
    return made.result()


def threadsafe(payload):
    return asyncio.run_coroutine_threadsafe(working(payload), _loop_beside())


def _loop_beside():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    _loops.append((loop, thread))
    return loop


_loops: list[tuple[asyncio.AbstractEventLoop, threading.Thread | None]] = []


def close_loops():
    while _loops:
        loop, thread = _loops.pop()
        if thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
        loop.close()


async def a_task(payload):
    return asyncio.create_task(working(payload))


_executor = concurrent.futures.ThreadPoolExecutor(1)

DONE = {
    "plain": plain(working),
    "wrapped": wrapped(working),
    "partial": functools.partial(working),
    "partial_of_plain": functools.partial(plain(working)),
    "partial_of_object": functools.partial(Async()),
    "object": Async(),
    "sync_object": SyncOverAsync(),
    "method": Async().method,
    "plain_method": plain(Async().method),
    "static": staticmethod(working),
    "awaited": Awaited,
    "class": AsyncCallLater,
    "old_style": old_style,
    "twice": twice,
    "in_executor": in_executor,
    "in_executor_a_coroutine": in_executor_a_coroutine,
    "on_a_loop_of_its_own": on_a_loop_of_its_own,
    "on_a_loop_beside": on_a_loop_beside,
    "threadsafe": threadsafe,
    "a_task": a_task,
}


# -- Nobody does their work.


def generator(payload):
    _say(f"did {payload}")
    yield


async def async_generator(payload):
    _say(f"did {payload}")
    yield


class Generating:
    def __call__(self, payload):
        yield payload


def lazily(payload):
    return map(_say, [payload])


def decorator_without_call(function):
    def decorate(payload):
        return function

    return decorate


async def async_and_then_a_generator(payload):
    return generator(payload)


def left_behind(payload):
    return functools.partial(_say, payload)


NOT_DONE = {
    "generator": generator,
    "wrapped_generator": plain(generator),
    "partial_of_generator": functools.partial(generator),
    "generating_object": Generating(),
    "async_generator": async_generator,
    "partial_of_async_generator": functools.partial(async_generator),
    "lazily": lazily,
    "function": decorator_without_call(working),
    "async_and_then_a_generator": async_and_then_a_generator,
    "left_behind": left_behind,
}

globals().update(DONE | NOT_DONE)


# -- They fail.


class Odd(BaseException):
    pass


class Exits(Exception):
    def __str__(self):
        os._exit(3)


class ExitsWell(Exception):
    def __str__(self):
        os._exit(0)


class Hangs(Exception):
    def __str__(self):
        threading.Event().wait()


class Leaves(Exception):
    def __str__(self):
        sys.exit(0)


class Nowhere(Exception):
    __module__ = None


class WrongDelay(RetryLater):
    def __init__(self):
        self.delay = "soon"


class Breaking(Backoff):
    def delay(self, deliveries):
        raise Odd


def raising(payload):
    """Raises the error that the payload names."""
    if payload == "good":
        _say("good")
        return
    _say(payload)
    raise {
        "Odd": Odd,
        "GeneratorExit": GeneratorExit,
        "KeyboardInterrupt": KeyboardInterrupt,
        "CancelledError": asyncio.CancelledError,
        "SystemExit": SystemExit,
        "Exits": Exits,
        "ExitsWell": ExitsWell,
        "Hangs": Hangs,
        "Leaves": Leaves,
        "Nowhere": Nowhere,
        "WrongDelay": WrongDelay,
    }[payload]


async def raising_async(payload):
    raising(payload)


def raising_in_batch(payloads):
    for payload in payloads:
        raising(payload)


async def leaving_in_a_task(payload):
    """Raises SystemExit in a task, which ends the loop that runs the task."""
    if payload == "good":
        _say("good")
    else:
        await asyncio.gather(asyncio.create_task(_leave()))


async def _leave():
    sys.exit(5)


_open = []


def leaking(payload):
    """Opens files until no more can be opened, and keeps them open."""
    if payload == "good":
        with open("/dev/null"):
            _say("good")
        return
    _say("leaking")
    while True:
        _open.append(open("/dev/null"))  # noqa: SIM115


def opening(payload):
    """Opens files until no more can be opened; they are closed when the error is raised."""
    if payload == "good":
        with open("/dev/null"):
            _say("good")
        return
    _say("opening")
    mine = []
    while True:
        mine.append(open("/dev/null"))  # noqa: SIM115


def cut_off(payload):
    """Like ``opening``, but first closes the queue's connections."""
    if payload == "bad":
        queues["q"].link.close()
    opening(payload)


class OddSerializer:
    """Fails in the way that the payload names."""

    @staticmethod
    def dumps(payload):
        if payload == "cannot":
            raise Odd
        if payload == "leaves":
            sys.exit(0)
        if payload == "deferred":
            return working(payload)
        return payload.encode()

    @staticmethod
    def loads(data):
        text = data.decode()
        if text == "Odd":
            raise Odd
        if text == "KeyboardInterrupt":
            raise KeyboardInterrupt
        if text == "SystemExit":
            sys.exit(0)
        if text == "exit":
            os._exit(0)
        if text == "coroutine":
            return working(text)
        return text


class AsyncSerializer:
    @staticmethod
    async def dumps(payload):
        return b""

    @staticmethod
    def loads(data):
        return data


async def allows(request, action, alias):
    return True


def redact_by_wrapper(alias, payload):
    return working(payload)


def allows_by_wrapper(request, action, alias):
    return allows(request, action, alias)


def allows_one(request, action, alias):
    return 1


def allows_by_generator(request, action, alias):
    return generator(alias)
