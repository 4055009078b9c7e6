"""The call of a handler with items in hand, and what follows from how it ended."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Mapping, Sequence

from django_srq.consumer.handler import carry_out, errors_of
from django_srq.consumer.ledger import Hands
from django_srq.consumer.subscription import Source, StopConsuming
from django_srq.consumer.worker.job import Failed, Finished, Job
from django_srq.consumer.worker.settler import Settling
from django_srq.exceptions import Discard, PayloadError
from django_srq.queue import failure
from django_srq.queue.item import Item
from django_srq.queue.serializers import load
from django_srq.runtime.interruption import is_interruption


class Handling:
    """Handles items together: one, or a batch for a handler that takes lists."""

    def __init__(self, hands: Hands, settling: Settling, finish: Callable[[Source, Sequence[Finished]], None]) -> None:
        """finish: sees to the acks of what was handled well."""
        self._hands, self._settling, self._finish = hands, settling, finish
        self._context = contextvars.copy_context()

    def handle(self, jobs: Sequence[Job]) -> float:
        """How long they took (seconds): the handler, and for a failure the telling of it."""
        source = jobs[0].source
        started = time.monotonic()
        begun = [(job, item) for job in self._still_ours(jobs) if (item := self._begin(job)) is not None]
        if not begun:
            return time.monotonic() - started
        errors = self._call(source, begun)
        seconds = time.monotonic() - started
        all_well = self._settle(source, begun, errors, seconds)
        return seconds if all_well else time.monotonic() - started

    def _still_ours(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Give back those whose leases ended while they waited here, and what the supervisor wants back.

        Before any of them is begun: to give back may take as long as the server is away, which is no time of theirs.
        """
        hands = self._hands
        lost = [job for job in jobs if hands.lapsed(job.record, job.filling) or hands.is_wanted(job.record)]
        if not lost:
            return jobs
        self._settling.release(jobs[0].source, lost)
        return [job for job in jobs if job not in lost]

    def _begin(self, job: Job) -> Item | None:
        """None: it cannot be decoded, and is set aside; or the supervisor has just come to want it back."""
        if not self._hands.start(job.record):
            self._settling.release(job.source, [job])
            return None
        try:
            item = self._item(job)
        except PayloadError as error:
            self._settling.bury(job, error)
            return None
        self._settling.outcomes.started(job, item)
        return item

    def _item(self, job: Job) -> Item:
        queue, found = job.source.queue, job.found
        payload = load(queue.serializer, found.payload, queue=queue.label, uid=found.uid)
        item = Item(found.uid, payload, found.delivery)
        index, filling = job.record, job.filling
        item.lapsed = lambda: self._hands.lapsed(index, filling)
        return item

    def _call(self, source: Source, begun: Sequence[tuple[Job, Item]]) -> Mapping[int, BaseException]:
        """Call the handler; the errors of the items that failed, by their place."""
        context = self._context.copy()
        try:
            if source.batch == 1:
                context.run(carry_out, source.handle, begun[0][1])
                return {}
            items = [item for _, item in begun]
            return errors_of(context.run(carry_out, source.handle, items), len(items))
        except StopConsuming as error:
            self._settling.release(source, [job for job, _ in begun])
            raise error
        except BaseException as error:
            if is_interruption(error):
                raise
            return dict.fromkeys(range(len(begun)), error)

    def _settle(
        self,
        source: Source,
        begun: Sequence[tuple[Job, Item]],
        errors: Mapping[int, BaseException],
        seconds: float,
    ) -> bool:
        """Whether all are to be acked."""
        finished, failed = [], []
        for place, (job, item) in enumerate(begun):
            error = errors.get(place)
            if error is None or issubclass(type(error), Discard):
                finished.append(Finished(job, item, seconds, None if error is None else failure.text_of(error)))
            else:
                failed.append(Failed(job, item, seconds, error))
        if finished:
            self._finish(source, finished)
        if failed:
            self._settling.fail(source, failed)
        return not failed
