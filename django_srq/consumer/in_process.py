"""A consumer in the process that calls it, without a supervisor."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence

from django_srq.consumer.leases import Leases
from django_srq.consumer.log import guarded
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.outage import Outage
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.worker.claims import claim_slots
from django_srq.consumer.worker.worker import Worker
from django_srq.runtime.interruption import Interruption

logger = guarded("django_srq.consumer")


class Cut(Interruption):
    """Raised in a handler's thread to end it at once: its item is given back, counted as a delivery."""


class InProcessConsumer:
    """Handles items here, for tests, debuggers and scripts: no child processes, and a thread renews the leases.

    When the process dies the items come back when their leases end, with the crash counted. A handler that holds the
    interpreter's lock for longer than a lease loses it. ``plan``'s time_limit and max_memory need a supervisor.
    """

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        *,
        burst: bool = False,
        max_items: int | None = None,
        options: ConsumerOptions | None = None,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        """burst: end when there is nothing ready. max_items: end after so many items."""
        options = options or ConsumerOptions(burst=burst, max_items=max_items)
        self.id = f"c{secrets.token_hex(5)}"
        self._ledger = Worker.table(subscriptions, options, claim_slots(self.id)[0])
        about = {"processes": 0, "threads": options.threads, "concurrency": options.concurrency}
        self._leases = Leases(self.id, subscriptions, lambda: [self._ledger], about=lambda: about)
        self._worker = Worker(
            subscriptions,
            self._ledger,
            consumer=self.id,
            options=options,
            report=Outage().report,
            max_items=options.max_items,
            rest=rest,
        )

    @property
    def log_hangs(self) -> bool:
        """Whether the log did not take what was said last: Python would wait for it at its end."""
        return self._leases.log_hangs

    @property
    def handled(self) -> int:
        return self._ledger.handled

    def stop(self) -> None:
        """Finish the item in hand and return from ``run``. Safe in any thread and in a signal handler."""
        self._worker.stop()

    def run(self) -> int:
        """Handle items until stopped; returns how many. Blocks."""
        ended = threading.Event()
        renewing = threading.Thread(target=self._leases.renew_until, args=[ended], name="srq-leases", daemon=True)
        renewing.start()
        try:
            self._worker.run()
        finally:
            ended.set()
            renewing.join()
            self._leases.sign_off()
        return self.handled
