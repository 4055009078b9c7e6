"""SafeRedisQueue: put, get, ack, fail and what belongs to them. Free of Django settings."""

from __future__ import annotations

import datetime as dt
import logging
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import redis

from django_srq import arguments, failure, operations
from django_srq.audit import audit
from django_srq.backoff import Backoff
from django_srq.connections import TIMEOUT, Link, client_from_arguments, client_from_url, embedded_link, is_embedded
from django_srq.exceptions import DuplicateItem, InvalidArgument, LayoutError, PayloadError, QueueFull
from django_srq.item import Item, new_uid
from django_srq.operations import BATCH, LAYOUT, STATES, Call, Counts, Found, Held, Keys, Put, PutReply
from django_srq.serializers import Raw, Serializer, dump, load
from django_srq.slots import Slot, slots

logger = logging.getLogger("django_srq.queue")
T = TypeVar("T")

AUTOCLEAN_INTERVAL = 60.0  # seconds
LOOK = 5.0  # seconds after which an idle caller looks by itself: producers may be too old to ring
# Where purge looks besides the list, and the state of what is there.
_PLACES_TO_PURGE = {"returned": "ready", "priority": "ready", "delayed": "delayed", "dead": "dead"}


class SafeRedisQueue:
    """A crash-safe FIFO queue on Redis or Valkey.

    Takes what saferedisqueue's constructor took: ``name`` (the keys are ``srq:<name>:…``), ``url`` or the arguments of
    ``redis.Redis``, ``autoclean_interval`` (seconds after which an item that was got and never settled is ready again;
    None: never by itself), ``serializer`` (an object with ``dumps`` and ``loads``; None: bytes out, or ``str`` with
    ``decode_responses``). What it does not know goes to the redis client.

    Besides: ``max_deliveries`` and ``max_crashes`` (then an item is dead; None: never), ``max_length`` (of ready and
    delayed items), ``max_payload_bytes``, ``backoff`` (of ``processing``), ``timeout`` (seconds for a call that does
    not block, repeats included), ``cluster`` (keys ``srq:{<name>}:…``), ``client`` (a redis client to use) or ``link``.

    The object holds no state of the queue: any number of threads may share it, and it may be used after fork. Making it
    opens no connection. Every method may raise ``QueueUnavailable`` (nothing happened), ``OutcomeUnknown`` (sent, no
    reply in time) and ``LayoutError``.
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
        backoff: Backoff = Backoff(),  # noqa: B008 (frozen)
        timeout: float = TIMEOUT,
        cluster: bool = False,
        client: redis.Redis | None = None,
        link: Link | None = None,
        label: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.name = name
        self.label = name if label is None else label  # what messages call it: the alias
        self.keys = Keys(name, cluster)
        self.autoclean_interval = arguments.positive("autoclean_interval", autoclean_interval)
        self.max_deliveries = arguments.limit("max_deliveries", max_deliveries)
        self.max_crashes = arguments.limit("max_crashes", max_crashes)
        self.max_length = arguments.limit("max_length", max_length)
        self.max_payload_bytes = arguments.limit("max_payload_bytes", max_payload_bytes)
        self.backoff = backoff
        self.link = link or _link(args, url, client, arguments.positive("timeout", timeout) or TIMEOUT, kwargs)
        options = self.link.pool.connection_kwargs
        decode, encoding = options.get("decode_responses", False), options.get("encoding", "utf-8")
        self.serializer = serializer or Raw(decode=decode, encoding=encoding)
        self.lease = self.autoclean_interval or AUTOCLEAN_INTERVAL  # seconds; of a plain get

    def __repr__(self) -> str:
        return f"<SafeRedisQueue {self.label!r} {self.keys} at {self.link.address}>"

    # -- put

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
    ) -> str:
        """Put a payload; return its uid. Once it returned, the item is safe.

        ``uid``: 1 to 128 visible ASCII characters of your own; while it is in the queue in any state, putting it again
        adds nothing (``strict``: raises ``DuplicateItem``). ``delay`` (seconds) or ``eta`` (aware datetime): not ready
        before. ``priority``: -100 to 100, higher is served first. ``headers``: str to str, for the consumer.

        Raises PayloadError, PayloadTooLarge, QueueFull, InvalidArgument: nothing was put. OutcomeUnknown: it may be
        there; put it again with the same uid.
        """
        chosen, calls = self.prepare(item, uid=uid, delay=delay, eta=eta, priority=priority, headers=headers)
        (state,) = self.send_puts(calls)
        if strict and state:
            raise DuplicateItem(f"queue {self.label!r}: {chosen} is there already ({state})", uid=chosen, state=state)
        return chosen

    def put_many(
        self,
        items: Iterable[Any],
        *,
        delay: float | dt.timedelta = 0,
        eta: dt.datetime | None = None,
        priority: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Put payloads in batches of 1,000, each in one round trip and entirely or not at all; return their uids.

        All are serialised before the first is sent. When a later batch is refused, the earlier ones stay.
        """
        payloads = [self._dump(item) for item in items]
        uids = [new_uid() for _ in payloads]
        self.send_puts(self._puts(payloads, uids, False, delay, eta, priority, headers))
        return uids

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
        """The uid, and what ``put`` would send, serialised and checked; for ``send_puts``, now or later."""
        chosen = new_uid() if uid is None else arguments.uid_of(uid, self.label)
        return chosen, self._puts([self._dump(item)], [chosen], uid is not None, delay, eta, priority, headers)

    def send_puts(self, calls: Iterable[Call[PutReply]]) -> list[str]:
        """Send what ``prepare`` made; per item "" when it was added, else the state in which it was there already."""
        states: list[str] = []
        for call in calls:
            reply = self._send(call)
            if reply.full_at is not None:
                length = f"{reply.full_at} items ready and delayed"
                raise QueueFull(f"queue {self.label!r} is full: {length}, the limit is {self.max_length}")
            states += reply.states
        return states

    def _puts(
        self,
        payloads: Sequence[bytes],
        uids: Sequence[str],
        own: bool,
        delay: float | dt.timedelta,
        eta: dt.datetime | None,
        priority: int,
        headers: Mapping[str, str] | None,
    ) -> list[Call[PutReply]]:
        due = arguments.due_of(delay, eta, self.label)
        level = arguments.priority_of(priority, self.label)
        extra = operations.encode_headers(arguments.headers_of(headers, self.label), priority=level)
        puts = [Put(uid, payload, extra) for uid, payload in zip(uids, payloads, strict=True)]
        return [
            operations.put(self.keys, batch, own=own, priority=priority, due=due, max_length=self.max_length)
            for batch in _batches(puts)
        ]

    # -- get

    def get(self, timeout: float = 0) -> Item:
        """Take the next item; ``(None, None)``, which is falsy, when there is none.

        ``timeout``: 0 blocks for ever, a positive number so many seconds, a negative one not at all. The item is in
        flight until it is settled (ack, fail, release) or its lease ends: after a crash it comes back by itself. What
        cannot be decoded is set aside in ``dead``, and the next item is served.
        """
        found = self.get_many(1, timeout)
        return found[0] if found else Item()

    def get_many(self, n: int, timeout: float = -1) -> list[Item]:
        """Take up to ``n`` items (at most 1,000) in one round trip; waits as ``get`` does while there is none."""
        if not 1 <= n <= BATCH:
            raise InvalidArgument(f"queue {self.label!r}: n is 1 to {BATCH}, not {n!r}")
        deadline = time.monotonic() + timeout
        while True:
            found, wait = self._claim(n)
            left = deadline - time.monotonic()
            if found or (wait != 0 and (timeout < 0 or (timeout > 0 and left <= 0))):
                return found
            if wait != 0:
                limit = LOOK if timeout == 0 else min(LOOK, left)
                self._wait(min(limit, self.lease, LOOK if wait is None else wait))

    def _claim(self, n: int) -> tuple[list[Item], float | None]:
        """Up to n items, and the seconds until it is worth asking again (0: at once; None: no known moment)."""
        reply = self._send(
            operations.claim(
                self.keys,
                consumer=f"g{slots.process}",
                lease=self.lease,
                legacy_lease=self.lease,
                recover=self.autoclean_interval is not None,
                n=n,
                max_deliveries=self.max_deliveries,
                max_crashes=self.max_crashes,
            )
        )
        found = self.decoded(reply.found)
        return found, 0 if reply.found and not found else reply.wait

    def decoded(self, found: Iterable[Found]) -> list[Item]:
        """The items that can be decoded; those that cannot are set aside with the error."""
        items = []
        for one in found:
            try:
                payload = load(self.serializer, one.payload, queue=self.label, uid=one.uid)
                items.append(Item(one.uid, payload, one.delivery))
            except PayloadError as error:
                logger.error("payload cannot be decoded, item set aside queue=%s uid=%s", self.label, one.uid)
                self._send(operations.fail(self.keys, _held(one), error=failure.describe(error), bury=True))
        return items

    def _wait(self, seconds: float) -> None:
        self.link.wait(operations.wait([self.keys], seconds), seconds, queue=self.label)

    def consume(self, timeout: float = 0) -> Iterator[Item]:
        """Take items one after the other, until ``get(timeout)`` finds none. Settling them is the caller's."""
        while item := self.get(timeout):
            yield item

    @contextmanager
    def processing(self, timeout: float = 0) -> Iterator[Item]:
        """Get an item for a ``with`` block: acked when the block succeeds, failed with the error when it raises.

        The exception goes on to the caller. A failed item waits by ``backoff``. Without an item the block gets a falsy
        one.
        """
        item = self.get(timeout)
        try:
            yield item
        except BaseException as error:
            if item:
                self.fail(item, error, delay=self.backoff.delay(item.deliveries))
            raise
        if item:
            self.ack(item)

    # -- settle

    def ack(self, item: Item | str) -> bool:
        """Remove an item: its work is done. Returns whether it was this call that removed it.

        By ``Item``: wherever it is now, even if its lease ended meanwhile. By plain uid: only what is in flight.
        """
        return self.ack_many([item])[0]

    def ack_many(self, items: Iterable[Item | str]) -> list[bool]:
        """Ack items in batches of 1,000, each in one round trip; per item whether it was this call that removed it."""
        held = [self._held(item) for item in items]
        return [flag for batch in _batches(held) for flag in self._send(operations.ack(self.keys, batch))]

    def fail(
        self, item: Item | str, error: BaseException | str | None = None, delay: float | dt.timedelta = 0
    ) -> str | None:
        """Give an item back as failed: ready at the back, delayed (seconds), or dead when deliveries are used up.

        Returns the state it went to. None, and nothing changed, when the caller does not hold it any more (by plain
        uid: when nobody holds it).
        """
        seconds = arguments.due_of(delay, None, self.label)
        described = failure.describe(error) if error is not None else b""
        assert isinstance(seconds, float | int)
        return self._send(
            operations.fail(
                self.keys, self._held(item), error=described, delay=seconds, max_deliveries=self.max_deliveries
            )
        )

    def extend(self, item: Item | str, seconds: float | None = None) -> bool:
        """Make the lease of an item last so many seconds from now (default: the autoclean interval).

        A lease that ended, but whose item nobody took since, is taken back. False: somebody else has the item, or it is
        settled; stop working on it.
        """
        lease = self.lease if seconds is None else arguments.positive("seconds", seconds)
        recover = self.autoclean_interval is not None
        call = operations.extend(self.keys, [self._held(item)], lease=lease or self.lease, recover=recover)
        return self._send(call)[0]

    def release(self, item: Item | str) -> bool:
        """Give an item back unstarted: to its old place, no delivery counted. False: the caller does not hold it."""
        return self._send(operations.release(self.keys, [self._held(item)]))[0]

    # -- look

    def __len__(self) -> int:
        """How many items are ready."""
        return self.snapshot().ready

    def __bool__(self) -> bool:
        """Always true: a queue is there also when it is empty."""
        return True

    def counts(self) -> dict[str, int]:
        """How many items are in each state: ``ready``, ``in_flight``, ``delayed``, ``dead``."""
        counts = self.snapshot()
        return {state: getattr(counts, state) for state in STATES}

    def snapshot(self) -> Counts:
        """All that is known of the queue as a whole, at one moment."""
        counts = self._send(operations.counts(self.keys))
        if counts.layout not in (None, LAYOUT):  # the script reads any layout, so that the status can tell
            found = f"its layout has version {counts.layout}, this package knows {LAYOUT}"
            raise LayoutError(f"queue {self.label!r} ({self.link.address}): {found}: upgrade django-srq here")
        return counts

    def items(self, state: str = "ready") -> Iterator[Item]:
        """Look at the items of a state without taking them, ready ones in the order in which they will be served.

        The queue goes on meanwhile: what moves may be seen twice or not at all. The payload is bytes where it cannot be
        decoded.
        """
        if state not in STATES:
            raise InvalidArgument(f"queue {self.label!r}: no state {state!r}; known: {', '.join(STATES)}")
        yield from (Item(one.uid, self._loaded(one), one.delivery) for one in self._found(state))

    def _found(self, place: str) -> Iterator[Found]:
        offset: int | None = 0
        while offset is not None:
            page = self._send(operations.peek(self.keys, place, offset=offset))
            offset = page.offset
            yield from page.found

    def _loaded(self, found: Found) -> Any:
        try:
            return load(self.serializer, found.payload, queue=self.label, uid=found.uid)
        except PayloadError:
            return found.payload

    def audit(self) -> list[str]:
        """Check that every item is in exactly one place: a sentence per finding. O(queue), in batches."""
        return audit(self.link, self.keys, self.label)

    # -- for people and tools

    def requeue(self, *uids: str) -> int:
        """Make dead items ready again (all of them without uids), their deliveries counted anew; returns how many."""
        if uids:
            return self._each(operations.requeue, uids)
        return self._each(operations.requeue, self._uids("dead"))

    def drop(self, *uids: str) -> int:
        """Delete items, whatever their state but in flight; returns how many."""
        return self._each(operations.drop, uids)

    def purge(self, state: str | None = None) -> int:
        """Delete the items of a state (ready, delayed, dead; None: all three) in batches; returns how many.

        Spares what is in flight, and what arrives after it began.
        """
        if (state is not None and state not in STATES) or state == "in_flight":
            raise InvalidArgument(f"queue {self.label!r}: purge deletes ready, delayed or dead items, not {state!r}")
        gone = self._purge_list() if state in (None, "ready") else 0
        for place, holds in _PLACES_TO_PURGE.items():
            if state in (None, holds):
                drop = partial(operations.drop, state=holds)
                gone += self._each(drop, self._uids(place))
        return gone

    def _purge_list(self) -> int:
        marker, gone, more, start = new_uid(), 0, True, True
        while more:
            more, count = self._send(operations.purge(self.keys, marker=marker, start=start))
            gone, start = gone + count, False
        return gone

    def recover(self) -> int:
        """Make ready what ended leases hold, now, also with ``autoclean_interval=None``; returns how many."""
        made, looked = 0, BATCH
        while looked:
            batch, looked = self._send(
                operations.recover(
                    self.keys,
                    legacy_lease=self.lease,
                    max_deliveries=self.max_deliveries,
                    max_crashes=self.max_crashes,
                )
            )
            made += batch
        return made

    def pause(self, reason: str = "", *, by: str = "", until: dt.datetime | None = None) -> bool:
        """Hand out no items until ``resume()`` or ``until`` (aware datetime). False: it was paused already."""
        arguments.aware(until, "until", self.label)
        return self._send(operations.pause(self.keys, about={"by": by, "reason": reason}, until=until))

    def resume(self) -> bool:
        """End a pause. Returns False when there was none."""
        return self._send(operations.resume(self.keys))

    def move(self, target: SafeRedisQueue, limit: int | None = None) -> int:
        """Move ready items to another queue, oldest first, uids kept; returns how many.

        One at a time: claimed here, put there, acked here. A crash in between leaves it in both, in flight here; moving
        it again within the hour puts nothing there a second time, even if it was handled there meanwhile.
        """
        moved = 0
        while limit is None or moved < limit:
            found = self._send_claim_raw()
            if found is None:
                break
            self._move(found, target)
            moved += 1
        return moved

    def _send_claim_raw(self) -> Found | None:
        reply = self._send(
            operations.claim(
                self.keys, consumer=f"g{slots.process}", lease=self.lease, legacy_lease=self.lease,
                recover=self.autoclean_interval is not None,
            )
        )  # fmt: skip
        return reply.found[0] if reply.found else None

    def _move(self, found: Found, target: SafeRedisQueue) -> None:
        # The slot belongs to the item: whoever moves it again repeats the same call, until there is room.
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
        reply = target.link.call(call, queue=target.label, slot=slot)
        if reply.full_at is not None:
            self._send(operations.release(self.keys, [_held(found)]))
            raise QueueFull(f"queue {target.label!r} is full: {reply.full_at} items; the rest stays in {self.label!r}")
        self._send(operations.ack(self.keys, [_held(found)]))

    # -- saferedisqueue's names

    def push(self, item: Any) -> str:
        """Deprecated alias of ``put``."""
        warnings.warn("push is put now; the alias ends in django-srq 2.0", DeprecationWarning, stacklevel=2)
        return self.put(item)

    def pop(self, timeout: float = 0) -> Item:
        """Deprecated alias of ``get``."""
        warnings.warn("pop is get now; the alias ends in django-srq 2.0", DeprecationWarning, stacklevel=2)
        return self.get(timeout)

    # -- below

    def _send(self, call: Call[T]) -> T:
        return self.link.call(call, queue=self.label)

    def _dump(self, payload: Any) -> bytes:
        return dump(self.serializer, payload, queue=self.label, limit=self.max_payload_bytes)

    def _held(self, item: Item | str) -> Held:
        if isinstance(item, Item) and item.uid is not None:
            delivery = item.delivery
            return Held(item.uid, delivery.token, delivery.number)
        if isinstance(item, bytes):
            item = item.decode("ascii", "replace")
        if isinstance(item, str) and not isinstance(item, Item):
            return Held(arguments.uid_of(item, self.label))
        raise InvalidArgument(f"queue {self.label!r}: an Item that get returned or a uid is needed, not {item!r}")

    def _uids(self, place: str) -> list[str]:
        """The uids of a state, or of one of the places of what is ready, as they are now."""
        return [found.uid for found in self._found(place)]

    def _each(self, operation: Any, uids: Iterable[str]) -> int:
        checked = [arguments.uid_of(uid, self.label) for uid in uids]
        return sum(sum(self._send(operation(self.keys, batch))) for batch in _batches(checked))


def _link(
    args: Sequence[Any], url: str | None, client: redis.Redis | None, timeout: float, options: dict[str, Any]
) -> Link:
    if client is not None:
        return Link(client, timeout=timeout)
    if url is None:
        return Link(client_from_arguments(*args, **options), timeout=timeout)
    if is_embedded(url):
        return embedded_link(url, timeout=timeout, **options)
    return Link(client_from_url(url, **options), timeout=timeout)


def _held(found: Found) -> Held:
    return Held(found.uid, found.delivery.token, found.delivery.number)


def _batches(sequence: Sequence[T]) -> Iterator[Sequence[T]]:
    return (sequence[i : i + BATCH] for i in range(0, len(sequence), BATCH))
