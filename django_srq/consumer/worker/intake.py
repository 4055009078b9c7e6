"""The intake: takes the items of a claim's reply into this process, or gives them back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from django_srq import operations
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.subscription import Subscription
from django_srq.consumer.worker.buffer import Buffer
from django_srq.consumer.worker.claim import Answer, Claim, ClaimCalls
from django_srq.consumer.worker.job import Job
from django_srq.consumer.worker.prefetch import Quota
from django_srq.consumer.worker.retries import Retries
from django_srq.consumer.worker.settler import Settler
from django_srq.operations import Call, ClaimReply, StoredItem
from django_srq.queue.safe_redis_queue import LOOK
from django_srq.transport.slots import Slot

logger = logging.getLogger("django_srq.consumer")
T = TypeVar("T")


class Intake:
    """Makes claims, and takes their items: first each item is written into the ledger, then it is added to an answer.

    The reply to a claim also says which of the finished jobs it acked.
    """

    def __init__(
        self, calls: ClaimCalls, ledger: Ledger, quota: Quota, buffer: Buffer, settler: Settler, retries: Retries
    ) -> None:
        self._calls, self._ledger, self._quota = calls, ledger, quota
        self._buffer, self._settler, self._retries = buffer, settler, retries
        self._taking = threading.Lock()  # several threads, such as the leader and the idler, may take items at one time

    def make(self, call: Call[ClaimReply], slot: Slot, claim: Claim, answer: Answer) -> None:
        """Make a claim, and take its items into the answer. If its server is away, they go to the buffer later."""

        def take(reply: ClaimReply, answer: Answer) -> None:
            self.take(claim, reply, answer)

        def put_off() -> None:
            if claim.n:
                self._ledger.put_off(self._calls.place(claim.subscription), claim.number)

        undoing = partial(self._undoing, claim)
        self._do(claim.subscription, call, take, answer, slot=slot, unread=undoing, put_off=put_off)

    def take(self, claim: Claim, reply: ClaimReply, answer: Answer) -> None:
        """Take the items of a reply into the answer."""
        if reply.found and claim.old:
            self._keep(claim.again(), reply, answer)
        else:
            self._take(claim, reply, answer)

    def _do(
        self, subscription: Subscription, call: Call[T], take: Callable[[T, Answer], None], answer: Answer, **how: Any
    ) -> None:
        """Make a call, and have ``take`` read its reply into the answer.

        If the call is put off, its reply goes into an answer of its own, and that to the buffer.
        """

        def now(reply: T | None) -> None:
            if reply is not None:
                take(reply, answer)

        def late(reply: T | None) -> None:
            if reply is not None:
                later = Answer()
                take(reply, later)
                self._buffer.put(later)

        self._retries.do(subscription.queue, call, now, late=late, **how)

    def _undoing(self, claim: Claim, cut: bool) -> Call[ClaimReply]:
        """The call that gives back the items of a reply that cannot be read. The next claim asks for a single item.

        cut: the reply had begun, so that its items are to blame. Else the server may just have been silent, and no item
        is to blame. But if a single item was asked for and its reply did not come twice, while the server answers this
        call, then that item is to blame.
        """
        cut = cut or self._calls.room == 1
        alias = claim.subscription.queue.alias
        logger.warning("cannot read the reply to a claim, releasing its items queue=%s", alias)
        self._calls.room = 1
        how = operations.UNREAD if cut else operations.GIVE_BACK
        return self._calls.call(claim.subscription, how, claim.finished)

    def _keep(self, claim: Claim, reply: ClaimReply, answer: Answer) -> None:
        """Take the items of a late reply, as far as this worker still holds them, and extend their leases."""
        queue, held = claim.subscription.queue, [item.ref for item in reply.found]
        recover = queue.autoclean_interval is not None

        def take(kept: Sequence[bool], answer: Answer) -> None:
            found = [item for item, ours in zip(reply.found, kept, strict=True) if ours]
            self._take(claim, reply._replace(found=found), answer)

        call = operations.extend(queue.keys, held, lease=claim.subscription.lease, recover=recover)
        self._do(claim.subscription, call, take, answer)

    def _take(self, claim: Claim, reply: ClaimReply, answer: Answer) -> None:
        taken = self._add(claim, reply, answer)
        took = self._ledger.end_parked if claim.parked else self._ledger.end_claim
        if not took(claim.number):  # the supervisor wants the items back
            self._return(claim.subscription, taken, answer)
            taken = 0
        self._settler.acked(claim.finished, reply.acked)
        self._return_surplus(claim.subscription, taken, answer)

    def _add(self, claim: Claim, reply: ClaimReply, answer: Answer) -> int:
        """Write the items of a claim into the ledger and add them to the answer. Returns how many they are."""
        subscription, n = claim.subscription, claim.n
        jobs = self._write_down(subscription, reply.found, claim.until)
        answer.jobs += jobs
        answer.plenty = n > 0 and bool(jobs) and reply.wait == 0 and not jobs[0].suspect
        if jobs:
            self._calls.room = min(2 * self._calls.room, operations.BATCH)
        if n:
            answer.ask_again(subscription, min(subscription.lease, LOOK if reply.wait is None else reply.wait))
        # Items that only a limit holds up are not the end of a burst: they will be handed out later.
        if n and not jobs and reply.wait != 0 and not reply.held_up:
            answer.dry.add(subscription)
        return len(jobs)

    def _write_down(self, subscription: Subscription, found: Iterable[StoredItem], until: float) -> list[Job]:
        place, jobs = self._calls.place(subscription), []
        with self._taking:
            for item in found:
                held = item.ref
                jobs.append(Job(subscription, item, held, *self._ledger.hold(place, held, until=until)))
            if self._quota.left is not None:
                self._quota.left -= len(jobs)
        return jobs

    def _return_surplus(self, subscription: Subscription, taken: int, answer: Answer) -> None:
        """Give back the items above the quota: a claim that was put off may have brought items too."""
        if self._quota.left is None:
            return
        with self._taking:
            surplus = min(max(0, -self._quota.left), taken)
            self._quota.left += surplus
        self._return(subscription, surplus, answer)

    def _return(self, subscription: Subscription, last: int, answer: Answer) -> None:
        """Give back the given number of jobs at the end of an answer."""
        if last:
            self._settler.release(subscription, answer.jobs[-last:])
            del answer.jobs[-last:]
