"""How the methods of a queue send their calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from django_srq.operations import BATCH, Call, Command
from django_srq.transport.sansio import Steps
from django_srq.transport.slots import Slot

if TYPE_CHECKING:
    from django_srq.queue.safe_redis_queue import SafeRedisQueue

T = TypeVar("T")


def send(
    queue: SafeRedisQueue, call: Call[T] | Command[T], *, slot: Slot | None = None, timeout: float | None = None
) -> Steps[T]:
    return queue.link.calling(call, queue=queue.alias, slot=slot, timeout=timeout)


def batches(sequence: Sequence[T], most: int = BATCH) -> Sequence[Sequence[T]]:
    if 0 < len(sequence) <= most:
        return (sequence,)
    return [sequence[i : i + most] for i in range(0, len(sequence), most)]
