"""Where a consumer takes its items from, and in which order it asks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django_srq.queue.backoff import Backoff
from django_srq.queue.safe_redis_queue import SafeRedisQueue

NEVER = float("inf")
TOGETHER = 1.0  # seconds; sources whose moments lie within the same are asked together


class StopConsuming(Exception):
    """Raised by a handle: this consumer cannot go on, and the item stays in the queue."""


@dataclass(frozen=True, eq=False)
class Subscription:
    """A queue and what is done with its items. handle returns: acked; it raises: failed with the error.

    With a batch above 1, handle takes a list of so many items at most. It returns the errors of those that failed, by
    their place in the list; the others are acked.
    """

    queue: SafeRedisQueue
    handle: Callable[[Any], Any]
    lease: float = 15.0  # seconds; renewed at a third
    backoff: Backoff = field(default_factory=Backoff)
    weight: int | None = None  # of the items taken, against those of the other sources; None: strictly in order
    batch: int = 1  # items that handle takes at one time
    asynchronous: bool = False  # handle waits for an event loop: as many at one time as --concurrency says


class Timetable:
    """When each source is to be asked again for items: moments of ``time.monotonic()``.

    A queue rings its wake list when something can be taken, so that a source need not be asked before its moment.
    """

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        self._moments = dict.fromkeys(subscriptions, 0.0)
        # Several sources are asked together, a little early, rather than each at a moment of its own.
        self._together = len(subscriptions) > 1

    def earliest(self, asynchronous: bool) -> float:
        """The earliest moment of the sources of that kind."""
        moments = [
            moment for subscription, moment in self._moments.items() if subscription.asynchronous is asynchronous
        ]
        return min(moments, default=NEVER)

    def is_due(self, subscription: Subscription, now: float) -> bool:
        return self._moments[subscription] <= now

    def begin(self, subscription: Subscription) -> None:
        """The source is asked now; the answer says when to ask again."""
        self._moments[subscription] = NEVER

    def sooner(self, subscription: Subscription, moment: float) -> None:
        """Ask the source at that moment, unless it is to be asked before."""
        if self._together and moment - time.monotonic() > TOGETHER:
            moment = math.floor(moment / TOGETHER) * TOGETHER
        self._moments[subscription] = min(self._moments[subscription], moment)


class Rotation:
    """The order in which the sources are asked for items, anew each time.

    As given, so that a later one has its turn when the earlier ones have nothing; or, with weights, smoothly in their
    proportion (the weighted round robin of nginx), so that none starves.
    """

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        self._subscriptions = list(subscriptions)
        self.weighted = any(subscription.weight for subscription in subscriptions)
        self._credit = [0] * len(self._subscriptions)

    def next(self, woken: Subscription | None = None) -> list[Subscription]:
        """woken: the source for which a wake token came; whoever took it goes there first."""
        if woken is not None:
            return [woken, *(subscription for subscription in self._subscriptions if subscription is not woken)]
        return self._by_weight() if self.weighted else self._subscriptions

    def _by_weight(self) -> list[Subscription]:
        weights = [subscription.weight or 1 for subscription in self._subscriptions]
        self._credit = [credit + weight for credit, weight in zip(self._credit, weights, strict=True)]
        order = sorted(range(len(weights)), key=lambda place: -self._credit[place])
        self._credit[order[0]] -= sum(weights)
        return [self._subscriptions[place] for place in order]
