"""Renews the leases of the items in hand, and keeps the consumer's entry in the queues up to date.

A lease is a consumer's right to an item for a limited time. When it ends, another consumer may get the item.

Each server has its own thread, so no server waits for another. Nothing here waits for a log.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from django_srq import operations
from django_srq.consumer.clock import lease_time
from django_srq.consumer.durability import possible_losses
from django_srq.consumer.ledger import ACKING, RUNNING, Entry, Ledger
from django_srq.consumer.log import guarded
from django_srq.consumer.log_thread import LogThread
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.worker.claims import claim_slots
from django_srq.exceptions import SRQError
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.version import __version__

logger = guarded("django_srq.consumer")

# Seconds after which the consumer's entry in a queue is renewed, if nothing else has renewed it; or two leases, if that
# is longer. The status takes a consumer for lost after 15 s, or three leases.
UNTOLD = 12.0
PATIENCE = 1.0  # seconds for a call; or a third of the shortest lease, if that is less
LONGEST_INTERVAL = 5.0  # seconds between two rounds
RETRY = 0.5  # seconds between two rounds while there is trouble
LATE = 1 / 3  # share of a lease; with less left, its renewal is late
OVERDUE = 1 / 2  # share of a lease; with less left, a child renews it itself
LAST_LINES = 1.0  # seconds that a log has for its last records at the end of a process


class Leases:
    """Renews the leases of all items in some ledgers: one call for each queue, each third of the shortest lease.

    ``renew_until`` does so again and again: in the keeper for all children, or in a thread if there is no supervisor.
    When that process dies, the leases end, and the items are ready again.
    """

    def __init__(
        self,
        consumer: str,
        subscriptions: Sequence[Subscription],
        tables: Callable[[], Iterable[Ledger]],
        *,
        about: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        """tables: the ledgers, asked for in each round. about: further fields of the consumer's entry."""
        self.log = LogThread(logger)
        self.log_hangs = False  # the log did not take its last records in time
        self.servers = [
            ServerLeases(
                consumer,
                {
                    place: subscription
                    for place, subscription in enumerate(subscriptions)
                    if subscription.queue.link is link
                },
                [subscription.queue.alias for subscription in subscriptions],
                tables,
                shortest=min(subscription.lease for subscription in subscriptions),
                about=about,
                log=self.log,
            )
            for link in dict.fromkeys(subscription.queue.link for subscription in subscriptions)
        ]

    @property
    def trouble(self) -> str:
        """A trouble with a server, while it lasts; "" for none."""
        return next((server.trouble for server in self.servers if server.trouble), "")

    def renew(self) -> None:
        """One round over all queues."""
        for server in self.servers:
            server.renew()

    def renew_until(self, ended: threading.Event) -> None:
        """Renew the leases now and at intervals, until the event is set. Blocks.

        Each server has a thread of its own, the last one the caller's.
        """
        self._for_each(lambda server: server.keep_on(server.renew, server.pause, ended))
        self.log_hangs = not self.log.flush(LAST_LINES)

    def renew_overdue_until(self, ended: threading.Event) -> None:
        """Renew only leases that the keeper did not renew in time, until the event is set. Blocks."""
        self._for_each(lambda server: server.keep_on(server.renew_overdue, lambda: server.interval / 2, ended))

    def _for_each(self, work: Callable[[ServerLeases], None]) -> None:
        *others, last = self.servers
        threads = [threading.Thread(target=work, args=[one], name="srq-leases", daemon=True) for one in others]
        for thread in threads:
            thread.start()
        work(last)
        for thread in threads:
            thread.join()

    def sign_off(self) -> None:
        """Remove the consumer's entries from the queues. On a server that is away the entry gets old and is trimmed."""
        for server in self.servers:
            server.sign_off()


