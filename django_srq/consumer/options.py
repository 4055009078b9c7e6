"""How a consumer works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConsumerOptions:
    processes: int = 1
    threads: int = 1  # of each process; items of sync handlers in hand at one time
    concurrency: int = 1  # the same for async handlers
    prefetch: int | None = None  # items claimed at one time; None: by the pace of the items before
    burst: bool = False  # end when nothing is ready
    max_items: int | None = None  # then end
    max_memory: int | None = None  # bytes; then the process is replaced, between items
    time_limit: float | None = None  # seconds for an item; then its process is killed
    grace: float = 25.0  # seconds to finish what is in hand when stopped
