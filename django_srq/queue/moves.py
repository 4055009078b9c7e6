"""How ``move`` brings ready items to another queue, which may be on another server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from django_srq import operations
from django_srq.exceptions import DuplicateItem, InvalidArgument, QueueFull, SRQError, shown
from django_srq.operations import BATCH, Put, PutReply, StoredItem
from django_srq.queue import arguments, puts
from django_srq.queue.calls import send
from django_srq.queue.gets import claimed
from django_srq.transport.sansio import Steps
from django_srq.transport.slots import Slot

if TYPE_CHECKING:
    from django_srq.queue.safe_redis_queue import SafeRedisQueue


def move(queue: SafeRedisQueue, target: SafeRedisQueue, limit: int | None) -> Steps[int]:
    if _location(target) in (None, _location(queue)):  # no isinstance: default_queue is a proxy
        raise InvalidArgument(f"queue {queue.alias!r}: move takes another queue, not {shown(target)}")
    if puts.guard is not None:
        puts.guard(target)
    moved, most, used = 0, arguments.limit_of(limit, queue.alias), []
    while moved < most:
        # Moving is not handling: RATE and MAX_IN_FLIGHT do not apply.
        _, found = yield from claimed(queue, 1, _as_stored, limited=False)
        if not found:
            break
        used.append((yield from _move(queue, found[0], target)))
        moved += 1
        if len(used) == BATCH:
            yield from send(target, operations.forget_slots(target.keys, used))
            used = []
    if used:
        yield from send(target, operations.forget_slots(target.keys, used))
    return moved


def _as_stored(queue: SafeRedisQueue, found: Sequence[StoredItem]) -> Steps[Sequence[StoredItem]]:
    return found
    yield


def _move(queue: SafeRedisQueue, found: StoredItem, target: SafeRedisQueue) -> Steps[bytes]:
    """Move one item; return the name of its slot in the target, which is of no use once the item is acked here."""
    # The slot belongs to the item: a process that moves the item again repeats the same call, until there is room.
    slot = Slot(f"move:{queue.keys}:{found.uid}".encode(), found.delivery.order)
    extra = operations.encode_headers(found.delivery.headers, priority=found.delivery.priority)
    put = Put(found.uid, found.payload, extra)
    call = operations.put(
        target.keys,
        [put],
        own=True,
        priority=found.delivery.priority,
        max_length=target.max_length,
        unique_for=found.delivery.unique_for,
        attempt=int(found.delivery.token.split("/")[1].partition("@")[0]),
    )
    reply = yield from send(target, call, slot=slot)
    if refused := _refused(found.uid, reply, target.alias, f"it and the rest stay in {queue.alias!r}"):
        yield from send(queue, operations.release(queue.keys, [found.ref]))
        raise refused
    yield from send(queue, operations.ack(queue.keys, [found.ref]))
    return slot.name


def _refused(uid: str, reply: PutReply, alias: str, rest: str) -> SRQError | None:
    """The error that says why an item was not moved to the queue ``alias``; None: it was moved."""
    if reply.full_at is not None:
        return QueueFull(f"queue {alias!r} is full: {reply.full_at} items; {rest}")
    (state,) = reply.states
    if state:
        return DuplicateItem(f"queue {alias!r}: {uid} is there already ({state}); {rest}", uid=uid, state=state)
    return None


def _location(queue: SafeRedisQueue) -> tuple[object, ...] | None:
    """The server, as far as its address identifies it, and the keys there; None of anything that is no queue."""
    link = getattr(queue, "link", None)
    if link is None:
        return None
    database, service = link.pool.connection_kwargs.get("db") or 0, getattr(link.pool, "service_name", None)
    return link.address, database, service, queue.keys
