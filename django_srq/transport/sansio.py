"""Steps: an operation without its I/O, so that it is written once and carried out in a thread or in an event loop.

An operation is a generator: it yields requests, is given their results (or their errors, raised at that place), and
returns its own. ``operation`` makes a method of one, and ``twin`` the asynchronous method beside it.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar

S = TypeVar("S")
T = TypeVar("T")
P = ParamSpec("P")


class Effect(Protocol):
    """Something to be done outside of the process."""

    def carry_out(self) -> Any: ...

    async def acarry_out(self) -> Any: ...


Steps: TypeAlias = Generator[Effect, Any, T]

_partings: set[asyncio.Task[Any]] = set()  # an event loop itself keeps no hold of its tasks


@dataclass(frozen=True)
class Sleep:
    seconds: float

    def carry_out(self) -> None:
        time.sleep(self.seconds)

    async def acarry_out(self) -> None:
        await asyncio.sleep(self.seconds)


def run(steps: Steps[T]) -> T:
    """Carry the steps out in this thread; their result."""
    try:
        request = next(steps)
        while True:
            try:
                result = request.carry_out()
            except BaseException as error:
                request = steps.throw(error)
            else:
                request = steps.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def arun(steps: Steps[T], request: Effect | None = None) -> T:
    """Carry the steps out in the running event loop, from a request on; their result.

    What they still ask for when they are cancelled is done in a task of its own: whoever cancels them waits for it, and
    it goes on if he cancels again.
    """
    try:
        request = request or next(steps)
        while True:
            try:
                result = await request.acarry_out()
            except asyncio.CancelledError as cancelled:
                return await _in_own_task(arun(steps, steps.throw(cancelled)))
            except BaseException as error:
                request = steps.throw(error)
            else:
                request = steps.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def _in_own_task(rest: Coroutine[Any, Any, T]) -> T:
    task = asyncio.create_task(rest)
    _partings.add(task)
    task.add_done_callback(_partings.discard)
    return await asyncio.shield(task)


def sync_method(steps: Callable[Concatenate[S, P], Steps[T]]) -> Callable[Concatenate[S, P], T]:
    """A method that carries out the steps in the caller's thread."""

    @wraps(steps)
    def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(steps(self, *args, **kwargs))

    _sign(method, steps)
    return method


def async_method(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """The asynchronous method that carries out the steps of a method that ``operation`` made, in the event loop."""
    steps: Callable[Concatenate[S, P], Steps[T]] = method.__wrapped__  # type: ignore[attr-defined]

    @wraps(steps)
    async def amethod(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await arun(steps(self, *args, **kwargs))

    _sign(amethod, steps)
    amethod.__name__ = f"a{method.__name__}"
    amethod.__qualname__ = amethod.__qualname__.removesuffix(method.__name__) + amethod.__name__
    amethod.__doc__ = f"Await what ``{method.__name__}`` does:\n\n{inspect.getdoc(method)}"
    return amethod


def _sign(method: Callable[..., Any], steps: Callable[..., Steps[Any]]) -> None:
    """Let help() show what the caller gets, and not the steps to it."""
    signature = inspect.signature(steps)
    result = str(signature.return_annotation).removeprefix("Steps[").removesuffix("]")
    method.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined]
    method.__annotations__ = {**steps.__annotations__, "return": result}
