"""SafeRedisQueue: put, get, ack, fail and the other methods of a queue. Needs no Django settings."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import redis

from django_srq import operations
from django_srq.exceptions import InvalidArgument, LayoutError, PayloadError, shown
from django_srq.operations import (
    LAYOUT,
    MOST_BYTES,
    STATES,
    Call,
    ClaimReply,
    Counts,
    DeliveryRef,
    ItemView,
    Keys,
    PutReply,
)
from django_srq.queue import arguments, gets, instrumentation, maintenance, moves, puts, settlements
from django_srq.queue.audit import audit
from django_srq.queue.backoff import Backoff
from django_srq.queue.calls import batches, send
from django_srq.queue.gets import LOOK as LOOK
from django_srq.queue.instrumentation import Puts
from django_srq.queue.item import Item
from django_srq.queue.links import link_of
from django_srq.queue.places import state_of
from django_srq.queue.rate import Rate
from django_srq.queue.serializers import Raw, Serializer, load
from django_srq.queue.settlements import Processing
from django_srq.transport.link import Link
from django_srq.transport.sansio import Steps, arun, async_method, sync_method, warn_of_blocking

AUTOCLEAN_INTERVAL = 60.0  # seconds
PAGE = 100  # items


class SafeRedisQueue:
    """A crash-safe FIFO queue on Redis or Valkey.

    The first arguments are those of saferedisqueue; other keyword arguments go to the redis client. Durations and sizes
    are numbers of seconds and bytes, or texts such as ``"5m"`` and ``"200MB"``. A wrong argument raises
    ConfigurationError.

    The object holds no state of the queue: any number of threads may share it, and it may be used after a fork. Making
    it opens no connection. The attributes are the options, each under the name of its argument.

    :param args: positional arguments of ``redis.Redis``, instead of ``url``.
    :param name: the keys are ``srq:<name>:…``.
    :param url: the server: ``redis://``, ``rediss://``, ``unix://``, ``valkey://``, ``valkeys://`` or ``embedded://``.
        Without it, the arguments of ``redis.Redis`` name the server.
    :param autoclean_interval: the lease of ``get``: seconds after which an item that was got and never settled is ready
        again. None: never automatically.
    :param serializer: an object with ``dumps(payload) -> str | bytes`` and ``loads(bytes) -> payload``, or ``"json"``,
        ``"pickle"`` or ``"raw"``. None means raw: payloads are bytes, text and numbers, and come back as bytes, or as
        ``str`` if the client has ``decode_responses``.
    :param max_deliveries: after so many deliveries without an ack the item is dead; None: never.
    :param max_crashes: after so many deliveries that killed the consumer the item is dead; None: never.
    :param max_length: the most ready and delayed items; a put beyond it raises QueueFull. None: no limit.
    :param max_payload_bytes: a larger payload raises PayloadTooLarge; None: no limit.
    :param max_in_flight: the most items in flight at one time, across all consumers; None: no limit.
    :param rate: the most items handed out, across all consumers, such as ``"10/s"``; None: no limit.
    :param unique_for: how many seconds after the ack of an item a uid of your own counts as there; None: none.
    :param backoff: how long an item that failed in ``processing`` waits.
    :param timeout: seconds until the reply to a call begins, repeats included; None: 5. More than 900 count as 900.
        The wait of ``get`` for an item does not count. A transfer that has begun is cut after so many seconds of
        silence, when it is slower than 32 KiB/s, or after 15 minutes.
    :param put_timeout: the same for a put, for which a request may wait; None: 2, or ``timeout`` if that is less.
    :param cluster: the keys are ``srq:{<name>}:…``, so that a cluster keeps them together.
    :param client: a ``redis.Redis`` to take address and options from, instead of ``url``.
    :param link: the link of another queue to the same server, with its time limit, instead of ``url`` and ``timeout``.
    :param alias: names the queue in messages and signals; None: ``name`` does.
    :param kwargs: options of the redis client.
    """

    # This is one long class so that the reader finds all methods with their docstrings on one page. The code behind
    # them is in the modules of ``queue/``.

    time_zone: dt.tzinfo | None = None  # of a naive ``eta`` and ``until``; None: they are refused

    def __init__(
        self,
        *args: Any,
        name: str = "0",
        url: str | None = None,
        autoclean_interval: float | str | None = AUTOCLEAN_INTERVAL,
        serializer: Serializer | str | None = None,
        max_deliveries: int | None = None,
        max_crashes: int | None = None,
        max_length: int | None = None,
        max_payload_bytes: int | str | None = None,
        max_in_flight: int | None = None,
        rate: Rate | str | None = None,
        unique_for: float | str | None = None,
        backoff: Backoff = Backoff(),  # noqa: B008 (frozen)
        timeout: float | str | None = None,
        put_timeout: float | str | None = None,
        cluster: bool = False,
        client: redis.Redis | None = None,
        link: Link | None = None,
        alias: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.name = arguments.name_of(name)
        self.alias = name if alias is None else alias  # names the queue in messages and signals
        self.keys = Keys(name, cluster)
        self.autoclean_interval = arguments.option_of(autoclean_interval, "autoclean_interval")
        self.max_deliveries = arguments.option_of(max_deliveries, "max_deliveries")
        self.max_crashes = arguments.option_of(max_crashes, "max_crashes")
        self.max_length = arguments.option_of(max_length, "max_length")
        self.max_payload_bytes = arguments.option_of(max_payload_bytes, "max_payload_bytes")
        self.max_in_flight = arguments.option_of(max_in_flight, "max_in_flight")
        self.rate = arguments.rate_of(rate)
        self.unique_for = arguments.option_of(unique_for, "unique_for")
        self.backoff = arguments.backoff_of(backoff)
        self.link = link_of(args, link, client, url, arguments.option_of(timeout, "timeout"), kwargs)
        self.put_timeout = arguments.option_of(put_timeout, "put_timeout")
        options = self.link.pool.connection_kwargs
        decode, encoding = options.get("decode_responses", False), options.get("encoding", "utf-8")
        self.serializer = arguments.serializer_of(serializer) or Raw(decode=decode, encoding=encoding)
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
        unique_for: float | dt.timedelta | None = None,
        timeout: float | None = None,
    ) -> Steps[str]:
        """Put a payload; return its uid. Once ``put`` has returned, the item is stored.

        :param item: the payload, anything that the serializer takes.
        :param uid: 1 to 128 visible ASCII characters of your own. While that uid is in the queue in any state, putting
            it again adds nothing and returns the uid. None: a new UUID, version 7.
        :param strict: raise DuplicateItem when the uid is there already.
        :param delay: seconds or timedelta after which the item is ready, by the server's clock.
        :param eta: the same as a datetime with a time zone.
        :param priority: -100 to 100; items of higher priority are handed out first.
        :param headers: str to str, for the consumer.
        :param unique_for: seconds or timedelta after its ack for which a uid of your own still counts as there, in the
            state ``done``. An item that was dropped or purged may be put again at once. None: that of the queue.
        :param timeout: seconds, instead of the queue's ``put_timeout``.
        :raises PayloadError: the payload cannot be serialised.
        :raises PayloadTooLarge: it has more than ``max_payload_bytes``.
        :raises QueueFull: ``max_length`` is reached.
        :raises DuplicateItem: with ``strict``, the uid is there already; its ``state`` says in which state.
        :raises InvalidArgument: an argument is wrong. As after the errors above, nothing was put.
        :raises OutcomeUnknown: the item may be in the queue: put it again with the same uid.
        """
        seconds = arguments.put_timeout_of(timeout, self.alias)
        watch = Puts(self.alias, "put", headers).begin() if instrumentation.installed else None
        headers = watch.headers if watch else headers
        chosen, calls = self.prepare(
            item, uid=uid, delay=delay, eta=eta, priority=priority, headers=headers, unique_for=unique_for
        )
        steps = puts.put(self, chosen, calls, strict, seconds)
        return watch.over(steps, calls) if watch else steps

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
        unique_for: float | dt.timedelta | None = None,
        timeout: float | None = None,
    ) -> Steps[list[str]]:
        """Put payloads in batches, each in one round trip and entirely or not at all; return their uids.

        A batch has at most 1,000 items, and at most 1 MiB more than its first one. All payloads are serialised before
        the first batch is sent. ``delay``, ``eta``, ``priority``, ``headers`` and ``unique_for`` are those of ``put``,
        for all items alike.

        :param items: the payloads.
        :param uids: of your own, as in ``put``, one for each item.
        :param timeout: seconds for each batch, instead of the queue's ``put_timeout``.
        :raises QueueFull: a batch has no room. The earlier batches stay: the error's ``put`` has their uids, as that of
            any other error has.
        :raises OutcomeUnknown: the error's ``in_doubt`` has the uids of the batch that may be in the queue. Put that
            batch again with ``uids=error.in_doubt``, and the items after it as new ones. With uids of your own, repeat
            the whole call.
        """
        seconds = arguments.put_timeout_of(timeout, self.alias)
        watch = Puts(self.alias, "put", headers).begin() if instrumentation.installed else None
        headers = watch.headers if watch else headers
        terms = puts.terms_of(self, delay, eta, priority, headers, unique_for, own=uids is not None)
        steps = puts.put_many(self, items, uids, terms, seconds)
        return watch.over(steps) if watch else steps

    def prepare(
        self,
        item: Any,
        *,
        uid: str | None = None,
        delay: float | dt.timedelta = 0,
        eta: dt.datetime | None = None,
        priority: int = 0,
        headers: Mapping[str, str] | None = None,
        unique_for: float | dt.timedelta | None = None,
    ) -> tuple[str, list[Call[PutReply]]]:
        """The uid, and the calls that ``put`` would send, checked and serialised, for ``send_puts``, now or later."""
        terms = puts.terms_of(self, delay, eta, priority, headers, unique_for, own=uid is not None)
        return puts.prepare(self, item, uid, terms)

    @sync_method
    def send_puts(
        self, calls: Iterable[Call[PutReply]], uids: Sequence[str], *, timeout: float | None = None
    ) -> Steps[list[str]]:
        """Send the calls of ``prepare``; per item "" when it was added, else the state that its uid already has."""
        seconds = arguments.put_timeout_of(timeout, self.alias)
        if not instrumentation.installed:
            return puts.add(self, calls, uids, seconds)
        calls = list(calls)
        return Puts(self.alias, "send", None).begin().over(puts.add(self, calls, uids, seconds), calls, uids)

    # -- get

    @sync_method
    def get(self, timeout: float = 0) -> Steps[Item]:
        """Take the next item; ``(None, None)``, which is falsy, when there is none.

        The item is in flight until it is settled (ack, fail, release) or its lease of ``autoclean_interval`` ends.
        After a crash of the caller the lease ends, and the item is ready again. An item that cannot be decoded is set
        aside as dead, and the next one is taken.

        :param timeout: 0 blocks for ever, a positive number so many seconds, a negative one not at all.
        :raises OutcomeUnknown: no reply came in time. If an item was taken, it comes back when its lease ends. With
            ``cut_short``, a reply could not be read to its end: the item has failed, and goes to the back.
        """
        return gets.get(self, timeout)

    @sync_method
    def get_many(self, n: int, timeout: float = -1) -> Steps[list[Item]]:
        """Take up to ``n`` items in one round trip; an empty list when there is none.

        The items have at most 1 MiB more than the first of them, so it may return fewer large items than are ready.
        When the reply cannot be read to its end, all items go back to their places, and a single one is taken.

        :param n: 1 to 1,000.
        :param timeout: how long to wait while there is no item, as in ``get``.
        """
        return gets.get_many(self, n, timeout)

    def claim(
        self,
        consumer: str,
        *,
        lease: float,
        n: int = 1,
        acks: Iterable[DeliveryRef] = (),
        results: Sequence[bytes] = (),
        limited: bool = True,
    ) -> Call[ClaimReply]:
        """The call that claims up to n items for a consumer, by the rules of this queue; lease in seconds.

        acks, results: as in ``operations.ack``.
        """
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
            results=results,
        )

    def consume(self, timeout: float = 0) -> Iterator[Item]:
        """Take items one after the other, until ``get(timeout)`` finds none. The caller has to settle them.

        :param timeout: how long to wait for each item, as in ``get``; with 0 the iteration never ends.
        """
        warn_of_blocking("consume", "aconsume")
        while item := self.get(timeout):
            yield item

    def processing(self, timeout: float = 0) -> Processing:
        """Get an item for a ``with`` block: acked when the block succeeds, failed with the error when it raises.

        The block's exception goes on to the caller, except RetryLater, Discard and Reject, which end here. A failed
        item waits by ``backoff``. When there is no item, the block gets a falsy ``Item``. Nobody renews the lease: a
        block that may take longer than ``autoclean_interval`` has to call ``extend``. The result is a decorator, too:
        each call of the function gets an item of its own, which it does not see.

        :param timeout: how long to wait for the item, as in ``get``.
        """
        return Processing(self, timeout)

    # -- settle

    @sync_method
    def ack(self, item: Item | str) -> Steps[bool]:
        """Remove an item: its work is done. Returns whether this call removed it.

        :param item: an ``Item``: it is removed wherever it is now, even if its lease ended meanwhile. Or a uid: the
            item is removed only if it is in flight.
        """
        return settlements.ack(self, item)

    @sync_method
    def ack_many(self, items: Iterable[Item | str]) -> Steps[list[bool]]:
        """Ack items in batches of 1,000, each in one round trip; per item whether this call removed it.

        :param items: as in ``ack``.
        """
        return settlements.ack_many(self, items)

    @sync_method
    def fail(
        self, item: Item | str, error: BaseException | str | None = None, delay: float | dt.timedelta = 0
    ) -> Steps[str | None]:
        """Give an item back as failed: ready at the back, delayed, or dead when its deliveries are used up.

        Returns the item's new state: ``ready``, ``delayed`` or ``dead``. None: nothing changed, because the caller does
        not hold the item any more, or because the item of a plain uid is not in flight.

        :param item: an ``Item``, or the uid of an item in flight.
        :param error: an exception or a text, which is stored with the item. A ``Reject`` makes the item dead at once.
        :param delay: seconds or timedelta until the item is ready again; ``backoff`` does not apply.
        """
        return settlements.fail(self, item, error, delay)

    @sync_method
    def fail_many(
        self,
        items: Iterable[Item | str],
        error: BaseException | str | None = None,
        delay: float | dt.timedelta = 0,
    ) -> Steps[list[str | None]]:
        """Give items back as failed, in batches of 990, each in one round trip; per item what ``fail`` returns.

        :param items: as in ``fail``; so are ``error`` and ``delay``, which are the same for all items.
        """
        return settlements.fail_many(self, items, error, delay)

    @sync_method
    def extend(self, item: Item | str, seconds: float | None = None) -> Steps[bool]:
        """Make the lease of an item last so many seconds from now; return whether the caller holds the item.

        A lease that has ended is taken back if no consumer took the item since. False: another consumer has the item,
        or it is settled; stop working on it.

        :param item: an ``Item``, or the uid of an item in flight.
        :param seconds: None: ``autoclean_interval``, or 60 if that is None.
        """
        return settlements.extend(self, item, seconds)

    @sync_method
    def release(self, item: Item | str) -> Steps[bool]:
        """Give an item back unstarted: to its old place, no delivery counted. False: the caller does not hold it.

        :param item: an ``Item``, or the uid of an item in flight.
        """
        return settlements.release(self, item)

    # -- look

    def __len__(self) -> int:
        """How many items are ready."""
        warn_of_blocking("len", "acounts")
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
        return self._look()

    def _look(self) -> Steps[Counts]:
        counts = yield from send(self, operations.counts(self.keys))
        if counts.layout not in (None, LAYOUT):  # the script reads any layout, so that the status can tell
            found = f"its layout has version {counts.layout}, this package knows {LAYOUT}"
            raise LayoutError(f"queue {self.alias!r} ({self.link.address}): {found}: upgrade django-srq here")
        return counts

    def items(self, state: str = "ready") -> Iterator[Item]:
        """Look at the items of a state without taking them, ready ones in the order in which they will be served.

        Reads pages of at most 100 items. The queue is in use meanwhile: an item that moves may be seen twice or not at
        all. A payload that cannot be decoded is returned as bytes.

        :param state: ``ready``, ``in_flight``, ``delayed`` or ``dead``.
        """
        warn_of_blocking("items", "aitems")
        offset: int | None = 0
        while offset is not None:
            items, offset = self.page(state, offset)
            yield from items

    @sync_method
    def page(self, state: str, offset: int = 0) -> Steps[tuple[list[Item], int | None]]:
        """Look at up to 100 items of a state from an offset on; the items, and the next offset (None: no more).

        The items have at most 1 MiB more than the first of them. Only the next offset tells whether there are more.

        :param state: as in ``items``.
        :param offset: how many items to leave out.
        """
        if state not in STATES:
            raise InvalidArgument(f"queue {self.alias!r}: no state {shown(state)}; known: {', '.join(STATES)}")
        first = arguments.offset_of(offset, self.alias)
        call = operations.list_items(
            self.keys, state, anchor=f"from {first}", count=PAGE, look=PAGE, largest=-1, most_bytes=MOST_BYTES
        )
        page = yield from send(self, call)
        return [Item(view.uid, self._loaded(view), view.delivery) for view in page.items], page.following

    def _loaded(self, view: ItemView) -> Any:
        try:
            return load(self.serializer, view.payload, queue=self.alias, uid=view.uid)
        except PayloadError:
            return view.payload

    @sync_method
    def states(self, *uids: str) -> Steps[list[str | None]]:
        """The state of each item; None: it is not in the queue.

        :param uids: of the items.
        """
        states: list[str | None] = []
        for batch in batches(arguments.uids_of(uids, self.alias)):
            states += map(state_of, (yield from send(self, operations.find(self.keys, batch))))
        return states

    @sync_method
    def audit(self) -> Steps[list[str]]:
        """Check that every item is in exactly one place; a sentence for each finding. O(queue), in batches."""
        return audit(self.link, self.keys, self.alias)

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
        """Make dead items ready again, at the back, their deliveries counted anew; returns how many.

        Items in other states stay as they are: ``states`` tells which, and ``run_now`` is for delayed ones. Items that
        die after the call began stay dead. Works in batches of at most 1,000 items.

        :param uids: of the items; without uids, all dead items or those that ``error``, ``older_than`` and ``limit``
            choose.
        :param error: only items with this error: its group as in the status view, its type, or the name of its class.
        :param older_than: only items that died longer ago than this, in seconds or as a timedelta.
        :param limit: at most so many items, the oldest deaths first.
        :param on_batch: called after each batch with the number of items requeued in it. An exception of it ends the
            call there.
        """
        return maintenance.requeue(self, uids, error, older_than, limit, on_batch)

    @sync_method
    def run_now(
        self,
        *uids: str,
        error: str | None = None,
        older_than: float | dt.timedelta = 0,
        limit: int | None = None,
        on_batch: Callable[[int], object] | None = None,
    ) -> Steps[int]:
        """Make delayed items ready now, at the back, their deliveries kept; returns how many.

        Items that fail after the call began stay delayed. Works in batches of at most 1,000 items.

        :param uids: of any delayed items, also of those that were put with a delay. Without uids, all items that are
            retrying, which means delayed after an error, or those that ``error``, ``older_than`` and ``limit`` choose.
        :param error: as in ``requeue``.
        :param older_than: only items whose last failure is longer ago than this, in seconds or as a timedelta.
        :param limit: at most so many items, those that are due first.
        :param on_batch: as in ``requeue``.
        """
        return maintenance.run_now(self, uids, error, older_than, limit, on_batch)

    @sync_method
    def count_dead(self, *, error: str | None = None, older_than: float | dt.timedelta = 0) -> Steps[dict[str, int]]:
        """How many dead items ``requeue`` or ``purge`` would take, by the group of their error. O(dead), in batches.

        :param error: as in ``requeue``; so is ``older_than``.
        """
        return maintenance.count_dead(self, error, older_than)

    @sync_method
    def count_retrying(
        self, *, error: str | None = None, older_than: float | dt.timedelta = 0
    ) -> Steps[dict[str, int]]:
        """How many items ``run_now`` would make ready without uids, by the group of their error. O(delayed).

        :param error: as in ``run_now``; so is ``older_than``.
        """
        return maintenance.count_retrying(self, error, older_than)

    @sync_method
    def drop(self, *uids: str) -> Steps[int]:
        """Delete items in any state but in flight; returns how many.

        Of an item that is done, the result is deleted. A uid that counts as there by ``unique_for`` may be put again at
        once, also when its item is done.

        :param uids: of the items.
        """
        return maintenance.drop(self, uids)

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
        """Delete the items of a state, in batches of at most 1,000; returns how many.

        Spares items in flight, and items that arrive after the call began.

        :param state: ``ready``, ``delayed`` or ``dead``; None: all three, and also the results of items that are done.
        :param error: with ``dead`` as in ``requeue``; with ``delayed`` as in ``run_now``.
        :param older_than: the same; with ``delayed`` only together with ``error``.
        :param limit: the same.
        :param on_batch: called after each batch with the number of items deleted in it. An exception of it ends the
            call there.
        """
        return maintenance.purge(self, state, error, older_than, limit, on_batch)

    @sync_method
    def purge_results(self, *, on_batch: Callable[[int], object] | None = None) -> Steps[int]:
        """Delete the results of items that are done, in batches of at most 1,000; returns how many.

        :param on_batch: as in ``purge``.
        """
        return maintenance.purge_results(self, on_batch)

    @sync_method
    def recover(self, *, on_batch: Callable[[int, int], object] | None = None) -> Steps[int]:
        """Recover items whose leases have ended, also with ``autoclean_interval=None``; returns how many are ready.

        Works in batches of 100 leases.

        :param on_batch: called after each batch with the number of items that are ready again, and the number of leases
            that had ended. The other items are dead, as their deliveries or crashes are used up. An exception of it
            ends the call there.
        """
        return maintenance.recover(self, on_batch)

    @sync_method
    def ended_leases(self) -> Steps[int]:
        """How many leases have ended and are not recovered yet: ``recover`` would look at these."""
        return maintenance.ended_leases(self)

    @sync_method
    def pause(self, reason: str = "", *, by: str = "", until: dt.datetime | None = None) -> Steps[bool]:
        """Hand out no items until ``resume()`` or ``until``. False: it was paused already.

        Items in flight stay with their consumers, and items can still be put.

        :param reason: shown in the status.
        :param by: who pauses it, shown in the status.
        :param until: a datetime with a time zone; None: until ``resume()``.
        """
        return maintenance.pause(self, reason, by, until)

    @sync_method
    def resume(self) -> Steps[bool]:
        """End a pause. Returns False when there was none."""
        return send(self, operations.resume(self.keys))

    @sync_method
    def move(self, target: SafeRedisQueue, limit: int | None = None) -> Steps[int]:
        """Move ready items to another queue, oldest first, uids kept; returns how many.

        One at a time: claimed here, put there, acked here. A crash in between leaves the item in both queues, in flight
        here. Moving it again within an hour does not put it there a second time, even if it was handled there
        meanwhile. Neither ``rate`` nor ``max_in_flight`` applies.

        :param target: the other queue, which may be on another server.
        :param limit: at most so many items; None: all that are ready.
        :raises QueueFull: the target has no room for an item. That item and those after it stay here.
        :raises DuplicateItem: the target has the uid of an item already. That item and those after it stay here.
        """
        return moves.move(self, target, limit)

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
    arun_now = async_method(run_now)
    acount_dead = async_method(count_dead)
    acount_retrying = async_method(count_retrying)
    adrop = async_method(drop)
    apurge = async_method(purge)
    apurge_results = async_method(purge_results)
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
            if not await arun(settlements.settle(self, item, error)):
                raise
        else:
            await arun(settlements.settle(self, item))

    # -- saferedisqueue's names

    def push(self, item: Any) -> str:
        """Deprecated alias of ``put``, without its other arguments.

        :param item: the payload.
        """
        warnings.warn("push is put now; the alias ends in django-srq 2.0", DeprecationWarning, stacklevel=2)
        return self.put(item)

    def pop(self, timeout: float = 0) -> Item:
        """Deprecated alias of ``get``.

        :param timeout: as in ``get``.
        """
        warnings.warn("pop is get now; the alias ends in django-srq 2.0", DeprecationWarning, stacklevel=2)
        return self.get(timeout)
