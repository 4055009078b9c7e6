"""How ``get``, ``get_many`` and ``move`` take items: claims, and the waits between them."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from django_srq import operations
from django_srq.exceptions import OutcomeUnknown, PayloadError, SRQError
from django_srq.operations import GIVE_BACK, UNREAD, Call, ClaimReply, StoredItem
from django_srq.queue import arguments, failure, instrumentation
from django_srq.queue.calls import send
from django_srq.queue.item import Item
from django_srq.queue.serializers import load
from django_srq.runtime.clock import monotonic
from django_srq.runtime.guarded_log import guarded
from django_srq.runtime.interruption import may_be_interruption
from django_srq.transport.sansio import Steps
from django_srq.transport.slots import Slot, slots

if TYPE_CHECKING:
    from django_srq.queue.safe_redis_queue import SafeRedisQueue

logger = guarded("django_srq.queue", may_be_interruption)
T = TypeVar("T")

PARTING = 1.0  # seconds in which a cancelled call may still give back what it took
LOOK = 5.0  # seconds after which a waiting caller claims without a wake token: saferedisqueue's producers send none


def get(queue: SafeRedisQueue, timeout: float) -> Steps[Item]:
    found = yield from _take(queue, 1, timeout)
    return found[0] if found else Item()


def get_many(queue: SafeRedisQueue, n: int, timeout: float) -> Steps[list[Item]]:
    return (yield from _take(queue, arguments.number_of(n, queue.alias), timeout))


def _take(queue: SafeRedisQueue, n: int, timeout: float) -> Steps[list[Item]]:
    deadline = monotonic() + arguments.timeout_of(timeout, queue.alias)
    began = time.time_ns()
    while True:
        found, wait = yield from _claim(queue, n)
        if found and instrumentation.installed:
            instrumentation.received(queue.alias, found, began)
        left = deadline - monotonic()
        if found or (wait != 0 and (timeout < 0 or (timeout > 0 and left <= 0))):
            return found
        if wait != 0:
            limit = LOOK if timeout == 0 else min(LOOK, left)
            yield from _wait(queue, min(limit, queue.lease, LOOK if wait is None else wait))


def _claim(queue: SafeRedisQueue, n: int) -> Steps[tuple[list[Item], float | None]]:
    """Up to n items, and the seconds until the next claim may find some (0: now; None: not known)."""
    reply, found = yield from claimed(queue, n, decoded)
    return found, 0 if reply.found and not found else reply.wait


def claimed(
    queue: SafeRedisQueue,
    n: int,
    read: Callable[[SafeRedisQueue, Sequence[StoredItem]], Steps[T]],
    *,
    limited: bool = True,
) -> Steps[tuple[ClaimReply, T]]:
    """Claim, and read the items that were found; when this is cancelled, they are given back at once."""
    slot = slots.borrow()
    try:
        reply = yield from _asked(queue, n, limited, slot)
        return reply, (yield from read(queue, reply.found))
    except CancelledError:
        yield from _give_back(queue, slot, GIVE_BACK)
        raise
    finally:
        slots.give_back(slot)


def _asked(queue: SafeRedisQueue, n: int, limited: bool, slot: Slot) -> Steps[ClaimReply]:
    """The reply to a claim. When it cannot be read to its end, all items go back, and a single one is claimed."""
    begun = monotonic()
    try:
        reply = yield from send(queue, _call(queue, n, limited), slot=slot)
    except OutcomeUnknown as error:
        if not error.cut_short:
            raise
        yield from _give_back(queue, slot, UNREAD)
        if n == 1:
            raise
        slot.seq += 1
        return (yield from _asked(queue, 1, limited, slot))
    if reply.found and monotonic() - begun > queue.lease / 2:
        reply = reply._replace(found=(yield from _kept(queue, reply.found)))
    return reply


def _kept(queue: SafeRedisQueue, found: Sequence[StoredItem]) -> Steps[Sequence[StoredItem]]:
    """The items that are still ours, after a reply that took long to arrive; their leases begin anew."""
    recover = queue.autoclean_interval is not None
    call = operations.extend(queue.keys, [item.ref for item in found], lease=queue.lease, recover=recover)
    flags = yield from send(queue, call)
    return [item for item, ours in zip(found, flags, strict=True) if ours]


def _call(queue: SafeRedisQueue, n: int, limited: bool = True) -> Call[ClaimReply]:
    return queue.claim(f"g{slots.process}", lease=queue.lease, n=n, limited=limited)


def _give_back(queue: SafeRedisQueue, slot: Slot, how: int) -> Steps[None]:
    """Give back what the last claim of a slot took; a claim that is still on its way will take nothing.

    This call has the number of that claim. If the claim came first, the script takes this call for its repeat and
    gives the items back. If this call comes first, the claim is the repeat, and gets nothing.
    """
    with suppress(SRQError):  # then the items come back when their leases end
        yield from send(queue, _call(queue, how), slot=slot, timeout=PARTING)


def decoded(queue: SafeRedisQueue, found: Iterable[StoredItem]) -> Steps[list[Item]]:
    """The items that can be decoded. The others are set aside as dead, with the error."""
    items = []
    for stored in found:
        try:
            payload = load(queue.serializer, stored.payload, queue=queue.alias, uid=stored.uid)
            items.append(Item(stored.uid, payload, stored.delivery))
        except PayloadError as error:
            logger.error("payload cannot be decoded, item set aside queue=%s uid=%s", queue.alias, stored.uid)
            described = failure.describe(error)
            yield from send(queue, operations.fail(queue.keys, stored.ref, error=described, bury=True))
    return items


def _wait(queue: SafeRedisQueue, seconds: float) -> Steps[None]:
    try:
        yield from queue.link.waiting(operations.wait([queue.keys], seconds), seconds, queue=queue.alias)
    except CancelledError:
        with suppress(SRQError):  # this caller may have taken a wake token that another one needs
            yield from send(queue, operations.ring(queue.keys), timeout=PARTING)
        raise
