"""Waits for conditions with a deadline, and the time limit for calls on a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import redis

T = TypeVar("T")
PATIENT = 60.0  # seconds; the time limit of calls that must succeed, however busy the machine is


def wait_for(condition: Callable[[], T], what: str, *, seconds: float = 30) -> T:
    """Return the first truthy value of condition; raise AssertionError naming ``what`` when none comes in time."""
    began = time.monotonic()
    while True:
        if value := condition():
            return value
        waited = time.monotonic() - began
        assert waited < seconds, f"waited {seconds:g} s in vain for {what}"
        # Asking all the time would slow down the processes that it waits for.
        time.sleep(min(0.005 + waited / 20, 0.05))


def parked(client: redis.Redis, name: str) -> bool:
    """Whether a connection of that name waits on the server; the server then has all that was sent with the wait."""
    return count_parked(client, name) > 0


def count_parked(client: redis.Redis, name: str) -> int:
    blocked = [connection for connection in client.client_list() if "b" in connection["flags"]]
    return sum(connection["name"] == name and connection["cmd"] == "blpop" for connection in blocked)
