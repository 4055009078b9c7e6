"""The call of a handler: sync or async, with a clean thread around each item."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, iscoroutinefunction, sync_to_async
from django.db import connections
from django.db.backends.signals import connection_created

from django_srq.consumer.databases import ours
from django_srq.queue.item import Item
from django_srq.runtime.completion import caught, completed, result_of, wait_here
from django_srq.runtime.process import PerProcess

T = TypeVar("T")


def is_asynchronous(handler: Callable[..., Any]) -> bool:
    """Whether it is seen to need an event loop: an ``async def``, or an object whose ``__call__`` is one.

    What a decorator hides shows only when it is called; ``adapted`` awaits that too.
    """
    while isinstance(handler, partial):
        handler = handler.func
    return iscoroutinefunction(handler) or iscoroutinefunction(getattr(type(handler), "__call__", None))  # noqa: B004


def adapted(handler: Callable[..., Any], *, on_loop: bool = False, batch: bool = False) -> Callable[[Any], Any]:
    """A user's handler as a function of the item: it gets the payload, and the item if its signature names that.

    Returns once the handler is done, also when it returned something to be awaited. on_loop: that is awaited on one
    event loop of the process, side by side; else on one of its own, with the caller's thread for what is sync in it
    (its database transaction). batch: a function of a list of items, which returns the errors of single ones, by their
    place; the handler gets the list of payloads, and ``items`` if its signature names that.
    """
    call = _with_list(handler) if batch else _with_one(handler)
    wait = _wait_on_loop if on_loop else wait_here

    def handle(item: Any) -> None:
        outcome = call(item)
        if outcome is not None:
            completed(outcome, wait)

    def handle_all(items: Any) -> Mapping[int, Exception]:
        return errors_of(completed(call(items), wait), len(items))

    return handle_all if batch else handle


def carry_out(handle: Callable[[Any], Any], given: Any) -> Any:
    """Call the handle of a source; its result, once it is finished."""
    outcome = handle(given)
    return None if outcome is None else completed(outcome, _wait_on_loop)


def _with_one(handler: Callable[..., Any]) -> Callable[[Item], Any]:
    if _names(handler, "item"):
        return lambda item: handler(item.payload, item=item)
    return lambda item: handler(item.payload)


def _with_list(handler: Callable[..., Any]) -> Callable[[list[Item]], Any]:
    if _names(handler, "items"):
        return lambda items: handler([item.payload for item in items], items=items)
    return lambda items: handler([item.payload for item in items])


def errors_of(outcome: Any, n: int) -> Mapping[int, Exception]:
    """What a handler of batches returned: None, or the errors of single items, by their place in the list."""
    if outcome is None:
        return {}
    errors = dict(outcome) if isinstance(outcome, Mapping) else None
    if errors is not None and all(
        isinstance(place, int) and 0 <= place < n and isinstance(error, Exception) for place, error in errors.items()
    ):
        return errors
    raise TypeError(
        "a handler of batches returns None, or a dict with an exception for each item that failed, by its place in the "
        f"list (0 to {n - 1} here), not this {type(outcome).__name__}"
    )


def with_fresh_connections(handle: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Close database connections that are broken or too old before each item, in the thread that runs the handler.

    Django does so around a request. What comes after one item comes before the next; and where none follows at once,
    all are closed (``close_connections``).
    """

    # One that was only prepared, as Django does with the default one when it loads the models, needs nothing.
    if any(connection.connection is not None for connection in connections.all(initialized_only=True)):
        _note_connection()

    def handle_with(given: Any) -> Any:
        if _opened:
            # What Django's close_old_connections and reset_queries do, but in one go: to look for them costs the most.
            for connection in ours():
                connection.queries_log.clear()
                connection.close_if_unusable_or_obsolete()
        return handle(given)

    return handle_with


_opened = False  # whether this process has had a connection to a database: until then there is none to look for


# Not an Event, which has a lock: one that is held at a fork stays so in the child, for ever.
def _note_connection(**about: object) -> None:
    global _opened
    _opened = True


connection_created.connect(_note_connection, dispatch_uid="django_srq.consumer.handler")


async def _with_own_thread(handling: Awaitable[T]) -> T:
    # What the handler does in sync_to_async, such as the ORM, runs in one thread for each item, as Django does it for
    # each request: so no item closes another's connection.
    async with ThreadSensitiveContext() as context:
        try:
            return await handling
        finally:
            if context in SyncToAsync.context_to_thread_executor:
                await sync_to_async(connections.close_all)()


class _Loop:
    """The event loop of this process, in a thread of its own, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T | None:
        """Run it there, and wait for its end; what it returns or raises comes out here."""
        return result_of(self._result(caught(_with_own_thread(coroutine))))

    def _result(self, coroutine: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run_for_good, args=[self._loop], name="srq-loop", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def _run_for_good(loop: asyncio.AbstractEventLoop) -> None:
    """SystemExit in a task that a handler started ends run_forever, and whoever waits for others would wait for ever.

    The task has that as its result all the same.
    """
    while not loop.is_closed():
        with suppress(BaseException):
            loop.run_forever()


_loop = PerProcess(lambda inherited: _Loop())  # a child has none: only the thread that forks goes on there


def _wait_on_loop(coroutine: Coroutine[Any, Any, T]) -> T | None:
    return _loop.get().wait(coroutine)


def _names(handler: Callable[..., Any], name: str) -> bool:
    try:
        parameters = list(inspect.signature(handler).parameters)
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return name in parameters[1:]  # the first is the payload, whatever its name
