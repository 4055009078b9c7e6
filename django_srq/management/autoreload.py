"""``srq_consume --autoreload``: a consumer beside a process that watches the code.

Three processes: the command itself starts the watching process, and does so again when that ends because the code has
changed. The watching process loads the project, to know its files, and starts the consumer. It is this module, not the
command: code that cannot be loaded, such as after a syntax error, would end a command before its first line. The
watching process outlives such an error, and waits for the mend.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence

import django
from django.utils import autoreload

from django_srq import conf
from django_srq.consumer import dispositions
from django_srq.exceptions import ConfigurationError
from django_srq.management.default_log import log_to_stderr

logger = logging.getLogger("django_srq.consumer")

CHANGED = 3  # the exit code with which Django ends a watching process when the code has changed
WATCHER = "DJANGO_SRQ_BESIDE"  # environment variable of the consumer: the id of the process that watches the code
PATH = "DJANGO_SRQ_PATH"  # environment variable of the watching process: the sys.path of the command


def run() -> None:
    """Run the same command without --autoreload in a process beside one that watches the code. Blocks."""
    consumer = [*_launcher(), *(argument for argument in sys.argv[1:] if argument != "--autoreload")]
    options = [f"-W{option}" for option in sys.warnoptions]
    watching = [sys.executable, *options, "-m", "django_srq.management.autoreload", *consumer]
    environment = {**os.environ, autoreload.DJANGO_AUTORELOAD_ENV: "true", PATH: json.dumps(sys.path)}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while (code := subprocess.run(watching, env=environment, close_fds=False).returncode) == CHANGED:
            pass
        sys.exit(code)
    except KeyboardInterrupt:
        pass


def _launcher() -> list[str]:
    """How this command was started: as a script, or by python -m django."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]


# -- in the watching process


def watch(arguments: Sequence[str]) -> None:
    """Run the consumer, and end when the code changes. Blocks. arguments: of Python, for the consumer."""
    sys.path[:] = json.loads(os.environ.pop(PATH))
    autoreload.run_with_reloader(_run_consumer, arguments)


def _run_consumer(arguments: Sequence[str]) -> None:
    if not _loads(django.setup, tell=True):
        sys.stderr.write("The code cannot be loaded. The consumer starts when it is changed.\n")
        return  # the reloader waits for a change
    log_to_stderr(logging.ERROR)
    _loads(_import_handlers)  # so that their files are watched; the consumer tells of errors
    # In a process group of its own: Ctrl-C does not reach it there, only one SIGTERM, so it finishes the items in hand.
    consumer = subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, WATCHER: str(os.getpid())}, process_group=0
    )
    atexit.register(consumer.wait)
    atexit.register(consumer.terminate)
    if (code := consumer.wait()) > 0:
        logger.error("the consumer ended with exit code %d; it restarts when the code changes", code)
    threading.Event().wait()


def _loads(load: Callable[[], object], *, tell: bool = False) -> bool:
    """Load code; whether that went well. If not, Django watches the file in which the error is. tell: print the error.

    Several errors, in the handlers of several queues, come up one after the other.
    """
    try:
        autoreload.check_errors(load)()
    except Exception:
        if tell:
            traceback.print_exc()
        return False
    return True


def _import_handlers() -> None:
    broken: BaseException | None = None
    for config in conf.load().queues.values():
        try:
            config.load_handler()
        except ConfigurationError as error:
            broken = error.__cause__ or error
    if broken is not None:
        raise broken


# -- in the consumer


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


if __name__ == "__main__":
    watch(sys.argv[1:])
