"""Interruptions: exceptions that a signal raised, so that they are no fault of the code in which they come up."""

from __future__ import annotations

import threading


class Interruption(BaseException):
    """Raised by a signal handler of ours, in the middle of any code."""


_possible = True


def is_interruption(error: BaseException) -> bool:
    """Whether a signal raised the error. Otherwise it is an error of the code, whatever its class is.

    Python runs signal handlers in the main thread: a KeyboardInterrupt in any other thread was raised by code.
    """
    if not _possible:
        return False
    kind = type(error)  # reading the __class__ of an error may run code
    by_keyboard = issubclass(kind, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
    return by_keyboard or issubclass(kind, Interruption)


def may_be_interruption(error: BaseException) -> bool:
    """Whether a signal handler or a scheduler may have raised the error, in a process of the project's own.

    Such a signal handler raises SystemExit, for example, and gevent raises its time limits.
    """
    return _possible and not isinstance(error, Exception)


def rule_out() -> None:
    """Declare that no signal interrupts this process from now on: a supervisor stops its children in other ways."""
    global _possible
    _possible = False
