"""Takes items of one or more queues, calls their handlers, acks or fails them: in the threads of one process."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import random
import resource
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from django.dispatch import Signal

from django_srq import failure, operations, signals
from django_srq.connections import Sent
from django_srq.consumer import pace
from django_srq.consumer.hands import FAILED, RUNNING, Hands
from django_srq.consumer.pace import Pace
from django_srq.consumer.source import Source, Turns
from django_srq.exceptions import (
    Discard,
    OutcomeUnknown,
    PayloadError,
    QueueUnavailable,
    RetryLater,
)
from django_srq.item import Item
from django_srq.operations import Call, ClaimReply, Failed, Found, Held
from django_srq.queue import LOOK, SafeRedisQueue
from django_srq.serializers import load
from django_srq.slots import Slot, slots

logger = logging.getLogger("django_srq.consumer")
T = TypeVar("T")

# What a handler raises; all else (KeyboardInterrupt, Cut) comes from a signal, and is for whoever called run.
FAILURES = (Exception, SystemExit, asyncio.CancelledError)
LONGEST_PAUSE = 1.0  # seconds between looks at a server that is away
LAST_WORDS = 10.0  # seconds in which a stopping worker must be able to say what became of its items
NEVER = float("inf")
LEAD = 0.25  # share of the items ahead that are left when the next ones are claimed
WAITED = 0.05  # seconds in hand after which what was claimed ahead is given back: its turn should have come


@dataclass(frozen=True)
class Plan:
    """How a consumer works."""

    processes: int = 1
    threads: int = 1  # of each process; items of sync handlers in hand at one time
    concurrency: int = 1  # the same for async handlers
    prefetch: int | None = None  # items claimed at one time; None: by the pace of the items before
    burst: bool = False  # end when nothing is ready
    max_items: int | None = None  # then end
    max_memory: int | None = None  # bytes; then the process is replaced, between items
    time_limit: float | None = None  # seconds for an item; then its process is killed
    grace: float = 25.0  # seconds to finish what is in hand when stopped


class StopConsuming(Exception):
    """Raised by a handle: this consumer cannot go on, and the item stays in the queue."""


class _Released:
    """A lock the other way round: free within the block."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.release()

    def __exit__(self, *error: object) -> None:
        self._lock.acquire()


class Job(NamedTuple):
    """An item in hand."""

    source: Source
    found: Found
    held: Held
    record: int  # its place in hands
    filling: int


class Finished(NamedTuple):
    """A job whose handler is done, and that is to be acked."""

    job: Job
    item: Item
    seconds: float
    discarded: str | None = None  # the reason


@dataclass(slots=True)
class _Asked:
    """A claim whose reply is not read at once."""

    source: Source
    n: int
    finished: Sequence[Finished] = ()  # acked with it
    begun: float = field(default_factory=time.monotonic)
    by_clock: float = field(default_factory=time.time)

    @property
    def until(self) -> float:
        """The moment at which the leases that it got end at the earliest."""
        return self.begun + self.source.lease

    @property
    def old(self) -> bool:
        """Whether such leases may have ended, and others may have the items, as after a process was suspended.

        Asked again, the server tells which are still ours. With a suspended machine, the monotonic clock stands still.
        """
        return max(time.monotonic() - self.begun, time.time() - self.by_clock) > self.source.lease / 2


@dataclass
class _Answer:
    """What a round over the sources brought."""

    jobs: list[Job] = field(default_factory=list)
    wait: float = LOOK  # seconds until it is worth asking again
    dry: set[Source] = field(default_factory=set)  # asked, and nothing is ready there


