"""The calls that settle the items of a child that ended without settling them itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django_srq import operations
from django_srq.consumer.ledger import ACKING, DONE, HELD, Entry
from django_srq.operations import Call, CrashReply, DeliveryRef
from django_srq.queue.safe_redis_queue import SafeRedisQueue


def settlements(queue: SafeRedisQueue, entries: Sequence[Entry]) -> Iterator[Call[Any]]:
    """The calls that ack the handled items, and release those not started.

    They come before the calls about running items: if their sender dies in between, no handled item is delivered again,
    and no item that was not started is blamed.
    """
    if done := [entry.held for entry in entries if entry.state in {DONE, ACKING}]:
        yield operations.ack(queue.keys, done)
    if unstarted := [entry.held for entry in entries if entry.state == HELD]:
        yield operations.release(queue.keys, unstarted)


def ending(
    queue: SafeRedisQueue, held: Sequence[DeliveryRef], how: str, evidence: bytes, *, slot: bytes = b""
) -> Call[CrashReply]:
    """The call about items that ran when the child ended. how, slot: see crashed.lua.

    If the queue recovers nothing automatically, it only ends the leases of items that were started.
    """
    return operations.crashed(
        queue.keys,
        held,
        evidence=evidence,
        how=how if queue.autoclean_interval is not None or how == "release" else "end",
        slot=slot,
        max_deliveries=queue.max_deliveries,
        max_crashes=queue.max_crashes,
    )
