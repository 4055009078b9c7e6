"""Handlers whose module queries PostgreSQL at import: once in the main thread, and once in another thread."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from django.db import connections

from django_srq import Item
from tests.support.handlers import _say


def ask(alias: str, number: int) -> str:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT name FROM numbers WHERE n = %s", [number])
        return str(cursor.fetchone()[0])


def read_rows(payload: list[int], item: Item) -> None:
    """Log the begin, wait for the word in the payload, then read the row of the number again and again."""
    number, word = payload
    _say(f"begin {number} {os.getpid()}")
    while not Path(os.environ["SRQ_TEST_GO"]).with_name(f"go-{word}").exists():
        time.sleep(0.005)
    for alias in connections:
        names = {ask(alias, number) for _ in range(100)}
        _say(f"{alias} {names}")
        connections[alias].close()


ask("default", 0)
_thread = threading.Thread(target=ask, args=["other", 0])
_thread.start()
_thread.join()
