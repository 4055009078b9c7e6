"""The executor: calls a handler with the items in hand, and sees to what follows from its success or failure."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Mapping, Sequence

from django_srq.consumer.handler import carry_out, errors_of
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.subscription import StopConsuming, Subscription
from django_srq.consumer.worker.job import Failed, Finished, Job
from django_srq.consumer.worker.settler import Settler
from django_srq.exceptions import Discard, PayloadError
from django_srq.queue import failure
from django_srq.queue.item import Item
from django_srq.queue.serializers import load
from django_srq.runtime.interruption import is_interruption


class Executor:
    """Handles the items of one call: a single one, or a batch for a handler that takes lists."""

    def __init__(
        self, ledger: Ledger, settler: Settler, finish: Callable[[Subscription, Sequence[Finished]], None]
    ) -> None:
        """finish: called with the items that were handled well; it acks them."""
        self._ledger, self._settler, self._finish = ledger, settler, finish
        self._context = contextvars.copy_context()

    def handle(self, jobs: Sequence[Job]) -> float:
        """Handle the items, and settle them. Returns how long they took (seconds).

        That is the time of the handler; after a failure it includes the time for telling the server.
        """
        subscription = jobs[0].subscription
        started = time.monotonic()
        begun = [(job, item) for job in self._still_ours(jobs) if (item := self._begin(job)) is not None]
        if not begun:
            return time.monotonic() - started
        errors = self._call(subscription, begun)
        seconds = time.monotonic() - started
        all_well = self._settle(subscription, begun, errors, seconds)
        return seconds if all_well else time.monotonic() - started

    def _still_ours(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Give back the items whose leases ended while they waited here, and those that the supervisor wants back.

        This comes before any of them is begun: giving back takes as long as the server is away, and that time must not
        count as time of a running item.
        """
        ledger = self._ledger
        lost = [job for job in jobs if ledger.lapsed(job.record, job.generation) or ledger.is_wanted_back(job.record)]
        if not lost:
            return jobs
        self._settler.release(jobs[0].subscription, lost)
        return [job for job in jobs if job not in lost]

    def _begin(self, job: Job) -> Item | None:
        """Mark the item as running, and decode it.

        None: it is not to be handled. The supervisor has just wanted it back, or it cannot be decoded and becomes dead.
        """
        if not self._ledger.start(job.record):
            self._settler.release(job.subscription, [job])
            return None
        try:
            item = self._item(job)
        except PayloadError as error:
            self._settler.bury(job, error)
            return None
        self._settler.events.started(job, item)
        return item

    def _item(self, job: Job) -> Item:
        queue, found = job.subscription.queue, job.found
        payload = load(queue.serializer, found.payload, queue=queue.alias, uid=found.uid)
        item = Item(found.uid, payload, found.delivery)
        index, generation = job.record, job.generation
        item.lapsed = lambda: self._ledger.lapsed(index, generation)
        return item

    def _call(self, subscription: Subscription, begun: Sequence[tuple[Job, Item]]) -> Mapping[int, BaseException]:
        """Call the handler. Returns the errors of the items that failed, by their index."""
        context = self._context.copy()
        try:
            if subscription.batch == 1:
                context.run(carry_out, subscription.handle, begun[0][1])
                return {}
            items = [item for _, item in begun]
            return errors_of(context.run(carry_out, subscription.handle, items), len(items))
        except StopConsuming as error:
            self._settler.release(subscription, [job for job, _ in begun])
            raise error
        except BaseException as error:
            if is_interruption(error):
                raise
            return dict.fromkeys(range(len(begun)), error)

    def _settle(
        self,
        subscription: Subscription,
        begun: Sequence[tuple[Job, Item]],
        errors: Mapping[int, BaseException],
        seconds: float,
    ) -> bool:
        """Have each item acked or failed. Returns whether none failed."""
        finished, failed = [], []
        for place, (job, item) in enumerate(begun):
            error = errors.get(place)
            if error is None or issubclass(type(error), Discard):
                finished.append(Finished(job, item, seconds, None if error is None else failure.text_of(error)))
            else:
                failed.append(Failed(job, item, seconds, error))
        if finished:
            self._finish(subscription, finished)
        if failed:
            self._settler.fail(subscription, failed)
        return not failed
