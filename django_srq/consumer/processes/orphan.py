"""A child whose supervisor was killed: it has to keep its leases and its limits itself.

A handler that holds the interpreter's lock lets no other thread of the child run. So the supervisor's keeper, which
lives as long as such children do, keeps both as well. It gives the child the first word.

When supervisor and keeper are killed at once, nobody can look after such a child. It does not renew: its item comes
back when its lease ends. The process ends when the handler lets the lock go, or is killed by hand.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from django_srq.consumer.leases import LAST_LINES, PATIENCE, Leases
from django_srq.consumer.ledger import FAILED, RUNNING, Entry, Ledger
from django_srq.consumer.log_thread import LogThread
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.processes import farewell, groups, postmortem
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.worker.claims import claim_slots
from django_srq.exceptions import SRQError
from django_srq.operations import Call
from django_srq.queue import failure
from django_srq.queue.safe_redis_queue import SafeRedisQueue

LOOK = 0.2  # seconds between looks at what runs
MARGIN = 2.0  # seconds that the keeper waits for longer than the child itself


class Orphan:
    """Finishes what is in hand and ends, as at a stop.

    An item may take as long as the time limit says. Without one it may take the grace: nobody else could end it.
    """

    def __init__(
        self,
        consumer: str,
        subscriptions: Sequence[Subscription],
        ledger: Ledger,
        options: ConsumerOptions,
        log: LogThread,
    ) -> None:
        self._consumer, self._subscriptions, self._ledger, self._options, self._log = (
            consumer,
            subscriptions,
            ledger,
            options,
            log,
        )
        self._since = self._ran = time.monotonic()
        self._killed: float | None = None  # the moment at which the keeper did so
        self._over: set[int] = set()  # the fillings of the hands that had taken too long when it was killed

    # -- in the child

    def live(self, leases: Leases) -> None:
        """Renew the leases until the process ends; end it when an item takes too long."""
        # The event is never set: the leases are renewed as long as the process lives.
        renewing = threading.Thread(target=leases.renew_until, args=[threading.Event()], name="srq-leases")
        renewing.daemon = True
        renewing.start()
        while not (over := self._late()):
            time.sleep(LOOK)
        try:
            self._report(over)
            leases.sign_off()
            self._log.flush(LAST_LINES)
        finally:
            groups.kill_own()

    # -- in the keeper

    def look(self, *, trouble: bool) -> bool:
        """Whether the child still lives; one that takes too long is killed. trouble: some server is away."""
        if self._killed is None:
            if trouble or self._running():
                self._ran = time.monotonic()
            if lives := groups.lives(self._ledger.pid):
                self._kill_if_late()
            return lives
        # It may be listed for longer, where nobody reaps it: but it begins nothing any more.
        if groups.lives(self._ledger.pid) and time.monotonic() - self._killed < PATIENCE:
            return True
        self._report(self._over)
        self._settle()
        return False

    def _kill_if_late(self) -> None:
        self._over = self._late(MARGIN)
        # With nothing running it should have ended: but something holds the interpreter's lock all the same.
        if self._over or time.monotonic() - self._ran >= max(self._options.grace, farewell.LEAST) + MARGIN:
            self._killed = time.monotonic()
            pid = self._ledger.pid
            self._log.log(logging.WARNING, "child killed, as it did not end consumer=%s pid=%d", self._consumer, pid)
            groups.kill(pid)

    def _settle(self) -> None:
        """What ran is given back by ``_report``; of all else that it had, nothing is to be blamed."""
        for place, subscription in enumerate(self._subscriptions):
            queue = subscription.queue
            for call in postmortem.settler(queue, [entry for entry in self._ledger if entry.subscription == place]):
                self._tell(queue, call)
            for slot in claim_slots(self._consumer):
                self._tell(queue, postmortem.ending(queue, [], "release", b"{}", slot=slot))

    # -- in both

    def _running(self) -> list[Entry]:
        return [entry for entry in self._ledger if entry.state in {RUNNING, FAILED}]

    def _late(self, margin: float = 0.0) -> set[int]:
        """The fillings of the hands that have taken too long."""
        limit, latest = self._options.time_limit, time.monotonic() - margin
        if limit is None:
            return (
                {entry.generation for entry in self._running()}
                if latest - self._since >= self._options.grace
                else set()
            )
        return {
            entry.generation for entry in self._running() if entry.state == RUNNING and latest - entry.started >= limit
        }

    def _report(self, over: set[int]) -> None:
        """Give back what runs; what took longer than the time limit counts as a crash."""
        for entry in self._running():
            self._give_back(entry, blamed=self._options.time_limit is not None and entry.generation in over)

    def _give_back(self, entry: Entry, *, blamed: bool) -> None:
        queue, limit = self._subscriptions[entry.subscription].queue, self._options.time_limit
        how = f"killed: an item took longer than the time limit of {limit:g} s" if limit else "stopped"
        evidence = failure.of_death(how, consumer=self._consumer, run_time=time.monotonic() - entry.started, memory=0)
        words = "%s, and its supervisor is gone queue=%s uid=%s"
        self._log.log(logging.WARNING, words, how, queue.alias, entry.held.uid)
        self._tell(queue, postmortem.ending(queue, [entry.held], "crash" if blamed else "cut", evidence))

    def _tell(self, queue: SafeRedisQueue, call: Call[Any]) -> None:
        with suppress(SRQError):  # then what it is about comes back when its lease ends
            queue.link.call(call, queue=queue.alias, timeout=PATIENCE)
