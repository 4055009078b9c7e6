"""Renews the leases of what is in hand, and keeps the consumer known."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django_srq import operations
from django_srq.connections import Link
from django_srq.consumer.claims import claim_slots
from django_srq.consumer.clock import lease_time
from django_srq.consumer.hands import RUNNING, SENT, Hand, Hands
from django_srq.consumer.source import Source
from django_srq.exceptions import SRQError
from django_srq.queue import SafeRedisQueue
from django_srq.version import __version__

logger = logging.getLogger("django_srq.consumer")

# Seconds after which a queue is told that the consumer is still there, if nothing else told it; or two leases, if that
# is longer. The status takes it for lost after 15 s, or three leases.
UNTOLD = 12.0
PATIENCE = 1.0  # seconds for a call: while the supervisor waits it sees nothing else


class Leases:
    """Extends the leases of all items in some tables: one call a queue, at a third of the shortest lease.

    Whoever calls ``renew`` from time to time keeps them: a supervisor for its children, or a thread (``renew_until``)
    where there is none. When that dies, the leases end, and the items are ready again.
    """

    def __init__(self, consumer: str, sources: Sequence[Source], tables: Callable[[], Iterable[Hands]]) -> None:
        shortest = min(source.lease for source in sources)
        self.interval = shortest / 3  # seconds
        self._untold = max(UNTOLD, 2 * shortest)  # seconds
        self.trouble = ""  # with a server, while it lasts
        self.about: dict[str, Any] = {}  # what else the consumer's entry says
        self._consumer, self._sources, self._tables = consumer, sources, tables
        self._since = 0  # ms by the server's clock
        self._clock = 0  # what that is ahead of time.monotonic() (ms)
        self._told = dict.fromkeys(range(len(sources)), float("-inf"))
        self._warned: set[tuple[str, str]] = set()

    def renew(self) -> None:
        """One round over all queues; what a server that is away does not take is tried again in the next."""
        tables = list(self._tables())
        # Before what is in hand: what these took may be written down meanwhile.
        claims = [(table.asked, table.slot) for table in tables]
        claims += [(0, claim_slots(table.slot.decode())[1]) for table in tables if table.arriving]  # of the only source
        in_hand = [(table, hand) for table in tables for hand in table]
        trouble, lost = "", set()
        for place, source in enumerate(self._sources):
            mine = [(table, hand) for table, hand in in_hand if hand.source == place]
            unread = [slot for asked, slot in claims if asked == place]
            # While there is trouble every queue is told, as only the servers know when it is over.
            worth = mine or unread or self.trouble or time.monotonic() - self._told[place] > self._untold
            if source.queue.link in lost or not worth:
                continue
            try:
                self._tell(place, source, mine, unread)
            except SRQError as error:
                trouble = trouble or f"queue={source.queue.label} error={error}"
                lost.add(source.queue.link)
        self.trouble = trouble
        self._warned &= {(hand.held.uid, hand.held.token) for _, hand in in_hand}

    def _tell(self, place: int, source: Source, mine: Sequence[tuple[Hands, Hand]], unread: Sequence[bytes]) -> None:
        queue = source.queue
        patience = min(PATIENCE, self.interval)
        if not self._since:
            self._since = self._enlist(queue, b'{"state":"starting"}', patience)
            self._clock = self._since - round(time.monotonic() * 1000)
        about = self._entry([hand for _, hand in mine if hand.state != SENT])
        if not mine and not unread:
            self._enlist(queue, about, patience)
        else:
            call = operations.extend(
                queue.keys,
                [hand.held for _, hand in mine],
                lease=source.lease,
                recover=queue.autoclean_interval is not None,
                consumer=self._consumer,
                about=about,
                claims=unread,
            )
            until = lease_time() + source.lease  # at the earliest: who knows when the reply is read
            kept = queue.link.call(call, queue=queue.label, timeout=patience)
            for (table, hand), keeps in zip(mine, kept, strict=True):
                table.renewed(hand, until if keeps else 0)
                if not keeps:
                    self._warn(queue.label, hand)
        self._told[place] = time.monotonic()

    def _enlist(self, queue: SafeRedisQueue, about: bytes, patience: float) -> int:
        """Make the consumer known; the server's time (ms)."""
        return queue.link.call(
            operations.enlist(queue.keys, self._consumer, about), queue=queue.label, timeout=patience
        )

    def _warn(self, queue: str, hand: Hand) -> None:
        # Its table may have gone on since it was read; what is not running may just have been settled.
        delivery = (hand.held.uid, hand.held.token)
        if (
            hand.state == RUNNING
            and delivery not in self._warned
            and any(one == hand for table in self._tables() for one in table)
        ):
            self._warned.add(delivery)
            logger.warning("lease lost queue=%s uid=%s", queue, hand.held.uid)

    def sign_off(self) -> None:
        """Strike the consumer off the lists; where a server is away its entry goes stale and is trimmed."""
        away: set[Link] = set()
        for source in self._sources:
            link = source.queue.link
            try:
                if link not in away:
                    call = operations.enlist(source.queue.keys, self._consumer, b"")
                    link.call(call, queue=source.queue.label, timeout=PATIENCE)
            except SRQError:
                away.add(link)

    def renew_until(self, ended: threading.Event) -> None:
        """Renew, now and again and again, until the event is set."""
        while True:
            try:
                self.renew()
            except Exception:  # whatever it is, the next round may go well; without one, all leases would end
                logger.exception("cannot renew the leases of what is in hand")
            if ended.wait(self.interval):
                return

    def _entry(self, in_hand: Sequence[Hand]) -> bytes:
        entry = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": self._since,
            "version": __version__,
            "queues": [source.queue.label for source in self._sources],
            "state": "busy" if in_hand else "idle",
            **self.about,
            "in_hand": [
                {"uid": hand.held.uid, "since": self._clock + round(hand.started * 1000) if hand.started else None}
                for hand in in_hand[:100]
            ],
        }
        return json.dumps(entry).encode()
