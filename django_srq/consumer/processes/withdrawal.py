"""Finds items that a child holds and cannot begin: the child is stopped, or a handler holds the interpreter's lock.

The child may go on at any moment, and there is no lock on the ledger that it shares with the supervisor. So the
supervisor first marks the items that it wants back, and looks again a while later. An item that is still not begun then
never will be: the child writes that it begins an item before it reads the mark, and by then it sees the mark, as a
processor takes far less than that while to make a write visible to the others.

An idle child has a claim behind a wait on the server, which takes items as soon as the wait ends. A healthy child reads
the reply at once, and a question whether it can hear would wake it for nothing. So the supervisor asks only when the
system says that the child is stopped, or when the wait should be over.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from django_srq.consumer.ledger import Ledger, Waiting

LOOK_EVERY = 0.2  # seconds between two looks; an item that waits is given back at the fourth look, within one second


class Withdrawal:
    """Looks for items that wait in one child: asks whether the child can hear, marks them, gives them back."""

    def __init__(
        self, ledger: Ledger, ask: Callable[[], object], is_stopped: Callable[[], bool] = lambda: False
    ) -> None:
        """ask: asks the child to note in the ledger that it can hear. is_stopped: whether it is known to be stopped."""
        self._ledger, self._ask, self._is_stopped = ledger, ask, is_stopped
        self._waiting_before: set[Waiting] = set()  # those that waited at the last look
        self._marked: set[Waiting] = set()  # those that were marked at the last look
        self._withdrawn: set[Waiting] = set()  # those that were given back and are still in the ledger
        self._asked_at: float | None = None  # the moment of the last question, while items wait for long; else None

    def look(self) -> set[Waiting]:
        """The items and claims to give back now: the child will not begin them. Called every ``LOOK_EVERY``."""
        waiting = self._waiting()
        due = self._marked & waiting
        self._withdrawn = self._withdrawn & waiting | due
        long = self._waiting_before & waiting - self._withdrawn
        self._waiting_before = waiting
        deaf = self._asked_at is not None and self._ledger.last_answer < self._asked_at
        self._marked = long if deaf else set()
        for item in self._marked:
            self._ledger.want_back(item)
        if not long:
            self._asked_at = None
        elif not deaf:
            self._asked_at = time.monotonic()
            self._ask()
        return due

    def withdraw_again(self, claim: Waiting) -> None:
        """Have a claim withdrawn once more: the server had not carried it out yet, and it may take items later."""
        self._withdrawn.discard(claim)

    def _waiting(self) -> set[Waiting]:
        waiting, parked = self._ledger.waiting(), self._ledger.parked
        if parked and (time.monotonic() > parked.until or self._is_stopped()):
            waiting.add(Waiting(parked.number, None, parked=True))
        return waiting
