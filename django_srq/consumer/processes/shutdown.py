"""The stop of a consumer: the first signal begins a grace, the second one ends it."""

from __future__ import annotations

import time


class Shutdown:
    def __init__(self, grace: float) -> None:
        """grace: seconds that running handlers have to finish."""
        self.grace = grace
        self._signal: int | None = None
        self.deadline = float("inf")  # the moment at which the grace is over

    @property
    def has_begun(self) -> bool:
        return self._signal is not None

    @property
    def is_immediate(self) -> bool:
        """Whether a second signal has come."""
        return self.deadline == 0

    @property
    def is_over(self) -> bool:
        """Whether the grace is over."""
        return time.monotonic() >= self.deadline

    def request(self, number: int) -> bool:
        """Note a signal; whether it is the first one."""
        first = not self.has_begun
        self._signal = number
        self.deadline = time.monotonic() + self.grace if first else 0
        return first

    def exit_code(self, *, cut_items: bool) -> int:
        """128 + number: a second signal; 75: running items were cut; else 0."""
        if self._signal is not None and self.is_immediate:
            return 128 + self._signal
        return 75 if cut_items else 0
