"""An item on its way through a worker, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from django_srq import operations
from django_srq.consumer.runner import Outcome, Verdict
from django_srq.consumer.subscription import StopConsuming, Subscription
from django_srq.exceptions import PayloadError
from django_srq.operations import DeliveryRef, StoredItem
from django_srq.queue.instrumentation import Handling
from django_srq.queue.item import Item


class Job(NamedTuple):
    """An item in hand."""

    subscription: Subscription
    found: StoredItem
    held: DeliveryRef  # the delivery reference: every later call about the item names it
    record: int  # index of its entry in the ledger
    generation: int  # of that entry

    @property
    def suspect(self) -> bool:
        """Whether it was in hand when a consumer died. Then nothing is claimed ahead behind it."""
        return self.found.delivery.crashes > 0


class FinishedJob(NamedTuple):
    """A job that is to be acked: its handler returned, or discarded the item."""

    job: Job
    item: Item
    seconds: float
    discarded: str | None = None  # the reason, if the handler discarded the item
    handling: Handling | None = None  # the call of the handler, if an integration is installed
    error: BaseException | None = None  # the handler's, if it discarded the item
    outcome: Outcome | None = None  # if it was a task


class FailedJob(NamedTuple):
    """A job whose handler raised."""

    job: Job
    item: Item
    seconds: float
    error: BaseException
    handling: Handling | None = None  # as in FinishedJob
    verdict: Verdict | None = None  # if it was a task


def results(subscription: Subscription, finished: Sequence[FinishedJob]) -> Sequence[bytes]:
    """What the server is to keep of finished jobs of a subscription, for their acks; of handlers' items nothing."""
    if subscription.runner is None:
        return ()
    return [b"" if done.outcome is None else done.outcome.kept for done in finished]


def ack_batches(subscription: Subscription, finished: Sequence[FinishedJob]) -> Iterable[Sequence[FinishedJob]]:
    """Finished jobs of a subscription in batches, as one call takes a bounded number of bytes with their results."""
    if subscription.runner is None:
        return [finished]
    return operations.cut(finished, map(len, results(subscription, finished)))


class BuriedJob(NamedTuple):
    """A job whose payload cannot be decoded: no handler gets it, and the item becomes dead."""

    job: Job
    error: PayloadError


@dataclass(slots=True)
class Outcomes:
    """What became of the jobs that were handled together, all of one subscription."""

    subscription: Subscription
    seconds: float = 0.0  # how long the handler took
    handling: Handling | None = None  # the call of the handler, if an integration is installed
    finished: list[FinishedJob] = field(default_factory=list)
    failed: list[FailedJob] = field(default_factory=list)
    buried: list[BuriedJob] = field(default_factory=list)
    released: list[Job] = field(default_factory=list)  # not handled; to be given back
    remaining: list[Job] = field(default_factory=list)  # to be handled when the others are settled; not begun yet
    stop: StopConsuming | None = None  # the handler cannot go on

    @property
    def all_well(self) -> bool:
        return not (self.failed or self.buried or self.released)
