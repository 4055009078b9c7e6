"""The roles of a worker's threads: a thread carries out here, without the lock, the steps that the buffer gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from django_srq.consumer.worker.buffer import Buffer
from django_srq.consumer.worker.claim import Answer
from django_srq.consumer.worker.claims import Claims
from django_srq.consumer.worker.job import FinishedJob, Job
from django_srq.consumer.worker.pipeline import Pipeline
from django_srq.consumer.worker.retries import Retries
from django_srq.consumer.worker.settler import Settler
from django_srq.consumer.worker.steps import Handle, Lead, Rest, Wait, WaitResult
from django_srq.consumer.worker.thread_groups import ThreadGroup
from django_srq.consumer.worker.waits import TokenResult, Waits
from django_srq.consumer.worker.wakeup import Wakeup


class Roles:
    """Carries out the roles of Leader/Followers: the leader claims, the idler waits on the server."""

    def __init__(
        self,
        buffer: Buffer,
        claims: Claims,
        pipeline: Pipeline,
        waits: Waits,
        settler: Settler,
        retries: Retries,
        wakeup: Wakeup,
        *,
        adaptive: bool,
        on_idle: Callable[[], None],
    ) -> None:
        """adaptive: jobs that were claimed ahead are given back when their turn does not come soon."""
        self._buffer, self._claims, self._pipeline, self._waits = buffer, claims, pipeline, waits
        self._settler, self._retries, self._wakeup = settler, retries, wakeup
        self._adaptive, self._on_idle = adaptive, on_idle

    def next(self, group: ThreadGroup, handled: Sequence[Job] = ()) -> Sequence[Job]:
        """The next jobs to be handled together by a thread that has handled others; none: it is to end. Blocks."""
        step = self._buffer.next(group, handled)
        rested = False
        while not isinstance(step, Handle):
            try:
                self._carry_out(step)
            except BaseException:
                self._buffer.leave(group)
                raise
            rested = rested or isinstance(step, Rest)
            step = self._buffer.again(group, rested=rested)
        self._send_acks(step)
        if not step.jobs and self._retries.stopping:
            self.give_back()
        return step.jobs

    def _carry_out(self, step: Lead | Wait | Rest) -> None:
        if isinstance(step, Lead):
            self._lead(step)
        elif isinstance(step, Wait):
            self._wait(step)
        else:
            self._on_idle()

    def _send_acks(self, step: Handle) -> None:
        try:
            for subscription, prepared in step.acks:
                self._pipeline.send(subscription, prepared)
        except BaseException:
            if step.jobs:
                self._buffer.put_back(step.jobs)  # to be given back
            raise

    # -- the leader

    def _lead(self, lead: Lead) -> None:
        answer = Answer()
        try:
            self._claims.fetch(lead, answer)
        finally:
            self._buffer.end_lead(answer)

    def give_back(self) -> None:
        """Release the items that were claimed and not started. A stopped worker starts none of them any more."""
        if self._buffer.take_over():
            self._take_over()
        self._release(self._buffer.withdraw())

    def _release(self, jobs: Iterable[Job]) -> None:
        by_subscription: dict[object, list[Job]] = {}
        for job in jobs:
            by_subscription.setdefault(job.subscription, []).append(job)
        for mine in by_subscription.values():
            self._settler.release(mine[0].subscription, mine)

    # -- jobs that were claimed ahead

    def relieve(self) -> None:
        """See to jobs that were claimed ahead when their turn does not come. Runs in a thread of its own."""
        while self._buffer.ahead.wait():
            if self._buffer.take_overdue():
                self._take_over()
                if self._retries.stopping:  # since the look in there; give_back() may have come before these jobs
                    self.give_back()
            self._on_idle()

    def _take_over(self) -> None:
        """Read the reply to the claim sent ahead, as the leader, though no thread needs its items yet.

        From then on each of these items has an entry in the ledger, from which its lease is renewed. Items claimed by
        adaptive prefetch are given back. Items claimed by ``--prefetch`` stay, until the worker stops.
        """
        answer = Answer()
        try:
            if self._pipeline.asked is not None:
                self._claims.collect(answer, self._pipeline.asked)
            if self._adaptive or self._retries.stopping:
                self._unload(answer)
        finally:
            self._buffer.end_lead(answer)

    def _unload(self, answer: Answer) -> None:
        """Give back the waiting jobs and those of the answer, as the leader.

        If another thread claimed meanwhile, it would find nothing, and take that for the end of a burst.
        """
        jobs = [*self._buffer.withdraw(), *answer.jobs]
        answer.jobs.clear()
        self._release(jobs)
        for job in jobs:
            answer.ask_again(job.subscription, 0)

    # -- the idler

    def _wait(self, wait: Wait) -> None:
        answer: Answer | None = None
        rung = TokenResult(None, ())
        try:
            if wait.n:
                answer = self._waits.park(wait.subscriptions[0], wait.n, wait.seconds)
                rung = TokenResult(None, () if answer else wait.subscriptions)
            elif wait.subscriptions:
                rung = self._waits.wait(wait.seconds, wait.subscriptions)
            else:
                self._wakeup.pause(wait.seconds)  # until one of the servers is back
        finally:
            woken, unsure = rung.subscription, self._waits.unsure is not None
            ask = [*rung.unknown, *([woken] if woken else [])]
            self._buffer.end_wait(WaitResult(woken, ask, unsure, self._waits.refused), answer)

    def recovered(self) -> None:
        """Ask a server that was away again. Called in the thread that has made the calls owed to it."""
        self._on_idle()
        self._buffer.wake()

    # -- the end

    def sign_off(self) -> None:
        """Ack the handled items, release those not started, and pass on a wake token that was taken and not used."""
        finished, answer = self._buffer.take_finished(), Answer()
        if self._retries.gave_up:
            finished = []
        self._claims.collect(answer)
        self._ack(finished)
        if not self._retries.gave_up:
            self._waits.recall(answer)
        self._release(answer.jobs)
        for _ in range(2):  # claims owed to a server that was away may bring more items
            self.give_back()
            self._retries.finish()
        if self._buffer.over and not self._retries.gave_up:
            self._claims.pass_on()

    def _ack(self, finished: Sequence[FinishedJob]) -> None:
        for subscription in dict.fromkeys(done.job.subscription for done in finished):
            self._settler.ack(subscription, [done for done in finished if done.job.subscription is subscription])

    def close(self) -> None:
        self._pipeline.close()
        self._wakeup.close()
