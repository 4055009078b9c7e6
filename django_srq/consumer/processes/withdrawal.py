"""Finds what waits in a child that cannot begin it: the child is stopped, or a handler holds the interpreter's lock.

The child may go on at that very moment, and nothing locks the memory that it shares with the supervisor. So the
supervisor first marks what it wants back, and looks again after a while: what is still not begun then never will be.
For a child says that it begins an item before it looks for the mark, and a mark is seen by then: it takes a processor
far less than that while to make known what it wrote.

An idle child has a claim behind a wait on the server, which takes items as soon as the wait ends. A healthy child reads
the reply at once. To ask it again and again whether it hears would wake it for nothing. So the supervisor asks when the
system says that the child is stopped, or when the wait should be over.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from django_srq.consumer.ledger import Ledger, Waiting

LOOK = 0.2  # seconds between two looks; what waits is given back at the fourth, within one second


class Withdrawal:
    """Looks at what waits in one child."""

    def __init__(
        self, ledger: Ledger, ask: Callable[[], object], is_stopped: Callable[[], bool] = lambda: False
    ) -> None:
        """ask: has the child say that it can hear. is_stopped: whether it is known to be stopped."""
        self._ledger, self._ask, self._is_stopped = ledger, ask, is_stopped
        self._waited: set[Waiting] = set()  # at the last look
        self._marked: set[Waiting] = set()  # at the last look
        self._withdrawn: set[Waiting] = set()
        self._asked: float | None = None  # the moment of a question, while something waits for long

    def look(self) -> set[Waiting]:
        """Called every ``LOOK`` seconds at most; what is to be given back now: the child will not begin it any more."""
        waiting = self._waiting()
        due = self._marked & waiting
        self._withdrawn = self._withdrawn & waiting | due
        long = self._waited & waiting - self._withdrawn
        self._waited = waiting
        deaf = self._asked is not None and self._ledger.heard < self._asked
        self._marked = long if deaf else set()
        for one in self._marked:
            self._ledger.mark(one)
        if not long:
            self._asked = None
        elif not deaf:
            self._asked = time.monotonic()
            self._ask()
        return due

    def again(self, claim: Waiting) -> None:
        """It was withdrawn before the server carried it out: it is to be withdrawn once more, soon."""
        self._withdrawn.discard(claim)

    def _waiting(self) -> set[Waiting]:
        waiting, parked = self._ledger.waiting(), self._ledger.parked
        if parked and (time.monotonic() > parked.until or self._is_stopped()):
            waiting.add(Waiting(parked.number, None, parked=True))
        return waiting
