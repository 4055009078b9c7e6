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
    held: DeliveryRef
    record: int  # its place in hands
    generation: int

    @property
    def suspect(self) -> bool:
        """Whether it was in hand when a consumer died: nothing is to be claimed ahead behind it."""
        return self.found.delivery.crashes > 0


class Finished(NamedTuple):
    """A job whose handler is done, and that is to be acked."""

    job: Job
    item: Item
    seconds: float
    discarded: str | None = None  # the reason


class Failed(NamedTuple):
    """A job whose handler raised."""

    job: Job
    item: Item
    seconds: float
    error: BaseException
