"""What is said to a server of the items of a child that ended without saying it itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django_srq import operations
from django_srq.consumer.ledger import DONE, HELD, SENT, Entry
from django_srq.operations import Call, CrashReply, DeliveryRef
from django_srq.queue.safe_redis_queue import SafeRedisQueue


def settler(queue: SafeRedisQueue, ledger: Sequence[Entry]) -> Iterator[Call[Any]]:
    """Handled is acked, not started is released: a death in between must not double the one, or blame the other."""
    if done := [entry.held for entry in ledger if entry.state in {DONE, SENT}]:
        yield operations.ack(queue.keys, done)
    if unstarted := [entry.held for entry in ledger if entry.state == HELD]:
        yield operations.release(queue.keys, unstarted)


def ending(
    queue: SafeRedisQueue, held: Sequence[DeliveryRef], how: str, evidence: bytes, *, slot: bytes = b""
) -> Call[CrashReply]:
    """how, slot: see crashed.lua. Where nothing is recovered by itself, only the leases of what was started end."""
    return operations.crashed(
        queue.keys,
        held,
        evidence=evidence,
        how=how if queue.autoclean_interval is not None or how == "release" else "end",
        slot=slot,
        max_deliveries=queue.max_deliveries,
        max_crashes=queue.max_crashes,
    )
