"""The worker: threads of one process that take items of one or more queues, call handlers, and ack or fail items."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from django_srq import operations, signals
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.log import guarded
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.subscription import NEVER, Rotation, Subscription, Timetable
from django_srq.consumer.worker import prefetch
from django_srq.consumer.worker.claims import Answer, Claims, Rung
from django_srq.consumer.worker.executor import Executor
from django_srq.consumer.worker.job import Finished, Job
from django_srq.consumer.worker.prefetch import AdaptivePrefetch
from django_srq.consumer.worker.retries import Retries
from django_srq.consumer.worker.settler import Settler
from django_srq.consumer.worker.wakeup import Wakeup
from django_srq.queue.safe_redis_queue import LOOK, SafeRedisQueue
from django_srq.transport.stream import Sent

logger = guarded("django_srq.consumer")

LEAD = 0.25  # the next items are claimed ahead when this share of the items claimed ahead is left
SOONER = 0.1  # seconds; a wait is interrupted only for a moment that is at least this much earlier than its end
WAITED = 0.05  # seconds after a claim in which the turn of items claimed ahead should come; then they are given back


class _Released:
    """Releases a lock within the block, and takes it again at its end."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.release()

    def __exit__(self, *error: object) -> None:
        self._lock.acquire()


class Worker:
    """Serves the subscriptions with a fixed number of threads; the thread that calls ``run`` is one of them.

    The threads follow the Leader/Followers pattern. A thread without an item becomes the leader: it claims for all
    threads that have none, and acks the finished items with the same call. That is one round trip an item, or less.
    Meanwhile the other threads wait for their share. While no item is ready, one of them, the idler, waits on the
    server.

    The worker writes the items in hand into the ledger; a keeper or another thread reads it and renews the leases.
    """

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        ledger: Ledger,
        *,
        consumer: str,
        options: ConsumerOptions,
        report: Callable[[str], None],
        ready: Callable[[], None] = lambda: None,
        max_items: int | None = None,
        rest: Callable[[], None] = lambda: None,
        replaced: bool = False,
    ) -> None:
        """report: called with a description of a trouble with a server, and with "" when the trouble is over.

        rest: called in each thread when it has nothing to do for now. ready: called once before the first item.
        replaced: when this process cannot go on, a supervisor starts another one.
        """
        self.id = consumer
        self._subscriptions, self._ledger, self._options = list(subscriptions), ledger, options
        self._ready, self._rest, self._replaced = ready, rest, replaced
        self._turns, self._timetable = Rotation(subscriptions), Timetable(subscriptions)
        self._wakeup = Wakeup()
        links = [subscription.queue.link for subscription in subscriptions]
        self._retries = Retries.for_servers(
            links, ledger, self._wakeup, report=report, spawn=self._beside, on_recovered=self._back, replaced=replaced
        )
        self._settler = Settler(consumer, ledger, self._retries)
        sizes = _sizes(subscriptions, options)
        self._claims = Claims(
            consumer,
            subscriptions,
            ledger,
            self._settler,
            self._retries,
            self._wakeup,
            left=max_items,
            width=lambda subscription: sizes[subscription.asynchronous] * subscription.batch,
            late=self._share_late,
        )
        self._executor = Executor(ledger, self._settler, self._finish)
        self._error: BaseException | None = None

        lock = threading.RLock()
        # Kinds of threads: False, those for sync handlers; True, those for async ones.
        self._changed = {kind: threading.Condition(lock) for kind in sizes}
        self._lock, self._released = lock, _Released(lock)
        self._sizes = sizes
        self._free = dict.fromkeys(sizes, 0)  # threads without an item
        self._jobs: dict[bool, deque[Job]] = {kind: deque() for kind in sizes}  # claimed, not started
        self._finished: list[Finished] = []  # to be acked with the next claim
        self._suspects = 0  # threads that handle an item that was in hand when a consumer died
        self._over = False  # the worker takes no more items
        self._leading = False  # a thread is the leader: it is claiming
        self._idler: bool | None = None  # the kind of the thread that waits on the server; None: no thread does
        self._heard: set[bool] = set()  # the kinds for which the idler waits
        self._until = 0.0  # the moment at which the wait on the server ends
        self._woken: Subscription | None = None
        self._by_pace = options.prefetch is None
        self._paces = {kind: AdaptivePrefetch() for kind in sizes}
        self._claimed = 0.0  # the moment of the last claim that brought several items
        self._ahead = threading.Event()  # items that were claimed ahead may be waiting for their turn
        self._ended = threading.Event()
        self._dry: set[bool] = set()  # the kinds whose burst is over: none of their queues has a ready item

    @staticmethod
    def capacity(subscriptions: Sequence[Subscription], options: ConsumerOptions) -> int:
        """How many entries the ledger needs: for running items, finished ones without an ack, and newly claimed ones.

        Each of these may be as many as all threads handle at one time, and as many as are claimed ahead. Each further
        server needs as many again: their calls are owed while it is away.
        """
        sizes, batch = _sizes(subscriptions, options), max(subscription.batch for subscription in subscriptions)
        return (2 + _servers(subscriptions)) * (
            sum(sizes.values()) * batch + len(sizes) * (options.prefetch or prefetch.MOST)
        )

    @staticmethod
    def table(subscriptions: Sequence[Subscription], options: ConsumerOptions, slot: bytes = b"") -> Ledger:
        """The ledger that such a worker needs. slot: the slot of its claims (see ``Ledger``)."""
        return Ledger(Worker.capacity(subscriptions, options), servers=_servers(subscriptions), slot=slot)

    def stop(self) -> None:
        """Take no more items, finish those that run, and return from ``run``. Safe in any thread and signal handler."""
        self._retries.stopping = self._over = True
        self._wakeup.ring(for_good=True)

    def give_back(self) -> None:
        """Release the items that were claimed and not started. A stopped worker starts none of them any more."""
        with self._lock:
            if not self._leading:
                self._take_over()
            jobs = [job for waiting in self._jobs.values() for job in waiting]
            for waiting in self._jobs.values():
                waiting.clear()
        for subscription in self._subscriptions:
            self._settler.release(subscription, [job for job in jobs if job.subscription is subscription])

    def run(self) -> None:
        """Handle items until stopped, or until the options say so. Blocks. Raises the error of a thread that failed.

        Afterwards handled items are acked and unstarted ones released, unless the server stays away.
        """
        queues = [subscription.queue.alias for subscription in self._subscriptions]
        signals.send(signals.consumer_started, SafeRedisQueue, consumer=self.id, queues=queues)
        kinds = [kind for kind, size in self._sizes.items() for _ in range(size)]
        threads = [
            threading.Thread(target=self._beside, args=[self._work, kind], name=f"srq-{number}", daemon=True)
            for number, kind in enumerate(kinds[1:], 2)
        ]
        relieving = threading.Thread(target=self._beside, args=[self._relieve], name="srq-ahead", daemon=True)
        self._ledger.beat()
        self._ready()
        for thread in (relieving, *threads):
            thread.start()
        try:
            self._work(kinds[0])
            for thread in threads:
                thread.join()
        except BaseException:
            self.stop()
            self._settler.cut(self._subscriptions)
            raise
        finally:
            with self._lock:
                self._ended.set()
                self._ahead.set()
            relieving.join()
            try:
                self._sign_off()
            finally:
                self._retries.stopping = True  # after an error, too, do not wait for a server without end
                self._retries.finish()
                self._claims.close()
                self._wakeup.close()
                signals.send(signals.consumer_stopped, SafeRedisQueue, consumer=self.id, queues=queues)
        if self._error is not None:
            raise self._error

    def _work(self, kind: bool) -> None:
        try:
            while jobs := self._next(kind):
                self._paces[kind].took(self._executor.handle(jobs))
                if jobs[0].suspect:
                    with self._lock:
                        self._suspects -= 1
                self._look_at_itself()
        except Exception as error:
            self._error = self._error or error
            self.stop()
        finally:
            with self._lock:
                self._notify_all()

    def _beside(self, work: Callable[..., None], *args: object) -> None:
        """Run work in a thread of the worker. An error ends the worker: else the thread's items would stay in hand."""
        try:
            work(*args)
        except BaseException as error:
            self._error = self._error or error
            self.stop()

    # -- taking

    def _next(self, kind: bool) -> list[Job]:
        """The next items to be handled together by a thread of that kind; none: the thread is to end. Blocks."""
        jobs, acks = self._taken(kind)
        try:
            for subscription, prepared in acks:
                self._claims.send(subscription, prepared)
        except BaseException:
            with self._lock:
                self._jobs[kind].extendleft(reversed(jobs))  # to be given back
            raise
        if not jobs and self._retries.stopping:
            self.give_back()
        return jobs

    def _taken(self, kind: bool) -> tuple[list[Job], list[tuple[Subscription, Sent[Any]]]]:
        """The next items, as soon as there are some, and the acks to be sent before they are begun."""
        rested = False
        with self._lock:
            self._free[kind] += 1
            try:
                while True:
                    if self._jobs[kind] and not self._retries.stopping:
                        return self._batch(self._jobs[kind]), self._acks() if self._finished else []
                    over = self._over or kind in self._dry
                    if self._leading:
                        self._changed[kind].wait()
                    elif (self._unread and not self._retries.gave_up) or (time.monotonic() >= self._due() and not over):
                        self._lead()
                    elif over:
                        break
                    elif not rested:
                        with self._released:
                            self._rest()
                        rested = True
                    elif self._idler is None:
                        self._wait(kind)
                    else:
                        if kind not in self._heard:
                            self._wakeup.ring()  # the idler does not wait for this kind: no thread of it was free then
                        # A claim made since then may have named a moment before the end of that wait.
                        due = self._due()
                        self._changed[kind].wait(max(0, due - time.monotonic()) if due < self._until else None)
            finally:
                self._free[kind] -= 1
        return [], []

    def _batch(self, waiting: deque[Job]) -> list[Job]:
        """Take from the waiting jobs those that are to be handled together.

        An item that was delivered before is handled alone: so an item that kills its process, or makes the whole batch
        fail, is found.
        """
        jobs = [waiting.popleft()]
        subscription, alone = jobs[0].subscription, jobs[0].found.delivery.deliveries > 1
        self._suspects += jobs[0].suspect
        while waiting and len(jobs) < subscription.batch and not alone:
            if waiting[0].subscription is not subscription or waiting[0].found.delivery.deliveries > 1:
                break
            jobs.append(waiting.popleft())
        return jobs

    @property
    def _unread(self) -> bool:
        """Whether there are acks to be sent, or replies to be read."""
        return bool(self._finished) or self._claims.unread

    @contextmanager
    def _leads(self) -> Iterator[Answer]:
        """Be the leader within the block. The caller holds the lock, which is released within the block.

        At the end of the block, the jobs in the answer are shared out among the threads.
        """
        self._leading, answer = True, Answer()
        try:
            with self._released:
                yield answer
        finally:
            self._leading = False
            self._share_out(answer)

    def _lead(self) -> None:
        """Claim, as the leader, for all threads that have no item."""
        finished, self._finished = self._finished, []
        woken, self._woken = self._woken, None
        needed = {kind: self._needed(kind) for kind in self._sizes}
        with self._leads() as answer:
            if self._claims.asked is not None:
                self._claims.collect(answer, self._claims.asked)
            if not answer.jobs:
                self._claims.collect(answer)
            self._round(finished, needed, woken, answer)

    def _share_out(self, answer: Answer) -> None:
        # One thread may lead while another waits, and both may learn of a moment to ask again; the sooner one counts.
        now = time.monotonic()
        for subscription, wait in answer.waits.items():
            self._timetable.sooner(subscription, now + wait)
        self._line_up(answer.jobs)
        if len(answer.jobs) > 1:
            self._claimed = time.monotonic()
            if self._by_pace:
                self._ahead.set()
        if answer.jobs and now + min(answer.waits.values(), default=NEVER) < self._until - SOONER:
            self._call_idler()  # by that moment all other threads may be handling items
        self._check_end(answer)
        self._call_up(answer.jobs)

    def _line_up(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._jobs[job.subscription.asynchronous].append(job)

    def _share_late(self, answer: Answer) -> None:
        """Share out the items from a server that was away; called in the thread that makes the calls owed to it."""
        with self._lock:
            self._share_out(answer)
            self._claimed = time.monotonic()
            self._ahead.set()
            self._call_idler()

    def _back(self) -> None:
        """A server that was away has taken all calls owed to it; called in the thread that made them."""
        self._rest()
        with self._lock:
            self._ask_soon(self._subscriptions)
            self._call_up([])
            self._call_idler()

    def _call_idler(self) -> None:
        """End the idler's wait on the server, if there is an idler.

        Without one, nothing would calm the wakeup, and it would end all pauses.
        """
        if self._idler is not None:
            self._wakeup.ring()

    def _needed(self, kind: bool) -> int:
        """How many threads have nothing to do. The idler does not count: it takes no item before its wait ends."""
        return max(0, self._free[kind] - (self._idler is kind) - len(self._jobs[kind]))

    def _most(self, subscription: Subscription, needed: int, *, ahead: bool = True) -> int:
        """How many items to claim from a subscription. needed: how many batches the threads without an item can take.

        ahead: claim more, to be handled afterwards, if no item is waiting already.
        """
        most = needed * subscription.batch
        if ahead and not self._jobs[subscription.asynchronous] and not self._suspects:
            most = max(most, self._options.prefetch or self._ahead_of(subscription))
        most = min(most, operations.BATCH)
        return most if self._claims.left is None else min(most, self._claims.left)

    def _ahead_of(self, subscription: Subscription) -> int:
        queue = subscription.queue
        if subscription.batch > 1:
            return 1  # a claim brings a whole batch already
        if self._claims.left is not None:
            return 1  # an item that is given back would still count towards max_items
        if queue.max_in_flight is not None or queue.rate is not None:
            return 1  # an item that waits here uses up the limit, and another consumer might begin one instead
        if any(one.weight for one in self._subscriptions):
            return 1  # by weight, each turn is for one item
        return self._paces[subscription.asynchronous].ahead

    def _check_end(self, answer: Answer) -> None:
        if self._claims.left is not None and self._claims.left <= 0:
            self._over = True
        if self._options.burst:
            for kind in self._sizes:
                if all(
                    subscription in answer.dry
                    for subscription in self._subscriptions
                    if subscription.asynchronous is kind
                ):
                    self._dry.add(kind)
        if self._over or self._idler in self._dry:
            self._wakeup.ring(for_good=self._over)
        if self._over or self._dry:
            self._notify_all()

    def _call_up(self, jobs: Sequence[Job]) -> None:
        """Wake a thread for each item, and one more: it leads or waits on the server from now on."""
        for kind, changed in self._changed.items():
            changed.notify(sum(job.subscription.asynchronous is kind for job in jobs) + 1)

    def _notify_all(self) -> None:
        for changed in self._changed.values():
            changed.notify_all()

    def _round(
        self, finished: Sequence[Finished], needed: dict[bool, int], woken: Subscription | None, answer: Answer
    ) -> None:
        """Ack the finished items, and claim from one subscription after the other until each thread has an item."""
        self._ledger.beat()
        self._claims.recall(answer)
        ahead = not answer.jobs
        if answer.jobs:  # from a claim behind a wait or one sent ahead, which are made only with a single subscription
            subscription = answer.jobs[0].subscription
            needed[subscription.asynchronous] -= -(-len(answer.jobs) // subscription.batch)
        acks: dict[Subscription, list[Finished]] = {}
        for one in finished:
            acks.setdefault(one.job.subscription, []).append(one)
        for subscription, has_token in self._to_ask(woken, acks, needed):
            if self._is_away(subscription):
                continue
            kind = subscription.asynchronous
            n = self._most(subscription, needed[kind], ahead=ahead) if needed[kind] > 0 and not self._over else 0
            # With a token and no free thread, a claim of nothing passes the token on to another consumer.
            if n > 0 or has_token:
                if n > 0:
                    self._timetable.begin(subscription)
                found = self._claims.claim(subscription, max(n, 0), acks.pop(subscription, ()), answer)
                needed[kind] -= -(-found // subscription.batch)
                if found < n and self._claims.plenty:
                    needed[kind] = 0  # more than one reply holds: the rest goes before the other subscriptions' items
        for subscription, rest in acks.items():
            self._settler.ack(subscription, rest)

    def _to_ask(
        self, woken: Subscription | None, acks: Container[Subscription], needed: Mapping[bool, int]
    ) -> Iterator[tuple[Subscription, bool]]:
        """The subscriptions to ask, in their turn, and for each whether its wake token was taken.

        A subscription that is not due is not asked: its queue pushes a wake token when an item can be taken. While
        another subscription always has items, the worker never waits for that token. So one call without a wait looks
        for the tokens of the subscriptions that come before those that are due.
        """
        order, now = self._turns.next(woken), time.monotonic()
        later: Sequence[Subscription] = ()
        if len(order) == 1 or self._options.burst:
            due = order
        else:
            due = [
                subscription
                for subscription in order
                if subscription in acks or self._timetable.is_due(subscription, now)
            ]
        if woken is None and len(due) < len(order):
            woken, _, later = self._token_before(due, order, needed)
            due = [
                subscription
                for subscription in order
                if subscription in due or self._timetable.is_due(subscription, now)
            ]
        if woken is not None:
            yield woken, True
        yield from ((subscription, subscription in later) for subscription in due if subscription is not woken)

    def _token_before(
        self, due: Sequence[Subscription], order: Sequence[Subscription], needed: Mapping[bool, int]
    ) -> Rung:
        """Take a wake token of a subscription that comes before all that are due; with weights: of any other one."""
        before = order if self._turns.weighted or not due else order[: order.index(due[0])]
        others = [
            subscription for subscription in before if subscription not in due and needed[subscription.asynchronous] > 0
        ]
        rung = self._claims.take_token(others) if others and not self._over else Rung(None, ())
        self._ask_soon([*rung.unknown, *rung.later, *([rung.subscription] if rung.subscription else [])])
        return rung

    def _is_away(self, subscription: Subscription) -> bool:
        """Whether the subscription's server is away; then the subscription is asked again when the server is back."""
        with self._lock:  # so that _back, which makes the subscription due, comes after begin()
            away = self._retries.away(subscription.queue.link)
            if away:
                self._timetable.begin(subscription)
            return away

    def _ask_soon(self, subscriptions: Iterable[Subscription]) -> None:
        with self._lock:
            for subscription in subscriptions:
                self._timetable.sooner(subscription, 0)

    def _due(self) -> float:
        """The moment at which it is worth asking for items: the earliest of all kinds with a thread without an item."""
        return min((self._timetable.earliest(kind) for kind in self._sizes if self._needed(kind) > 0), default=NEVER)

    def _ask_ahead(self, subscription: Subscription) -> int:
        """How many items to claim while the last waiting ones are handled; 0: none yet. The caller holds the lock."""
        if len(self._subscriptions) > 1 or self._claims.left is not None or self._options.burst or self._over:
            return 0
        if self._leading or self._suspects or self._claims.asked is not None or not self._claims.plenty:
            return 0
        ahead, waiting = (
            self._options.prefetch or self._ahead_of(subscription),
            len(self._jobs[subscription.asynchronous]),
        )
        return min(ahead - waiting, operations.BATCH) if waiting <= LEAD * ahead else 0

    def _relieve(self) -> None:
        """See to items that were claimed ahead when their turn does not come. Runs in a thread of its own.

        Items claimed by adaptive prefetch are given back. Items claimed by ``--prefetch`` stay, until the worker stops.
        """
        while not self._ended.wait(WAITED):
            with self._lock:
                if self._ended.is_set():
                    return  # before clear(): run() has set both events
                if self._claims.asked is None and not (self._by_pace and any(self._jobs.values())):
                    self._ahead.clear()
                elif not self._leading and time.monotonic() - self._claimed > WAITED:
                    self._take_over()
                    if self._by_pace or self._retries.stopping:
                        self._unload()
            self._rest()
            self._ahead.wait()

    def _take_over(self) -> None:
        """Read the reply to the claim sent ahead, though no thread needs its items yet.

        From then on each of these items has an entry in the ledger, from which its lease is renewed.
        """
        if self._claims.asked is not None:
            with self._leads() as answer:
                self._claims.collect(answer, self._claims.asked)

    def _unload(self) -> None:
        """Give the waiting items back, as the leader.

        If another thread claimed meanwhile, it would find nothing, and take that for the end of a burst.
        """
        with self._leads():
            waiting = {job.subscription for jobs in self._jobs.values() for job in jobs}
            self.give_back()
        self._ask_soon(waiting)
        self._call_up([])

    # -- waiting

    def _wait(self, kind: bool) -> None:
        """Wait for items on the server, as the idler. The caller holds the lock; it is released while waiting."""
        now = time.monotonic()
        seconds = min(self._due() - now, LOOK)
        wanted = [subscription for subscription in self._subscriptions if self._waits_for(subscription, kind)]
        self._heard = {subscription.asynchronous for subscription in wanted}
        subscriptions = [subscription for subscription in wanted if not self._retries.away(subscription.queue.link)]
        n = self._behind()
        self._idler, self._until = kind, now + seconds
        answer: Answer | None = None
        rung = Rung(None, ())
        if n:
            self._timetable.begin(self._subscriptions[0])  # the claim behind the wait asks it
        try:
            with self._released:
                if n:
                    answer = self._claims.park(self._subscriptions[0], n, seconds)
                    rung = Rung(None, () if answer else self._subscriptions)
                elif subscriptions:
                    rung = self._claims.wait(seconds, subscriptions)
                else:
                    self._wakeup.pause(seconds)  # until one of the servers is back
        finally:
            self._idler, self._woken = None, rung.subscription
            self._wakeup.calm()
            self._ask_soon([*rung.unknown, *([rung.subscription] if rung.subscription else [])])
            if answer is not None:
                self._share_out(answer)

    def _behind(self) -> int:
        """How many items to claim behind a wait on the server; 0: none, the number is known only after the wait."""
        if len(self._subscriptions) > 1 or self._claims.left is not None or self._options.burst or self._claims.refused:
            return 0
        if self._free != self._sizes:
            return 0  # a handler at work may hold the interpreter's lock: no thread would read the reply
        room = self._needed(self._subscriptions[0].asynchronous)
        return self._most(self._subscriptions[0], room) if room else 0

    def _waits_for(self, subscription: Subscription, kind: bool) -> bool:
        return subscription.asynchronous is kind or self._free[subscription.asynchronous] > 0

    # -- finishing

    def _finish(self, subscription: Subscription, finished: Sequence[Finished]) -> None:
        """Ack the finished items: with the next claim if a thread is about to make one, else at once."""
        for one in finished:
            self._ledger.finish(one.job.record)
        self._ledger.count_handled(len(finished))
        with self._lock:
            about_to_claim = not self._jobs[subscription.asynchronous] and self._claims.asked is None
            if about_to_claim or self._retries.away(subscription.queue.link):
                self._finished += finished
                return
            n = self._ask_ahead(subscription)
            prepared = self._claims.prepare(subscription, finished, n)
            if n:
                self._ahead.set()
        self._claims.send(subscription, prepared)  # outside the lock: it may have to connect

    def _acks(self) -> list[tuple[Subscription, Sent[Any]]]:
        """The acks of items that other threads finished, to be sent before another item is begun.

        If this consumer is lost, the server takes the first items that it holds for those that it may have begun
        (``last_begun`` in housekeeping.lua). That is right only while no finished item is among them. The caller holds
        the lock.
        """
        acks = []
        for subscription in {one.job.subscription for one in self._finished}:
            if not self._retries.away(subscription.queue.link):
                mine = [one for one in self._finished if one.job.subscription is subscription]
                self._finished = [one for one in self._finished if one.job.subscription is not subscription]
                acks.append((subscription, self._claims.prepare(subscription, mine, 0)))
        return acks

    def _look_at_itself(self) -> None:
        if self._options.max_memory is not None and _memory() > self._options.max_memory:
            logger.info("memory limit reached, restarting the process consumer=%s", self.id)
            self._make_room()
        elif self._replaced and self._retries.exhausted and not self._ledger.wants_successor:
            logger.warning("out of memory, files or threads, restarting the process consumer=%s", self.id)
            self._make_room()

    def _make_room(self) -> None:
        self._ledger.want_successor()
        self.stop()
        self.give_back()

    def _sign_off(self) -> None:
        """Ack the handled items, release those not started, and pass on a wake token that was taken and not used."""
        with self._lock:
            finished, self._finished = [] if self._retries.gave_up else self._finished, []
        answer = Answer()
        self._claims.collect(answer)
        for subscription in self._subscriptions:
            mine = [one for one in finished if one.job.subscription is subscription]
            if mine:
                self._settler.ack(subscription, mine)
        if not self._retries.gave_up:
            self._claims.recall(answer)
        self._line_up(answer.jobs)
        for _ in range(2):  # claims owed to a server that was away may bring more items
            self.give_back()
            self._retries.finish()
        if self._over and not self._retries.gave_up:
            self._claims.pass_on()


def _sizes(subscriptions: Sequence[Subscription], options: ConsumerOptions) -> dict[bool, int]:
    """How many threads there are of each kind. False: for sync handlers, True: for async ones."""
    sizes = {False: options.threads, True: options.concurrency}
    return {
        kind: size
        for kind, size in sizes.items()
        if any(subscription.asynchronous is kind for subscription in subscriptions)
    }


def _servers(subscriptions: Sequence[Subscription]) -> int:
    return len({subscription.queue.link for subscription in subscriptions})


def _memory() -> int:
    """The memory of this process (bytes): at present, or where the system does not tell that, the most it ever had."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
