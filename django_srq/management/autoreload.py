"""``srq_consume --autoreload``: a consumer beside a process that watches the code.

Django restarts the watching process when the code changes, and that process restarts the consumer.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import subprocess
import sys
import threading

from django.utils import autoreload

from django_srq.consumer import dispositions

logger = logging.getLogger("django_srq.consumer")

WATCHER = "DJANGO_SRQ_BESIDE"  # environment variable of the consumer: the id of the process that watches the code


def run() -> None:
    """Run the same command without --autoreload in a process beside this one, which watches the code. Blocks."""
    autoreload.run_with_reloader(_run_consumer)


def _run_consumer() -> None:
    arguments = [argument for argument in sys.argv if argument != "--autoreload"]
    # In a process group of its own: Ctrl-C does not reach it there, only one SIGTERM, so it finishes the items in hand.
    consumer = subprocess.Popen(
        [sys.executable, *_launcher(), *arguments[1:]],
        env={**os.environ, WATCHER: str(os.getpid())},
        process_group=0,
    )
    atexit.register(consumer.wait)
    atexit.register(consumer.terminate)
    if (code := consumer.wait()) > 0:
        logger.error("the consumer ended with exit code %d; it restarts when the code changes", code)
    threading.Event().wait()


def _launcher() -> list[str]:
    """How this command was started: as a script, or by python -m django."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]


def end_with_watcher() -> None:
    """In a consumer whose code is watched: stop when the watching process is gone.

    At Ctrl-C Django kills that process after 0.25 s.
    """
    watcher = os.environ.pop(WATCHER, "")
    if not watcher:
        return

    def look(number: int) -> None:
        if os.getppid() != int(watcher):
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.kill(os.getpid(), signal.SIGTERM)

    dispositions.take(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)  # a timer, because a process that forks must have no threads
