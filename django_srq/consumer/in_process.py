"""A consumer in the process that calls it, without a supervisor."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence

from django_srq.consumer.leases import LAST_LINES, Leases
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.outage import Outage
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.summary import Summary
from django_srq.consumer.worker.claims import claim_slots
from django_srq.consumer.worker.worker import Worker
from django_srq.runtime.guarded_log import guarded
from django_srq.runtime.interruption import Interruption

logger = guarded("django_srq.consumer")


# Seconds that servers have for the last calls when nothing is in hand; the latter once one of them is away.
PATIENCE, PATIENCE_IN_TROUBLE = 1.25, 0.3
LEAST = 0.1  # seconds, while a server is away, for a renewal of leases that is under way, and for the last call of all


class Cut(Interruption):
    """Raised in a handler's thread to end it at once. Its item is given back, and counts as a delivery."""


class InProcessConsumer:
    """Handles items in this process, for tests, debuggers and scripts. A thread renews the leases.

    If the process dies, the items come back when their leases end, and the crash is counted. A handler that holds the
    interpreter's lock for longer than a lease loses the lease. The options ``time_limit`` and ``max_memory`` need a
    supervisor.
    """

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        *,
        burst: bool | None = None,
        max_items: int | None = None,
        options: ConsumerOptions | None = None,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        """burst: end when no item is ready. max_items: end after so many items. Both are fields of the options, too.

        on_idle: called in each thread when it has nothing to do for now.
        """
        if options is None:
            options = ConsumerOptions(burst=bool(burst), max_items=max_items)
        elif burst is not None or max_items is not None:
            raise TypeError("burst and max_items are fields of the options: give them there, not beside the options")
        self.id = f"c{secrets.token_hex(5)}"
        self._ledger = Worker.table(subscriptions, options, claim_slots(self.id)[0])
        about = {"processes": 0, "threads": options.threads, "concurrency": options.concurrency}
        self._summary = Summary(self.id, subscriptions, options)
        self._leases = Leases(self.id, subscriptions, lambda: [self._ledger], details=lambda: about)
        self._stopped = threading.Event()
        # The log did not take its last records in time. Python would wait for it at the end of the process.
        self.log_hangs = False
        self._worker = Worker(
            subscriptions,
            self._ledger,
            consumer=self.id,
            options=options,
            report=Outage().report,
            max_items=options.max_items,
            on_idle=on_idle,
        )

    @property
    def handled(self) -> int:
        return self._ledger.handled

    def stop(self) -> None:
        """Finish the running items and return from ``run``. Safe in any thread and in a signal handler."""
        self._worker.stop()
        self._stopped.set()

    def run(self) -> int:
        """Handle items until stopped, or until the options say so. Returns how many were handled. Blocks."""
        ended = threading.Event()
        threading.Thread(target=self._end_soon, args=[ended], name="srq-end", daemon=True).start()
        self._summary.begin(self._leases.log.log)
        renewing = threading.Thread(target=self._leases.renew_until, args=[ended], name="srq-leases", daemon=True)
        renewing.start()
        try:
            self._worker.run()
        finally:
            self._summary.count(self._ledger)
            self._summary.end(self._leases.log.log)
            ended.set()
            self._stopped.set()
            silent = self._worker.silent
            renewing.join(LEAST if silent else None)
            self.log_hangs = not self._leases.log.flush(LAST_LINES)
            self._leases.sign_off(silent, within=LEAST)
        return self.handled

    def _end_soon(self, ended: threading.Event) -> None:
        self._stopped.wait()
        self._worker.end_soon(ended, after=PATIENCE, after_trouble=PATIENCE_IN_TROUBLE)
