"""Tasks that end their process, and receivers that note what is told of them."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from django.tasks.signals import task_finished, task_started

from tests.tasks.work import task


def note(line: str) -> None:
    with Path(os.environ["SRQ_TEST_LOG"]).open("a") as log:
        log.write(f"{line}\n")


def _started(task_result, **_):
    note(f"started {task_result.id} {task_result.attempts}")


def _finished(task_result, **_):
    kinds = [error.exception_class.__name__ for error in task_result.errors]
    note(f"finished {task_result.id} {task_result.status} {task_result.attempts} {' '.join(kinds)}".strip())


if "SRQ_TEST_LOG" in os.environ:  # not in the process of the tests
    task_started.connect(_started)
    task_finished.connect(_finished)


@task()
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task(timeout=0.3)
def hang() -> None:
    threading.Event().wait()


@task()
def block() -> None:
    threading.Event().wait()


@task()
def say(word: str) -> str:
    note(word)
    return word
