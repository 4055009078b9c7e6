"""The options of a consumer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConsumerOptions:
    processes: int = 1
    threads: int = 1  # of each process; so many sync handlers run at one time
    concurrency: int = 1  # of each process; so many async handlers run at one time
    prefetch: int | None = None  # items claimed at one time; None: adaptive, by the time that the last items took
    burst: bool = False  # end when nothing is ready
    max_items: int | None = None  # end after so many items; None: never
    max_memory: int | None = None  # bytes; a process that uses more is replaced, between items
    time_limit: float | None = None  # seconds for an item; when it takes longer, its process is killed
    grace: float = 25.0  # seconds that running items have to finish when the consumer is stopped
