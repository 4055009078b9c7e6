"""A runner of tasks for the tests of the consumer: the functions of this module, and what the consumer told it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from django_srq import Discard, operations
from django_srq.consumer.runner import Exhausted, Outcome, Unrunnable, Verdict
from django_srq.queue.item import Item

TTL, MOST = 600.0, 1000


def add(a: int, b: int) -> int:
    return a + b


def nothing() -> None:
    pass


def fail(text: str = "no") -> None:
    raise LookupError(text)


def discard() -> None:
    raise Discard("not wanted")


def interrupt() -> None:
    raise KeyboardInterrupt


def leave() -> None:
    raise SystemExit(3)


async def aleave() -> None:
    raise SystemExit(3)


async def async_add(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


def say(word: str) -> str:
    with Path(os.environ["SRQ_TEST_LOG"]).open("a") as log:
        log.write(f"{word} {os.getpid()}\n")
    return word


def hang(word: str) -> None:
    """Never returns."""
    say(word)
    threading.Event().wait()


def die(word: str) -> None:
    """Kills its process in its first run."""
    first = word not in Path(os.environ["SRQ_TEST_LOG"]).read_text()
    say(word)
    if first:
        os.kill(os.getpid(), signal.SIGKILL)


def slow(word: str) -> None:
    """Returns when the file SRQ_TEST_GO exists."""
    say(word)
    while not Path(os.environ["SRQ_TEST_GO"]).exists():
        time.sleep(0.005)


async def aslow(word: str) -> None:
    say(word)
    while not Path(os.environ["SRQ_TEST_GO"]).exists():
        await asyncio.sleep(0.005)


def call(name: str, *args: Any, **options: Any) -> dict[str, Any]:
    """The payload of a task. options: timeout, max_attempts, delay, unjudged and unkept (a method raises)."""
    return {"task": name, "args": args, "kwargs": {}, **options}


def kept(value: Any) -> bytes:
    return operations.kept(TTL, MOST, json.dumps({"s": "SUCCESSFUL", "r": value}).encode())


class TaskRunner:
    """It notes each call of a method after a run in ``told``."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def begin(self, item: Item) -> None:
        if not callable(globals().get(item.payload["task"])):
            raise Unrunnable(f"there is no task {item.payload['task']}")
        if item.deliveries > item.payload.get("max_attempts", 100):
            raise Exhausted("its attempts are used up")

    def max_attempts(self, item: Item) -> int | None:
        return item.payload.get("max_attempts")

    def time_limit(self, item: Item) -> float | None:
        return item.payload.get("timeout")

    def is_asynchronous(self, item: Item) -> bool:
        return asyncio.iscoroutinefunction(globals()[item.payload["task"]])

    def run(self, item: Item) -> Any:
        return globals()[item.payload["task"]](*item.payload["args"])

    def outcome(self, item: Item, value: Any, seconds: float) -> Outcome:
        if item.payload.get("unkept"):
            raise ValueError("this value cannot be kept")
        return Outcome(kept(value), valued=value is not None)

    def discarded(self, item: Item, error: BaseException) -> Outcome:
        outcome = {"s": "FAILED", "e": {"type": "Discard", "message": str(error), "traceback": ""}}
        return Outcome(operations.kept(TTL, MOST, json.dumps(outcome).encode()), valued=True)

    def verdict(self, item: Item, error: BaseException) -> Verdict:
        if item.payload.get("unjudged"):
            raise RuntimeError("no verdict")
        about = {"type": type(error).__name__, "message": str(error), "keep": 9}
        most = item.payload.get("max_attempts")
        return Verdict(item.payload.get("delay", 0.0), most, error=json.dumps(about).encode())

    def acked(self, item: Item, outcome: Outcome, removed: bool) -> None:
        self.told.append(("acked", item.uid, outcome.kept, removed))

    def failed(self, item: Item, error: BaseException, state: str | None) -> None:
        self.told.append(("failed", item.uid, type(error).__name__, state))

    def stub(self) -> bytes:
        return kept(None)
