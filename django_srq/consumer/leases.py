"""Renews the leases of the items in hand, and keeps the consumer's registrations in the queues up to date.

A lease is a consumer's right to an item for a limited time. When it ends, another consumer may get the item.

Each server has its own thread, so no server waits for another. Nothing here waits for a log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from django_srq import operations
from django_srq.consumer.clock import lease_time
from django_srq.consumer.durability import possible_losses
from django_srq.consumer.ledger import ACKING, RUNNING, Entry, Ledger
from django_srq.consumer.log_thread import LogThread
from django_srq.consumer.outage import trouble_with
from django_srq.consumer.registration import Registration
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.worker.claims import claim_slots
from django_srq.exceptions import SRQError
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.runtime.guarded_log import guarded
from django_srq.transport.link import Link

logger = guarded("django_srq.consumer")

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
        ledgers: Callable[[], Iterable[Ledger]],
        *,
        details: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        """ledgers: asked for in each round. details: further fields of the consumer's registration."""
        self.log = LogThread(logger)
        shortest = min(subscription.lease for subscription in subscriptions)
        aliases = [subscription.queue.alias for subscription in subscriptions]
        timeout = min(PATIENCE, shortest / 3)
        self.servers = [
            ServerLeases(
                link,
                {index: each for index, each in enumerate(subscriptions) if each.queue.link is link},
                ledgers,
                Registration(consumer, aliases, details=details, lease=shortest, timeout=timeout),
                interval=shortest / 3,
                timeout=timeout,
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
        self._for_each(lambda server: server.repeat(server.renew, server.pause, ended))

    def renew_overdue_until(self, ended: threading.Event) -> None:
        """Renew only leases that the keeper did not renew in time, until the event is set. Blocks."""
        self._for_each(lambda server: server.repeat(server.renew_overdue, lambda: server.interval / 2, ended))

    def _for_each(self, work: Callable[[ServerLeases], None]) -> None:
        *others, last = self.servers
        threads = [threading.Thread(target=work, args=[server], name="srq-leases", daemon=True) for server in others]
        for thread in threads:
            thread.start()
        work(last)
        for thread in threads:
            thread.join()

    def sign_off(self, silent: Collection[Link] = (), *, within: float = PATIENCE) -> None:
        """Remove the consumer's registrations. On a server that is away they get old and are trimmed.

        silent: servers that have just not taken other calls. within: seconds that each call to these may take.
        """

        def sign_off(server: ServerLeases) -> None:
            if not server.trouble:
                server.sign_off(within if server.link in silent else PATIENCE)

        self._for_each(sign_off)


class LeaseWarnings:
    """Logs each lease that was lost, and once, until a round comes in time again, that leases are renewed late."""

    def __init__(self, log: LogThread, ledgers: Callable[[], Iterable[Ledger]]) -> None:
        self.late = 0  # how often renewals became late, or overdue
        self._log, self._ledgers = log, ledgers
        self._late_queues: set[SafeRedisQueue] = set()
        self._lost: set[tuple[str, str]] = set()  # deliveries (uid, token) whose lost leases were logged

    def is_late(self, queue: SafeRedisQueue, message: str) -> None:
        if queue not in self._late_queues:
            self._late_queues.add(queue)
            self.late += 1
            self._log.log(logging.WARNING, "%s queue=%s", message, queue.alias)

    def is_in_time(self, queue: SafeRedisQueue) -> None:
        self._late_queues.discard(queue)

    def is_lost(self, queue: SafeRedisQueue, entry: Entry) -> None:
        # Only if the item still runs: the ledger may have changed since it was read, and an item that does not run may
        # just have been settled.
        delivery = (entry.held.uid, entry.held.token)
        if entry.state == RUNNING and delivery not in self._lost and self._is_in_hand(entry):
            self._lost.add(delivery)
            self._log.log(logging.WARNING, "lease lost queue=%s uid=%s", queue.alias, entry.held.uid)

    def _is_in_hand(self, entry: Entry) -> bool:
        return any(entry == current for ledger in self._ledgers() for current in ledger)

    def forget_all_but(self, in_hand: Iterable[Entry]) -> None:
        self._lost &= {(entry.held.uid, entry.held.token) for entry in in_hand}


class ServerLeases:
    """The leases of one server's queues."""

    def __init__(
        self,
        link: Link,
        subscriptions: Mapping[int, Subscription],
        ledgers: Callable[[], Iterable[Ledger]],
        registration: Registration,
        *,
        interval: float,
        timeout: float,
        log: LogThread,
    ) -> None:
        """subscriptions: by their indexes, those of this server. ledgers: see ``Leases``.

        interval: seconds between two rounds at most. timeout: seconds for a call.
        """
        self.link, self.interval = link, interval
        self.trouble = ""  # a trouble with the server, while it lasts
        self.on_trouble: Callable[[str], None] = lambda trouble: None  # called when the trouble changes, "" at its end
        self._subscriptions, self._ledgers, self._registration = subscriptions, ledgers, registration
        self._timeout, self._log = timeout, log
        self._warnings = LeaseWarnings(log, ledgers)
        self._warned_of_losses = False  # the server was asked how it may lose items

    def pause(self) -> float:
        """Seconds until the next round."""
        return min(self.interval, RETRY if self.trouble else LONGEST_INTERVAL)

    def repeat(self, renew: Callable[[], None], pause: Callable[[], float], ended: threading.Event) -> None:
        """Call ``renew`` again and again, with pauses, until the event is set."""
        while True:
            try:
                renew()
            except Exception:  # any error: the next round may succeed, and without one all leases would end
                self._log.log(logging.ERROR, "cannot renew the leases of the items in hand", error=True)
            if ended.wait(pause()):
                return

    def renew(self) -> None:
        """One round over the queues; a call that the server does not take is made again in the next round."""
        ledgers = list(self._ledgers())
        # Read before the items: a claim's items may be written down meanwhile, and would be missed in the other order.
        claims = _claims(ledgers)
        in_hand = _by_subscription(ledgers)
        trouble = ""
        for index, subscription in self._subscriptions.items():
            mine, unread = in_hand.get(index, []), claims.get(index, [])
            # While there is trouble, a call goes to every queue: only a reply shows that the trouble is over.
            if mine or unread or self.trouble or self._registration.is_due(subscription.queue):
                began = time.monotonic()
                try:
                    self._renew_queue(subscription, mine, unread)
                except SRQError as error:
                    trouble = trouble or trouble_with(subscription.queue, error)
                    if time.monotonic() - began > self._timeout / 2:
                        break  # the server is away; after a quick refusal for one queue it may take the others
        if trouble != self.trouble:
            self.trouble = trouble
            self.on_trouble(trouble)
        self._warnings.forget_all_but(entry for mine in in_hand.values() for _, entry in mine)

    def renew_overdue(self) -> None:
        """Renew leases that should have been renewed by now. The consumer's registration stays as it is."""
        in_hand = _by_subscription(self._ledgers())
        for index, subscription in self._subscriptions.items():
            mine = in_hand.get(index, [])
            if not _any_has_less(OVERDUE, mine, subscription):
                self._warnings.is_in_time(subscription.queue)
                continue
            self._warnings.is_late(subscription.queue, "leases overdue, renewing them in the child")
            try:
                self._extend(subscription, mine, _claims(self._ledgers()).get(index, []), b"")
            except SRQError:  # the worker meets the same trouble, and reports it
                continue

    def sign_off(self, within: float) -> None:
        """within: seconds for a call, if that is less than for others."""
        for subscription in self._subscriptions.values():
            try:
                self._registration.remove(subscription.queue, within)
            except SRQError:
                return

    def _renew_queue(
        self, subscription: Subscription, mine: Sequence[tuple[Ledger, Entry]], unread: Sequence[bytes]
    ) -> None:
        queue = subscription.queue
        self._registration.begin(queue)
        if _any_has_less(LATE, mine, subscription):
            self._warnings.is_late(queue, "leases renewed late")
        else:
            self._warnings.is_in_time(queue)
        in_hand = [entry for _, entry in mine if entry.state != ACKING]
        description = self._registration.describe(in_hand, renewed_late=self._warnings.late)
        if mine or unread:
            self._extend(subscription, mine, unread, description)
            self._registration.note_written(queue)
        else:
            self._registration.write(queue, description)
        if not self._warned_of_losses:
            self._warned_of_losses = True
            for message in possible_losses(queue, self._timeout):
                self._log.log(logging.WARNING, *message)

    def _extend(
        self,
        subscription: Subscription,
        mine: Sequence[tuple[Ledger, Entry]],
        unread: Sequence[bytes],
        description: bytes,
    ) -> None:
        queue = subscription.queue
        call = operations.extend(
            queue.keys,
            [entry.held for _, entry in mine],
            lease=subscription.lease,
            recover=queue.autoclean_interval is not None,
            consumer=self._registration.consumer,
            about=description,
            claims=unread,
        )
        until = lease_time() + subscription.lease  # at the earliest, as the server counts from a later moment
        extended = queue.link.call(call, queue=queue.alias, timeout=self._timeout)
        for (ledger, entry), is_extended in zip(mine, extended, strict=True):
            ledger.renew(entry, until if is_extended else 0)
            if not is_extended:
                self._warnings.is_lost(queue, entry)


def _claims(ledgers: Iterable[Ledger]) -> dict[int, list[bytes]]:
    """By the subscription's index: the slots of claims that may hold items which are not written down yet."""
    found: dict[int, list[bytes]] = {}
    for ledger in ledgers:
        claiming = [] if ledger.claiming is None else [ledger.claiming]
        for index in (*claiming, *(index for index, _ in ledger.claims_put_off)):
            found.setdefault(index, []).append(ledger.slot)
        if ledger.arriving:  # a claim behind a wait is made only with a single subscription
            found.setdefault(0, []).append(claim_slots(ledger.slot.decode())[1])
    return found


def _by_subscription(ledgers: Iterable[Ledger]) -> dict[int, list[tuple[Ledger, Entry]]]:
    """By the subscription's index: the entries of the ledgers."""
    found: dict[int, list[tuple[Ledger, Entry]]] = {}
    for ledger in ledgers:
        for entry in ledger:
            found.setdefault(entry.subscription, []).append((ledger, entry))
    return found


def _any_has_less(share: float, mine: Iterable[tuple[Ledger, Entry]], subscription: Subscription) -> bool:
    """Whether less than that share is left of any lease. A lease whose renewal was refused does not count."""
    least = lease_time() + share * subscription.lease
    return any(entry.until and entry.until < least for _, entry in mine)
