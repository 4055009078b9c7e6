"""Flow: how long a command or a reply may take once its bytes flow.

The time limit of a call is for its reply to begin. From then on, the limit counts from the last byte, so that it cuts
off nothing that still moves: a large payload takes as long as the network needs. But a server or relay that sends a
byte per second must not block a caller for ever: on average the bytes have to flow at SLOWEST or faster, and a command
or reply has to be over after LONGEST.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django_srq.runtime.clock import monotonic

SLOWEST = 32 * 1024  # bytes per second
UNSENT = 128 * 1024  # bytes that the system accepts for a socket before it can send them
LONGEST = 900.0  # seconds; no time limit is longer, as a call is safe to repeat only while its slot is kept: an hour


def limit_unsent(connected: Any) -> None:
    """Let the system accept only so many bytes for a socket (UNSENT) as it can soon send.

    By default it accepts megabytes, which would count as sent while they still wait in its buffer.
    """
    if hasattr(socket, "TCP_NOTSENT_LOWAT") and connected.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)


class Flow:
    """How long to wait for the next bytes of a command or reply: until ``deadline``, by the clock.

    Made when its first bytes were sent or received.
    """

    __slots__ = ("_clock", "_last", "_latest", "_silence", "deadline")

    def __init__(self, silence: float, clock: Callable[[], float] = monotonic) -> None:
        """silence: seconds without a byte after which the wait ends."""
        now = clock()
        self._silence, self._clock = silence, clock
        self._latest, self._last = now + silence, now + LONGEST
        self.deadline = self._latest

    def moved(self, number: int) -> None:
        """Note that so many bytes were sent or received, and move the deadline."""
        self._latest += number / SLOWEST
        self.deadline = min(self._clock() + self._silence, self._latest, self._last)
