"""An item on its way through a worker."""

from __future__ import annotations

from typing import NamedTuple

from django_srq.consumer.subscription import Subscription
from django_srq.operations import DeliveryRef, StoredItem
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


class Finished(NamedTuple):
    """A job that is to be acked: its handler returned, or discarded the item."""

    job: Job
    item: Item
    seconds: float
    discarded: str | None = None  # the reason, if the handler discarded the item


class Failed(NamedTuple):
    """A job whose handler raised."""

    job: Job
    item: Item
    seconds: float
    error: BaseException
