"""Subscriptions: the queues that a consumer takes items from, and when and in which order it asks them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from django_srq.consumer.ledger import Entry
from django_srq.consumer.logged_errors import ErrorView
from django_srq.consumer.runner import Runner
from django_srq.queue.backoff import Backoff
from django_srq.queue.safe_redis_queue import SafeRedisQueue

NEVER = float("inf")
TOGETHER = 1.0  # seconds; subscriptions whose moments lie within the same such interval are asked together


class Kind(StrEnum):
    """The kind of a handler, and of the threads that call it."""

    SYNC = "sync"  # ``--threads`` says how many items run at one time
    ASYNC = "async"  # it waits for an event loop; ``--concurrency`` says how many items run at one time


class StopConsuming(Exception):
    """Raised by a ``handle``: this consumer cannot go on. Its items are given back."""


@dataclass(frozen=True, eq=False)
class Subscription:
    """A queue, and how its items are handled. If ``handle`` returns, the item is acked; if it raises, the item fails.

    With a batch above 1, ``handle`` takes a list of so many items at most. It returns the errors of the items that
    failed, by their index in the list; the other items are acked.
    """

    queue: SafeRedisQueue
    handle: Callable[[Any], Any]
    lease: float = 15.0  # seconds; renewed each third of it
    backoff: Backoff = field(default_factory=Backoff)
    weight: int | None = None  # share of the items, relative to the other subscriptions'; None: strictly in order
    batch: int = 1  # items that handle takes at one time, at most
    time_limit: float | None = None  # seconds for an item; None: as long as the consumer's options allow
    asynchronous: bool = False  # handle waits for an event loop: --concurrency says how many items run at one time
    errors: ErrorView = field(default_factory=ErrorView)  # what the log shows of the errors of handle
    handler: str = ""  # the dotted path of the handler, for the log
    runner: Runner | None = None  # of a queue of tasks: handle calls its run; the batch is 1

    @cached_property
    def kind(self) -> Kind:
        return Kind.ASYNC if self.asynchronous else Kind.SYNC


class TimeLimits:
    """The seconds that an item may take. NEVER: any time."""

    def __init__(self, subscriptions: Sequence[Subscription], overall: float | None) -> None:
        """overall: the consumer's time limit. The smaller one of it and the subscription's own holds."""
        self._limits = [min(each.time_limit or NEVER, overall or NEVER) for each in subscriptions]
        self.shortest = min(self._limits, default=NEVER)  # of those that are known before an item is begun
        self.exist = self.shortest < NEVER or any(each.runner is not None for each in subscriptions)

    def of(self, entry: Entry) -> float:
        """That of an item in hand: the smaller one of its subscription's and its task's."""
        return min(self._limits[entry.subscription], entry.limit or NEVER)

    def is_own(self, entry: Entry) -> bool:
        """Whether the limit is its task's. An attempt that takes longer has failed; else the item counts as crashed."""
        return 0 < entry.limit <= self._limits[entry.subscription]


class Timetable:
    """When each subscription is to be asked for items again: moments of ``time.monotonic()``.

    A queue pushes a token to its wake list when an item can be taken, so its subscription need not be asked before its
    moment.
    """

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        self._moments = dict.fromkeys(subscriptions, 0.0)
        # Several subscriptions are asked together, a little early, rather than each at a moment of its own.
        self._together = len(subscriptions) > 1

    def earliest(self, kind: Kind) -> float:
        """The earliest moment of the subscriptions of that kind."""
        moments = [moment for subscription, moment in self._moments.items() if subscription.kind is kind]
        return min(moments, default=NEVER)

    def is_due(self, subscription: Subscription, now: float) -> bool:
        return self._moments[subscription] <= now

    def begin(self, subscription: Subscription) -> None:
        """Note that the subscription is asked now; the answer will say when to ask again."""
        self._moments[subscription] = NEVER

    def sooner(self, subscription: Subscription, moment: float) -> None:
        """Ask the subscription at that moment, unless it is to be asked before."""
        if self._together and moment - time.monotonic() > TOGETHER:
            moment = math.floor(moment / TOGETHER) * TOGETHER
        self._moments[subscription] = min(self._moments[subscription], moment)


class Rotation:
    """The order in which the subscriptions are asked for items, for one round after the other.

    Without weights it is the given order: a later subscription has its turn when the earlier ones have nothing. With
    weights it is the smooth weighted round robin of nginx: turns are in proportion to the weights, and none starves.
    """

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        self._subscriptions = list(subscriptions)
        self.weighted = any(subscription.weight for subscription in subscriptions)
        self._credit = [0] * len(self._subscriptions)

    def next(self, woken: Subscription | None = None) -> list[Subscription]:
        """The order of the next round. woken: the subscription whose wake token was taken; it is asked first."""
        if woken is not None:
            return [woken, *(subscription for subscription in self._subscriptions if subscription is not woken)]
        return self._by_weight() if self.weighted else self._subscriptions

    def _by_weight(self) -> list[Subscription]:
        weights = [subscription.weight or 1 for subscription in self._subscriptions]
        self._credit = [credit + weight for credit, weight in zip(self._credit, weights, strict=True)]
        order = sorted(range(len(weights)), key=lambda index: -self._credit[index])
        self._credit[order[0]] -= sum(weights)
        return [self._subscriptions[index] for index in order]