class Worker:
    """Serves the sources with so many threads; the one that calls ``run`` is one of them.

    Whichever thread needs an item asks for as many as there are threads without one, and acks with the same call what
    was finished meanwhile: one round trip an item, or less. Meanwhile the others wait; while there is nothing, one of
    them waits on the server.

    What is in hand is written down in ``hands``; somebody else renews the leases from there. ``report`` is told of a
    trouble with a server, and with "" when that is over.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        hands: Hands,
        *,
        consumer: str,
        plan: Plan,
        report: Callable[[str], None],
        max_items: int | None = None,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        """rest is called in each thread before it waits for items."""
        self.id = consumer
        self._sources, self._hands, self._plan = list(sources), hands, plan
        self._left = max_items
        self._report, self._rest = report, rest
        self._turns = Turns(sources)
        # Of all claims: those that are made at once, and those behind a wait.
        self._slot, self._parking = (Slot(name) for name in claim_slots(consumer))
        self._stopping = self._roused = False
        self._interrupt, self._interrupting = os.pipe()
        for end in (self._interrupt, self._interrupting):
            os.set_blocking(end, False)
        self._context = contextvars.copy_context()
        self._error: BaseException | None = None

        lock = threading.RLock()
        sizes = _sizes(sources, plan)
        # By kind of thread: those for sync handlers, and those for async ones.
        self._changed = {kind: threading.Condition(lock) for kind in sizes}
        self._lock, self._released = lock, _Released(lock)
        self._sizes = sizes
        self._free = dict.fromkeys(sizes, 0)  # threads without an item
        self._jobs: dict[bool, deque[Job]] = {kind: deque() for kind in sizes}  # claimed, not started
        self._finished: list[Finished] = []  # to be acked with the next claim
        self._streams = {link: link.stream() for link in {source.queue.link for source in sources}}
        self._asked: Sent[ClaimReply] | None = None  # the claim that was sent ahead, and whose reply is not read yet
        self._plenty = False  # the last claim brought all that it asked for
        self._over = False  # takes no more
        self._leading = False  # one of the threads is claiming
        self._idler: bool | None = None  # the kind of the thread that waits on the server
        self._heard: set[bool] = set()  # the kinds for which it waits
        self._due = 0.0  # the moment from which on it is worth asking again
        self._woken: Source | None = None
        self._refused = False  # the server carried out no wait
        self._unsure: Source | None = None  # whether the claim behind the last wait was carried out is not known
        self._by_pace = plan.prefetch is None
        self._paces = {kind: Pace() for kind in sizes}
        self._claimed = 0.0  # the moment of the last claim
        self._ahead = threading.Event()  # items may be in hand that wait for their turn
        self._ended = threading.Event()
        self._dry: set[bool] = set()  # the kinds whose burst is over
        self._gave_up = False  # stopping, with a server that cannot be told what became of the items
        self._troubles: dict[str, str] = {}

    @staticmethod
    def capacity(sources: Sequence[Source], plan: Plan) -> int:
        """How many records its hands need: as many running as not acked yet, as one wait brings, and what waits."""
        batch = max(source.batch for source in sources)
        return 3 * (sum(_sizes(sources, plan).values()) * batch + (plan.prefetch or pace.MOST))

    def stop(self) -> None:
        """Take no more, finish what is in hand, and return from ``run``. Safe in any thread and signal handler."""
        self._stopping = self._over = True
        self._rouse()

    def give_back(self) -> None:
        """Release what was claimed and not started; once stopped, nothing of it will be."""
        with self._lock:
            if not self._leading:
                self._take_over()
            jobs = [job for waiting in self._jobs.values() for job in waiting]
            for waiting in self._jobs.values():
                waiting.clear()
        for source in self._sources:
            self._release(source, [job for job in jobs if job.source is source])

    def run(self) -> None:
        """Handle items until stopped. Blocks."""
        queues = [source.queue.label for source in self._sources]
        signals.consumer_started.send_robust(SafeRedisQueue, consumer=self.id, queues=queues)
        kinds = [kind for kind, size in self._sizes.items() for _ in range(size)]
        threads = [
            threading.Thread(target=self._beside, args=[self._work, kind], name=f"srq-{number}", daemon=True)
            for number, kind in enumerate(kinds[1:], 2)
        ]
        relieving = threading.Thread(target=self._beside, args=[self._relieve], name="srq-ahead", daemon=True)
        self._hands.live()
        for thread in (relieving, *threads):
            thread.start()
        try:
            self._work(kinds[0])
            for thread in threads:
                thread.join()
        except BaseException:
            self._cut()
            raise
        finally:
            with self._lock:
                self._ended.set()
                self._ahead.set()
            relieving.join()
            try:
                self._sign_off()
            finally:
                self._close()
                signals.consumer_stopped.send_robust(SafeRedisQueue, consumer=self.id, queues=queues)
        if self._error is not None:
            raise self._error

    def _close(self) -> None:
        for stream in self._streams.values():
            stream.close()
        ends, self._interrupting = (self._interrupt, self._interrupting), -1
        for end in ends:
            os.close(end)

    def _work(self, kind: bool) -> None:
        try:
            while jobs := self._next(kind):
                self._handle(jobs)
        except Exception as error:
            self._error = self._error or error
            self.stop()
        finally:
            with self._lock:
                self._notify_all()

    def _beside(self, work: Callable[..., None], *args: bool) -> None:
        """In a thread of ours: what ends it ends the worker, or its items would be in hand for ever."""
        try:
            work(*args)
        except BaseException as error:
            self._error = self._error or error
            self.stop()

    # -- taking

    def _next(self, kind: bool) -> list[Job]:
        """The next items to be handled together by a thread of that kind; none: there is an end."""
        rested = False
        with self._lock:
            self._free[kind] += 1
            try:
                while True:
                    if self._jobs[kind] and not self._stopping:
                        return self._batch(self._jobs[kind])
                    over = self._over or kind in self._dry
                    if self._leading:
                        self._changed[kind].wait()
                    elif (self._unread and not self._gave_up) or (time.monotonic() >= self._due and not over):
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
                            self._rouse()  # when its wait began, no thread of this kind was free
                        self._changed[kind].wait()
            finally:
                self._free[kind] -= 1
        if self._stopping:
            self.give_back()
        return []

    def _batch(self, waiting: deque[Job]) -> list[Job]:
        """Take those that are to be handled together.

        What was delivered before comes alone: so that one which kills its process, or fails all, is found.
        """
        jobs = [waiting.popleft()]
        source, alone = jobs[0].source, jobs[0].found.delivery.deliveries > 1
        while waiting and len(jobs) < source.batch and not alone:
            if waiting[0].source is not source or waiting[0].found.delivery.deliveries > 1:
                break
            jobs.append(waiting.popleft())
        return jobs

    @property
    def _unread(self) -> bool:
        """Whether there are acks to be sent, or replies to be read."""
        return bool(self._finished or self._unsure or any(stream.unread for stream in self._streams.values()))

    @contextmanager
    def _leads(self) -> Iterator[_Answer]:
        """Be the one that claims. Called with the lock, which is free meanwhile; what the answer got is shared out."""
        self._leading, answer = True, _Answer()
        try:
            with self._released:
                yield answer
        finally:
            self._leading = False
            self._share_out(answer)

    def _lead(self) -> None:
        """Claim for all threads that have nothing."""
        self._due = NEVER
        finished, self._finished = self._finished, []
        woken, self._woken = self._woken, None
        needed = {kind: self._needed(kind) for kind in self._sizes}
        with self._leads() as answer:
            if self._asked is not None:
                self._collect(answer, self._asked)
            if not answer.jobs:
                self._collect(answer)
            self._round(finished, needed, woken, answer)

    def _share_out(self, answer: _Answer) -> None:
        # One may lead while another waits, and each may be told of a moment; the sooner one counts.
        self._due = min(self._due, time.monotonic() + answer.wait)
        for job in answer.jobs:
            self._jobs[job.source.asynchronous].append(job)
        if len(answer.jobs) > 1:
            self._claimed = time.monotonic()
            if self._by_pace:
                self._ahead.set()
        self._check_end(answer)
        self._call_up(answer.jobs)

    def _needed(self, kind: bool) -> int:
        """How many threads have nothing to do; one that waits on the server cannot be called from there."""
        return max(0, self._free[kind] - (self._idler is kind) - len(self._jobs[kind]))

    def _most(self, source: Source, needed: int, *, ahead: bool = True) -> int:
        """How many items to ask a source for when there are threads for so many batches; ahead: more, if none wait."""
        most = needed * source.batch
        if ahead and not self._jobs[source.asynchronous]:
            most = max(most, self._plan.prefetch or self._ahead_of(source))
        most = min(most, operations.BATCH)
        return most if self._left is None else min(most, self._left)

    def _ahead_of(self, source: Source) -> int:
        queue = source.queue
        if source.batch > 1:
            return 1  # it has its batch
        if queue.max_in_flight is not None or queue.rate is not None:
            return 1  # what waits here others might begin
        if any(one.weight for one in self._sources):
            return 1  # each turn is for one item
        return self._paces[source.asynchronous].ahead

    def _check_end(self, answer: _Answer) -> None:
        if self._left is not None and self._left <= 0:
            self._over = True
        if self._plan.burst:
            for kind in self._sizes:
                if all(source in answer.dry for source in self._sources if source.asynchronous is kind):
                    self._dry.add(kind)
        if self._over or self._idler in self._dry:
            self._rouse()
        if self._over or self._dry:
            self._notify_all()

    def _call_up(self, jobs: Sequence[Job]) -> None:
        """Wake a thread for each item, and one that leads or waits from now on."""
        for kind, changed in self._changed.items():
            changed.notify(sum(job.source.asynchronous is kind for job in jobs) + 1)

    def _notify_all(self) -> None:
        for changed in self._changed.values():
            changed.notify_all()

    def _round(
        self, finished: Sequence[Finished], needed: dict[bool, int], woken: Source | None, answer: _Answer
    ) -> None:
        """Ack what is finished, and claim from one source after the other until each thread has something to do."""
        self._hands.live()
        self._recall(answer)
        ahead = not answer.jobs
        if answer.jobs:  # by a claim behind a wait, or sent ahead, which are made where there is but one source
            source = answer.jobs[0].source
            needed[source.asynchronous] -= -(-len(answer.jobs) // source.batch)
        acks = {source: [one for one in finished if one.job.source is source] for source in self._sources}
        for source in self._turns.next(woken):
            kind = source.asynchronous
            n = self._most(source, needed[kind], ahead=ahead) if needed[kind] > 0 and not self._over else 0
            # Without room, whoever was woken passes that on: a claim of nothing rings for somebody else.
            if n > 0 or source is woken:
                needed[kind] -= -(-self._claim(source, max(n, 0), acks.pop(source), answer) // source.batch)
        for source, rest in acks.items():
            if rest:
                self._ack(source, rest)

    def _claim(self, source: Source, n: int, acks: Sequence[Finished], answer: _Answer) -> int:
        queue = source.queue
        call = queue.claim(self.id, lease=source.lease, n=n, acks=[one.job.held for one in acks])
        self._slot.seq += 1
        reply = self._insist(queue, call, slot=self._slot)
        if reply is None:
            self._finished += acks
            return 0
        found = self._add(source, n, reply, answer)
        self._acked(acks, reply.acked)
        return found

    def _add(self, source: Source, n: int, reply: ClaimReply, answer: _Answer, until: float | None = None) -> int:
        """Take what a claim of up to n items brought; how many those are."""
        jobs = self._take(source, reply.found, until or time.monotonic() + source.lease)
        answer.jobs += jobs
        self._plenty = 0 < n == len(jobs)
        if n:
            answer.wait = min([answer.wait, source.lease, *([] if reply.wait is None else [reply.wait])])
        # What only the limits hold up is not the end of a burst: they will let it through.
        if n and not jobs and reply.wait != 0 and not reply.held_up:
            answer.dry.add(source)
        return len(jobs)

    def _take(self, source: Source, found: Iterable[Found], until: float) -> list[Job]:
        place, jobs = self._sources.index(source), []
        with self._lock:  # whoever leads and whoever waits may take at one time
            for one in found:
                held = Held(one.uid, one.delivery.token, one.delivery.number)
                jobs.append(Job(source, one, held, *self._hands.hold(place, held, until=until)))
            if self._left is not None:
                self._left -= len(jobs)
        return jobs

    def _ask_ahead(self, source: Source) -> int:
        """How many items to claim while the last of these are handled; 0: none yet. Called with the lock."""
        if len(self._sources) > 1 or self._left is not None or self._plan.burst or self._over:
            return 0
        if self._leading or self._asked is not None or not self._plenty:
            return 0
        ahead, waiting = self._plan.prefetch or self._ahead_of(source), len(self._jobs[source.asynchronous])
        return min(ahead - waiting, operations.BATCH) if waiting <= LEAD * ahead else 0

    def _relieve(self) -> None:
        """See to what was claimed ahead when its turn does not come.

        What was claimed by the pace of the items before is given back; what ``--prefetch`` claimed waits here.
        """
        while not self._ended.wait(WAITED):
            with self._lock:
                if self._ended.is_set():
                    return  # whoever set it sets the other too, which is not to be undone
                if self._asked is None and not (self._by_pace and any(self._jobs.values())):
                    self._ahead.clear()
                elif not self._leading and time.monotonic() - self._claimed > WAITED:
                    self._take_over()
                    if self._by_pace or self._stopping:
                        self._unload()
            self._ahead.wait()

    def _take_over(self) -> None:
        """Take what was claimed ahead, though nobody needs it yet: from now on its leases are renewed one by one."""
        if self._asked is not None:
            with self._leads() as answer:
                self._collect(answer, self._asked)

    def _unload(self) -> None:
        """As the one that leads: a claim meanwhile would find nothing, and take that for the end of a burst."""
        with self._leads():
            self.give_back()
        self._due = 0
        self._call_up([])

    # -- waiting

    def _wait(self, kind: bool) -> None:
        """Wait for items on the server. Called with the lock, which is free meanwhile."""
        seconds = self._due - time.monotonic()
        sources = [source for source in self._sources if self._waits_for(source, kind)]
        self._heard = {source.asynchronous for source in sources}
        n = self._behind(sources)
        self._idler, self._due = kind, NEVER
        woken = answer = None
        try:
            with self._released:
                if n:
                    answer = self._park(sources[0], n, seconds)
                else:
                    woken = self._wait_on_server(seconds, sources)
        finally:
            self._idler, self._woken = None, woken
            self._calm()
            if answer is not None:
                self._share_out(answer)
            else:
                self._due = 0

    def _behind(self, sources: Sequence[Source]) -> int:
        """How many items to claim behind a wait for those sources; 0: that is known only after it."""
        if len(sources) > 1 or self._left is not None or self._plan.burst or self._refused:
            return 0
        if self._free != self._sizes:
            return 0  # a handler at work may hold the interpreter's lock: nobody would know of what the claim takes
        room = self._needed(sources[0].asynchronous)
        return self._most(sources[0], room) if room else 0

    def _park(self, source: Source, n: int, seconds: float) -> _Answer | None:
        """Wait with a claim behind the wait: the server carries it out as soon as that ends.

        So an item is here with the one reply. None: what came of the claim is not known; ``_recall`` finds out.
        """
        queue, asked, answer = source.queue, _Asked(source, n), None
        call = queue.claim(self.id, lease=source.lease, n=n)
        self._parking.seq += 1
        try:
            wait = operations.wait([queue.keys], seconds)
            reply = queue.link.park(
                wait, call, seconds, slot=self._parking, queue=queue.label, interrupt=self._interrupt
            )
            if reply is not None and not (asked.old and reply.found):
                self._hands.live()
                answer = _Answer()
                self._add(source, n, reply, answer)
        except QueueUnavailable:
            self._wait_refused(seconds)
        finally:
            if answer is None:
                self._unsure = source
        return answer

    def _recall(self, answer: _Answer) -> None:
        """Take what the claim behind the last wait took; if it is still on its way: nothing."""
        source, self._unsure = self._unsure, None
        if source is not None:
            call = source.queue.claim(self.id, lease=source.lease, n=0)
            reply = self._insist(source.queue, call, slot=self._parking)  # the same number: it is carried out once
            if reply is not None:
                self._add(source, 0, reply, answer)

    def _rouse(self) -> None:
        """End the wait on the server; when all is over nothing waits there any more."""
        with suppress(OSError):  # full, or closed: it has ended
            os.write(self._interrupting, b"x")
        self._roused = True  # after the write: what is not seen now is seen after the next wait

    def _calm(self) -> None:
        if self._roused:
            self._roused = False
            with suppress(BlockingIOError):
                os.read(self._interrupt, 65536)  # all that a pipe holds: what remained would end every wait
        if self._over:
            self._rouse()

    def _waits_for(self, source: Source, kind: bool) -> bool:
        return source.asynchronous is kind or self._free[source.asynchronous] > 0

    def _wait_on_server(self, seconds: float, sources: Sequence[Source]) -> Source | None:
        """Wait for a wake token, at most so many seconds; the source that it was for."""
        links = list(dict.fromkeys(source.queue.link for source in sources))
        # One blocked connection: several servers take turns.
        link = links[0] if len(links) == 1 else random.choice(links)
        mine = [source for source in sources if source.queue.link is link]
        share = seconds / len(links)
        try:
            command = operations.wait([source.queue.keys for source in mine], share)
            rung = link.wait(command, share, queue=mine[0].queue.label, interrupt=self._interrupt)
        except QueueUnavailable:
            self._wait_refused(share)
            return None
        self._refused = False
        return next((source for source in mine if source.queue.keys["wake"] == rung), None)

    def _wait_refused(self, seconds: float) -> None:
        """The next claim says what is wrong, unless it is allowed what the wait was not; none goes behind the next."""
        self._refused = True
        self._pause(min(seconds, LONGEST_PAUSE))

    def _pause(self, seconds: float) -> None:
        if self._over:  # then the pipe ends every wait
            time.sleep(LONGEST_PAUSE / 10)
        else:
            select.select([self._interrupt], [], [], seconds)

    # -- handling

    def _handle(self, jobs: Sequence[Job]) -> None:
        """Handle items together: one, or a batch for a handler that takes lists."""
        source = jobs[0].source
        started = time.monotonic()
        begun = [(job, item) for job in jobs if (item := self._begin(job)) is not None]
        if begun:
            errors = self._call(source, begun)
            seconds = time.monotonic() - started
            self._settle(source, begun, errors, seconds)
            self._paces[source.asynchronous].took(time.monotonic() - started if errors else seconds)
        if self._plan.max_memory is not None and _memory() > self._plan.max_memory:
            logger.info("memory limit reached, making room for a successor consumer=%s", self.id)
            self._over = self._hands.full = True
            self._rouse()
            self.give_back()

    def _begin(self, job: Job) -> Item | None:
        """None: it cannot be decoded, and is set aside."""
        self._hands.start(job.record)
        try:
            item = self._item(job)
        except PayloadError as error:
            self._bury(job, error)
            return None
        if signals.item_started.receivers:  # mostly there are none
            self._send(signals.item_started, job.source.queue, item=item)
        return item

    def _call(self, source: Source, begun: Sequence[tuple[Job, Item]]) -> Mapping[int, BaseException]:
        """Call the handler; the errors of the items that failed, by their place."""
        context = self._context.copy()
        try:
            if source.batch == 1:
                context.run(source.handle, begun[0][1])
                return {}
            return context.run(source.handle, [item for _, item in begun]) or {}
        except StopConsuming as error:
            self._release(source, [job for job, _ in begun])
            raise error
        except FAILURES as error:
            return dict.fromkeys(range(len(begun)), error)

    def _settle(
        self,
        source: Source,
        begun: Sequence[tuple[Job, Item]],
        errors: Mapping[int, BaseException],
        seconds: float,
    ) -> None:
        finished, failed = [], []
        for place, (job, item) in enumerate(begun):
            error = errors.get(place)
            if error is None or isinstance(error, Discard):
                finished.append(Finished(job, item, seconds, None if error is None else str(error)))
            else:
                failed.append((job, item, error))
        if finished:
            self._finish(source, finished)
        if failed:
            self._fail(source, failed, seconds)

    def _item(self, job: Job) -> Item:
        queue, found = job.source.queue, job.found
        payload = load(queue.serializer, found.payload, queue=queue.label, uid=found.uid)
        item = Item(found.uid, payload, found.delivery)
        index, filling = job.record, job.filling
        item.lapsed = lambda: self._hands.lapsed(index, filling)
        return item

    def _finish(self, source: Source, finished: Sequence[Finished]) -> None:
        for one in finished:
            self._hands.finish(one.job.record)
        with self._lock:
            self._hands.count_handled(len(finished))
            if self._jobs[source.asynchronous] or self._asked is not None:
                self._send_ack(source, finished)
            else:
                self._finished += finished

    def _send_ack(self, source: Source, finished: Sequence[Finished]) -> None:
        """Ack at once what is finished, as nobody is about to claim; whoever does reads the reply."""
        queue, held = source.queue, [one.job.held for one in finished]
        for one in finished:
            self._hands.sent(one.job.record)
        if n := self._ask_ahead(source):
            self._slot.seq += 1
            call = queue.claim(self.id, lease=source.lease, n=n, acks=held)
            self._hands.ask(self._sources.index(source))
            about = _Asked(source, n, finished)
            self._asked = self._streams[queue.link].send(call, queue=queue.label, slot=self._slot, about=about)
            self._ahead.set()
        else:
            ack = operations.ack(queue.keys, held)
            self._streams[queue.link].send(ack, queue=queue.label, about=(source, finished))

    def _bury(self, job: Job, error: PayloadError) -> None:
        self._hands.fail(job.record)
        queue = job.source.queue
        described = failure.describe(error, consumer=self.id)
        self._insist(queue, operations.fail(queue.keys, job.held, error=described, bury=True))
        self._hands.let_go(job.record)
        logger.error("payload cannot be decoded, item set aside queue=%s uid=%s", queue.label, job.found.uid)
        self._tell_dead(job, error)

    def _fail(self, source: Source, failed: Sequence[tuple[Job, Item, BaseException]], seconds: float) -> None:
        queue = source.queue
        described: dict[int, bytes] = {}  # of each error once: mostly all have the same
        calls = []
        for job, item, error in failed:
            self._hands.fail(job.record)  # from now on it is the server that takes its time
            if id(error) not in described:
                described[id(error)] = failure.describe(error, consumer=self.id)
            delay = error.delay if isinstance(error, RetryLater) else source.backoff.delay(item.deliveries)
            calls.append(Failed(job.held, described[id(error)], delay))
        states = self._insist(queue, operations.fail_many(queue.keys, calls, max_deliveries=queue.max_deliveries))
        for (job, item, error), state in zip(failed, states or [None] * len(failed), strict=True):
            self._hands.let_go(job.record)
            self._tell_failed(job, item, error, seconds, state)
        with self._lock:
            self._hands.count_handled(len(failed))

    def _tell_failed(self, job: Job, item: Item, error: BaseException, seconds: float, state: str | None) -> None:
        level = logging.INFO if isinstance(error, RetryLater) and state != "dead" else logging.ERROR
        self._log(level, "failed", job, item, seconds, error=error, state=state or "lost")
        about = {"item": item, "duration": seconds, "error": error, "state": state}
        self._send(signals.item_failed, job.source.queue, **about)
        if state == "dead":
            self._tell_dead(job, error)

    def _tell_dead(self, job: Job, error: BaseException) -> None:
        queue = job.source.queue
        evidence = {"type": type(error).__name__, "message": failure.text_of(error)}
        self._send(signals.item_dead, queue, uid=job.found.uid, evidence=evidence)

    def _send(self, signal: Signal, queue: SafeRedisQueue, **about: Any) -> None:
        signal.send_robust(type(queue), queue=queue.label, consumer=self.id, **about)

    # -- settling

    def _ack(self, source: Source, finished: Sequence[Finished]) -> None:
        call = operations.ack(source.queue.keys, [one.job.held for one in finished])
        flags = self._insist(source.queue, call)
        if flags is not None:
            self._acked(finished, flags)

    def _collect(self, answer: _Answer, last: Sent[Any] | None = None) -> None:
        """Read the replies to what was sent, all or up to the last; what got none is sent again in its slot."""
        self._hands.read()
        collected = [sent for stream in self._streams.values() for sent in stream.collect(last)]
        self._asked = None  # which is among them in any case
        for sent in collected:
            if isinstance(sent.about, _Asked) and sent.result is None:
                self._hands.ask(self._sources.index(sent.about.source))  # nothing of it is being read
        for sent in collected:
            if isinstance(sent.about, _Asked):
                self._claimed_ahead(sent, sent.about, answer)
            else:
                self._acked_ahead(sent, *sent.about)

    def _acked_ahead(self, sent: Sent[list[bool]], source: Source, finished: Sequence[Finished]) -> None:
        flags = sent.result
        if flags is None:
            flags = self._insist(source.queue, sent.call, slot=sent.slot)
        slots.give_back(sent.slot)
        if flags is not None:
            self._acked(finished, flags)

    def _claimed_ahead(self, sent: Sent[ClaimReply], asked: _Asked, answer: _Answer) -> None:
        reply, until = sent.result, asked.until
        if reply is None or (asked.old and reply.found):
            until = time.monotonic() + asked.source.lease
            reply = self._insist(asked.source.queue, sent.call, slot=sent.slot)
        if reply is None:
            return
        self._add(asked.source, asked.n, reply, answer, until)
        self._hands.took()
        self._acked(asked.finished, reply.acked)

    def _acked(self, finished: Sequence[Finished], flags: Sequence[bool]) -> None:
        for one, removed in zip(finished, flags, strict=True):
            self._hands.let_go(one.job.record)
            self._log_acked(one, removed)
            if signals.item_acked.receivers:
                self._send(signals.item_acked, one.job.source.queue, item=one.item, duration=one.seconds)

    def _release(self, source: Source, jobs: Sequence[Job]) -> None:
        if jobs:
            self._insist(source.queue, operations.release(source.queue.keys, [job.held for job in jobs]))
            for job in jobs:
                self._hands.let_go(job.record)

    def _cut(self) -> None:
        """Give back what is running in threads that will not come to their end: counted as a delivery."""
        self.stop()
        for place, source in enumerate(self._sources):
            held = [hand.held for hand in self._hands if hand.source == place and hand.state in {RUNNING, FAILED}]
            if held:
                evidence = failure.describe("cut in the middle: the consumer was stopped", consumer=self.id)
                call = operations.crashed(
                    source.queue.keys,
                    held,
                    evidence=evidence,
                    how="cut" if source.queue.autoclean_interval is not None else "end",
                    max_deliveries=source.queue.max_deliveries,
                )
                self._insist(source.queue, call)

    def _sign_off(self) -> None:
        """Ack what is handled, release what was not started, and pass on what woke us."""
        with self._lock:
            finished, self._finished = [] if self._gave_up else self._finished, []
        answer = _Answer()
        self._collect(answer)
        for source in self._sources:
            mine = [one for one in finished if one.job.source is source]
            if mine:
                self._ack(source, mine)
        if not self._gave_up:
            self._recall(answer)
        for job in answer.jobs:
            self._jobs[job.source.asynchronous].append(job)
        self.give_back()
        if self._over and not self._gave_up:
            self._pass_on()

    def _pass_on(self) -> None:
        """A wake token that we may have taken must not be lost: a claim of nothing rings for whoever is there."""
        for source in self._sources:
            try:
                self._slot.seq += 1
                call = source.queue.claim(self.id, lease=source.lease, n=0)
                source.queue.link.call(call, queue=source.queue.label, timeout=1, slot=self._slot)
            except (QueueUnavailable, OutcomeUnknown):
                return  # then others find it when they look by themselves

    # -- the server

    def _insist(self, queue: SafeRedisQueue, call: Call[T], *, slot: Slot | None = None) -> T | None:
        """Send a call until the server took it: what is finished must be said. None when stopping and it cannot be."""
        borrowed = slot is None
        slot = slot or slots.borrow()  # the same all the time: it may have been carried out although no reply came
        give_up = None
        try:
            while True:
                try:
                    reply = queue.link.call(call, queue=queue.label, slot=slot)
                except (QueueUnavailable, OutcomeUnknown) as error:
                    self._trouble(queue, str(error))
                else:
                    self._trouble(queue, "")
                    return reply
                if self._stopping:
                    give_up = give_up or time.monotonic() + LAST_WORDS
                    if self._gave_up or time.monotonic() > give_up or not any(self._hands):
                        self._gave_up = True
                        return None
                self._pause(random.uniform(0, LONGEST_PAUSE))
        finally:
            if borrowed:
                slots.give_back(slot)

    def _trouble(self, queue: SafeRedisQueue, error: str) -> None:
        if not error and queue.label not in self._troubles:
            return
        with self._lock:  # of many threads, each tells of the same
            self._troubles.pop(queue.label, None)
            if error:
                self._troubles[queue.label] = f"queue={queue.label} error={error}"
            self._report(next(iter(self._troubles.values()), ""))

    # -- logging

    def _log_acked(self, finished: Finished, removed: bool) -> None:
        job = finished.job
        if not removed:
            logger.warning("was settled already queue=%s uid=%s", job.source.queue.label, job.found.uid)
        elif finished.discarded is not None:
            self._log(logging.WARNING, "discarded", job, finished.item, finished.seconds, reason=finished.discarded)
        else:
            self._log(logging.INFO, "acked", job, finished.item, finished.seconds)

    def _log(
        self,
        level: int,
        outcome: str,
        job: Job,
        item: Item,
        seconds: float,
        *,
        error: BaseException | None = None,
        **more: str,
    ) -> None:
        if not logger.isEnabledFor(level):
            return
        name = type(error).__name__ if error else None
        if name:
            more["error"] = name
        queue, uid, deliveries = job.source.queue.label, item.uid, item.deliveries
        record = logger.makeRecord(  # not _log, which looks at the stack for each item; tracers extend this one
            logger.name,
            level,
            __file__,
            0,
            "%s queue=%s uid=%s deliveries=%d duration=%.3f%s",
            (outcome, queue, uid, deliveries, seconds, "".join([f" {key}={value}" for key, value in more.items()])),
            (type(error), error, error.__traceback__) if error and logger.isEnabledFor(logging.DEBUG) else None,
            "_log",
        )
        record.__dict__.update(  # as extra, which would look for each name whether there is one like it
            queue=queue,
            uid=uid,
            deliveries=deliveries,
            duration=seconds,
            consumer=self.id,
            outcome=outcome,
            error=name,
        )
        logger.handle(record)


def claim_slots(consumer: str) -> tuple[bytes, bytes]:
    """The slots of a worker's claims; its supervisor closes them when it died."""
    return consumer.encode(), f"{consumer}.w".encode()


def _sizes(sources: Sequence[Source], plan: Plan) -> dict[bool, int]:
    """How many threads there are of each kind, False: for sync handlers, True: for async ones."""
    sizes = {False: plan.threads, True: plan.concurrency}
    return {kind: size for kind, size in sizes.items() if any(source.asynchronous is kind for source in sources)}


def _memory() -> int:
    """The memory of this process (bytes): what it has now, or where that is not told, the most it ever had."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
