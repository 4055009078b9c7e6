"""The first and the last words of a consumer in the log: what it serves, and what it did."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from django_srq.consumer.ledger import FAILED, RUNNING, Ledger
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.subscription import Subscription

_SERVING_TASKS = "serving queue=%s tasks server=%s lease=%gs"
LISTED = 20  # queues that are named at the start
Log = Callable[..., Any]  # as the method log of a logger


class Summary:
    """Counts what became of items: from the ledgers of the processes, when these have ended."""

    def __init__(self, consumer: str, subscriptions: Sequence[Subscription], options: ConsumerOptions) -> None:
        self._consumer, self._subscriptions, self._options = consumer, subscriptions, options
        self._began = time.monotonic()
        self._handled = self._failed = self._postponed = self._cut = 0

    def begin(self, log: Log) -> None:
        self._began = time.monotonic()
        log(logging.INFO, "consumer %s started: %s; Ctrl-C or SIGTERM stops it", self._consumer, self._size)
        for each in self._subscriptions[:LISTED]:
            if each.runner is not None:
                log(logging.INFO, _SERVING_TASKS, each.queue.alias, each.queue.link.address, each.lease)
                continue
            served = each.queue.alias, each.queue.link.address, each.handler or "none", each.lease
            log(logging.INFO, "serving queue=%s server=%s handler=%s lease=%gs", *served)
        if (more := len(self._subscriptions) - LISTED) > 0:
            log(logging.INFO, "serving further queues count=%d", more)

    def count(self, ledger: Ledger) -> None:
        """Add what a process did that has ended."""
        self._handled += ledger.handled
        self._failed += ledger.failed
        self._postponed += ledger.postponed
        self._cut += sum(entry.state in {RUNNING, FAILED} for entry in ledger)

    def end(self, log: Log) -> None:
        acked = self._handled - self._failed - self._postponed
        ended = _counted(self._handled + self._cut, "delivery", "deliveries")
        parts = [ended, f"{acked} acked", f"{self._failed} failed"]
        if self._postponed:
            parts.append(f"{self._postponed} postponed")
        if self._cut:
            parts.append(f"{self._cut} ended with their process")
        log(logging.INFO, "done: %s in %.1f s", ", ".join(parts), time.monotonic() - self._began)

    @property
    def _size(self) -> str:
        options = self._options
        parts = [_counted(options.processes, "process", "processes") if options.processes else "in this process"]
        parts.append(_counted(options.threads, "thread", "threads"))
        if options.concurrency > 1 and any(each.asynchronous for each in self._subscriptions):
            parts.append(f"{options.concurrency} items of async handlers at one time")
        return ", ".join(parts)


def _counted(number: int, singular: str, plural: str) -> str:
    return f"{number} {singular if number == 1 else plural}"
