"""A child whose supervisor was killed: it has to keep its leases and its limits itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from django_srq import failure, operations
from django_srq.consumer import groups
from django_srq.consumer.hands import FAILED, RUNNING, Hand, Hands
from django_srq.consumer.leases import LAST_LINES, PATIENCE, Leases
from django_srq.consumer.plan import Plan
from django_srq.consumer.source import Source
from django_srq.exceptions import SRQError

LOOK = 0.2  # seconds between looks at what runs


class Orphan:
    """Finishes what is in hand and ends, as at a stop.

    An item may take as long as the time limit says. Without one it may take the grace: nobody else could end it.
    """

    def __init__(self, consumer: str, sources: Sequence[Source], hands: Hands, leases: Leases, plan: Plan) -> None:
        self._consumer, self._sources, self._hands, self._leases = consumer, sources, hands, leases
        self._plan = plan
        self._since = time.monotonic()

    def live(self) -> None:
        """Renew the leases until the process ends; end it when an item takes too long."""
        # The event is never set: the leases are renewed as long as the process lives.
        renewing = threading.Thread(target=self._leases.renew_until, args=[threading.Event()], name="srq-leases")
        renewing.daemon = True
        renewing.start()
        while not (over := self._over()):
            time.sleep(LOOK)
        try:
            self._report(over)
            self._leases.sign_off()
            self._leases.log.flush(LAST_LINES)
        finally:
            groups.kill_own()

    def _over(self) -> set[int]:
        """The fillings of the hands that have taken too long."""
        limit, now = self._plan.time_limit, time.monotonic()
        running = [hand for hand in self._hands if hand.state in {RUNNING, FAILED}]
        if limit is None:
            return {hand.filling for hand in running} if now - self._since >= self._plan.grace else set()
        return {hand.filling for hand in running if hand.state == RUNNING and now - hand.started >= limit}

    def _report(self, over: set[int]) -> None:
        """Give back what runs; what took longer than the time limit counts as a crash."""
        for hand in self._hands:
            if hand.state in {RUNNING, FAILED}:
                with suppress(SRQError):  # then it comes back when its lease ends
                    self._give_back(hand, blamed=self._plan.time_limit is not None and hand.filling in over)

    def _give_back(self, hand: Hand, *, blamed: bool) -> None:
        queue, limit = self._sources[hand.source].queue, self._plan.time_limit
        how = f"killed: an item took longer than the time limit of {limit:g} s" if limit else "stopped"
        mode = "crash" if blamed else "cut"
        evidence = failure.of_death(how, consumer=self._consumer, run_time=time.monotonic() - hand.started, memory=0)
        words = "%s, and its supervisor is gone queue=%s uid=%s"
        self._leases.log.log(logging.WARNING, words, how, queue.label, hand.held.uid)
        call = operations.crashed(
            queue.keys,
            [hand.held],
            evidence=evidence,
            how=mode if queue.autoclean_interval is not None else "end",
            max_deliveries=queue.max_deliveries,
            max_crashes=queue.max_crashes,
        )
        queue.link.call(call, queue=queue.label, timeout=PATIENCE)
