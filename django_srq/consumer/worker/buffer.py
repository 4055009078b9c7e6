"""The buffer: the jobs that wait in this process for a thread, and which thread has which role."""

from __future__ import annotations

import threading
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django_srq.consumer.subscription import NEVER, Kind, Subscription, Timetable
from django_srq.consumer.worker.claim import Answer
from django_srq.consumer.worker.job import FinishedJob, Job, ack_batches
from django_srq.consumer.worker.pipeline import Pipeline
from django_srq.consumer.worker.prefetch import Prefetch
from django_srq.consumer.worker.retries import Retries
from django_srq.consumer.worker.steps import Handle, Lead, Rest, Step, Wait, WaitResult
from django_srq.consumer.worker.thread_groups import ThreadGroup, ThreadGroups
from django_srq.consumer.worker.wakeup import Wakeup
from django_srq.queue.safe_redis_queue import LOOK
from django_srq.transport.stream import Sent

SOONER = 0.1  # seconds; a wait is interrupted only for a moment that is at least this much earlier than its end
WAITED = 0.05  # seconds after a claim in which the turn of items claimed ahead should come; then they are given back


@dataclass
class Idler:
    """The thread that waits on the server."""

    group: ThreadGroup
    heard: Container[Kind]  # the kinds for which it waits
    until: float  # the moment at which the wait ends


class ClaimedAhead:
    """Whether jobs that were claimed ahead may be waiting for their turn, and since when."""

    def __init__(self) -> None:
        self.since = 0.0  # the moment of the last claim that brought several items
        self.plenty = False  # the last claim brought items, and more may be ready behind them
        self._any, self._ended = threading.Event(), threading.Event()

    def note(self) -> None:
        self._any.set()

    def clear(self) -> None:
        if not self._ended.is_set():
            self._any.clear()

    def end(self) -> None:
        self._ended.set()
        self._any.set()

    def wait(self) -> bool:
        """Wait until there may be such jobs, and then until their turn should have come. False: the worker ends."""
        self._any.wait()
        return not self._ended.wait(WAITED)


