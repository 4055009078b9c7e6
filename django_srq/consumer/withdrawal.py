"""Finds what waits in a child that cannot begin it: the child is stopped, or a handler holds the interpreter's lock.

The child may go on at that very moment, and nothing locks the memory that it shares with the supervisor. So the
supervisor first marks what it wants back, and looks again after a while: what is still not begun then never will be.
For a child says that it begins an item before it looks for the mark, and a mark is seen by then: it takes a processor
far less than that while to make known what it wrote.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from django_srq.consumer.hands import Hands, Waiting

LOOK = 0.2  # seconds between two looks; what waits is given back at the fourth, within one second


class Withdrawal:
    """Looks at what waits in one child."""

    def __init__(self, hands: Hands, ask: Callable[[], object]) -> None:
        """ask: has the child say that it can hear."""
        self._hands, self._ask = hands, ask
        self._waited: set[Waiting] = set()  # at the last look
        self._marked: set[Waiting] = set()  # at the last look
        self._withdrawn: set[Waiting] = set()
        self._asked: float | None = None  # the moment of a question, while something waits for long

    def look(self) -> set[Waiting]:
        """Called every ``LOOK`` seconds at most; what is to be given back now: the child will not begin it any more."""
        waiting = self._hands.waiting()
        due = self._marked & waiting
        self._withdrawn = self._withdrawn & waiting | due
        long = self._waited & waiting - self._withdrawn
        self._waited = waiting
        deaf = self._asked is not None and self._hands.heard < self._asked
        self._marked = long if deaf else set()
        for one in self._marked:
            self._hands.mark(one)
        if not long:
            self._asked = None
        elif not deaf:
            self._asked = time.monotonic()
            self._ask()
        return due
