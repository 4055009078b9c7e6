"""The end of a child process. It must not return into the code that forked it."""

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

LEAST = 1.0  # seconds that exit functions have at least, even if the grace is over


def leave(code: int, *, consumer: str, within: float) -> NoReturn:
    """End this process as Python does: wait for executors' jobs and for non-daemon threads, then call exit functions.

    An acked item may need these jobs and threads. If they take longer than ``within`` (seconds, ``LEAST`` at least),
    the process ends all the same, and a warning names the threads, unless the log blocks.
    """
    threading.Thread(target=_cut, args=[code, consumer, within], name="srq-leave", daemon=True).start()
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # as in a process that multiprocessing forked
        # The project's libraries may use them, such as to send their last reports of errors.
        atexit._run_exitfuncs()
    finally:
        _end(code)


def _cut(code: int, consumer: str, within: float) -> None:
    time.sleep(max(LEAST, within))
    try:
        # In a thread: the end must not wait for a log, nor for the streams that it writes to.
        log = threading.Thread(target=_log_cut_threads, args=[code, consumer], name="srq-leave-log", daemon=True)
        log.start()
        log.join(LEAST)
    finally:
        os._exit(code)


def _log_cut_threads(code: int, consumer: str) -> None:
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
            with suppress(OSError, ValueError):  # the stream is closed, or its reader is gone
                stream.flush()
    finally:
        os._exit(code)
