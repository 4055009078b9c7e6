"""Handlers for the tests of the consumer. They speak through files, so that a test can wait for them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from django.db import connection

from django_srq import Item


def _say(word: str) -> None:
    # One write, so that lines of several processes stay whole.
    with Path(os.environ["SRQ_TEST_LOG"]).open("a") as log:
        log.write(f"{word}\n")


def note(payload: object, item: Item) -> None:
    _say(f"{payload} {item.deliveries}")


def slow(payload: object, item: Item) -> None:
    """Begins, and ends once the file SRQ_TEST_GO is there."""
    _say(f"begin {payload} {item.deliveries}")
    while not Path(os.environ["SRQ_TEST_GO"]).exists():
        time.sleep(0.005)
    _say(f"end {payload} {item.deliveries}")


def failing(payload: object) -> None:
    raise LookupError(f"cannot handle {payload}")


async def asynchronous(payload: object) -> None:
    _say(f"{payload} async")


def leaving(payload: object) -> None:
    sys.exit(5)


def counting(payload: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
