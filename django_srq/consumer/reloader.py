"""``srq_consume --autoreload``: a consumer beside a process that watches the code.

Three processes: the command itself starts the watching process (``management/autoreload.py``), and does so again when
that ends because the code has changed. The watching process starts the consumer. The command needs no code of the
project, so it goes on when Django cannot load that.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from types import TracebackType
from typing import NoReturn

from django.apps import apps
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV

from django_srq.consumer import dispositions
from django_srq.consumer.processes import first_process

CHANGED = 3  # the exit code with which Django ends a watching process when the code has changed
WATCHER = "DJANGO_SRQ_BESIDE"  # environment variable of the consumer: the id of the process that watches the code
PATH = "DJANGO_SRQ_PATH"  # environment variable of the watching process: the sys.path of the command


# -- in the command


def run() -> NoReturn:
    """Run the same command without --autoreload in a process beside one that watches the code. Does not return."""
    consumer = [*_launcher(), *(argument for argument in sys.argv[1:] if argument != "--autoreload")]
    options = [f"-W{option}" for option in sys.warnoptions]
    watching = [sys.executable, *options, "-m", "django_srq.management.autoreload", *consumer]
    environment = {**os.environ, DJANGO_AUTORELOAD_ENV: "true", PATH: json.dumps(sys.path)}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while (code := subprocess.run(watching, env=environment, close_fds=False).returncode) == CHANGED:
            pass
    except KeyboardInterrupt:
        code = 0
    sys.exit(code)


def run_if_setup_fails() -> None:
    """Have this command, which is ``srq_consume --autoreload``, ``run`` if Django's setup raises an error later.

    Such an error would end the command before its first line. The watching process meets the same error, prints it, and
    waits for a change.
    """
    usual = sys.excepthook

    def on_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if apps.ready or not issubclass(kind, Exception):
            usual(kind, error, traceback)
        else:
            sys.stderr.write(f"{kind.__name__} while Django was set up: trying again, and watching the code.\n")
            first_process.go_on_in_child()
            run()

    sys.excepthook = on_error


def _launcher() -> list[str]:
    """How this command was started: as a script, or by python -m django."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]


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
