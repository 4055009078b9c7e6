"""SafeRedisQueue: put, get, ack, fail and the other methods of a queue. Needs no Django settings."""

from __future__ import annotations

import datetime as dt
import logging
import warnings
from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from functools import wraps
from typing import Any, TypeVar

import redis

from django_srq import operations, signals
from django_srq.exceptions import (
    Discard,
    DuplicateItem,
    InvalidArgument,
    LayoutError,
    OutcomeUnknown,
    PayloadError,
    QueueFull,
    RetryLater,
    SRQError,
    shown,
)
from django_srq.operations import (
    BATCH,
    GIVE_BACK,
    LAYOUT,
    MOST_BYTES,
    STATES,
    UNREAD,
    Call,
    ClaimReply,
    Command,
    Counts,
    DeliveryRef,
    Failed,
    ItemView,
    Keys,
    Put,
    PutReply,
    StoredItem,
)
from django_srq.operations.identifiers import new_uid
from django_srq.queue import arguments, failure, maintenance
from django_srq.queue.audit import audit
from django_srq.queue.backoff import Backoff, delay_after
from django_srq.queue.item import Item
from django_srq.queue.rate import Rate
from django_srq.queue.serializers import Raw, Serializer, dump, load
from django_srq.runtime.clock import monotonic
from django_srq.runtime.completion import completed, wait_here
from django_srq.signals import Announcement
from django_srq.transport.clients import client_from_arguments, client_from_url, is_embedded
from django_srq.transport.link import TIMEOUT, Link, embedded_link
from django_srq.transport.sansio import Steps, arun, async_method, run, sync_method
from django_srq.transport.slots import Slot, slots

logger = logging.getLogger("django_srq.queue")
T = TypeVar("T")

AUTOCLEAN_INTERVAL = 60.0  # seconds
PARTING = 1.0  # seconds in which a cancelled call may still give back what it took
PAGE = 100  # items
LOOK = 5.0  # seconds after which a waiting caller claims without a wake token: saferedisqueue's producers send none


