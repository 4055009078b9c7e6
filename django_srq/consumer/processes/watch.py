"""The supervisor's watch over the children that live: items that take too long, and items that no child begins."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from django_srq import operations
from django_srq.consumer.ledger import RUNNING, Waiting
from django_srq.consumer.processes.child_handle import ChildHandle, timed_out, took_too_long
from django_srq.consumer.processes.reports import Report, Reports
from django_srq.consumer.processes.seats import Seats
from django_srq.consumer.processes.withdrawal import LOOK_EVERY
from django_srq.consumer.subscription import NEVER, Subscription, TimeLimits
from django_srq.consumer.worker.claims import claim_slots
from django_srq.queue.safe_redis_queue import SafeRedisQueue


class Watch:
    def __init__(
        self, seats: Seats, subscriptions: Sequence[Subscription], reports: Reports, *, time_limit: float | None
    ) -> None:
        """time_limit: seconds that an item of any queue may take; None: as long as its queue allows."""
        self._seats, self._subscriptions, self._reports = seats, subscriptions, reports
        self._limits = TimeLimits(subscriptions, time_limit)
        self._next_look = 0.0

    @property
    def next_moment(self) -> float:
        """The moment at which there is something to do even if nothing wakes the supervisor."""
        return min(self._next_look, self._next_limit)

    @property
    def _next_limit(self) -> float:
        """The moment at which the next item will have taken too long, or one that begins now.

        The own limit of a task that begins now is found at the next look for waiting items.
        """
        if not self._limits.exist:
            return NEVER
        alive = [child for child in self._seats.children if not child.kill_reason]
        running = [entry for child in alive for entry in child.ledger if entry.state == RUNNING]
        ends = [entry.started + self._limits.of(entry) for entry in running]
        return min([*ends, time.monotonic() + self._limits.shortest])

    def enforce_time_limit(self) -> None:
        """Kill children whose items take too long."""
        if not self._limits.exist:
            return
        now = time.monotonic()
        for child in self._seats.children:
            running = [entry for entry in child.ledger if entry.state == RUNNING]
            over = [entry for entry in running if now - entry.started >= self._limits.of(entry)]
            if over and not child.kill_reason:
                child.over_limit = {entry.generation for entry in over}
                child.timed_out = {entry.generation for entry in over if self._limits.is_own(entry)}
                first = min(over, key=self._limits.of)
                how = timed_out if self._limits.is_own(first) else took_too_long
                child.kill(how(self._limits.of(first)))

    def look_for_waiting_items(self) -> None:
        """Give back items that wait in a child which cannot begin them, if it is time for a look."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_EVERY
            for child in self._seats.children:
                if waiting := child.withdrawal.look():
                    self._report_waiting(child, waiting)

    def _report_waiting(self, child: ChildHandle, waiting: Iterable[Waiting]) -> None:
        entries = [entry for each in waiting if (entry := child.ledger.entry_of(each))]
        claims = [(child.ledger.subscription_of(each), each) for each in waiting if each.record is None]
        for index, subscription in enumerate(self._subscriptions):
            queue = subscription.queue
            if held := [entry.held for entry in entries if entry.subscription == index]:
                self._reports.append(Report(queue, operations.release(queue.keys, held)))
            for asked, claim in claims:
                if asked == index:
                    self._report_claim(child, queue, claim)

    def _report_claim(self, child: ChildHandle, queue: SafeRedisQueue, claim: Waiting) -> None:
        def withdraw_again(items: int | None) -> None:
            if items is None:
                child.withdrawal.withdraw_again(claim)

        slot = claim_slots(child.id)[claim.parked]
        self._reports.append(Report(queue, operations.withdraw(queue.keys, slot, claim.number), withdraw_again))
