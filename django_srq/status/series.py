"""The time series of a queue, as counts.lua reads them (see lua/shared/series.lua). Does no I/O."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from django_srq.operations import Counts

MINUTE, HOUR = 60, 3600  # seconds
COUNTERS = ("put", "acked", "failed", "recovered", "dead", "postponed")
RECENT = 5  # closed minutes over which a rate is taken, besides the running one


@dataclass(frozen=True)
class Period:
    """What happened in one minute or hour."""

    start: dt.datetime
    put: int = 0
    acked: int = 0
    failed: int = 0
    recovered: int = 0
    dead: int = 0
    postponed: int = 0  # deliveries that ended with RetryLater; they count as failed, too
    wait_p50: float | None = None  # seconds from when an item was ready to its first delivery
    wait_p95: float | None = None
    run_p50: float | None = None  # seconds from the delivery to the ack
    run_p95: float | None = None


@dataclass(frozen=True)
class Series:
    minutes: Sequence[Period] = field(default_factory=list)  # without gaps, oldest first; the last one is still running
    hours: Sequence[Period] = field(default_factory=list)
    elapsed: float = 0.0  # seconds of the running minute

    @cached_property
    def rates(self) -> tuple[float, float]:
        """Items put, and items acked, per minute; over the last few minutes."""
        recent = self.minutes[-RECENT - 1 :]
        minutes = max(len(recent) - 1 + self.elapsed / MINUTE, 1)
        return sum(period.put for period in recent) / minutes, sum(period.acked for period in recent) / minutes


def series_of(counts: Counts, *, minutes: int, hours: int) -> Series:
    """The last minutes and hours, so many of each, as far as they were read with the counts."""
    return Series(
        _periods(counts, counts.minutes, MINUTE, minutes) if minutes else [],
        _periods(counts, counts.hours, HOUR, hours) if hours else [],
        counts.at.timestamp() % MINUTE,
    )


def bucket_limit(e: int) -> float:
    """The upper limit of a bucket's times (seconds)."""
    return 2.0**e / 1000


def _periods(counts: Counts, entries: Sequence[str], length: int, wanted: int) -> list[Period]:
    found = dict(_period(entry, length) for entry in reversed(entries))  # the first one is still running
    last = int(counts.at.timestamp()) // length
    return [found.get(number) or Period(_start(number, length)) for number in range(last - wanted + 1, last + 1)]


def _start(number: int, length: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(number * length, dt.UTC)


def _period(entry: str, length: int) -> tuple[int, Period]:
    """The number of a period since the epoch, and the period."""
    number, *values = map(int, entry.split(" "))
    counted, times = values[: len(COUNTERS)], values[len(COUNTERS) :]
    return number, Period(_start(number, length), *counted, *(None if ms < 0 else ms / 1000 for ms in times))
