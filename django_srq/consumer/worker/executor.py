"""The executor: calls a handler with the items in hand."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Mapping, Sequence
from functools import partial

from django_srq.consumer.handler import carry_out, errors_of
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.subscription import StopConsuming, Subscription
from django_srq.consumer.worker.events import Events
from django_srq.consumer.worker.job import BuriedJob, FailedJob, FinishedJob, Job, Outcomes
from django_srq.consumer.worker.task_executor import TaskExecutor, Turns
from django_srq.exceptions import Discard, PayloadError
from django_srq.queue import failure, instrumentation
from django_srq.queue.instrumentation import Handling
from django_srq.queue.item import Item
from django_srq.queue.serializers import load
from django_srq.runtime.interruption import is_interruption


class Executor:
    """Handles the jobs of one call: a single one, or a batch for a handler that takes lists. Talks to no server."""

    def __init__(self, ledger: Ledger, events: Events, turns: Turns, *, supervised: bool) -> None:
        """turns: of synchronous tasks in threads for asynchronous ones. supervised: see ``TaskExecutor``."""
        self._ledger, self._events = ledger, events
        self._context = contextvars.copy_context()
        self._tasks = TaskExecutor(ledger, events, turns, supervised=supervised)

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        """Call the handler, and say what became of each job.

        If a payload of a batch cannot be decoded, the handler is not called yet: the other jobs remain.
        """
        outcomes, started = Outcomes(jobs[0].subscription), time.monotonic()
        begun = [(job, item) for job in jobs if (item := self._begin(job, outcomes)) is not None]
        if outcomes.buried:
            outcomes.remaining = self._hold_again([job for job, _ in begun])
            return outcomes
        if not begun:
            return outcomes
        runner = outcomes.subscription.runner
        if runner is not None:
            handling = _handling(outcomes.subscription, begun) if instrumentation.installed else None
            return self._tasks.run(runner, *begun[0], handling, self._context.copy())
        for job, item in begun:
            self._events.started(job, item)
        if instrumentation.installed:
            outcomes.handling = _handling(outcomes.subscription, begun)
        try:
            errors = self._call(outcomes.subscription, [item for _, item in begun], outcomes.handling)
        except StopConsuming as error:
            outcomes.released += [job for job, _ in begun]
            outcomes.stop = error
            return outcomes
        outcomes.seconds = time.monotonic() - started
        _sort(begun, errors, outcomes)
        return outcomes

    def _begin(self, job: Job, outcomes: Outcomes) -> Item | None:
        """Mark the item as running, and decode it.

        None: it is not to be handled. The supervisor has just wanted it back, or it cannot be decoded.
        """
        if not self._ledger.start(job.record):
            outcomes.released.append(job)
            return None
        try:
            return self._item(job)
        except PayloadError as error:
            self._ledger.fail(job.record)
            outcomes.buried.append(BuriedJob(job, error))
            return None

    def _hold_again(self, jobs: list[Job]) -> list[Job]:
        """Have jobs count as not begun while the server is told of others, which may take long."""
        for job in jobs:
            self._ledger.hold_again(job.record)
        return jobs

    def _item(self, job: Job) -> Item:
        queue, found = job.subscription.queue, job.found
        payload = load(queue.serializer, found.payload, queue=queue.alias, uid=found.uid)
        item = Item(found.uid, payload, found.delivery)
        index, generation = job.record, job.generation
        item.lapsed = lambda: self._ledger.lapsed(index, generation)
        return item

    def _call(
        self, subscription: Subscription, items: list[Item], handling: Handling | None
    ) -> Mapping[int, BaseException]:
        """Call the handler. Returns the errors of the items that failed, by their index."""
        context = self._context.copy()
        call = carry_out if handling is None else partial(handling.run, carry_out)
        try:
            if subscription.batch == 1:
                context.run(call, subscription.handle, items[0])
                return {}
            return errors_of(context.run(call, subscription.handle, items), len(items))
        except StopConsuming:
            raise
        except BaseException as error:
            if is_interruption(error):
                raise
            return dict.fromkeys(range(len(items)), error)


def _handling(subscription: Subscription, begun: Sequence[tuple[Job, Item]]) -> Handling:
    sizes = [len(job.found.payload) for job, _ in begun]
    items = [item for _, item in begun]
    return Handling(subscription.queue.alias, items, sizes, batch=subscription.batch > 1)


def _sort(begun: Sequence[tuple[Job, Item]], errors: Mapping[int, BaseException], outcomes: Outcomes) -> None:
    """Add the jobs to the outcomes: as finished, or with the error of their place as failed."""
    seconds, handling = outcomes.seconds, outcomes.handling
    for place, (job, item) in enumerate(begun):
        error = errors.get(place)
        if error is None:
            outcomes.finished.append(FinishedJob(job, item, seconds, handling=handling))
        elif issubclass(type(error), Discard):
            outcomes.finished.append(FinishedJob(job, item, seconds, failure.text_of(error), handling, error))
        else:
            outcomes.failed.append(FailedJob(job, item, seconds, error, handling))
