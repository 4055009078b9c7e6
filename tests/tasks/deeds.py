"""Tasks that commands run in processes of their own. They write a log file, so that a test can follow them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from tests.tasks.work import AT_ONCE
from tests.tasks.work import task as made

task = made(backoff=AT_ONCE)


def _say(*words: object) -> None:
    with Path(os.environ["SRQ_TEST_LOG"]).open("a") as log:
        log.write(f"{' '.join(map(str, words))}\n")


def _times(*words: object) -> int:
    """How often the log has that line."""
    return Path(os.environ["SRQ_TEST_LOG"]).read_text().splitlines().count(" ".join(map(str, words)))


def _gate(name: str) -> bool:
    return Path(f"{os.environ['SRQ_TEST_GO']}{name}").exists()


@task
def add(a: int, b: int = 0) -> int:
    _say("add", a, b)
    return a + b


@task
def nothing(word: str) -> None:
    _say(word)


@task
def fail(text: str) -> None:
    _say("fail", text)
    raise LookupError(text)


@task
def die(word: str, times: int = 1) -> str:
    """Kills its process in its first runs."""
    _say("die", word)
    if _times("die", word) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return word


@task
def hang(word: str) -> None:
    _say("hang", word)
    threading.Event().wait()


@task
def wait(word: str) -> str:
    """Returns the word when the gate is open: a file whose name ends with the word."""
    _say("wait", word)
    while not _gate(f"-{word}"):
        time.sleep(0.005)
    return word


@task
async def await_(word: str) -> str:
    _say("await", word)
    while not _gate(f"-{word}"):
        await asyncio.sleep(0.005)
    return word


@task
def interrupt() -> None:
    raise KeyboardInterrupt


@task
def leave() -> None:
    raise SystemExit(3)


@task
def large(size: int) -> str:
    _say("large", size)
    return "x" * size


@made(takes_context=True)
def attempts(context: Any) -> list[str]:
    return list(context.task_result.worker_ids)
