"""The end of a delivery: the server is told what became of an item, and then the log and the receivers of signals.

If the server cannot be told before the worker ends, the item stays in the ledger, and the supervisor tells the server
when the process is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from django_srq import operations
from django_srq.consumer.ledger import FAILED, NOTHING, RUNNING, STUB, VALUED, Ledger
from django_srq.consumer.logged_errors import LoggedError
from django_srq.consumer.runner import Outcome
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.worker.buffer import Buffer
from django_srq.consumer.worker.events import Events
from django_srq.consumer.worker.job import BuriedJob, FailedJob, FinishedJob, Job, Outcomes, ack_batches, results
from django_srq.consumer.worker.pipeline import Pipeline
from django_srq.consumer.worker.retries import Retries
from django_srq.exceptions import RetryLater
from django_srq.queue import failure
from django_srq.queue.backoff import delay_after
from django_srq.runtime.guarded_log import guarded
from django_srq.runtime.interruption import is_interruption

logger = guarded("django_srq.consumer")


class Settler:
    """Settles the items in hand."""

    def __init__(
        self, consumer: str, ledger: Ledger, events: Events, retries: Retries, buffer: Buffer, pipeline: Pipeline
    ) -> None:
        self._consumer, self._ledger, self._events, self._retries = consumer, ledger, events, retries
        self._buffer, self._pipeline = buffer, pipeline

    def still_ours(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Give back the items whose leases ended while they waited here, and those that the supervisor wants back.

        This comes before any of them is begun: giving back takes as long as the server is away, and that time must not
        count as time of a running item.
        """
        ledger = self._ledger
        lost = [job for job in jobs if ledger.lapsed(job.record, job.generation) or ledger.is_wanted_back(job.record)]
        if not lost:
            return jobs
        self.release(jobs[0].subscription, lost)
        return [job for job in jobs if job not in lost]

    def settle(self, outcomes: Outcomes) -> None:
        """Tell the server what became of the jobs. Raises the error of a handler that cannot go on."""
        if outcomes.finished:
            self._finish(outcomes.subscription, outcomes.finished)
        if outcomes.failed:
            self._fail(outcomes.subscription, outcomes.failed)
        for buried in outcomes.buried:
            self._bury(buried)
        if outcomes.released:
            self.release(outcomes.subscription, outcomes.released)
        if outcomes.stop is not None:
            raise outcomes.stop

    # -- handled well

    def _finish(self, subscription: Subscription, finished: Sequence[FinishedJob]) -> None:
        """Ack the finished jobs: with the next claim if a thread is about to make one, else at once."""
        for done in finished:
            self._ledger.finish(done.job.record, _result(done.outcome) if done.outcome else NOTHING)
        self._ledger.count_handled(len(finished))
        prepared = self._buffer.finish(subscription, finished)
        if prepared is not None:
            self._pipeline.send(subscription, prepared)

    def ack(self, subscription: Subscription, finished: Sequence[FinishedJob]) -> None:
        """Ack finished jobs, and wait for the reply."""
        for batch in ack_batches(subscription, finished):
            held = [done.job.held for done in batch]
            call = operations.ack(subscription.queue.keys, held, results(subscription, batch))
            self._retries.do(subscription.queue, call, partial(self.acked, batch))

    def acked(self, finished: Sequence[FinishedJob], flags: Sequence[bool] | None) -> None:
        """See to items whose ack is over. flags: for each, whether the ack removed it; None: the ack was not made."""
        for done, removed in zip(finished, flags, strict=True) if flags is not None else ():
            self._ledger.free(done.job.record)
            self._events.acked(done, removed)
            if done.outcome is not None and (runner := done.job.subscription.runner):
                self._tell(done.job, partial(runner.acked, done.item, done.outcome, removed))

    # -- not handled well

    def _fail(self, subscription: Subscription, failed: Sequence[FailedJob]) -> None:
        for start in range(0, len(failed), operations.FAILED):
            self._fail_some(subscription, failed[start : start + operations.FAILED])

    def _fail_some(self, subscription: Subscription, failed: Sequence[FailedJob]) -> None:
        queue = subscription.queue
        described: dict[int, bytes] = {}  # each error is described once: usually all items have the same one
        logged: dict[int, LoggedError] = {}
        calls, sizes = [], []
        for each in failed:  # runs code of the project; the items still count as running, so the time limit holds
            job, item, error = each.job, each.item, each.error
            new = id(error) not in described
            if new:
                kept = each.verdict.error if each.verdict else None
                described[id(error)] = kept or failure.describe(error, consumer=self._consumer)
                logged[id(error)] = subscription.errors.of(error)
            if each.verdict is None:
                delay, bury = delay_after(error, subscription.backoff, item.deliveries), failure.is_rejection(error)
            else:
                delay, bury = each.verdict.delay, each.verdict.bury
            calls.append((each, operations.Failed(job.held, described[id(error)], delay, bury)))
            sizes.append(len(described[id(error)]) if new else 0)
        if any(failure.is_exhaustion(each.error) for each in failed):
            self._retries.use_spare()
        for each in failed:
            self._ledger.fail(each.job.record)  # from now on only the server can take long: the time limit ends here
        for batch in operations.cut(calls, sizes):
            verdict = batch[0][0].verdict  # of a task, which is always alone
            most = verdict.max_deliveries if verdict and verdict.max_deliveries is not None else queue.max_deliveries
            call = operations.fail_many(queue.keys, [call for _, call in batch], max_deliveries=most)
            self._retries.do(queue, call, partial(self._failed, [each for each, _ in batch], logged))

    def _failed(
        self, failed: Sequence[FailedJob], logged: Mapping[int, LoggedError], states: Sequence[str | None] | None
    ) -> None:
        if states is not None:
            for each in failed:
                self._ledger.free(each.job.record)
            postponed = sum(
                issubclass(type(each.error), RetryLater) and state != "dead"
                for each, state in zip(failed, states, strict=True)
            )
            self._ledger.count_handled(len(failed), failed=len(failed) - postponed, postponed=postponed)
        seen: set[int] = set()
        for each, state in zip(failed, states or [None] * len(failed), strict=True):
            error = id(each.error)
            self._events.failed(each, state, logged[error], first=error not in seen)
            seen.add(error)
            if each.verdict is not None and (runner := each.job.subscription.runner):
                self._tell(each.job, partial(runner.failed, each.item, each.error, state))

    def _tell(self, job: Job, runner: Callable[[], None]) -> None:
        """Tell the runner. It may run code of the project, which must not end the worker."""
        try:
            runner()
        except BaseException as error:
            if is_interruption(error):
                raise
            about = job.subscription.queue.alias, job.found.uid, failure.name_of(error)
            logger.error("cannot tell of the end of a task queue=%s uid=%s error=%s", *about)

    def _bury(self, buried: BuriedJob) -> None:
        """Make an item dead whose payload cannot be decoded."""
        job, error = buried
        queue, described = job.subscription.queue, failure.describe(error, consumer=self._consumer)
        logged = job.subscription.errors.of(error)

        def then(states: Sequence[str | None] | None) -> None:
            if states is not None:
                self._ledger.free(job.record)
                self._ledger.count_handled(1, failed=1)
                self._events.buried(buried, logged)

        call = operations.fail_many(queue.keys, [operations.Failed(job.held, described, bury=True)])
        self._retries.do(queue, call, then)

    # -- not handled

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


def _result(outcome: Outcome) -> int:
    """What a supervisor is to know of it, if this process dies before the ack."""
    if outcome.valued:
        return VALUED
    return STUB if outcome.kept else NOTHING
