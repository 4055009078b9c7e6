"""What is said to a server of the items of a child that ended without saying it itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django_srq import operations
from django_srq.consumer.ledger import DONE, HELD, SENT, Hand
from django_srq.operations import Call, Ended, Held
from django_srq.queue.safe_redis_queue import SafeRedisQueue


def settling(queue: SafeRedisQueue, hands: Sequence[Hand]) -> Iterator[Call[Any]]:
    """Handled is acked, not started is released: a death in between must not double the one, or blame the other."""
    if done := [hand.held for hand in hands if hand.state in {DONE, SENT}]:
        yield operations.ack(queue.keys, done)
    if unstarted := [hand.held for hand in hands if hand.state == HELD]:
        yield operations.release(queue.keys, unstarted)


def ending(queue: SafeRedisQueue, held: Sequence[Held], how: str, evidence: bytes, *, slot: bytes = b"") -> Call[Ended]:
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
