"""The consumer: takes items of one or more queues in turn, calls their handlers, acks or fails them."""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from django_srq import failure, operations
from django_srq.backoff import Backoff
from django_srq.consumer.leases import Leases
from django_srq.exceptions import OutcomeUnknown, QueueUnavailable
from django_srq.item import Item
from django_srq.operations import Call, ClaimReply, Held
from django_srq.queue import LOOK, SafeRedisQueue
from django_srq.slots import Slot, slots
from django_srq.version import __version__

logger = logging.getLogger("django_srq.consumer")
T = TypeVar("T")

LONGEST_PAUSE = 1.0  # seconds between looks at a server that is away
LAST_WORDS = 10.0  # seconds in which a stopping consumer must be able to say what became of its item


@dataclass(frozen=True)
class Source:
    """A queue and what is done with its items. handle returns: acked; it raises: failed with the error."""

    queue: SafeRedisQueue
    handle: Callable[[Item], object]
    lease: float = 15.0  # seconds; renewed at a third
    backoff: Backoff = field(default_factory=Backoff)


class _StoppedIdle(BaseException):
    """Raised by ``stop`` in a signal handler to end the wait for items at once."""


class Consumer:
    """Serves the sources in their order: an item of a later one is taken when the earlier ones have none.

    One item at a time, in the thread that calls ``run``. Its lease is renewed meanwhile; when the process dies, the
    item comes back when the lease ends, with the crash counted. A server that is away is waited for.
    """

    def __init__(self, sources: Sequence[Source], *, burst: bool = False, max_items: int | None = None) -> None:
        """burst: end when there is nothing ready. max_items: end after so many items."""
        self.id = f"c{slots.process}"
        self.handled = 0
        self._sources = list(sources)
        self._burst, self._max_items = burst, max_items
        self._stopping = threading.Event()
        self._idle = False
        self._done: tuple[Source, Held] | None = None  # handled, not acked yet: acked with the next claim
        self._since = 0  # ms by the server's clock
        self._told = 0.0  # when the servers last heard about us
        self._leases = Leases(min(source.lease for source in sources) / 3, self._about, self.id)
        self._away = False

    def stop(self) -> None:
        """Finish the item in hand and return from ``run``. Safe in a signal handler of the thread that runs."""
        self._stopping.set()
        if self._idle and threading.current_thread() is self._thread:
            raise _StoppedIdle

    def run(self) -> int:
        """Handle items until stopped; returns how many. Blocks."""
        self._thread = threading.current_thread()
        self._leases.start()
        try:
            self._register()
            self._loop()
        except _StoppedIdle:
            pass
        finally:
            self._leases.stop()
            self._sign_off()
        return self.handled

    def _loop(self) -> None:
        woken: Source | None = None
        while not self._is_over():
            source, item, wait = self._take(woken)
            woken = None
            if item is not None and source is not None:
                self._handle(source, item)
            elif wait != 0:
                if self._burst:
                    return
                woken = self._wait(wait)

    def _is_over(self) -> bool:
        return self._stopping.is_set() or (self._max_items is not None and self.handled >= self._max_items)

    # -- taking

    def _take(self, woken: Source | None) -> tuple[Source | None, Item | None, float | None]:
        """The next item and its source; else the seconds until it is worth asking again (None: no known moment)."""
        # A wake token was for that queue: whoever took it goes there first.
        order = [woken, *(one for one in self._sources if one is not woken)] if woken else self._sources
        shortest: float | None = None
        about = self._news()
        for source in order:
            items, wait = self._claim(source, about)
            if items:
                return source, items[0], None
            shortest = wait if shortest is None else shortest if wait is None else min(shortest, wait)
            if wait == 0 or self._stopping.is_set():
                return None, None, 0
        return None, None, shortest

    def _claim(self, source: Source, about: bytes) -> tuple[list[Item], float | None]:
        acks = self._acks_for(source)
        queue = source.queue
        reply: ClaimReply | None = self._insist(
            lambda: operations.claim(
                queue.keys,
                consumer=self.id,
                lease=source.lease,
                legacy_lease=queue.lease,
                recover=queue.autoclean_interval is not None,
                max_deliveries=queue.max_deliveries,
                max_crashes=queue.max_crashes,
                about=about,
                acks=acks,
            ),
            queue,
        )
        if reply is None:
            return [], 0
        if acks:
            self._acked(reply.acked[0])
        found = queue.decoded(reply.found)
        if found and self._stopping.is_set():
            self._insist(lambda: operations.release(queue.keys, [_held(found[0])]), queue)
            return [], 0
        return found, 0 if reply.found and not found else reply.wait

    def _acks_for(self, source: Source) -> list[Held]:
        """The ack that goes with a claim from the same queue; one for another queue is sent ahead."""
        if self._done is None:
            return []
        if self._done[0] is not source:
            self._ack()
            return []
        return [self._done[1]]

    def _wait(self, wait: float | None) -> Source | None:
        """Wait for a wake token; the source that it was for. At most so many seconds."""
        seconds = min([LOOK, *(source.lease for source in self._sources), *([wait] if wait is not None else [])])
        servers = list(dict.fromkeys(source.queue.link for source in self._sources))
        # One blocked connection: with several servers they take turns.
        link = servers[0] if len(servers) == 1 else random.choice(servers)
        mine = [source for source in self._sources if source.queue.link is link]
        share = seconds / len(servers)
        self._idle = True
        try:
            if self._stopping.is_set():
                return None
            command = operations.wait([source.queue.keys for source in mine], share)
            rung = link.wait(command, share, queue=mine[0].queue.label)
        except QueueUnavailable:
            return None  # the next claim says what is wrong
        finally:
            self._idle = False
        return next((source for source in mine if source.queue.keys["wake"] == rung), None)

    # -- handling

    def _handle(self, source: Source, item: Item) -> None:
        self._leases.hold(source.queue, item, source.lease)
        started = time.monotonic()
        try:
            source.handle(item)
        except Exception as error:
            self._fail(source, item, error, time.monotonic() - started)
        except BaseException:
            # The process is being ended in mid-item: counted as a delivery, ready again at once.
            self._insist(lambda: operations.fail(source.queue.keys, _held(item)), source.queue)
            raise
        else:
            self._done = (source, _held(item))
            _log(logging.INFO, "acked", source, item, time.monotonic() - started)
        self.handled += 1

    def _fail(self, source: Source, item: Item, error: Exception, seconds: float) -> None:
        queue = source.queue
        described = failure.describe(error, consumer=self.id)
        delay = source.backoff.delay(item.deliveries)
        state = self._insist(
            lambda: operations.fail(
                queue.keys, _held(item), error=described, delay=delay, max_deliveries=queue.max_deliveries
            ),
            queue,
        )
        self._leases.let_go()
        _log(logging.ERROR, f"failed state={state or 'lost'}", source, item, seconds, error)

    def _ack(self) -> None:
        if self._done is not None:
            source, held = self._done
            flags = self._insist(lambda: operations.ack(source.queue.keys, [held]), source.queue)
            if flags is not None:
                self._acked(flags[0])

    def _acked(self, removed: bool) -> None:
        if not removed and self._done is not None:
            logger.warning("was settled already queue=%s uid=%s", self._done[0].queue.label, self._done[1].uid)
        self._done = None
        self._leases.let_go()

    # -- server trouble

    def _insist(self, make: Callable[[], Call[T]], queue: SafeRedisQueue) -> T | None:
        """Send a call until the server took it: what is finished must be said. None when stopping and it cannot be."""
        slot = slots.borrow()
        try:
            return self._repeat(make, queue, slot)
        finally:
            slots.give_back(slot)

    def _repeat(self, make: Callable[[], Call[T]], queue: SafeRedisQueue, slot: Slot) -> T | None:
        give_up = None
        while True:
            try:
                # In one slot: what was carried out before, though its reply never came, is not done again.
                reply = queue.link.call(make(), queue=queue.label, slot=slot)
                self._note_return(queue)
                return reply
            except (QueueUnavailable, OutcomeUnknown) as error:
                self._note_absence(queue, error)
            if self._stopping.is_set():
                give_up = give_up or time.monotonic() + LAST_WORDS
                if time.monotonic() > give_up or not self._leases.holding:
                    return None
            self._stopping.wait(random.uniform(0, LONGEST_PAUSE))

    def _note_absence(self, queue: SafeRedisQueue, error: Exception) -> None:
        if not self._away:
            logger.error("server unavailable, waiting queue=%s error=%s", queue.label, error)
            self._away = True

    def _note_return(self, queue: SafeRedisQueue) -> None:
        if self._away:
            logger.info("server available again queue=%s", queue.label)
            self._away = False

    # -- being known

    def _about(self) -> bytes:
        about = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": self._since,
            "threads": 1,
            "version": __version__,
            "queues": [source.queue.label for source in self._sources],
        }
        return json.dumps(about).encode()

    def _news(self) -> bytes:
        """What the servers are told about us: at least every LOOK seconds, with a claim."""
        if time.monotonic() - self._told < LOOK * 0.8:
            return b""
        self._told = time.monotonic()
        return self._about()

    def _register(self) -> None:
        for source in self._sources:
            enlist = partial(operations.enlist, source.queue.keys, self.id, self._about())
            self._since = self._since or self._insist(enlist, source.queue) or 0

    def _sign_off(self) -> None:
        self._ack()
        for source in self._sources:
            try:
                call = operations.enlist(source.queue.keys, self.id, b"")
                source.queue.link.call(call, queue=source.queue.label, timeout=1)
            except (QueueUnavailable, OutcomeUnknown):
                return  # the entry goes stale and is trimmed


def _held(item: Item) -> Held:
    assert item.uid is not None
    return Held(item.uid, item.token, item.delivery.number)


def _log(level: int, outcome: str, source: Source, item: Item, seconds: float, error: Exception | None = None) -> None:
    queue = source.queue.label
    fields = {"queue": queue, "uid": item.uid, "deliveries": item.deliveries, "duration": seconds}
    logger.log(
        level,
        "%s queue=%s uid=%s deliveries=%d duration=%.3f%s",
        outcome,
        queue,
        item.uid,
        item.deliveries,
        seconds,
        f" error={type(error).__name__}" if error else "",
        extra={**fields, "outcome": outcome.split()[0], "error": error and type(error).__name__},
        exc_info=error if logger.isEnabledFor(logging.DEBUG) else None,
    )
