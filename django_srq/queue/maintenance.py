"""For people and tools: requeueing, counting, dropping, purging and recovering items, in batches; pausing.

Each is a generator of effects (``transport/sansio.py``), like everything that talks to a server. ``SafeRedisQueue`` has
a method of the same name for each; its docstring describes arguments and result.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from django_srq import operations, signals
from django_srq.exceptions import InvalidArgument, shown
from django_srq.operations import BATCH, Call, DeliveryRef
from django_srq.operations.identifiers import new_uid
from django_srq.queue import arguments
from django_srq.queue.calls import batches, send
from django_srq.queue.places import PLACES, PURGEABLE, places_to_purge
from django_srq.runtime.completion import acompleted, completed, wait_here
from django_srq.signals import Announcement
from django_srq.transport.sansio import Steps
from django_srq.transport.slots import Slot

if TYPE_CHECKING:
    from django_srq.queue.safe_redis_queue import SafeRedisQueue

OnBatch = Callable[..., object] | None


def requeue(queue: SafeRedisQueue, uids: Sequence[str], *choice: Any) -> Steps[int]:
    return (yield from _make_ready(queue, "requeue", operations.requeue, operations.requeue_dead, uids, *choice))


def run_now(queue: SafeRedisQueue, uids: Sequence[str], *choice: Any) -> Steps[int]:
    return (yield from _make_ready(queue, "run_now", operations.run_now, operations.run_retrying, uids, *choice))


def _make_ready(
    queue: SafeRedisQueue,
    method: str,
    by_uid: Callable[..., Call[list[bool]]],
    by_error: Callable[..., Call[tuple[int, str]]],
    uids: Sequence[str],
    error: str | None,
    older_than: float | dt.timedelta,
    limit: int | None,
    on_batch: OnBatch,
) -> Steps[int]:
    arguments.callback_of(on_batch, queue.alias)
    if not uids:
        return (yield from _sweep(queue, by_error, error, older_than, limit, on_batch))
    if error or older_than or limit is not None:
        raise InvalidArgument(f"queue {queue.alias!r}: {method} takes uids, or error, older_than and limit; not both")
    return (yield from _each(queue, by_uid, arguments.uids_of(uids, queue.alias), on_batch))


def count_dead(queue: SafeRedisQueue, error: str | None, older_than: float | dt.timedelta) -> Steps[dict[str, int]]:
    return _count(queue, operations.count_dead, error, older_than)


def count_retrying(queue: SafeRedisQueue, error: str | None, older_than: float | dt.timedelta) -> Steps[dict[str, int]]:
    return _count(queue, operations.count_retrying, error, older_than)


def _count(
    queue: SafeRedisQueue,
    operation: Callable[..., Call[tuple[dict[str, int], str]]],
    error: str | None,
    older_than: float | dt.timedelta,
) -> Steps[dict[str, int]]:
    seconds = arguments.seconds_of(older_than, "older_than", queue.alias)
    group = arguments.group_of(error, queue.alias)
    groups: Counter[str] = Counter()
    cursor, more = "", True
    while more:
        call = operation(queue.keys, error=group, older_than=seconds, cursor=cursor)
        found, cursor = yield from send(queue, call)
        groups.update(found)
        more = bool(cursor)
    return dict(groups)


def drop(queue: SafeRedisQueue, uids: Iterable[str]) -> Steps[int]:
    return (yield from _each(queue, operations.drop, list(map(DeliveryRef, arguments.uids_of(uids, queue.alias)))))


def purge(
    queue: SafeRedisQueue,
    state: str | None,
    error: str | None,
    older_than: float | dt.timedelta,
    limit: int | None,
    on_batch: OnBatch,
) -> Steps[int]:
    arguments.callback_of(on_batch, queue.alias)
    if state is not None and state not in PURGEABLE:
        raise InvalidArgument(f"queue {queue.alias!r}: purge deletes ready, delayed or dead items, not {shown(state)}")
    if state == "dead":
        return (yield from _sweep(queue, operations.purge_dead, error, older_than, limit, on_batch))
    if state == "delayed" and error:
        return (yield from _sweep(queue, operations.purge_retrying, error, older_than, limit, on_batch))
    if error or older_than or limit is not None:
        raise InvalidArgument(
            f"queue {queue.alias!r}: error, older_than and limit choose dead items: state='dead'; or, together with "
            f"error, delayed items that are retrying: state='delayed'"
        )
    # Listed before the first item is deleted: deleting may take long, and items that come meanwhile must stay.
    places = places_to_purge(state)
    found: dict[str, list[DeliveryRef]] = {}
    for place in places:
        if place != "queue":
            found[place] = yield from _items_in(queue, place)
    gone = (yield from _purge_list(queue, on_batch)) if "queue" in places else 0
    for place, items in found.items():
        gone += yield from _each(queue, partial(operations.drop, state=PLACES[place], purges=True), items, on_batch)
    if state is None:
        yield from purge_results(queue, None)
    return gone


def purge_results(queue: SafeRedisQueue, on_batch: OnBatch) -> Steps[int]:
    arguments.callback_of(on_batch, queue.alias)
    done, left, most = 0, 1, None
    while left and (most is None or done < most):
        # While tasks run, results come as long as this takes: as many are deleted as there were in the beginning.
        batch = BATCH if most is None else min(BATCH, most - done)
        number, left = yield from send(queue, operations.purge_results(queue.keys, most=batch))
        done += number
        most = done + left if most is None else most
        yield from _tell(on_batch, number)
    return done


def pause(queue: SafeRedisQueue, reason: str, by: str, until: dt.datetime | None) -> Steps[bool]:
    until = arguments.moment_of(until, "until", queue.alias, zone=queue.time_zone)
    terms = {
        "by": arguments.text_of(by, "by", queue.alias),
        "reason": arguments.text_of(reason, "reason", queue.alias),
    }
    was_running = yield from send(queue, operations.pause(queue.keys, about=terms, until=until))
    yield Announcement(signals.queue_paused, type(queue), queue=queue.alias, **terms, until=until)
    return was_running


def ended_leases(queue: SafeRedisQueue) -> Steps[int]:
    now = yield from send(queue, operations.counts(queue.keys))
    return (yield from send(queue, operations.ended(queue.keys, now.at)))


def recover(queue: SafeRedisQueue, on_batch: OnBatch) -> Steps[int]:
    arguments.callback_of(on_batch, queue.alias)
    made, looked = 0, BATCH
    while looked:
        call = operations.recover(
            queue.keys,
            legacy_lease=queue.lease,
            recover=queue.autoclean_interval is not None,
            max_deliveries=queue.max_deliveries,
            max_crashes=queue.max_crashes,
        )
        batch, looked = yield from send(queue, call)
        made += batch
        yield from _tell(on_batch, batch, looked)
    return made


def _purge_list(queue: SafeRedisQueue, on_batch: OnBatch) -> Steps[int]:
    marker, gone, more, start = new_uid(), 0, True, True
    while more:
        more, count = yield from purge_list(queue, marker, start=start)
        gone, start = gone + count, False
        yield from _tell(on_batch, count)
    return gone


def purge_list(queue: SafeRedisQueue, marker: str, *, start: bool, slot: Slot | None = None) -> Steps[tuple[bool, int]]:
    """Delete a batch of the items on the list: whether there are more, and how many are gone.

    marker: the same in all calls of one purge, as purge.lua describes. start: whether this is the first of them.
    """
    return (yield from send(queue, operations.purge(queue.keys, marker=marker, start=start), slot=slot))


def _sweep(
    queue: SafeRedisQueue,
    operation: Any,
    error: str | None,
    older_than: float | dt.timedelta,
    limit: int | None,
    on_batch: OnBatch,
) -> Steps[int]:
    """Handle failed items in batches. The script itself chooses them, so each still is in its state at that moment."""
    seconds = arguments.seconds_of(older_than, "older_than", queue.alias)
    group = arguments.group_of(error, queue.alias)
    left = arguments.limit_of(limit, queue.alias)
    done, cursor, more = 0, "", True
    while more:
        most = int(min(left - done, BATCH))
        call = operation(queue.keys, error=group, older_than=seconds, most=most, cursor=cursor)
        number, cursor = yield from send(queue, call)
        done += number
        more = bool(cursor) and done < left
        yield from _tell(on_batch, number)
    return done


def _items_in(queue: SafeRedisQueue, place: str) -> Steps[list[DeliveryRef]]:
    """The items of a state, or of one of the places of ready items, as they are now."""
    items: list[DeliveryRef] = []
    offset: int | None = 0
    while offset is not None:
        call = operations.list_items(queue.keys, place, anchor=f"from {offset}", count=BATCH, detail="headers")
        page = yield from send(queue, call)
        items += (DeliveryRef(view.uid, number=view.delivery.number) for view in page.items)
        offset = page.following
    return items


def _each(
    queue: SafeRedisQueue,
    operation: Callable[..., Call[list[bool]]],
    items: Sequence[Any],
    on_batch: OnBatch = None,
) -> Steps[int]:
    done = 0
    for batch in batches(items):
        number = sum((yield from send(queue, operation(queue.keys, batch))))
        done += number
        yield from _tell(on_batch, number)
    return done


class _Completion:
    """An effect: completes a call of on_batch. It returned ``outcome``, which may have to be awaited."""

    def __init__(self, outcome: object) -> None:
        self.outcome = outcome

    def carry_out(self) -> None:
        completed(self.outcome, wait_here)

    async def acarry_out(self) -> None:
        await acompleted(self.outcome)


def _tell(on_batch: OnBatch, *numbers: int) -> Steps[None]:
    outcome = None if on_batch is None else on_batch(*numbers)
    if outcome is not None:
        yield _Completion(outcome)