class ServerLeases:
    """The leases of one server's queues."""

    def __init__(
        self,
        consumer: str,
        subscriptions: Mapping[int, Subscription],
        labels: Sequence[str],
        tables: Callable[[], Iterable[Ledger]],
        *,
        shortest: float,
        about: Callable[[], Mapping[str, object]],
        log: LogThread,
    ) -> None:
        """subscriptions: by their indexes, those of this server. labels: the aliases of all the consumer's queues.

        shortest: the shortest lease of all its queues (seconds).
        """
        self.interval = shortest / 3  # seconds
        self.trouble = ""  # a trouble with the server, while it lasts
        self.met: Callable[[str], None] = lambda trouble: None  # called when the trouble changes, "" at its end
        self.late = 0  # how often renewals became late, or overdue
        self._patience = min(PATIENCE, self.interval)
        self._untold = max(UNTOLD, 2 * shortest)  # seconds
        self._consumer, self._subscriptions, self._labels, self._tables = consumer, subscriptions, labels, tables
        self._about, self._log = about, log
        self._pid, self._born = os.getpid(), time.monotonic()
        self._since = 0  # the moment at which this process began (ms, by the server's clock)
        self._clock = 0  # how far the server's clock is ahead of time.monotonic() (ms)
        self._told = dict.fromkeys(subscriptions, float("-inf"))  # when each queue last got the consumer's entry
        self._warned: set[tuple[str, str]] = set()  # deliveries (uid, token) whose lost leases were logged
        self._looked_at = False  # whether the server was asked what it may lose
        self._tardy: set[int] = set()  # indexes of the queues whose leases were renewed late in the last round

    def pause(self) -> float:
        """Seconds until the next round."""
        return min(self.interval, RETRY if self.trouble else LONGEST_INTERVAL)

    def keep_on(self, renew: Callable[[], None], pause: Callable[[], float], ended: threading.Event) -> None:
        while True:
            try:
                renew()
            except Exception:  # any error: the next round may succeed, and without one all leases would end
                self._log.log(logging.ERROR, "cannot renew the leases of what is in hand", error=True)
            if ended.wait(pause()):
                return

    def renew(self) -> None:
        """One round over the queues; a call that the server does not take is made again in the next round."""
        tables = list(self._tables())
        # Read before the items: a claim's items may be written down meanwhile, and would be missed in the other order.
        claims = _claims(tables)
        in_hand = _by_source(tables)
        trouble = ""
        for place, subscription in self._subscriptions.items():
            mine = in_hand.get(place, [])
            unread = [slot for asked, slot in claims if asked == place]
            # While there is trouble, a call goes to every queue: only a reply shows that the trouble is over.
            if mine or unread or self.trouble or time.monotonic() - self._told[place] > self._untold:
                began = time.monotonic()
                try:
                    self._tell(place, subscription, mine, unread)
                except SRQError as error:
                    trouble = trouble or f"queue={subscription.queue.alias} error={error}"
                    if time.monotonic() - began > self._patience / 2:
                        break  # the server is away; after a quick refusal for one queue it may take the others
        if trouble != self.trouble:
            self.trouble = trouble
            self.met(trouble)
        self._warned &= {(entry.held.uid, entry.held.token) for mine in in_hand.values() for _, entry in mine}

    def renew_overdue(self) -> None:
        """Renew leases that should have been renewed by now. The consumer's entry stays as it is."""
        in_hand = _by_source(self._tables())
        for place, subscription in self._subscriptions.items():
            late = in_hand.get(place, [])
            if not any(_left(entry, subscription) < OVERDUE for _, entry in late):
                self._tardy.discard(place)
                continue
            self._say_late(place, f"leases overdue, renewing them in the child queue={subscription.queue.alias}")
            try:
                self._extend(
                    subscription, late, [slot for asked, slot in _claims(self._tables()) if asked == place], b""
                )
            except SRQError:  # the worker meets the same trouble, and reports it
                continue

    def _tell(
        self, place: int, subscription: Subscription, mine: Sequence[tuple[Ledger, Entry]], unread: Sequence[bytes]
    ) -> None:
        if not self._since:
            self._sign_on(subscription.queue)
        self._look_at_time(place, subscription, [entry for _, entry in mine])
        about = self._entry([entry for _, entry in mine if entry.state != ACKING])
        if mine or unread:
            self._extend(subscription, mine, unread, about)
        else:
            self._enlist(subscription.queue, about)
        self._told[place] = time.monotonic()
        if not self._looked_at:
            self._looked_at = True
            for words in possible_losses(subscription.queue, self._patience):
                self._log.log(logging.WARNING, *words)

    def _extend(
        self, subscription: Subscription, mine: Sequence[tuple[Ledger, Entry]], unread: Sequence[bytes], about: bytes
    ) -> None:
        queue = subscription.queue
        call = operations.extend(
            queue.keys,
            [entry.held for _, entry in mine],
            lease=subscription.lease,
            recover=queue.autoclean_interval is not None,
            consumer=self._consumer,
            about=about,
            claims=unread,
        )
        until = lease_time() + subscription.lease  # at the earliest, as the server counts from a later moment
        kept = queue.link.call(call, queue=queue.alias, timeout=self._patience)
        for (table, entry), keeps in zip(mine, kept, strict=True):
            table.renew(entry, until if keeps else 0)
            if not keeps:
                self._warn(queue.alias, entry)

    def _sign_on(self, queue: SafeRedisQueue) -> None:
        now = self._enlist(queue, b'{"state":"starting"}')
        self._clock = now - round(time.monotonic() * 1000)
        self._since = self._clock + round(self._born * 1000)

    def _enlist(self, queue: SafeRedisQueue, about: bytes) -> int:
        """Write the consumer's entry into a queue. Returns the server's time (ms)."""
        call = operations.register(queue.keys, self._consumer, about)
        return queue.link.call(call, queue=queue.alias, timeout=self._patience)

    def _look_at_time(self, place: int, subscription: Subscription, in_hand: Sequence[Entry]) -> None:
        if any(_left(entry, subscription) < LATE for entry in in_hand):
            self._say_late(place, f"leases renewed late queue={subscription.queue.alias}")
        else:
            self._tardy.discard(place)

    def _say_late(self, place: int, words: str) -> None:
        """Log it once, and again only after a round in time."""
        if place not in self._tardy:
            self._tardy.add(place)
            self.late += 1
            self._log.log(logging.WARNING, "%s", words)

    def _warn(self, queue: str, entry: Entry) -> None:
        # Only if the item still runs: the ledger may have changed since it was read, and an item that does not run may
        # just have been settled.
        delivery = (entry.held.uid, entry.held.token)
        if (
            entry.state == RUNNING
            and delivery not in self._warned
            and any(one == entry for table in self._tables() for one in table)
        ):
            self._warned.add(delivery)
            self._log.log(logging.WARNING, "lease lost queue=%s uid=%s", queue, entry.held.uid)

    def sign_off(self) -> None:
        for subscription in self._subscriptions.values():
            call = operations.register(subscription.queue.keys, self._consumer, b"")
            try:
                subscription.queue.link.call(call, queue=subscription.queue.alias, timeout=PATIENCE)
            except SRQError:
                return

    def _entry(self, in_hand: Sequence[Entry]) -> bytes:
        entry: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": self._pid,
            "since": self._since,
            "version": __version__,
            "queues": self._labels,
            "state": "busy" if in_hand else "idle",
            **({"renewed_late": self.late} if self.late else {}),
            **self._about(),
            "in_hand": [
                {"uid": entry.held.uid, "since": self._clock + round(entry.started * 1000) if entry.started else None}
                for entry in in_hand[:100]
            ],
        }
        return json.dumps(entry).encode()


def _claims(tables: Iterable[Ledger]) -> list[tuple[int | None, bytes]]:
    """The slots of claims that may hold items which are not written down yet, each with the subscription's index."""
    found: list[tuple[int | None, bytes]] = []
    for table in tables:
        found += [(place, table.slot) for place in (table.claiming, *(place for place, _ in table.claims_put_off))]
        if table.arriving:  # a claim behind a wait is made only with a single subscription
            found.append((0, claim_slots(table.slot.decode())[1]))
    return found


def _by_source(tables: Iterable[Ledger]) -> dict[int, list[tuple[Ledger, Entry]]]:
    found: dict[int, list[tuple[Ledger, Entry]]] = {}
    for table in tables:
        for entry in table:
            found.setdefault(entry.subscription, []).append((table, entry))
    return found


def _left(entry: Entry, subscription: Subscription) -> float:
    """How much of an item's lease is left, as a share. 1 if a renewal was refused: nothing is left to be renewed."""
    return (entry.until - lease_time()) / subscription.lease if entry.until else 1.0
