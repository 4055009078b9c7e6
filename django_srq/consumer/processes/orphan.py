"""A child whose supervisor was killed: it renews its leases and enforces its limits itself.

A handler that holds the interpreter's lock lets no other thread of the child run. So the keeper, which lives as long as
such children do, does both as well. It acts a little later than the child would.

If supervisor and keeper are both killed, no process can look after a child whose handler holds the lock. Its lease is
not renewed, and its item comes back when the lease ends. The process ends when the handler releases the lock, or when a
person kills it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from django_srq.consumer.leases import LAST_LINES, PATIENCE, Leases
from django_srq.consumer.ledger import RUNNING, Entry, Ledger
from django_srq.consumer.log_thread import LogThread
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.processes import farewell, groups, postmortem
from django_srq.consumer.processes.child_handle import STOPPED, timed_out, took_too_long
from django_srq.consumer.runner import EARLIER_ERRORS
from django_srq.consumer.subscription import NEVER, Subscription, TimeLimits
from django_srq.consumer.worker.claims import claim_slots
from django_srq.exceptions import SRQError
from django_srq.operations import Call
from django_srq.queue import failure
from django_srq.queue.safe_redis_queue import SafeRedisQueue

LOOK_EVERY = 0.2  # seconds between looks at what runs
MARGIN = 2.0  # seconds by which the keeper acts later than the child itself


class Orphan:
    """Watches an orphaned child, which finishes its running items and ends, as at a stop.

    An item may take as long as its time limit says. Without a time limit it may take the grace, as no supervisor could
    end it later.
    """

    def __init__(
        self,
        consumer: str,
        subscriptions: Sequence[Subscription],
        ledger: Ledger,
        options: ConsumerOptions,
        log: LogThread,
    ) -> None:
        self._consumer, self._subscriptions, self._ledger = consumer, subscriptions, ledger
        self._limits, self._grace, self._log = TimeLimits(subscriptions, options.time_limit), options.grace, log
        self._since = self._last_at_work = time.monotonic()
        self._killed_at: float | None = None  # the moment at which the keeper killed the child
        self._overdue: set[int] = set()  # generations of the entries that had taken too long when the child was killed

    # -- in the child

    def run(self, leases: Leases) -> None:
        """Renew the leases until the process ends, and kill it when an item takes too long. Does not return."""
        # The event is never set: the leases are renewed as long as the process lives.
        renewing = threading.Thread(target=leases.renew_until, args=[threading.Event()], name="srq-leases")
        renewing.daemon = True
        renewing.start()
        while not (overdue := self._find_overdue()):
            time.sleep(LOOK_EVERY)
        try:
            self._give_back(overdue)
            leases.sign_off()
            self._log.flush(LAST_LINES)
        finally:
            groups.kill_own()

    # -- in the keeper

    def look(self, *, trouble: bool) -> bool:
        """Whether the child still has to be watched. Kills a child that takes too long, and settles its items.

        trouble: a server is away, so that the child may take longer to end.
        """
        if self._killed_at is None:
            if trouble or self._running():
                self._last_at_work = time.monotonic()
            if lives := groups.lives(self._ledger.pid):
                self._kill_if_overdue()
            return lives
        # A killed child that nobody reaps stays listed; but it begins nothing any more.
        if groups.lives(self._ledger.pid) and time.monotonic() - self._killed_at < PATIENCE:
            return True
        self._give_back(self._overdue)
        self._settle()
        return False

    def _kill_if_overdue(self) -> None:
        self._overdue = self._find_overdue(MARGIN)
        # A child without a running item should have ended by now: something in it holds the interpreter's lock.
        if self._overdue or time.monotonic() - self._last_at_work >= max(self._grace, farewell.LEAST) + MARGIN:
            self._killed_at = time.monotonic()
            pid = self._ledger.pid
            self._log.log(logging.WARNING, "child killed, as it did not end consumer=%s pid=%d", self._consumer, pid)
            groups.kill(pid)

    def _settle(self) -> None:
        """Settle the items that did not run, without blame. ``_give_back`` is for those that ran."""
        for index, subscription in enumerate(self._subscriptions):
            queue = subscription.queue
            entries = [entry for entry in self._ledger if entry.subscription == index]
            for call in postmortem.settlements(subscription, entries):
                self._call(queue, call)
            for slot in claim_slots(self._consumer):
                self._call(queue, postmortem.ending(queue, [], "release", b"{}", slot=slot))

    # -- in both

    def _running(self) -> list[Entry]:
        return [entry for entry in self._ledger if entry.in_doubt]

    def _find_overdue(self, margin: float = 0.0) -> set[int]:
        """The generations of the entries that have taken too long. margin: seconds that they may take in addition."""
        latest = time.monotonic() - margin
        return {entry.generation for entry in self._running() if self._is_overdue(entry, latest)}

    def _is_overdue(self, entry: Entry, latest: float) -> bool:
        limit = self._limits.of(entry)
        if limit == NEVER:
            return latest - self._since >= self._grace
        return entry.state == RUNNING and latest - entry.started >= limit

    def _give_back(self, overdue: set[int]) -> None:
        """Give back the running items. Those that took longer than their time limit count as crashed."""
        running = self._running()
        limits = {entry.generation: self._limits.of(entry) for entry in running}
        blamed = [entry for entry in running if entry.generation in overdue and limits[entry.generation] != NEVER]
        how = STOPPED
        if blamed:
            first = min(blamed, key=self._limits.of)
            how = (timed_out if self._limits.is_own(first) else took_too_long)(self._limits.of(first))
        for entry in running:
            self._give_back_entry(entry, how, blamed=entry in blamed)

    def _give_back_entry(self, entry: Entry, how: str, *, blamed: bool) -> None:
        subscription = self._subscriptions[entry.subscription]
        queue = subscription.queue
        message = "%s, and its supervisor is gone queue=%s uid=%s"
        self._log.log(logging.WARNING, message, how, queue.alias, entry.held.uid)
        if blamed and self._limits.is_own(entry):
            self._call(queue, postmortem.timeout(self._consumer, queue, entry)[1])
            return
        evidence = failure.of_death(
            how,
            consumer=self._consumer,
            run_time=time.monotonic() - entry.started,
            memory=0,
            keep=EARLIER_ERRORS if subscription.runner else 0,
        )
        how, most = "crash" if blamed else "cut", entry.most_deliveries
        self._call(queue, postmortem.ending(queue, [entry.held], how, evidence, most_deliveries=most))

    def _call(self, queue: SafeRedisQueue, call: Call[Any]) -> None:
        with suppress(SRQError):  # then the items come back when their leases end
            queue.link.call(call, queue=queue.alias, timeout=PATIENCE)
