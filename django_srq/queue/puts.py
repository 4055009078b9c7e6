"""How ``put`` and ``put_many`` put items. ``SafeRedisQueue`` describes their arguments and results."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from django_srq import operations, signals
from django_srq.exceptions import DuplicateItem, InvalidArgument, OutcomeUnknown, QueueFull, SRQError
from django_srq.operations import BATCH, Call, PutReply
from django_srq.operations.identifiers import new_uid
from django_srq.queue import arguments
from django_srq.queue.calls import send
from django_srq.queue.links import put_timeout_of
from django_srq.queue.serializers import dump
from django_srq.signals import Announcement
from django_srq.transport.sansio import Steps

if TYPE_CHECKING:
    from django_srq.queue.safe_redis_queue import SafeRedisQueue

# In a test run: raises when the queue is not to be put to. django_srq.testing sets it.
guard: Callable[[SafeRedisQueue], None] | None = None


Batch = tuple[list[str], Call[PutReply]]  # the uids of the items, and the call that puts them


class Terms(NamedTuple):
    """What the items of one call have in common."""

    due: float | dt.datetime
    priority: int
    headers: bytes  # their entry in the key "headers"
    unique_for: float = 0  # seconds; of uids that the caller chose


def terms_of(
    queue: SafeRedisQueue,
    delay: float | dt.timedelta,
    eta: dt.datetime | None,
    priority: int,
    headers: Mapping[str, str] | None,
    unique_for: float | dt.timedelta | None,
    *,
    own: bool,
) -> Terms:
    due = arguments.due_of(delay, eta, queue.alias, zone=None if eta is None else queue.time_zone)
    unique = arguments.unique_for_of(unique_for, own, queue.unique_for, queue.alias)
    if headers is None and priority == 0 and type(priority) is int:
        return Terms(due, 0, b"", unique)
    level = arguments.priority_of(priority, queue.alias)
    encoded = operations.encode_headers(arguments.headers_of(headers, queue.alias), priority=level)
    return Terms(due, level, encoded, unique)


def prepare(queue: SafeRedisQueue, item: Any, uid: str | None, terms: Terms) -> tuple[str, list[Call[PutReply]]]:
    chosen = new_uid() if uid is None else arguments.uid_of(uid, queue.alias)
    put = chosen, dumped(queue, item), terms.headers
    return chosen, [_call(queue, [put], terms, own=uid is not None)]


def put(
    queue: SafeRedisQueue, uid: str, calls: Iterable[Call[PutReply]], strict: bool, timeout: float | None
) -> Steps[str]:
    (state,) = yield from add(queue, calls, [uid], timeout)
    if strict and state:
        known = "was handled or moved, and counts as there by unique_for" if state == "done" else "is there already"
        raise DuplicateItem(f"queue {queue.alias!r}: {uid} {known} ({state})", uid=uid, state=state)
    return uid


def put_many(
    queue: SafeRedisQueue, items: Iterable[Any], uids: Iterable[str] | None, terms: Terms, timeout: float | None
) -> Steps[list[str]]:
    payloads = [dumped(queue, item) for item in arguments.list_of(items, "items", queue.alias)]
    chosen = [new_uid() for _ in payloads] if uids is None else _chosen(queue, uids, len(payloads))
    yield from send_all(queue, batches(queue, chosen, payloads, terms, own=uids is not None), len(chosen), timeout)
    return chosen


def batches(
    queue: SafeRedisQueue,
    uids: Sequence[str],
    payloads: Iterable[bytes],
    terms: Terms,
    *,
    own: bool,
    replaces_dead: bool = False,
) -> Iterator[Batch]:
    """The calls that put these items: bounded by bytes too, so that other clients get their turn in between."""
    puts = [(uid, payload, terms.headers) for uid, payload in zip(uids, payloads, strict=True)]
    if len(puts) == 1:  # the common case
        yield [*uids], _call(queue, puts, terms, own=own, replaces_dead=replaces_dead)
        return
    for batch in operations.cut(puts, (sum(map(len, put)) for put in puts), BATCH):
        yield [uid for uid, _, _ in batch], _call(queue, batch, terms, own=own, replaces_dead=replaces_dead)


def send_all(queue: SafeRedisQueue, batches: Iterable[Batch], number: int, timeout: float | None) -> Steps[list[str]]:
    """Send the calls of several batches; the states of all items, as ``add``. number: of all items."""
    done: list[str] = []
    states: list[str] = []
    for uids, call in batches:
        try:
            states += yield from add(queue, [call], uids, timeout)
        except SRQError as error:
            _tell_of_all(error, done, uids, number)
            raise
        done += uids
    return states


def add(
    queue: SafeRedisQueue, calls: Iterable[Call[PutReply]], uids: Sequence[str], timeout: float | None
) -> Steps[list[str]]:
    """Send the calls; per item "" when it was added, else the state that its uid already has.

    timeout: seconds for each call; None: those of the queue.
    """
    if guard is not None:
        guard(queue)
    seconds = put_timeout_of(queue.link, queue.put_timeout if timeout is None else timeout)
    states: list[str] = []
    for call in calls:
        reply = yield from send(queue, call, timeout=seconds)
        if reply.full_at is not None:
            length = f"{reply.full_at} items ready and delayed"
            raise QueueFull(f"queue {queue.alias!r} is full: {length}, the limit is {queue.max_length}")
        if signals.item_put.receivers:  # usually an empty list, which is quicker to see than with has_listeners
            yield from _announce(queue, uids[len(states) :], reply.states)
        states += reply.states
    return states


def _announce(queue: SafeRedisQueue, uids: Sequence[str], states: Sequence[str]) -> Steps[None]:
    if signals.item_put.has_listeners(type(queue)):
        for uid, state in zip(uids, states, strict=False):
            if not state:
                yield Announcement(signals.item_put, type(queue), queue=queue.alias, uid=uid)


def _call(
    queue: SafeRedisQueue,
    puts: Sequence[tuple[str, bytes, bytes]],
    terms: Terms,
    *,
    own: bool,
    replaces_dead: bool = False,
) -> Call[PutReply]:
    return operations.put(
        queue.keys,
        puts,
        own=own,
        replaces_dead=replaces_dead,
        priority=terms.priority,
        due=terms.due,
        max_length=queue.max_length,
        unique_for=terms.unique_for,
    )


def dumped(queue: SafeRedisQueue, payload: Any) -> bytes:
    return dump(queue.serializer, payload, queue=queue.alias, limit=queue.max_payload_bytes)


def _chosen(queue: SafeRedisQueue, uids: Iterable[str], number: int) -> list[str]:
    chosen = arguments.uids_of(arguments.list_of(uids, "uids", queue.alias), queue.alias)
    if len(chosen) != number:
        raise InvalidArgument(f"queue {queue.alias!r}: {number} items need as many uids, not {len(chosen)}")
    return chosen


def _tell_of_all(error: SRQError, put: list[str], following: list[str], number: int) -> None:
    """Add to the error of a batch what became of the whole ``put_many``."""
    error.put = put
    doubt = ""
    if isinstance(error, OutcomeUnknown):
        error.in_doubt = following
        doubt = f", {len(following)} may have been"
    error.args = (f"{error}; {len(put)} of {number} items were put{doubt}",)
