"""What interrupts this process from outside, and is no fault of the code in which it comes up."""

from __future__ import annotations

import threading


class Interruption(BaseException):
    """Raised by a signal handler of ours, in the middle of whatever runs."""


_possible = True


def is_interruption(error: BaseException) -> bool:
    """Whether a signal raised it; else it is the code's own, whatever its class is.

    Python runs signal handlers in the main thread: a KeyboardInterrupt anywhere else was raised by code.
    """
    if not _possible:
        return False
    by_keyboard = isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
    return by_keyboard or isinstance(error, Interruption)


def rule_out() -> None:
    """From now on no signal interrupts this process: a child of the supervisor is stopped in other ways."""
    global _possible
    _possible = False
