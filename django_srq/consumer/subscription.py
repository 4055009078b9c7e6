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
class Source:
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

    def __init__(self, sources: Sequence[Source]) -> None:
        self._moments = dict.fromkeys(sources, 0.0)
        # Several sources are asked together, a little early, rather than each at a moment of its own.
        self._together = len(sources) > 1

    def earliest(self, asynchronous: bool) -> float:
        """The earliest moment of the sources of that kind."""
        moments = [moment for source, moment in self._moments.items() if source.asynchronous is asynchronous]
        return min(moments, default=NEVER)

    def is_due(self, source: Source, now: float) -> bool:
        return self._moments[source] <= now

    def begin(self, source: Source) -> None:
        """The source is asked now; the answer says when to ask again."""
        self._moments[source] = NEVER

    def sooner(self, source: Source, moment: float) -> None:
        """Ask the source at that moment, unless it is to be asked before."""
        if self._together and moment - time.monotonic() > TOGETHER:
            moment = math.floor(moment / TOGETHER) * TOGETHER
        self._moments[source] = min(self._moments[source], moment)


class Turns:
    """The order in which the sources are asked for items, anew each time.

    As given, so that a later one has its turn when the earlier ones have nothing; or, with weights, smoothly in their
    proportion (the weighted round robin of nginx), so that none starves.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self.weighted = any(source.weight for source in sources)
        self._credit = [0] * len(self._sources)

    def next(self, woken: Source | None = None) -> list[Source]:
        """woken: the source for which a wake token came; whoever took it goes there first."""
        if woken is not None:
            return [woken, *(source for source in self._sources if source is not woken)]
        return self._by_weight() if self.weighted else self._sources

    def _by_weight(self) -> list[Source]:
        weights = [source.weight or 1 for source in self._sources]
        self._credit = [credit + weight for credit, weight in zip(self._credit, weights, strict=True)]
        order = sorted(range(len(weights)), key=lambda place: -self._credit[place])
        self._credit[order[0]] -= sum(weights)
        return [self._sources[place] for place in order]
