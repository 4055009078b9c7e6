"""The registration of a consumer in its queues: it tells the status that the consumer lives, and its items in hand."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django_srq import operations
from django_srq.consumer.ledger import Entry
from django_srq.consumer.subscription import NEVER
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.version import __version__

# Seconds after which a registration is written again, if no renewal of leases has done so; or two leases, if that is
# longer. The status takes a consumer for lost after 15 s, or three leases.
INTERVAL = 12.0
LISTED = 100  # items in hand that a registration lists at most


class Registration:
    """The registration of a consumer in the queues of one server, with the consumer's times by the server's clock."""

    def __init__(
        self,
        consumer: str,
        aliases: Sequence[str],
        *,
        details: Callable[[], Mapping[str, object]],
        lease: float,
        timeout: float,
    ) -> None:
        """aliases: of all the consumer's queues. details: further fields. lease: the shortest one (seconds).

        timeout: seconds for a call.
        """
        self.consumer = consumer
        self._aliases, self._details = aliases, details
        self._interval, self._timeout = max(INTERVAL, 2 * lease), timeout
        self._pid, self._born = os.getpid(), time.monotonic()
        self._clock: int | None = None  # how far the server's clock is ahead of time.monotonic() (ms)
        self._written: dict[SafeRedisQueue, float] = {}  # when each queue last got the registration

    def is_due(self, queue: SafeRedisQueue) -> bool:
        return time.monotonic() - self._written.get(queue, float("-inf")) > self._interval

    def begin(self, queue: SafeRedisQueue) -> None:
        """Register for the first time, to learn the server's time. Later calls do nothing."""
        if self._clock is None:
            self._clock = self._write(queue, b'{"state":"starting"}') - round(time.monotonic() * 1000)

    def write(self, queue: SafeRedisQueue, description: bytes) -> None:
        self._write(queue, description)
        self.note_written(queue)

    def note_written(self, queue: SafeRedisQueue) -> None:
        self._written[queue] = time.monotonic()

    def remove(self, queue: SafeRedisQueue, within: float) -> None:
        """within: seconds for the call, if that is less than for others."""
        self._write(queue, b"", within)

    def describe(self, in_hand: Sequence[Entry], *, renewed_late: int) -> bytes:
        """The description of the consumer, as the queues store it. renewed_late: how often renewals were late."""
        description: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": self._pid,
            "since": self._server_time(self._born),
            "version": __version__,
            "queues": self._aliases,
            "state": "busy" if in_hand else "idle",
            **({"renewed_late": renewed_late} if renewed_late else {}),
            **self._details(),
            "in_hand": [
                {"uid": entry.held.uid, "since": self._server_time(entry.started) if entry.started else None}
                for entry in in_hand[:LISTED]
            ],
        }
        return json.dumps(description).encode()

    def _server_time(self, moment: float) -> int:
        """A moment of ``time.monotonic()`` by the server's clock (ms)."""
        return (self._clock or 0) + round(moment * 1000)

    def _write(self, queue: SafeRedisQueue, description: bytes, within: float = NEVER) -> int:
        """Returns the server's time (ms)."""
        timeout = min(self._timeout, within)
        call = operations.register(queue.keys, self.consumer, description)
        return queue.link.call(call, queue=queue.alias, timeout=timeout)
