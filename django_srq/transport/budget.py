"""Budget: how long and how often a call may be tried."""

from __future__ import annotations

from django_srq.runtime.clock import monotonic
from django_srq.runtime.process import RANDOM

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5  # seconds between two attempts, before jitter
SHORTEST_ATTEMPT = 0.05  # seconds; with less time left, an attempt would only replace a known error by "no reply"


class Budget:
    """The time limit of a call: for connecting, sending, all repeats, and the wait until its reply begins."""

    _pause = FIRST_PAUSE

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.deadline = monotonic() + seconds

    def excuse(self, seconds: float) -> None:
        """Let so many seconds that have passed not count."""
        self.deadline += seconds

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - monotonic()

    def pause(self) -> float | None:
        """Seconds to wait before the next attempt; None: too little time is left for another one."""
        seconds = jitter(self._pause)
        if self.left() <= seconds + SHORTEST_ATTEMPT:
            return None
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        return seconds


def jitter(seconds: float) -> float:
    """A random part of the seconds, so that callers who met the same error do not all come again at one moment."""
    return RANDOM.uniform(0, seconds)