class SafeRedisQueue:
    """A crash-safe FIFO queue on Redis or Valkey.

    Takes the arguments of saferedisqueue's constructor: ``name`` (the keys are ``srq:<name>:…``), ``url`` or the
    arguments of ``redis.Redis``, ``autoclean_interval`` (seconds after which an item that was got and never settled is
    ready again; None: never automatically), ``serializer`` (an object with ``dumps`` and ``loads``; None: payloads come
    back as bytes, or as ``str`` with ``decode_responses``). Other keyword arguments go to the redis client.

    New arguments: ``max_deliveries`` and ``max_crashes`` (after so many an item is dead; None: never), ``max_length``
    (ready and delayed items), ``max_payload_bytes``, ``max_in_flight`` (items, across all consumers), ``rate`` (of
    handing out, such as ``"10/s"``, across all consumers), ``backoff`` (of ``processing``), ``cluster`` (the keys are
    ``srq:{<name>}:…``), ``client`` (a redis client, with its own options) or ``link`` (with its own time limit), and
    ``timeout``: seconds for a call that does not block, repeats included, until its reply begins; 5 by default, at most
    900. A transfer that has begun is cut only after so many seconds of silence, or when it is slower than 32 KiB/s.

    The object holds no state of the queue: any number of threads may share it, and it may be used after a fork. Making
    it opens no connection. Every method may raise ``QueueUnavailable`` (nothing was changed), ``OutcomeUnknown`` (sent,
    no reply in time) and ``LayoutError``.
    """

    def __init__(
        self,
        *args: Any,
        name: str = "0",
        url: str | None = None,
        autoclean_interval: float | None = AUTOCLEAN_INTERVAL,
        serializer: Serializer | None = None,
        max_deliveries: int | None = None,
        max_crashes: int | None = None,
        max_length: int | None = None,
        max_payload_bytes: int | None = None,
        max_in_flight: int | None = None,
        rate: Rate | str | None = None,
        backoff: Backoff = Backoff(),  # noqa: B008 (frozen)
        timeout: float | None = None,
        cluster: bool = False,
        client: redis.Redis | None = None,
        link: Link | None = None,
        alias: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.name = arguments.name_of(name)
        self.alias = name if alias is None else alias  # names the queue in messages and signals
        self.keys = Keys(name, cluster)
        self.autoclean_interval = arguments.positive("autoclean_interval", autoclean_interval)
        self.max_deliveries = arguments.limit("max_deliveries", max_deliveries)
        self.max_crashes = arguments.limit("max_crashes", max_crashes)
        self.max_length = arguments.limit("max_length", max_length)
        self.max_payload_bytes = arguments.limit("max_payload_bytes", max_payload_bytes)
        self.max_in_flight = arguments.limit("max_in_flight", max_in_flight)
        self.rate = arguments.rate(rate)
        self.backoff = arguments.backoff(backoff)
        self.link = _link(args, link, client, url, arguments.positive("timeout", timeout), kwargs)
        options = self.link.pool.connection_kwargs
        decode, encoding = options.get("decode_responses", False), options.get("encoding", "utf-8")
        self.serializer = serializer or Raw(decode=decode, encoding=encoding)
        self.lease = self.autoclean_interval or AUTOCLEAN_INTERVAL  # seconds; of a plain get

    def __repr__(self) -> str:
        return f"<SafeRedisQueue {self.alias!r} {self.keys} at {self.link.address}>"

    # -- put

    @sync_method
    def put(
        self,
        item: Any,
        *,
        uid: str | None = None,
        strict: bool = False,
        delay: float | dt.timedelta = 0,
        eta: dt.datetime | None = None,
        priority: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> Steps[str]:
        """Put a payload; return its uid. Once ``put`` has returned, the item is stored.

        ``uid``: 1 to 128 visible ASCII characters of your own; while that uid is in the queue in any state, putting it
        again adds nothing (with ``strict`` it raises ``DuplicateItem``). ``delay`` (seconds or timedelta) or ``eta``
        (aware datetime): the item is not ready before. ``priority``: -100 to 100, higher is served first. ``headers``:
        str to str, for the consumer.

        Raises PayloadError, PayloadTooLarge, QueueFull, InvalidArgument: nothing was put. OutcomeUnknown: the item may
        be in the queue; put it again with the same uid.
        """
        chosen, calls = self.prepare(item, uid=uid, delay=delay, eta=eta, priority=priority, headers=headers)
        (state,) = yield from self._add(calls, [chosen])
        if strict and state:
            raise DuplicateItem(f"queue {self.alias!r}: {chosen} is there already ({state})", uid=chosen, state=state)
        return chosen

    @sync_method
    def put_many(
        self,
        items: Iterable[Any],
        *,
        uids: Iterable[str] | None = None,
        delay: float | dt.timedelta = 0,
        eta: dt.datetime | None = None,
        priority: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> Steps[list[str]]:
        """Put payloads in batches, each in one round trip and entirely or not at all; return their uids.

        A batch has at most 1,000 items, and at most 1 MiB more than its first one. All are serialised before the
        first batch is sent. ``uids``: of your own, as in ``put``, one for each item.

        When a batch is refused, the earlier ones stay: the error's ``put`` has their uids. OutcomeUnknown: its
        ``in_doubt`` has the uids of the batch that may be in the queue. Put that batch again with
        ``uids=error.in_doubt``, and the items after it as new ones. With uids of your own, just repeat the whole call.
        """
        payloads = [self._dump(item) for item in arguments.listed(items, "items", self.alias)]
        chosen = [new_uid() for _ in payloads] if uids is None else self._chosen(uids, len(payloads))
        due, extra = self._terms(delay, eta, priority, headers)
        puts = [(uid, payload, extra) for uid, payload in zip(chosen, payloads, strict=True)]
        done = 0
        # Batches are bounded by bytes too, so that other clients get their turn in between.
        for batch in operations.cut(puts, (sum(map(len, put)) for put in puts), BATCH):
            following = chosen[done : done + len(batch)]
            try:
                yield from self._add([self._putting(batch, priority, due, own=uids is not None)], following)
            except SRQError as error:
                _tell_of_all(error, chosen[:done], following, len(chosen))
                raise
            done += len(batch)
        return chosen

    def _chosen(self, uids: Iterable[str], number: int) -> list[str]:
        chosen = self._checked(arguments.listed(uids, "uids", self.alias))
        if len(chosen) != number:
            raise InvalidArgument(f"queue {self.alias!r}: {number} items need as many uids, not {len(chosen)}")
        return chosen

    def prepare(
        self,
        item: Any,
        *,
        uid: str | None = None,
        delay: float | dt.timedelta = 0,
        eta: dt.datetime | None = None,
        priority: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[str, list[Call[PutReply]]]:
        """The uid, and the calls that ``put`` would send, checked and serialised, for ``send_puts``, now or later."""
        chosen = new_uid() if uid is None else arguments.uid_of(uid, self.alias)
        payload = self._dump(item)
        due, extra = self._terms(delay, eta, priority, headers)
        return chosen, [self._putting([(chosen, payload, extra)], priority, due, own=uid is not None)]

    @sync_method
    def send_puts(self, calls: Iterable[Call[PutReply]], uids: Sequence[str]) -> Steps[list[str]]:
        """Send the calls of ``prepare``; per item "" when it was added, else the state that its uid already has."""
        return (yield from self._add(calls, uids))

    def _add(self, calls: Iterable[Call[PutReply]], uids: Sequence[str]) -> Steps[list[str]]:
        states: list[str] = []
        for call in calls:
            reply = yield from self._send(call)
            if reply.full_at is not None:
                length = f"{reply.full_at} items ready and delayed"
                raise QueueFull(f"queue {self.alias!r} is full: {length}, the limit is {self.max_length}")
            if signals.item_put.receivers:  # usually an empty list, which is quicker to see than with has_listeners
                yield from self._announce(uids[len(states) :], reply.states)
            states += reply.states
        return states

    def _announce(self, uids: Sequence[str], states: Sequence[str]) -> Steps[None]:
        if signals.item_put.has_listeners(type(self)):
            for uid, state in zip(uids, states, strict=False):
                if not state:
                    yield Announcement(signals.item_put, type(self), queue=self.alias, uid=uid)

    def _terms(
        self, delay: float | dt.timedelta, eta: dt.datetime | None, priority: int, headers: Mapping[str, str] | None
    ) -> tuple[float | dt.datetime, bytes]:
        """The due time of items, and their entry in the key ``headers``."""
        due = arguments.due_of(delay, eta, self.alias)
        if headers is None and priority == 0 and type(priority) is int:
            return due, b""
        level = arguments.priority_of(priority, self.alias)
        return due, operations.encode_headers(arguments.headers_of(headers, self.alias), priority=level)

    def _putting(
        self, puts: Sequence[tuple[str, bytes, bytes]], priority: int, due: float | dt.datetime, own: bool = False
    ) -> Call[PutReply]:
        return operations.put(self.keys, puts, own=own, priority=priority, due=due, max_length=self.max_length)

    # -- get

    @sync_method
    def get(self, timeout: float = 0) -> Steps[Item]:
        """Take the next item; ``(None, None)``, which is falsy, when there is none.

        ``timeout``: 0 blocks for ever, a positive number so many seconds, a negative one not at all. The item is in
        flight until it is settled (ack, fail, release) or its lease ends: after a crash the lease ends, and the item is
        ready again. An item that cannot be decoded is set aside as dead, and the next one is taken. When the reply
        cannot be read to its end, the item has failed: it goes to the back, and OutcomeUnknown is raised with
        ``cut_short``.
        """
        found = yield from self._take(1, timeout)
        return found[0] if found else Item()

    @sync_method
    def get_many(self, n: int, timeout: float = -1) -> Steps[list[Item]]:
        """Take up to ``n`` items (at most 1,000) in one round trip; waits as ``get`` does while there is none.

        The items have at most 1 MiB more than the first of them, so it may return fewer large items than are ready.
        When the reply cannot be read to its end, all items go back to their places, and a single one is taken.
        """
        return (yield from self._take(arguments.number_of(n, BATCH, self.alias), timeout))

    def _take(self, n: int, timeout: float) -> Steps[list[Item]]:
        deadline = monotonic() + arguments.timeout_of(timeout, self.alias)
        while True:
            found, wait = yield from self._claim(n)
            left = deadline - monotonic()
            if found or (wait != 0 and (timeout < 0 or (timeout > 0 and left <= 0))):
                return found
            if wait != 0:
                limit = LOOK if timeout == 0 else min(LOOK, left)
                yield from self._wait(min(limit, self.lease, LOOK if wait is None else wait))

    def _claim(self, n: int) -> Steps[tuple[list[Item], float | None]]:
        """Up to n items, and the seconds until the next claim may find some (0: now; None: not known)."""
        reply, found = yield from self._claimed(n, self._decode)
        return found, 0 if reply.found and not found else reply.wait

    def _claimed(
        self, n: int, read: Callable[[Sequence[StoredItem]], Steps[T]], *, limited: bool = True
    ) -> Steps[tuple[ClaimReply, T]]:
        """Claim, and read the items that were found; when this is cancelled, they are given back at once."""
        slot = slots.borrow()
        try:
            reply = yield from self._asked(n, limited, slot)
            return reply, (yield from read(reply.found))
        except CancelledError:
            yield from self._give_back(slot, GIVE_BACK)
            raise
        finally:
            slots.give_back(slot)

    def _asked(self, n: int, limited: bool, slot: Slot) -> Steps[ClaimReply]:
        """The reply to a claim. When it cannot be read to its end, all items go back, and a single one is claimed."""
        begun = monotonic()
        try:
            reply = yield from self._send(self._claiming(n, limited), slot=slot)
        except OutcomeUnknown as error:
            if not error.cut_short:
                raise
            yield from self._give_back(slot, UNREAD)
            if n == 1:
                raise
            slot.seq += 1
            return (yield from self._asked(1, limited, slot))
        if reply.found and monotonic() - begun > self.lease / 2:
            reply = reply._replace(found=(yield from self._kept(reply.found)))
        return reply

    def _kept(self, found: Sequence[StoredItem]) -> Steps[Sequence[StoredItem]]:
        """The items that are still ours, after a reply that took long to arrive; their leases begin anew."""
        recover = self.autoclean_interval is not None
        call = operations.extend(self.keys, list(map(_held, found)), lease=self.lease, recover=recover)
        kept = yield from self._send(call)
        return [one for one, ours in zip(found, kept, strict=True) if ours]

    def _claiming(self, n: int, limited: bool = True) -> Call[ClaimReply]:
        return self.claim(f"g{slots.process}", lease=self.lease, n=n, limited=limited)

    def claim(
        self, consumer: str, *, lease: float, n: int = 1, acks: Iterable[DeliveryRef] = (), limited: bool = True
    ) -> Call[ClaimReply]:
        """The call that claims up to n items for a consumer, by the rules of this queue; lease in seconds."""
        return operations.claim(
            self.keys,
            consumer=consumer,
            lease=lease,
            legacy_lease=self.lease,
            recover=self.autoclean_interval is not None,
            n=n,
            max_deliveries=self.max_deliveries,
            max_crashes=self.max_crashes,
            max_in_flight=self.max_in_flight,
            interval=self.rate.interval if self.rate else 0,
            limited=limited,
            acks=acks,
        )

    def _give_back(self, slot: Slot, how: int) -> Steps[None]:
        """Give back what the last claim of a slot took; a claim that is still on its way will take nothing.

        This call has the number of that claim. If the claim came first, the script takes this call for its repeat and
        gives the items back. If this call comes first, the claim is the repeat, and gets nothing.
        """
        with suppress(SRQError):  # then the items come back when their leases end
            yield from self._send(self._claiming(how), slot=slot, timeout=PARTING)

    def _decode(self, found: Iterable[StoredItem]) -> Steps[list[Item]]:
        """The items that can be decoded. The others are set aside as dead, with the error."""
        items = []
        for one in found:
            try:
                payload = load(self.serializer, one.payload, queue=self.alias, uid=one.uid)
                items.append(Item(one.uid, payload, one.delivery))
            except PayloadError as error:
                logger.error("payload cannot be decoded, item set aside queue=%s uid=%s", self.alias, one.uid)
                described = failure.describe(error)
                yield from self._send(operations.fail(self.keys, _held(one), error=described, bury=True))
        return items

    def _wait(self, seconds: float) -> Steps[None]:
        try:
            yield from self.link.waiting(operations.wait([self.keys], seconds), seconds, queue=self.alias)
        except CancelledError:
            with suppress(SRQError):  # this caller may have taken a wake token that another one needs
                yield from self._send(operations.ring(self.keys), timeout=PARTING)
            raise

    def consume(self, timeout: float = 0) -> Iterator[Item]:
        """Take items one after the other, until ``get(timeout)`` finds none. The caller has to settle them."""
        while item := self.get(timeout):
            yield item

    def processing(self, timeout: float = 0) -> Processing:
        """Get an item for a ``with`` block: acked when the block succeeds, failed with the error when it raises.

        The block's exception goes on to the caller, except RetryLater and Discard, which end here. A failed item waits
        by ``backoff``. When there is no item, the block gets a falsy ``Item``. Nobody renews the lease: a block that
        may take longer than ``autoclean_interval`` has to call ``extend``.
        """
        return Processing(self, timeout)

    @contextmanager
    def _processing(self, timeout: float) -> Iterator[Item]:
        item = self.get(timeout)
        try:
            yield item
        except BaseException as error:
            if not run(self._settle(item, error)):
                raise
        else:
            run(self._settle(item))

    def _settle(self, item: Item, error: BaseException | None = None) -> Steps[bool]:
        """Settle an item after its block, which raised ``error`` or nothing. Returns whether the error ends here."""
        if item and (error is None or isinstance(error, Discard)):
            yield from self._send(operations.ack(self.keys, [self._held(item)]))
        elif item:
            yield from self._fail([item], error, delay_after(error, self.backoff, item.deliveries))
        return isinstance(error, RetryLater | Discard)

    # -- settle

    @sync_method
    def ack(self, item: Item | str) -> Steps[bool]:
        """Remove an item: its work is done. Returns whether this call removed it.

        By ``Item``: wherever the item is now, even if its lease ended meanwhile. By plain uid: only if it is in flight.
        """
        return (yield from self._send(operations.ack(self.keys, [self._held(item)])))[0]

    @sync_method
    def ack_many(self, items: Iterable[Item | str]) -> Steps[list[bool]]:
        """Ack items in batches of 1,000, each in one round trip; per item whether this call removed it."""
        held = [self._held(item) for item in arguments.listed(items, "items", self.alias)]
        flags: list[bool] = []
        for batch in _batches(held):
            flags += yield from self._send(operations.ack(self.keys, batch))
        return flags

    @sync_method
    def fail(
        self, item: Item | str, error: BaseException | str | None = None, delay: float | dt.timedelta = 0
    ) -> Steps[str | None]:
        """Give an item back as failed: ready at the back, delayed (seconds), or dead when deliveries are used up.

        ``error`` is stored with the item. Returns the item's new state. None: nothing changed, because the caller does
        not hold the item any more (by plain uid: because it is not in flight).
        """
        return (yield from self._fail([item], error, delay))[0]

    @sync_method
    def fail_many(
        self,
        items: Iterable[Item | str],
        error: BaseException | str | None = None,
        delay: float | dt.timedelta = 0,
    ) -> Steps[list[str | None]]:
        """Give items back as failed, in batches of 990, each in one round trip; per item what ``fail`` returns."""
        return (yield from self._fail(items, error, delay))

    def _fail(
        self, items: Iterable[Item | str], error: BaseException | str | None, delay: float | dt.timedelta
    ) -> Steps[list[str | None]]:
        seconds = arguments.due_of(delay, None, self.alias)
        known = arguments.error_of(error, self.alias)
        described = b"" if known is None else failure.describe(known)
        assert isinstance(seconds, float | int)
        listed = arguments.listed(items, "items", self.alias)
        failed = [Failed(self._held(item), described, seconds) for item in listed]
        states: list[str | None] = []
        for batch in _batches(failed, operations.FAILED_ALIKE):
            states += yield from self._send(operations.fail_many(self.keys, batch, max_deliveries=self.max_deliveries))
        return states

    @sync_method
    def extend(self, item: Item | str, seconds: float | None = None) -> Steps[bool]:
        """Make the lease of an item last so many seconds from now (default: the autoclean interval).

        A lease that has ended is taken back if no consumer took the item since. False: another consumer has the item,
        or it is settled; stop working on it.
        """
        lease = self.lease if seconds is None else arguments.lease_of(seconds, self.alias)
        recover = self.autoclean_interval is not None
        call = operations.extend(self.keys, [self._held(item)], lease=lease, recover=recover)
        return (yield from self._send(call))[0]

    @sync_method
    def release(self, item: Item | str) -> Steps[bool]:
        """Give an item back unstarted: to its old place, no delivery counted. False: the caller does not hold it."""
        return (yield from self._send(operations.release(self.keys, [self._held(item)])))[0]

    # -- look

    def __len__(self) -> int:
        """How many items are ready."""
        return self.snapshot().ready

    def __bool__(self) -> bool:
        """Always true, also when the queue is empty: ``if queue`` must not depend on its length."""
        return True

    @sync_method
    def counts(self) -> Steps[dict[str, int]]:
        """How many items are in each state: ``ready``, ``in_flight``, ``delayed``, ``dead``."""
        counts = yield from self._look()
        return {state: getattr(counts, state) for state in STATES}

    @sync_method
    def snapshot(self) -> Steps[Counts]:
        """Counts, counters, consumers and pause of the queue, all of one moment."""
        return (yield from self._look())

    def _look(self) -> Steps[Counts]:
        counts = yield from self._send(operations.counts(self.keys))
        if counts.layout not in (None, LAYOUT):  # the script reads any layout, so that the status can tell
            found = f"its layout has version {counts.layout}, this package knows {LAYOUT}"
            raise LayoutError(f"queue {self.alias!r} ({self.link.address}): {found}: upgrade django-srq here")
        return counts

    def items(self, state: str = "ready") -> Iterator[Item]:
        """Look at the items of a state without taking them, ready ones in the order in which they will be served.

        The queue is in use meanwhile: an item that moves may be seen twice or not at all. A payload that cannot be
        decoded is returned as bytes.
        """
        offset: int | None = 0
        while offset is not None:
            items, offset = self.page(state, offset)
            yield from items

    @sync_method
    def page(self, state: str, offset: int = 0) -> Steps[tuple[list[Item], int | None]]:
        """Look at up to 100 items of a state from an offset on; the items, and the next offset (None: no more).

        The items have at most 1 MiB more than the first of them. Only the next offset tells whether there are more.
        """
        if state not in STATES:
            raise InvalidArgument(f"queue {self.alias!r}: no state {shown(state)}; known: {', '.join(STATES)}")
        first = arguments.offset_of(offset, self.alias)
        call = operations.list_items(
            self.keys, state, anchor=f"from {first}", count=PAGE, look=PAGE, largest=-1, most_bytes=MOST_BYTES
        )
        page = yield from self._send(call)
        return [Item(view.uid, self._loaded(view), view.delivery) for view in page.items], page.following

    def _loaded(self, view: ItemView) -> Any:
        try:
            return load(self.serializer, view.payload, queue=self.alias, uid=view.uid)
        except PayloadError:
            return view.payload

    @sync_method
    def states(self, *uids: str) -> Steps[list[str | None]]:
        """The state of each item; None: it is not in the queue."""
        states: list[str | None] = []
        for batch in _batches(self._checked(uids)):
            found = yield from self._send(operations.find(self.keys, batch))
            states += [_state(places) for places in found]
        return states

    @sync_method
    def audit(self) -> Steps[list[str]]:
        """Check that every item is in exactly one place; a sentence for each finding. O(queue), in batches."""
        return (yield from audit(self.link, self.keys, self.alias))

    # -- for people and tools

    @sync_method
    def requeue(
        self,
        *uids: str,
        error: str | None = None,
        older_than: float | dt.timedelta = 0,
        limit: int | None = None,
        on_batch: Callable[[int], object] | None = None,
    ) -> Steps[int]:
        """Make dead items ready again, their deliveries counted anew; returns how many.

        Without uids: all dead items, or only those with an ``error`` (its group as in the status view, its type, or the
        name of its class), only those that died more than ``older_than`` ago (seconds or timedelta), and at most
        ``limit``, oldest deaths first. Items that die after the call began stay dead.

        Works in batches. After each batch ``on_batch`` is called with the number of items requeued; an exception of
        ``on_batch`` ends the call there.
        """
        return (yield from maintenance.requeue(self, uids, error, older_than, limit, on_batch))

    @sync_method
    def count_dead(self, *, error: str | None = None, older_than: float | dt.timedelta = 0) -> Steps[dict[str, int]]:
        """How many dead items ``requeue`` or ``purge`` would take, by the group of their error. O(dead), in batches."""
        return (yield from maintenance.count_dead(self, error, older_than))

    @sync_method
    def drop(self, *uids: str) -> Steps[int]:
        """Delete items in any state but in flight; returns how many."""
        return (yield from maintenance.drop(self, uids))

    @sync_method
    def purge(
        self,
        state: str | None = None,
        *,
        error: str | None = None,
        older_than: float | dt.timedelta = 0,
        limit: int | None = None,
        on_batch: Callable[[int], object] | None = None,
    ) -> Steps[int]:
        """Delete the items of a state (ready, delayed, dead; None: all three) in batches; returns how many.

        Spares items in flight, and items that arrive after the call began. ``error``, ``older_than`` and ``limit``
        choose dead items as in ``requeue``; ``on_batch`` is called as there.
        """
        return (yield from maintenance.purge(self, state, error, older_than, limit, on_batch))

    @sync_method
    def recover(self, *, on_batch: Callable[[int, int], object] | None = None) -> Steps[int]:
        """Recover items whose leases have ended, also with ``autoclean_interval=None``; returns how many are ready.

        Works in batches of 100. After each batch ``on_batch`` is called with the number of items that are ready again,
        and the number of leases that had ended: the difference are items that are dead, as their deliveries or crashes
        are used up. An exception that it raises ends the call there.
        """
        return (yield from maintenance.recover(self, on_batch))

    @sync_method
    def ended_leases(self) -> Steps[int]:
        """How many leases have ended and are not recovered yet: ``recover`` would look at these."""
        now = yield from self._send(operations.counts(self.keys))
        return (yield from self._send(operations.ended(self.keys, now.at)))

    @sync_method
    def pause(self, reason: str = "", *, by: str = "", until: dt.datetime | None = None) -> Steps[bool]:
        """Hand out no items until ``resume()`` or ``until`` (aware datetime). False: it was paused already."""
        arguments.aware(until, "until", self.alias)
        about = {
            "by": arguments.text_of(by, "by", self.alias),
            "reason": arguments.text_of(reason, "reason", self.alias),
        }
        was_running = yield from self._send(operations.pause(self.keys, about=about, until=until))
        yield Announcement(signals.queue_paused, type(self), queue=self.alias, **about, until=until)
        return was_running

    @sync_method
    def resume(self) -> Steps[bool]:
        """End a pause. Returns False when there was none."""
        return (yield from self._send(operations.resume(self.keys)))

    @sync_method
    def move(self, target: SafeRedisQueue, limit: int | None = None) -> Steps[int]:
        """Move ready items to another queue, oldest first, uids kept; returns how many.

        One at a time: claimed here, put there, acked here. A crash in between leaves the item in both queues, in flight
        here. Moving it again within an hour does not put it there a second time, even if it was handled there
        meanwhile. ``move`` stops at the first item that the target has no room for (QueueFull), or whose uid it has
        already (DuplicateItem): that item and those after it stay here.
        """
        if getattr(target, "_place", None) in (None, self._place):  # no isinstance: default_queue is a proxy
            raise InvalidArgument(f"queue {self.alias!r}: move takes another queue, not {shown(target)}")
        moved, most, used = 0, arguments.most_of(limit, self.alias), []
        while moved < most:
            # Moving is not handling: RATE and MAX_IN_FLIGHT do not apply.
            _, found = yield from self._claimed(1, _as_it_is, limited=False)
            if not found:
                break
            used.append((yield from self._move(found[0], target)))
            moved += 1
            if len(used) == BATCH:
                yield from target._send(operations.forget_slots(target.keys, used))
                used = []
        if used:
            yield from target._send(operations.forget_slots(target.keys, used))
        return moved

    def _move(self, found: StoredItem, target: SafeRedisQueue) -> Steps[bytes]:
        """Move one item; return the name of its slot in the target, which is of no use once the item is acked here."""
        # The slot belongs to the item: a process that moves the item again repeats the same call, until there is room.
        slot = Slot(f"move:{self.keys}:{found.uid}".encode(), found.delivery.order)
        extra = operations.encode_headers(found.delivery.headers, priority=found.delivery.priority)
        put = Put(found.uid, found.payload, extra)
        call = operations.put(
            target.keys,
            [put],
            own=True,
            priority=found.delivery.priority,
            max_length=target.max_length,
            attempt=int(found.delivery.token.split("/")[1].partition("@")[0]),
        )
        reply = yield from target._send(call, slot=slot)
        if refused := _refused(found.uid, reply, target.alias, f"it and the rest stay in {self.alias!r}"):
            yield from self._send(operations.release(self.keys, [_held(found)]))
            raise refused
        yield from self._send(operations.ack(self.keys, [_held(found)]))
        return slot.name

    @property
    def _place(self) -> tuple[object, ...]:
        """The server, as far as its address identifies it, and the keys there."""
        pool = self.link.pool
        database, service = pool.connection_kwargs.get("db") or 0, getattr(pool, "service_name", None)
        return self.link.address, database, service, self.keys

    # -- the same in an event loop

    aput = async_method(put)
    aput_many = async_method(put_many)
    aget = async_method(get)
    aget_many = async_method(get_many)
    aack = async_method(ack)
    aack_many = async_method(ack_many)
    afail = async_method(fail)
    afail_many = async_method(fail_many)
    aextend = async_method(extend)
    arelease = async_method(release)
    acounts = async_method(counts)
    asnapshot = async_method(snapshot)
    apage = async_method(page)
    astates = async_method(states)
    aaudit = async_method(audit)
    arequeue = async_method(requeue)
    acount_dead = async_method(count_dead)
    adrop = async_method(drop)
    apurge = async_method(purge)
    arecover = async_method(recover)
    aended_leases = async_method(ended_leases)
    apause = async_method(pause)
    aresume = async_method(resume)
    amove = async_method(move)

    async def aitems(self, state: str = "ready") -> AsyncIterator[Item]:
        """The asynchronous twin of ``items``."""
        offset: int | None = 0
        while offset is not None:
            items, offset = await self.apage(state, offset)
            for item in items:
                yield item

    async def aconsume(self, timeout: float = 0) -> AsyncIterator[Item]:
        """The asynchronous twin of ``consume``."""
        while item := await self.aget(timeout):
            yield item

    @asynccontextmanager
    async def aprocessing(self, timeout: float = 0) -> AsyncIterator[Item]:
        """The asynchronous twin of ``processing``."""
        item = await self.aget(timeout)
        try:
            yield item
        except BaseException as error:
            if not await arun(self._settle(item, error)):
                raise
        else:
            await arun(self._settle(item))

    # -- saferedisqueue's names

    def push(self, item: Any) -> str:
        """Deprecated alias of ``put``."""
        warnings.warn("push is put now; the alias ends in django-srq 2.0", DeprecationWarning, stacklevel=2)
        return self.put(item)

    def pop(self, timeout: float = 0) -> Item:
        """Deprecated alias of ``get``."""
        warnings.warn("pop is get now; the alias ends in django-srq 2.0", DeprecationWarning, stacklevel=2)
        return self.get(timeout)

    # -- internal

    def _send(self, call: Call[T] | Command[T], *, slot: Slot | None = None, timeout: float | None = None) -> Steps[T]:
        return self.link.calling(call, queue=self.alias, slot=slot, timeout=timeout)

    def _dump(self, payload: Any) -> bytes:
        return dump(self.serializer, payload, queue=self.alias, limit=self.max_payload_bytes)

    def _held(self, item: Item | str) -> DeliveryRef:
        if isinstance(item, Item) and item.uid is not None:
            delivery = item.delivery
            return DeliveryRef(item.uid, delivery.token, delivery.number)
        if isinstance(item, bytes):
            item = item.decode("ascii", "replace")
        if isinstance(item, str) and not isinstance(item, Item):
            return DeliveryRef(arguments.uid_of(item, self.alias))
        raise InvalidArgument(f"queue {self.alias!r}: an Item that get returned or a uid is needed, not {shown(item)}")

    def _checked(self, uids: Iterable[str]) -> list[str]:
        return [arguments.uid_of(uid, self.alias) for uid in uids]


class Processing(AbstractContextManager[Item]):
    """What ``processing`` returns: a context manager, or a decorator that runs each call of a function in one."""

    def __init__(self, queue: SafeRedisQueue, timeout: float) -> None:
        self._queue, self._timeout = queue, timeout

    def __enter__(self) -> Item:
        self._block = self._queue._processing(self._timeout)
        return self._block.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._block.__exit__(*error)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def in_a_block(*args: Any, **kwargs: Any) -> Any:
            with Processing(self._queue, self._timeout):
                return completed(function(*args, **kwargs), wait_here)

        return in_a_block


def _link(
    args: Sequence[Any],
    link: Link | None,
    client: redis.Redis | None,
    url: str | None,
    timeout: float | None,
    options: dict[str, Any],
) -> Link:
    if link is not None:
        arguments.without_effect("link", args, options, client=client, url=url, timeout=timeout)
        return link
    seconds = timeout or TIMEOUT
    if client is not None:
        arguments.without_effect("client", args, options, url=url)
        return Link(client, timeout=seconds)
    if url is None:
        return Link(client_from_arguments(*args, **options), timeout=seconds)
    arguments.without_effect("url", args, ())
    if is_embedded(url):
        return embedded_link(url, timeout=seconds, **options)
    return Link(client_from_url(url, **options), timeout=seconds)


def _state(places: Container[str]) -> str | None:
    """The state of an item that is in these places."""
    if "items" not in places:
        return None
    special = {"holders": "in_flight", "delayed": "delayed", "dead": "dead"}
    return next((state for place, state in special.items() if place in places), "ready")


def _tell_of_all(error: SRQError, put: list[str], following: list[str], number: int) -> None:
    """Add to the error of a batch what became of the whole ``put_many``."""
    error.put = put
    doubt = ""
    if isinstance(error, OutcomeUnknown):
        error.in_doubt = following
        doubt = f", {len(following)} may have been"
    error.args = (f"{error}; {len(put)} of {number} items were put{doubt}",)


def _refused(uid: str, reply: PutReply, alias: str, rest: str) -> SRQError | None:
    """The error that says why an item was not moved to the queue ``alias``; None: it was moved."""
    if reply.full_at is not None:
        return QueueFull(f"queue {alias!r} is full: {reply.full_at} items; {rest}")
    (state,) = reply.states
    if state:
        return DuplicateItem(f"queue {alias!r}: {uid} is there already ({state}); {rest}", uid=uid, state=state)
    return None


def _as_it_is(found: Sequence[StoredItem]) -> Steps[Sequence[StoredItem]]:
    return found
    yield


def _held(found: StoredItem) -> DeliveryRef:
    return DeliveryRef(found.uid, found.delivery.token, found.delivery.number)


def _batches(sequence: Sequence[T], most: int | None = None) -> Sequence[Sequence[T]]:
    most = most or BATCH
    if 0 < len(sequence) <= most:
        return (sequence,)
    return [sequence[i : i + most] for i in range(0, len(sequence), most)]
