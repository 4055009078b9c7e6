"""Flow: how long a command or a reply that is on its way is waited for.

The time limit of a call is for its answer to begin. From then on it counts from the last byte, so that it cuts nothing
that goes on: a large payload takes as long as the line needs. A server or relay that sends a byte a second for ever
holds up nobody for ever: on the whole it has to be as fast as SLOWEST, and done after LONGEST.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis

from django_srq.runtime.clock import monotonic

SLOWEST = 32 * 1024  # bytes a second
UNSENT = 128 * 1024  # bytes that a socket takes before it can send them
LONGEST = 900.0  # seconds, of a time limit too; well below the hour for which slots make a call safe to send again


class CutShort(redis.exceptions.ConnectionError):
    """A reply that had begun, and that could not be read to its end."""


def limit_unsent(connected: Any) -> None:
    """Let a socket say that there is no room as soon as the line is slow.

    By itself it takes megabytes, so that they would seem to have gone when they have yet to go.
    """
    if hasattr(socket, "TCP_NOTSENT_LOWAT") and connected.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)


class Flow:
    """Made with the first bytes that went or came; deadline: the moment until which the next ones are waited for."""

    __slots__ = ("_clock", "_last", "_latest", "_silence", "deadline")

    def __init__(self, silence: float, clock: Callable[[], float] = monotonic) -> None:
        """silence: seconds without a byte after which it is over."""
        now = clock()
        self._silence, self._clock = silence, clock
        self._latest, self._last = now + silence, now + LONGEST
        self.deadline = self._latest

    def moved(self, number: int) -> None:
        """So many bytes went or came."""
        self._latest += number / SLOWEST
        self.deadline = min(self._clock() + self._silence, self._latest, self._last)
