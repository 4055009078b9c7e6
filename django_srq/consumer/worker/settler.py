"""The end of a delivery: the server is told what became of an item, and then the log and the receivers of signals.

If the server cannot be told before the worker ends, the item stays in the ledger, and the supervisor tells the server
when the process is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from django_srq import operations
from django_srq.consumer.ledger import FAILED, RUNNING, Ledger
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.worker.events import Events
from django_srq.consumer.worker.job import Failed, Finished, Job
from django_srq.consumer.worker.retries import Retries
from django_srq.exceptions import PayloadError
from django_srq.queue import failure
from django_srq.queue.backoff import delay_after


class Settler:
    """Settles the items in hand."""

    def __init__(self, consumer: str, ledger: Ledger, retries: Retries) -> None:
        self.events = Events(consumer)
        self._consumer, self._ledger, self._retries = consumer, ledger, retries

    def ack(self, subscription: Subscription, finished: Sequence[Finished]) -> None:
        call = operations.ack(subscription.queue.keys, [one.job.held for one in finished])
        self._retries.do(subscription.queue, call, lambda flags: self.acked(finished, flags))

    def acked(self, finished: Sequence[Finished], flags: Sequence[bool] | None) -> None:
        """See to items whose ack is over. flags: for each, whether the ack removed it; None: the ack was not made."""
        for one, removed in zip(finished, flags, strict=True) if flags is not None else ():
            self._ledger.free(one.job.record)
            self.events.acked(one, removed)

    def fail(self, subscription: Subscription, failed: Sequence[Failed]) -> None:
        for start in range(0, len(failed), operations.FAILED):
            self._fail(subscription, failed[start : start + operations.FAILED])

    def _fail(self, subscription: Subscription, failed: Sequence[Failed]) -> None:
        queue = subscription.queue
        described: dict[int, bytes] = {}  # each error is described once: usually all items have the same one
        calls, sizes = [], []
        for one in failed:  # runs code of the project; the items still count as running, so the time limit holds
            job, item, _, error = one
            new = id(error) not in described
            if new:
                described[id(error)] = failure.describe(error, consumer=self._consumer)
            delay = delay_after(error, subscription.backoff, item.deliveries)
            calls.append((one, operations.Failed(job.held, described[id(error)], delay)))
            sizes.append(len(described[id(error)]) if new else 0)
        if any(failure.is_exhaustion(one.error) for one in failed):
            self._retries.use_spare()
        for one in failed:
            self._ledger.fail(one.job.record)  # from now on only the server can take long: the time limit ends here
        for batch in operations.cut(calls, sizes):
            call = operations.fail_many(queue.keys, [call for _, call in batch], max_deliveries=queue.max_deliveries)
            self._retries.do(queue, call, partial(self._failed, [one for one, _ in batch]))

    def _failed(self, failed: Sequence[Failed], states: Sequence[str | None] | None) -> None:
        if states is not None:
            for one in failed:
                self._ledger.free(one.job.record)
            self._ledger.count_handled(len(failed))
        for one, state in zip(failed, states or [None] * len(failed), strict=True):
            self.events.failed(one, state)

    def bury(self, job: Job, error: PayloadError) -> None:
        """Make an item dead whose payload cannot be decoded."""
        queue, described = job.subscription.queue, failure.describe(error, consumer=self._consumer)
        self._ledger.fail(job.record)

        def buried(states: Sequence[str | None] | None) -> None:
            if states is not None:
                self._ledger.free(job.record)
                self._ledger.count_handled(1)
                self.events.buried(job, error)

        call = operations.fail_many(queue.keys, [operations.Failed(job.held, described)], bury=True)
        self._retries.do(queue, call, buried)

    def release(self, subscription: Subscription, jobs: Sequence[Job]) -> None:
        """Give back items that were not started."""

        def released(reply: object) -> None:
            for job in jobs if reply is not None else ():
                self._ledger.free(job.record)

        if jobs:
            call = operations.release(subscription.queue.keys, [job.held for job in jobs])
            self._retries.do(subscription.queue, call, released)

    def cut(self, subscriptions: Iterable[Subscription]) -> None:
        """Give back the items of threads that will not come to their end. Each counts as a delivery, not as a crash."""
        for place, subscription in enumerate(subscriptions):
            held = [
                entry.held for entry in self._ledger if entry.subscription == place and entry.state in {RUNNING, FAILED}
            ]
            if held:
                evidence = failure.describe("cut in the middle: the consumer was stopped", consumer=self._consumer)
                call = operations.crashed(
                    subscription.queue.keys,
                    held,
                    evidence=evidence,
                    how="cut" if subscription.queue.autoclean_interval is not None else "end",
                    max_deliveries=subscription.queue.max_deliveries,
                )
                self._retries.do(subscription.queue, call, lambda ended: None)