class Buffer:
    """The jobs that wait for a thread, and the roles of the threads: the pattern Leader/Followers.

    A thread without a job asks for its next step. One thread at a time is the leader: it claims for all threads that
    have no job, while the others wait for their share. While no item is ready, another one, the idler, waits on the
    server. No other class takes the lock, and no method does I/O: a thread does it between two steps (``Roles``).

    It is long and has many attributes because one lock guards all of this together: a thread that looks for its next
    step needs to see jobs, acks, moments and roles as they are at one time.
    """

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        sizes: Mapping[Kind, int],
        prefetch: Prefetch,
        pipeline: Pipeline,
        retries: Retries,
        wakeup: Wakeup,
        *,
        burst: bool,
    ) -> None:
        """sizes: how many threads there are of each kind."""
        self._lock = threading.RLock()
        self.groups = ThreadGroups(subscriptions, sizes, self._lock, burst=burst)
        self._subscriptions, self._timetable = list(subscriptions), Timetable(subscriptions)
        self._prefetch, self._pipeline, self._retries, self._wakeup = prefetch, pipeline, retries, wakeup
        self._finished: list[FinishedJob] = []  # to be acked with the next claim
        self.over = False  # no more items are taken
        self._leading = False  # a thread is the leader
        self._idler: Idler | None = None
        self._waited = WaitResult()  # the result of the last wait, for the next leader
        self.ahead = ClaimedAhead()

    # -- the steps of a thread

    def next(self, group: ThreadGroup, handled: Sequence[Job] = ()) -> Step:
        """The next step of a thread of that group, which has handled these jobs. Blocks until there is one."""
        with self._lock:
            group.free += 1
            if handled:
                self.groups.suspects -= handled[0].suspect
            return self._step(group, rested=False)

    def again(self, group: ThreadGroup, *, rested: bool) -> Step:
        """The next step of a thread that has carried out another one and has no job yet. rested: that was ``Rest``."""
        with self._lock:
            return self._step(group, rested)

    def _step(self, group: ThreadGroup, rested: bool) -> Step:
        while True:
            if group.jobs and not self._retries.stopping:
                group.free -= 1
                jobs = group.batch()
                self.groups.suspects += jobs[0].suspect
                return Handle(jobs, self._acks() if self._finished else ())
            over = self.over or group.dry
            if self._leading:
                group.changed.wait()
            elif (self._unread and not self._retries.gave_up) or (time.monotonic() >= self._due() and not over):
                return self._lead()
            elif over:
                group.free -= 1
                return Handle((), ())
            elif not rested:
                return Rest()
            elif self._idler is None:
                return self._wait(group)
            else:
                self._follow(group, self._idler)

    def leave(self, group: ThreadGroup) -> None:
        """Note that a thread without a job ends because of an error."""
        with self._lock:
            group.free -= 1

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Take back jobs that were not begun."""
        with self._lock:
            self.groups.of(jobs[0].subscription).jobs.extendleft(reversed(jobs))

    def _acks(self) -> list[tuple[Subscription, Sent[Any]]]:
        """The acks of items that other threads finished, to be sent before another item is begun.

        If this consumer is lost, the server takes the first items that it holds for those that it may have begun
        (``last_begun`` in housekeeping.lua). That is right only while no finished item is among them.
        """
        acks = []
        for subscription in {done.job.subscription for done in self._finished}:
            if not self._retries.away(subscription.queue.link):
                mine = [done for done in self._finished if done.job.subscription is subscription]
                self._finished = [done for done in self._finished if done.job.subscription is not subscription]
                batches = ack_batches(subscription, mine)
                acks += [(subscription, self._pipeline.prepare(subscription, batch, 0)) for batch in batches]
        return acks

    @property
    def _unread(self) -> bool:
        """Whether there are acks to be sent, or replies to be read."""
        return bool(self._finished) or self._waited.unsure or self._pipeline.unread

    def _needed(self, group: ThreadGroup) -> int:
        """How many threads have nothing to do. The idler does not count: it takes no item before its wait ends."""
        idle = self._idler is not None and self._idler.group is group
        return max(0, group.free - idle - len(group.jobs))

    def _due(self) -> float:
        """The moment at which it is worth asking for items: the earliest of all kinds with a thread without an item."""
        moments = [self._timetable.earliest(group.kind) for group in self.groups if self._needed(group) > 0]
        return min(moments, default=NEVER)

    # -- the leader

    def _lead(self) -> Lead:
        needed = {group.kind: self._needed(group) for group in self.groups}
        lead = Lead(self._finished, needed, self._waited.woken)
        self._leading, self._finished = True, []
        self._waited = self._waited._replace(woken=None, unsure=False)
        return lead

    def take_over(self) -> bool:
        """Become the leader, to read the reply to the claim that was sent ahead, if there is one and no leader."""
        with self._lock:
            return self._pipeline.asked is not None and self._take_lead()

    def take_overdue(self) -> bool:
        """Become the leader, if jobs that were claimed ahead have waited for long and there is no leader."""
        with self._lock:
            waiting = self._prefetch.adaptive and self.groups.waiting
            if self._pipeline.asked is None and not waiting:
                self.ahead.clear()
                return False
            return time.monotonic() - self.ahead.since > WAITED and self._take_lead()

    def _take_lead(self) -> bool:
        leads, self._leading = not self._leading, True
        return leads

    def ask(self, subscription: Subscription, needed: int, *, ahead: bool) -> int | None:
        """How many items the leader is to claim from a subscription now; None: its server is away.

        needed: how many threads have no job. ahead: claim more, to be handled afterwards, if no job is waiting already.
        """
        with self._lock:  # so that wake(), which makes the subscription due, comes after begin()
            if self._retries.away(subscription.queue.link):
                self._timetable.begin(subscription)  # asked again when the server is back
                return None
            if needed <= 0 or self.over:
                return 0
            n = self._most(subscription, needed, ahead=ahead)
            if n > 0:
                self._timetable.begin(subscription)
            return max(n, 0)

    def _most(self, subscription: Subscription, needed: int, *, ahead: bool) -> int:
        group = self.groups.of(subscription)
        more = ahead and not group.jobs and not self.groups.suspects
        return self._prefetch.most(subscription, needed, group.pace if more else None)

    def due_among(self, order: Sequence[Subscription], also: Container[Subscription]) -> Sequence[Subscription]:
        """The subscriptions that are due or among ``also``. In a burst: all, as it ends when none has an item."""
        if self.groups.burst or len(order) == 1:
            return order
        with self._lock:
            now = time.monotonic()
            return [each for each in order if each in also or self._timetable.is_due(each, now)]

    def ask_soon(self, subscriptions: Iterable[Subscription]) -> None:
        """Make subscriptions due."""
        with self._lock:
            self._ask_soon(subscriptions)

    def _ask_soon(self, subscriptions: Iterable[Subscription]) -> None:
        for subscription in subscriptions:
            self._timetable.sooner(subscription, 0)

    def end_lead(self, answer: Answer) -> None:
        """End the turn of the leader, and share out the jobs of its answer."""
        with self._lock:
            self._leading = False
            self._share_out(answer)

    def _share_out(self, answer: Answer) -> None:
        # One thread may lead while another waits, and both may learn of a moment to ask again; the sooner one counts.
        now = time.monotonic()
        for subscription, wait in answer.waits.items():
            self._timetable.sooner(subscription, now + wait)
        self.groups.add(answer.jobs)
        if answer.plenty is not None:
            self.ahead.plenty = answer.plenty
        if len(answer.jobs) > 1:
            self.ahead.since = now
            if self._prefetch.adaptive:
                self.ahead.note()
        idler, asked_again = self._idler, now + min(answer.waits.values(), default=NEVER)
        if answer.jobs and idler is not None and asked_again < idler.until - SOONER:
            self._wakeup.ring()  # by that moment all other threads may be handling items
        self._check_end(answer)
        self.groups.call_up(answer.jobs)

    def _check_end(self, answer: Answer) -> None:
        if self._prefetch.quota.used_up:
            self.over = True
        dry = self.groups.end_burst(answer)
        if self.over or (self._idler is not None and self._idler.group.dry):
            self._wakeup.ring(for_good=self.over)
        if self.over or dry:
            self.groups.notify_all()

    # -- the idler

    def _wait(self, group: ThreadGroup) -> Wait:
        now = time.monotonic()
        seconds = min(self._due() - now, LOOK)
        wanted = [each for each in self._subscriptions if each.kind is group.kind or self.groups.of(each).free > 0]
        there = [subscription for subscription in wanted if not self._retries.away(subscription.queue.link)]
        n = self._behind()
        self._idler = Idler(group, {subscription.kind for subscription in wanted}, now + seconds)
        if n:
            self._timetable.begin(self._subscriptions[0])  # the claim behind the wait asks it
        return Wait(seconds, there, n)

    def _behind(self) -> int:
        """How many items to claim behind a wait on the server; 0: none, as it is known only after the wait."""
        if not self._prefetch.early or self._waited.refused:
            return 0
        if not self.groups.all_free:
            return 0  # a handler at work may hold the interpreter's lock: no thread would read the reply
        (subscription,) = self._subscriptions
        needed = self._needed(self.groups.of(subscription))
        return self._most(subscription, needed, ahead=True) if needed else 0

    def _follow(self, group: ThreadGroup, idler: Idler) -> None:
        """Wait for a change, as neither the leader nor the idler."""
        if group.kind not in idler.heard:
            self._wakeup.ring()  # the idler does not wait for this kind: no thread of it was free then
        # A claim that was made after the idler began to wait may have named a moment before the end of that wait.
        due = self._due()
        group.changed.wait(max(0, due - time.monotonic()) if due < idler.until else None)

    def end_wait(self, result: WaitResult, answer: Answer | None) -> None:
        """End the turn of the idler, and share out the jobs of the claim behind its wait, if it has a reply."""
        with self._lock:
            self._idler, self._waited = None, result
            self._wakeup.calm()
            self._ask_soon(result.ask)
            if answer is not None:
                self._share_out(answer)

    def _call_idler(self) -> None:
        """End the idler's wait on the server, if there is an idler.

        Without one, nothing would calm the wakeup, and it would end all pauses.
        """
        if self._idler is not None:
            self._wakeup.ring()

    # -- jobs

    def finish(self, subscription: Subscription, finished: Sequence[FinishedJob]) -> Sent[Any] | None:
        """The ack of finished jobs, which the caller is to send; a claim ahead may go with it.

        None: the jobs are acked with the next claim, as a thread is about to make one, or when their server is back.
        """
        with self._lock:
            group = self.groups.of(subscription)
            about_to_claim = not group.jobs and self._pipeline.asked is None
            if about_to_claim or self._retries.away(subscription.queue.link):
                self._finished += finished
                return None
            n = self._ask_ahead(subscription, group)
            if n:
                self.ahead.note()
            return self._pipeline.prepare(subscription, finished, n)

    def _ask_ahead(self, subscription: Subscription, group: ThreadGroup) -> int:
        """How many items to claim while the last waiting ones are handled; 0: none yet."""
        if not (self._prefetch.early and self.ahead.plenty) or self.over:
            return 0
        if self._leading or self._pipeline.asked is not None or self.groups.suspects:
            return 0
        return self._prefetch.next(subscription, len(group.jobs), group.pace)

    def put(self, answer: Answer) -> None:
        """Share out the jobs of a claim that was put off until its server was back."""
        with self._lock:
            self._share_out(answer)
            self.ahead.since = time.monotonic()
            self.ahead.note()
            self._call_idler()

    def withdraw(self) -> list[Job]:
        """Take out all jobs that wait, to give them back."""
        with self._lock:
            return self.groups.withdraw()

    def take_finished(self) -> list[FinishedJob]:
        """Take out the finished jobs that are not acked yet."""
        with self._lock:
            finished, self._finished = self._finished, []
            return finished

    # -- the whole

    def wake(self) -> None:
        """Have all subscriptions asked again: a server that was away is back."""
        with self._lock:
            self._ask_soon(self._subscriptions)
            self.groups.call_up()
            self._call_idler()

    def stop(self) -> None:
        """Take no more items. Takes no lock: safe in a signal handler."""
        self.over = True
        self._wakeup.ring(for_good=True)

    def notify_all(self) -> None:
        """Have all threads look at what has changed."""
        with self._lock:
            self.groups.notify_all()

    def end(self) -> None:
        """End the wait for jobs claimed ahead for good: all threads have ended."""
        with self._lock:  # so that no clear() comes in between
            self.ahead.end()
