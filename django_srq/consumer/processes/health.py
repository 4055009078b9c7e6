"""The health of a consumer, as its supervisor tells it: in the log, to systemd, and by the heartbeat file."""

from __future__ import annotations

import time

from django_srq.consumer.outage import Outage
from django_srq.consumer.probes import interval, notify
from django_srq.consumer.processes.child_handle import ChildHandle
from django_srq.consumer.processes.keeper import Keeper
from django_srq.consumer.processes.reports import Reports
from django_srq.consumer.processes.seats import Seats

STUCK = 60.0  # seconds without an item in hand and without a look for items, after which a child counts as stuck


class Health:
    def __init__(self, seats: Seats, keeper: Keeper, reports: Reports, *, grace: float) -> None:
        """grace: seconds that a child may take to end after its last item."""
        self._seats, self._keeper, self._reports, self._grace = seats, keeper, reports, grace
        self._outage = Outage()
        self._ready = False
        self._last_troubles: list[str] = []  # those of children that were stopped: their end is not the troubles' end
        self.next_moment = 0.0  # the moment of the next sign of life

    def tell(self) -> None:
        """Say what has changed since the last call, and give a sign of life if it is time for one."""
        self._outage.report(*self._server_troubles, *self._child_troubles, *self._last_troubles)
        if not self._ready and all(child.ledger.ready for child in self._seats.children):
            self._ready = notify("READY=1")
        if time.monotonic() >= self.next_moment:
            self.next_moment = time.monotonic() + interval()
            if self._is_well:
                notify("WATCHDOG=1")
                self._keeper.beat()

    def keep_trouble(self, child: ChildHandle) -> None:
        """Note that a stopped child has ended, perhaps while a server was away."""
        if child.ledger.trouble and not child.ledger.fatal:
            self._last_troubles.append(child.ledger.trouble)

    @property
    def in_trouble(self) -> bool:
        """Whether a server is away, as keeper or reporters know."""
        return bool(self._server_troubles)

    @property
    def _server_troubles(self) -> list[str]:
        """The troubles with servers that keeper or reporters have."""
        return [*self._keeper.troubles, *self._reports.troubles]

    @property
    def _child_troubles(self) -> list[str]:
        return [child.ledger.trouble for child in self._seats.children if not child.ledger.fatal]

    @property
    def _is_well(self) -> bool:
        """Whether no child is stuck. A child that is not ready may be starting, or waiting for its server."""
        now = time.monotonic()
        stuck = [child for child in self._seats.children if now - child.ledger.last_beat > self._patience(child)]
        return not stuck or not all(child.ledger.ready for child in stuck) or self.in_trouble

    def _patience(self, child: ChildHandle) -> float:
        """The seconds without a look for items after which a child counts as stuck."""
        if child.is_at_work:
            return float("inf")
        return STUCK + self._grace if child.ledger.leaving else STUCK
