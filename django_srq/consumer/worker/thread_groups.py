"""The threads of a worker by their kind, and the jobs that wait for them. The lock of the buffer guards them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from django_srq.consumer.subscription import Kind, Subscription
from django_srq.consumer.worker.claim import Answer
from django_srq.consumer.worker.job import Job
from django_srq.consumer.worker.prefetch import AdaptivePrefetch


@dataclass(eq=False)
class ThreadGroup:
    """The threads of one kind, and the jobs that wait for them."""

    kind: Kind
    size: int
    subscriptions: Sequence[Subscription]
    changed: threading.Condition
    free: int = 0  # threads without a job
    jobs: deque[Job] = field(default_factory=deque)  # claimed, not begun
    dry: bool = False  # its burst is over: none of its queues has a ready item
    pace: AdaptivePrefetch = field(default_factory=AdaptivePrefetch)

    def batch(self) -> list[Job]:
        """Take from the waiting jobs those that are to be handled together.

        An item that was delivered before is handled alone: so an item that kills its process, or makes the whole batch
        fail, is found.
        """
        jobs = [self.jobs.popleft()]
        subscription, alone = jobs[0].subscription, jobs[0].found.delivery.deliveries > 1
        while self.jobs and len(jobs) < subscription.batch and not alone:
            if self.jobs[0].subscription is not subscription or self.jobs[0].found.delivery.deliveries > 1:
                break
            jobs.append(self.jobs.popleft())
        return jobs


class ThreadGroups:
    """The groups of a worker's threads, one for each kind."""

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        sizes: Mapping[Kind, int],
        lock: threading.RLock,
        *,
        burst: bool,
    ) -> None:
        """sizes: how many threads there are of each kind. burst: a group ends when nothing is ready for it."""
        self.burst = burst
        self.suspects = 0  # threads that handle an item that was in hand when a consumer died
        self._groups: dict[Kind, ThreadGroup] = {}
        for kind, size in sizes.items():
            mine = [subscription for subscription in subscriptions if subscription.kind is kind]
            self._groups[kind] = ThreadGroup(kind, size, mine, threading.Condition(lock))

    def __iter__(self) -> Iterator[ThreadGroup]:
        return iter(self._groups.values())

    def of(self, subscription: Subscription) -> ThreadGroup:
        return self._groups[subscription.kind]

    def add(self, jobs: Sequence[Job]) -> None:
        """Have jobs wait for the threads of their kinds."""
        for job in jobs:
            self._groups[job.subscription.kind].jobs.append(job)

    def withdraw(self) -> list[Job]:
        """Take out all jobs that wait."""
        jobs = [job for group in self for job in group.jobs]
        for group in self:
            group.jobs.clear()
        return jobs

    @property
    def waiting(self) -> bool:
        """Whether any job waits."""
        return any(group.jobs for group in self)

    @property
    def all_free(self) -> bool:
        """Whether no thread has a job, or has ended."""
        return all(group.free == group.size for group in self)

    def end_burst(self, answer: Answer) -> bool:
        """Note for which groups the burst is over, after an answer. Returns whether it is over for any."""
        if not self.burst:
            return False
        for group in self:
            group.dry = group.dry or all(subscription in answer.dry for subscription in group.subscriptions)
        return any(group.dry for group in self)

    def call_up(self, jobs: Sequence[Job] = ()) -> None:
        """Wake a thread for each job, and one more: it leads or waits on the server from now on."""
        for group in self:
            group.changed.notify(sum(job.subscription.kind is group.kind for job in jobs) + 1)

    def notify_all(self) -> None:
        for group in self:
            group.changed.notify_all()
