"""Completion: the result of a call of the project's code, also where the call returned before its work was done.

A decorator may hide an ``async def``, and a ``yield`` makes a function a generator function. A call of these returns at
once, and the body has not run yet.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from types import FunctionType, GeneratorType, MethodType
from typing import Any, TypeVar

from asgiref.sync import async_to_sync, iscoroutinefunction

T = TypeVar("T")

_RESULTS = {type(None), bool, int, float, str, bytes, dict, list, tuple}  # usual types, which need no closer look
_PENDING = (Awaitable, concurrent.futures.Future)
# Nobody runs an object of these types, so that its work is not done.
_NOT_RUN = (Generator, AsyncGenerator, FunctionType, MethodType, functools.partial, map, filter)


def completed(outcome: Any, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> Any:
    """The result of a call that returned outcome. Blocks until there is a result.

    wait: runs a coroutine to its end. TypeError: the call returned a generator or a function, which nobody runs.
    """
    if type(outcome) in _RESULTS:
        return outcome
    if not is_pending(outcome):
        return _checked(outcome)
    waiting = acompleted(outcome)
    try:
        return wait(waiting)
    finally:
        drop(waiting)
        drop(outcome)


def is_deferred(function: Callable[..., Any]) -> bool:
    """Whether the function is an async def or a generator function, so that a call returns before its body has run."""
    while isinstance(function, functools.partial):
        function = function.func
    tests = (iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(test(code) for test in tests for code in (function, getattr(type(function), "__call__", None)))  # noqa: B004


async def acompleted(outcome: Any) -> Any:
    """``completed`` in an event loop."""
    while is_pending(outcome):
        if issubclass(type(outcome), concurrent.futures.Future):
            outcome = await asyncio.wrap_future(outcome)
        elif issubclass(type(outcome), asyncio.Future):
            outcome = await _in_its_loop(outcome)
        else:
            outcome = await outcome
    return _checked(outcome)


def wait_here(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in this thread, in which no event loop may be running."""
    return async_to_sync(_awaited)(coroutine)


async def caught(awaitable: Awaitable[T]) -> tuple[T | None, BaseException | None]:
    """The result and None, or None and the exception: a task that raised SystemExit would end the event loop."""
    try:
        return await awaitable, None
    except BaseException as error:
        return None, error


def result_of(caught: tuple[T | None, BaseException | None]) -> T | None:
    result, error = caught
    if error is not None:
        raise error
    return result


def drop(outcome: Any) -> None:
    """Close a coroutine that will not be awaited: Python would warn about it."""
    if inspect.iscoroutine(outcome) and inspect.getcoroutinestate(outcome) == inspect.CORO_CREATED:
        outcome.close()


# The functions below use type() and issubclass(): isinstance() asks the object's own __class__, which may run code.


def is_pending(outcome: Any) -> bool:
    """Whether it is awaitable, or a future: the result of the call is not there yet."""
    kind = type(outcome)
    if issubclass(kind, GeneratorType):  # awaitable if types.coroutine made it
        return bool(outcome.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)
    return issubclass(kind, _PENDING)


def _checked(outcome: Any) -> Any:
    kind = type(outcome)
    if issubclass(kind, _NOT_RUN):
        name = str(getattr(kind, "__name__", "")).replace("_", " ")
        raise TypeError(f"the call returned a {name}, which nobody runs: its work is not done")
    return outcome


async def _in_its_loop(future: asyncio.Future[Any]) -> Any:
    loop = future.get_loop()
    if future.done():
        return future.result()
    if loop is asyncio.get_running_loop():
        return await future
    if loop.is_running():
        return result_of(await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(caught(future), loop)))
    return await asyncio.to_thread(loop.run_until_complete, future)


async def _awaited(coroutine: Coroutine[Any, Any, T]) -> T:
    return await coroutine
