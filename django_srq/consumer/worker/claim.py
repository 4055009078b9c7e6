"""A claim on its way, and the answer to one or several of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from django_srq import operations
from django_srq.consumer.clock import lease_time
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.worker.job import FinishedJob, Job, results
from django_srq.operations import Call, ClaimReply
from django_srq.queue.safe_redis_queue import LOOK


@dataclass(slots=True)
class Answer:
    """The result of one or several claims."""

    jobs: list[Job] = field(default_factory=list)
    waits: dict[Subscription, float] = field(default_factory=dict)  # seconds until it is worth claiming there again
    dry: set[Subscription] = field(default_factory=set)  # asked, and nothing is ready there
    plenty: bool | None = None  # the last claim brought items, and more may be ready behind them; None: none was made

    def ask_again(self, subscription: Subscription, wait: float) -> None:
        self.waits[subscription] = min(wait, self.waits.get(subscription, LOOK))


@dataclass(slots=True)
class Claim:
    """A claim on its way: its reply may be read much later."""

    subscription: Subscription
    n: int
    finished: Sequence[FinishedJob] = ()  # acked with it
    share: float = 0.5  # of the lease: the reply counts as old when more time than that has gone by
    parked: bool = False  # behind a wait
    number: int = 0  # in its slot
    begun: float = field(default_factory=lease_time)

    def again(self) -> Claim:
        """The same claim, sent once more now: its reply counts as old only when the whole lease may be over."""
        return replace(self, share=1, begun=lease_time())

    @property
    def until(self) -> float:
        """The moment at which the leases of its items end at the earliest."""
        return self.begun + self.subscription.lease

    @property
    def old(self) -> bool:
        """Whether the leases of its items may have ended, so that others may hold them, as after a suspension.

        Then the server is asked which of them are still held by this worker.
        """
        return lease_time() - self.begun > self.subscription.lease * self.share


class ClaimCalls:
    """Makes the calls of a worker's claims."""

    def __init__(
        self, consumer: str, subscriptions: Sequence[Subscription], width: Callable[[Subscription], int]
    ) -> None:
        """width: how many items of a subscription are in handlers at one time, at most."""
        self.room = operations.BATCH  # most items that a claim asks for; 1 after an unreadable reply, then it doubles
        self._places = {subscription: place for place, subscription in enumerate(subscriptions)}
        # The consumer's name in claims: the server learns the width from it.
        self._names = {subscription: f"{consumer}+{width(subscription)}" for subscription in subscriptions}

    def place(self, subscription: Subscription) -> int:
        """The index of a subscription, by which the ledger knows it."""
        return self._places[subscription]

    def call(self, subscription: Subscription, n: int, finished: Sequence[FinishedJob] = ()) -> Call[ClaimReply]:
        """A claim of n items that acks the finished jobs."""
        return subscription.queue.claim(
            self._names[subscription],
            lease=subscription.lease,
            n=n,
            acks=[done.job.held for done in finished],
            results=results(subscription, finished),
        )
