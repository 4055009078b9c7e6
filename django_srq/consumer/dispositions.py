"""The signals that a process of the consumer handles in its own way, for itself alone.

A fork of it, such as a worker of ``multiprocessing``, handles these signals as they were handled before. So does a
program that it starts: signals are never set to be ignored here, as a program would inherit that; they get a handler in
Python that does nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass(frozen=True)
class _Disposition:
    """How a signal is handled now, and how it was before."""

    handler: Callable[[int, FrameType | None], None]
    before: Any  # the handler before it, as signal.signal takes it


_dispositions: dict[int, _Disposition] = {}  # by the number of the signal


def take(number: int, handle: Callable[[int], object]) -> None:
    """Handle a signal with a function, which gets its number. Python allows that only in the main thread."""
    process = os.getpid()

    def handler(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            handle(number)
        else:  # a fork that C code made: Python has not called give_back_all there
            give_back_all()
            os.kill(os.getpid(), number)

    before = signal.signal(number, handler)
    if number in _dispositions and before is _dispositions[number].handler:
        before = _dispositions[number].before
    _dispositions[number] = _Disposition(handler, signal.SIG_DFL if before is None else before)


def ignore(number: int) -> None:
    take(number, _do_nothing)
    signal.siginterrupt(number, False)


def unignore() -> None:
    """Give the signals that Python ignores a handler that does nothing, so that programs do not go on ignoring them."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        if signal.getsignal(number) is signal.SIG_IGN:
            ignore(number)


def give_back(number: int) -> None:
    """Have a signal handled as before ``take``, unless other code has set a handler of its own since."""
    disposition = _dispositions.pop(number)
    if signal.getsignal(number) is disposition.handler:
        signal.signal(number, disposition.before)


def give_back_all() -> None:
    for number in list(_dispositions):
        give_back(number)


def _do_nothing(number: int) -> None:
    pass


os.register_at_fork(after_in_child=give_back_all)
