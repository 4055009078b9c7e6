"""Prefetch: how many items are claimed at one time. Adaptive prefetch decides that by how long the last ones took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django_srq import operations
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.subscription import Subscription

AHEAD = 0.005  # seconds of work that are claimed at one time
MOST = 100  # items that are claimed at one time at most
SHARE = 0.1  # weight of the last item in the moving average
LEAD = 0.25  # the next items are claimed ahead when this share of the items claimed ahead is left


class AdaptivePrefetch:
    """Estimates the time of an item. A slow item raises the estimate at once; quick ones lower it little by little.

    The time of an item is the time of its handler, and after a failure also the time for telling the server. The time
    for sending an ack does not count: it grows with the number of threads, so that many threads would claim few items.

    The estimate begins at one item at a time. So when an item kills its consumer and comes back, the new process has
    claimed no other items with it.
    """

    def __init__(self) -> None:
        self._seconds = AHEAD  # estimated time of an item

    def took(self, seconds: float) -> None:
        self._seconds = max(seconds, self._seconds + SHARE * (seconds - self._seconds))

    @property
    def ahead(self) -> int:
        """How many items are worth claiming at one time."""
        return max(1, min(MOST, int(AHEAD / self._seconds)))


@dataclass
class Quota:
    """How many items may still be claimed (``--max-items``)."""

    left: int | None  # None: any number

    @property
    def used_up(self) -> bool:
        return self.left is not None and self.left <= 0


class Prefetch:
    """Decides how many items a claim asks for."""

    def __init__(self, subscriptions: Sequence[Subscription], options: ConsumerOptions, quota: Quota) -> None:
        self._fixed = options.prefetch
        self._weighted = any(subscription.weight for subscription in subscriptions)
        self.quota = quota
        # Whether a claim may be sent before a thread needs its items: ahead, or behind a wait.
        self.early = len(subscriptions) == 1 and quota.left is None and not options.burst

    @property
    def adaptive(self) -> bool:
        return self._fixed is None

    def most(self, subscription: Subscription, needed: int, pace: AdaptivePrefetch | None) -> int:
        """How many items to claim at once.

        needed: how many batches the threads without a job can take. pace: claim more, to be handled afterwards.
        """
        most = needed * subscription.batch
        if pace is not None:
            most = max(most, self._ahead(subscription, pace))
        most = min(most, operations.BATCH)
        return most if self.quota.left is None else min(most, self.quota.left)

    def next(self, subscription: Subscription, waiting: int, pace: AdaptivePrefetch) -> int:
        """How many items to claim while the last waiting ones are handled; 0: none yet."""
        if not self.early:
            return 0
        ahead = self._ahead(subscription, pace)
        return min(ahead - waiting, operations.BATCH) if waiting <= LEAD * ahead else 0

    def _ahead(self, subscription: Subscription, pace: AdaptivePrefetch) -> int:
        if self._fixed:
            return self._fixed
        queue = subscription.queue
        if subscription.batch > 1:
            return 1  # a claim brings a whole batch already
        if self.quota.left is not None:
            return 1  # an item that is given back would still count towards max_items
        if queue.max_in_flight is not None or queue.rate is not None:
            return 1  # an item that waits here uses up the limit, and another consumer might begin one instead
        if self._weighted:
            return 1  # by weight, each turn is for one item
        return pace.ahead
