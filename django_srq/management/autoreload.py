"""The process of ``srq_consume --autoreload`` that watches the code and starts the consumer: ``consumer/reloader.py``.

It loads the project, to know its files. It is this module, not the command: code that cannot be loaded, such as after a
syntax error, would end a command before its first line. The watching process outlives such an error, and waits for the
mend.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence

import django
from django.utils import autoreload
from django.utils.module_loading import autodiscover_modules

from django_srq import conf
from django_srq.consumer.reloader import PATH, WATCHER
from django_srq.exceptions import ConfigurationError
from django_srq.management.default_log import log_to_stderr

logger = logging.getLogger("django_srq.consumer")


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
    if any(config.tasks for config in conf.load().queues.values()):
        autodiscover_modules("tasks")
    if broken is not None:
        raise broken


if __name__ == "__main__":
    watch(sys.argv[1:])
