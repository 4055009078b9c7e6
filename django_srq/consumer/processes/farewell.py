"""The end of a child process, which does not return to where it was forked."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

logger = logging.getLogger("django_srq.consumer")

LEAST = 1.0  # seconds; exit functions are called without any grace, too


def leave(code: int, *, consumer: str, within: float) -> NoReturn:
    """End as Python does: jobs of executors and threads that are no daemons are waited for, then exit functions called.

    An acked item may need them. What takes longer than ``within`` (seconds, at least one) is cut. That is said, unless
    the log does not take it.
    """
    threading.Thread(target=_cut, args=[code, consumer, within], name="srq-leave", daemon=True).start()
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # as in a process that multiprocessing forked
        # What the project's libraries want to say at the end of a process, such as a report of errors.
        atexit._run_exitfuncs()
    finally:
        _end(code)


def _cut(code: int, consumer: str, within: float) -> None:
    time.sleep(max(LEAST, within))
    try:
        saying = threading.Thread(target=_say_what_is_cut, args=[code, consumer], name="srq-leave-log", daemon=True)
        saying.start()  # the end must not wait for a log, nor for the streams that it writes to
        saying.join(LEAST)
    finally:
        os._exit(code)


def _say_what_is_cut(code: int, consumer: str) -> None:
    try:
        names = [thread.name for thread in threading.enumerate() if not thread.daemon and thread.is_alive()]
        names = [name for name in names if name != threading.main_thread().name] or ["exit functions"]
        logger.warning(
            "killed at the end of the grace period consumer=%s still running: %s", consumer, ", ".join(names)
        )
    finally:
        _end(code)


def _end(code: int) -> NoReturn:
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
    finally:
        os._exit(code)
