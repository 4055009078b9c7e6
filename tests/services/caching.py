"""A handler whose module uses memcached at import."""

from __future__ import annotations

import os
import time
from pathlib import Path

from django.core.cache import caches

from tests.support.handlers import _say


def remember(number: int) -> None:
    """Log the begin, wait for the test, then write and read a key of this number again and again."""
    _say(f"begin {number} {os.getpid()}")
    while not Path(os.environ["SRQ_TEST_GO"]).exists():
        time.sleep(0.005)
    for alias in caches:
        _say(f"{alias} {set(_remembered(alias, number))}")


def _remembered(alias: str, number: int) -> list[object]:
    found = []
    for _ in range(100):
        caches[alias].set(f"key-{number}", f"number {number}")
        found.append(caches[alias].get(f"key-{number}"))
    return found


for _alias in caches:
    caches[_alias].set("key", "value")
