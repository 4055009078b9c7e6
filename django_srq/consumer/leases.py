"""Renews the leases of what the consumer has in hand."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from django_srq import operations
from django_srq.exceptions import SRQError
from django_srq.item import Item
from django_srq.operations import Held
from django_srq.queue import SafeRedisQueue

logger = logging.getLogger("django_srq.consumer")


class Leases(threading.Thread):
    """A thread that extends the lease of the item in hand at a third of its length, until it is told to stop.

    When the process dies, so does it: the lease ends, and the item is ready again.
    """

    def __init__(self, interval: float, about: Callable[[], bytes], consumer: str) -> None:
        """interval: seconds between renewals. about: what the consumer's entry says, refreshed with each renewal."""
        super().__init__(name="srq-leases", daemon=True)
        self._interval, self._about, self._consumer = interval, about, consumer
        self._in_hand: tuple[SafeRedisQueue, Item, float] | None = None
        self._stopped = threading.Event()

    def hold(self, queue: SafeRedisQueue, item: Item, lease: float) -> None:
        self._in_hand = (queue, item, lease)

    def let_go(self) -> None:
        self._in_hand = None

    @property
    def holding(self) -> bool:
        return self._in_hand is not None

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def run(self) -> None:
        while not self._stopped.wait(self._interval):
            if in_hand := self._in_hand:
                self._renew(*in_hand)

    def _renew(self, queue: SafeRedisQueue, item: Item, lease: float) -> None:
        assert item.uid is not None
        held = Held(item.uid, item.token)
        call = operations.extend(queue.keys, [held], lease=lease, consumer=self._consumer, about=self._about())
        try:
            (kept,) = queue.link.call(call, queue=queue.label, timeout=self._interval)
        except SRQError as error:
            logger.warning("lease not renewed queue=%s uid=%s error=%s", queue.label, item.uid, error)
            return
        still = self._in_hand
        if not kept and still is not None and still[1] is item:
            logger.error("lease lost, somebody else may have the item queue=%s uid=%s", queue.label, item.uid)
