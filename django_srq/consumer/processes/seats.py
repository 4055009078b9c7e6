"""The seats of a consumer: each has one child at a time, and the next one when a child has left it.

``Seats`` decides when a child is to be started and when one leaves its seat; ``Spawner`` starts it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from django_srq.consumer.ledger import FAILED, RUNNING
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.processes.child_handle import ChildExit, ChildHandle

SOON = 5.0  # seconds; a child that dies younger and has handled nothing is replaced after a pause that grows
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds of that pause, from the second such death in a row on
NEVER_READY = 5  # deaths in a row of children that never looked for items, after which the supervisor gives up


@dataclass
class Seat:
    """The seat of a child: when a child leaves it, a successor takes it."""

    child: ChildHandle | None = None
    due: float = 0.0  # the moment from which on the next child may be started
    reported: float = 0.0  # the moment at which the reports about its last child were made
    early_deaths: int = 0  # how many of its children in a row died young
    items_left: int | None = None  # items that its children may still handle; None: any number
    finished: bool = False  # its work is done: no further child is started

    def postpone(self) -> None:
        """Start the next child at once, or after a pause if several have died young or could not be started."""
        self.early_deaths += 1
        doublings = self.early_deaths - 2
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(doublings, 10)) if doublings >= 0 else 0
        self.due = time.monotonic() + pause

    def count(self, child: ChildHandle) -> None:
        """Subtract the items of a child that has ended. An item that it was handling when it died counts, too."""
        if self.items_left is not None:
            self.items_left -= child.ledger.handled + sum(entry.state in {RUNNING, FAILED} for entry in child.ledger)
            self.finished = self.items_left <= 0


class Seats:
    """The seats, and the children that left theirs to a successor and have not ended yet."""

    def __init__(self, options: ConsumerOptions) -> None:
        self._options = options
        self._seats = [Seat(items_left=share) for share in _shares(options)]
        self.leaving: list[ChildHandle] = []
        self.to_replace: list[ChildHandle] = []  # one after the other
        self._never_ready = 0
        self.failure = ""  # why no further child is started

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._seats)

    @property
    def children(self) -> list[ChildHandle]:
        return [*self._seated(), *self.leaving]

    def _seated(self) -> list[ChildHandle]:
        return [seat.child for seat in self._seats if seat.child is not None]

    @property
    def vacant(self) -> list[Seat]:
        """The seats for which a child is to be started, now or later."""
        return [seat for seat in self._seats if seat.child is None and not seat.finished]

    # -- children that leave their seats to successors

    def replace_all(self) -> None:
        self.to_replace = self._seated()

    def make_way(self) -> None:
        """Give the seats of children that take no more items to successors, and stop the next child to be replaced.

        The threads of these children may go on for the grace.
        """
        for child in self._seated():
            if child.ledger.wants_successor:
                self._leave(child)
        while self.to_replace and self._has_room and not any(child.stopping for child in self.children):
            child = self.to_replace.pop(0)
            if child in self._seated():  # else it has ended meanwhile
                child.stop()
                self._leave(child)

    def _leave(self, child: ChildHandle) -> None:
        seat = self._seat_of(child)
        # With a number of items, only the child's end shows how many are left for its successor.
        if seat and seat.items_left is None and self._has_room:
            self.leaving.append(child)
            seat.child = None

    @property
    def _has_room(self) -> bool:
        """Whether one more child may leave its seat to a successor, so that children at most double in number."""
        return len(self.leaving) < self._options.processes

    def _seat_of(self, child: ChildHandle) -> Seat | None:
        return next((seat for seat in self._seats if seat.child is child), None)

    # -- children that have ended

    def vacate(self, exit: ChildExit) -> Seat | None:
        """Note that a child has ended. Returns its seat; None: it has left that to a successor."""
        seat = self._seat_of(exit.child)
        if seat is None:
            self.leaving.remove(exit.child)
            return None
        seat.child = None
        seat.count(exit.child)
        has_finished = not exit.premature and not exit.child.stopping and not exit.child.ledger.wants_successor
        seat.finished = seat.finished or (has_finished and self._options.burst)
        self._look_for_a_reason_to_give_up(exit)
        # A child that has handled items was able to start: its death is the fault of its last item.
        blameless = exit.child.ledger.handled or (exit.was_killed and exit.child.ledger.ready)
        at_once = exit.premature and not blameless and time.monotonic() - exit.child.born < SOON
        seat.early_deaths = seat.early_deaths if at_once else -1
        seat.postpone()
        return seat

    def _look_for_a_reason_to_give_up(self, exit: ChildExit) -> None:
        some_child_is_ready = any(child.ledger.ready for child in [exit.child, *self.children])
        self._never_ready = 0 if some_child_is_ready or exit.was_killed else self._never_ready + 1
        if self._never_ready >= NEVER_READY:
            self.failure = (
                f"No child process comes up: {NEVER_READY} in a row ended at once, the last {exit.description}."
            )


def _shares(options: ConsumerOptions) -> list[int | None]:
    """How many items the children of each seat may handle; None: any number."""
    if options.max_items is None:
        return [None] * options.processes
    each, more = divmod(options.max_items, options.processes)
    return [share for share in (each + (number < more) for number in range(options.processes)) if share]
