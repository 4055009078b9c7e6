"""The signals that a process of ours handles in its own way, for itself alone.

A fork of it, such as a worker of ``multiprocessing``, handles them as if we were not there, and so does a program that
it starts: signals are handled in Python here, and never ignored, as a program would go on ignoring them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass(frozen=True)
class _Taken:
    handler: Callable[[int, FrameType | None], None]
    before: Any  # what handled it before us


_taken: dict[int, _Taken] = {}


def take(number: int, handle: Callable[[int], object]) -> None:
    """Handle a signal with a function of its number. Python lets only the main thread do so."""
    process = os.getpid()

    def handler(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            handle(number)
        else:  # a fork that Python knows nothing of, as it was made in C
            give_back_all()
            os.kill(os.getpid(), number)

    before = signal.signal(number, handler)
    if number in _taken and before is _taken[number].handler:
        before = _taken[number].before
    _taken[number] = _Taken(handler, signal.SIG_DFL if before is None else before)


def ignore(number: int) -> None:
    take(number, _nothing)
    signal.siginterrupt(number, False)


def unignore() -> None:
    """Have programs not inherit what Python ignores; for this process, a signal that does nothing is the same."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        if signal.getsignal(number) is signal.SIG_IGN:
            ignore(number)


def give_back(number: int) -> None:
    """Have a signal handled as before ``take``; one that somebody else handles by now stays theirs."""
    taken = _taken.pop(number)
    if signal.getsignal(number) is taken.handler:
        signal.signal(number, taken.before)


def give_back_all() -> None:
    for number in list(_taken):
        give_back(number)


def _nothing(number: int) -> None:
    pass


os.register_at_fork(after_in_child=give_back_all)
