"""Sans-I/O: a method that talks to a server is written once, and works in a thread and in an event loop.

The method is a generator function that does no I/O. It yields an ``Effect``, such as one attempt at a call or a pause,
and gets the effect's result from ``yield``, or its error raised there. ``run`` carries the effects out in this thread,
``arun`` in the running event loop. ``sync_method`` makes an ordinary method of the generator function, and
``async_method`` the asynchronous one, which so cannot differ from it::

    @sync_method
    def ack(self, item) -> Steps[bool]:
        acked = yield from self._send(...)
        return acked[0]

    aack = async_method(ack)
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
import warnings
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar

_PACKAGE = f"{__name__.partition('.')[0]}."
# Costs 30 ns; get_running_loop costs ten times as much where no loop runs, as it raises an error there.
_running_loop = asyncio._get_running_loop  # noqa: SLF001 (asyncio exports it)

S = TypeVar("S")
T = TypeVar("T")
P = ParamSpec("P")


class Effect(Protocol):
    """Something that takes I/O or time. ``carry_out`` does it in this thread, ``acarry_out`` in the event loop."""

    def carry_out(self) -> Any: ...

    async def acarry_out(self) -> Any: ...


Steps: TypeAlias = Generator[Effect, Any, T]

_cleanups: set[asyncio.Task[Any]] = set()  # asyncio keeps only weak references to tasks


@dataclass(frozen=True)
class Sleep:
    seconds: float

    def carry_out(self) -> None:
        time.sleep(self.seconds)

    async def acarry_out(self) -> None:
        await asyncio.sleep(self.seconds)


def run(steps: Steps[T]) -> T:
    """Carry out the steps in this thread; their result."""
    try:
        effect = next(steps)
        while True:
            try:
                result = effect.carry_out()
            except BaseException as error:
                effect = steps.throw(error)
            else:
                effect = steps.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def arun(steps: Steps[T], effect: Effect | None = None) -> T:
    """Carry out the steps in the running event loop; their result.

    effect: to begin with, when the steps have already yielded it. When the caller's task is cancelled, the
    steps get the CancelledError, and the effects that they still yield, to clean up, are carried out in a task of its
    own. The caller's task ends only after that one; when it is cancelled again, it ends at once, and the other goes on.
    """
    try:
        effect = effect or next(steps)
        while True:
            try:
                result = await effect.acarry_out()
            except asyncio.CancelledError as cancelled:
                return await _in_own_task(arun(steps, steps.throw(cancelled)))
            except BaseException as error:
                effect = steps.throw(error)
            else:
                effect = steps.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def _in_own_task(rest: Coroutine[Any, Any, T]) -> T:
    task = asyncio.create_task(rest)
    _cleanups.add(task)
    task.add_done_callback(_cleanups.discard)
    return await asyncio.shield(task)


def sync_method(steps: Callable[Concatenate[S, P], Steps[T]]) -> Callable[Concatenate[S, P], T]:
    """A method that carries out the steps in the caller's thread."""

    name = steps.__name__
    twin = f"a{name}"

    @wraps(steps)
    def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if _running_loop() is not None:
            warn_of_blocking(name, twin)
        return run(steps(self, *args, **kwargs))

    _sign(method, steps)
    return method


def warn_of_blocking(name: str, twin: str) -> None:
    """Warn if a method that blocks was called in an event loop, at the line of the call; Python warns once per line.

    To be called by the method itself. Calls by this package are not reported: its public method reports them.
    """
    caller = sys._getframe(2).f_globals.get("__name__", "")  # noqa: SLF001
    if _running_loop() is not None and not caller.startswith(_PACKAGE):
        warnings.warn(
            f"{name}() of a queue blocks the event loop in which it is called: use {twin}() instead.",
            RuntimeWarning,
            stacklevel=3,
        )


def async_method(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """The asynchronous counterpart of a method that ``sync_method`` made: the same steps, in the event loop."""
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
    """Let help() show the result's type as the caller gets it, ``bool`` instead of ``Steps[bool]``."""
    signature = inspect.signature(steps)
    result = str(signature.return_annotation).removeprefix("Steps[").removesuffix("]")
    method.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined]
    method.__annotations__ = {**steps.__annotations__, "return": result}
