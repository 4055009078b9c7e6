"""Takes items of one or more queues, calls their handlers, acks or fails them: in the threads of one process."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from django_srq import operations, signals
from django_srq.consumer.ledger import Hands
from django_srq.consumer.log import guarded
from django_srq.consumer.options import Plan
from django_srq.consumer.subscription import NEVER, Source, Timetable, Turns
from django_srq.consumer.worker import prefetch
from django_srq.consumer.worker.claims import Answer, Claims, Rung
from django_srq.consumer.worker.executor import Handling
from django_srq.consumer.worker.job import Finished, Job
from django_srq.consumer.worker.prefetch import Pace
from django_srq.consumer.worker.retries import Errands
from django_srq.consumer.worker.settler import Settling
from django_srq.consumer.worker.wakeup import Alarm
from django_srq.queue.safe_redis_queue import LOOK, SafeRedisQueue

logger = guarded("django_srq.consumer")

LEAD = 0.25  # share of the items ahead that are left when the next ones are claimed
SOONER = 0.1  # seconds; a moment that comes so much before the end of a wait is worth ending it
WAITED = 0.05  # seconds in hand after which what was claimed ahead is given back: its turn should have come


class _Released:
    """A lock the other way round: free within the block."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.release()

    def __exit__(self, *error: object) -> None:
        self._lock.acquire()


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
        ready: Callable[[], None] = lambda: None,
        max_items: int | None = None,
        rest: Callable[[], None] = lambda: None,
        replaced: bool = False,
    ) -> None:
        """rest is called in each thread when there is nothing to do in it for now, ready once before the first item.

        replaced: when its process cannot go on, another one is started.
        """
        self.id = consumer
        self._sources, self._hands, self._plan = list(sources), hands, plan
        self._ready, self._rest, self._replaced = ready, rest, replaced
        self._turns, self._timetable = Turns(sources), Timetable(sources)
        self._alarm = Alarm()
        links = [source.queue.link for source in sources]
        self._errands = Errands(
            links, hands, self._alarm, report=report, beside=self._beside, back=self._back, replaced=replaced
        )
        self._settling = Settling(consumer, hands, self._errands)
        sizes = _sizes(sources, plan)
        self._claims = Claims(
            consumer,
            sources,
            hands,
            self._settling,
            self._errands,
            self._alarm,
            left=max_items,
            width=lambda source: sizes[source.asynchronous] * source.batch,
            late=self._share_late,
        )
        self._handling = Handling(hands, self._settling, self._finish)
        self._error: BaseException | None = None

        lock = threading.RLock()
        # By kind of thread: those for sync handlers, and those for async ones.
        self._changed = {kind: threading.Condition(lock) for kind in sizes}
        self._lock, self._released = lock, _Released(lock)
        self._sizes = sizes
        self._free = dict.fromkeys(sizes, 0)  # threads without an item
        self._jobs: dict[bool, deque[Job]] = {kind: deque() for kind in sizes}  # claimed, not started
        self._finished: list[Finished] = []  # to be acked with the next claim
        self._suspects = 0  # threads that handle an item that was in hand when a consumer died
        self._over = False  # takes no more
        self._leading = False  # one of the threads is claiming
        self._idler: bool | None = None  # the kind of the thread that waits on the server
        self._heard: set[bool] = set()  # the kinds for which it waits
        self._until = 0.0  # the moment at which the wait on the server ends
        self._woken: Source | None = None
        self._by_pace = plan.prefetch is None
        self._paces = {kind: Pace() for kind in sizes}
        self._claimed = 0.0  # the moment of the last claim
        self._ahead = threading.Event()  # items may be in hand that wait for their turn
        self._ended = threading.Event()
        self._dry: set[bool] = set()  # the kinds whose burst is over

    @staticmethod
    def capacity(sources: Sequence[Source], plan: Plan) -> int:
        """How many records its hands need: as many running as not acked yet, as one wait brings, and what waits.

        And once more what waits for each further server: it may be away when something is to be said of it.
        """
        sizes, batch = _sizes(sources, plan), max(source.batch for source in sources)
        return (2 + _servers(sources)) * (sum(sizes.values()) * batch + len(sizes) * (plan.prefetch or prefetch.MOST))

    @staticmethod
    def table(sources: Sequence[Source], plan: Plan, slot: bytes = b"") -> Hands:
        """What it needs as its hands; slot: see there."""
        return Hands(Worker.capacity(sources, plan), servers=_servers(sources), slot=slot)

    def stop(self) -> None:
        """Take no more, finish what is in hand, and return from ``run``. Safe in any thread and signal handler."""
        self._errands.stopping = self._over = True
        self._alarm.ring(for_good=True)

    def give_back(self) -> None:
        """Release what was claimed and not started; once stopped, nothing of it will be."""
        with self._lock:
            if not self._leading:
                self._take_over()
            jobs = [job for waiting in self._jobs.values() for job in waiting]
            for waiting in self._jobs.values():
                waiting.clear()
        for source in self._sources:
            self._settling.release(source, [job for job in jobs if job.source is source])

    def run(self) -> None:
        """Handle items until stopped. Blocks."""
        queues = [source.queue.label for source in self._sources]
        signals.send(signals.consumer_started, SafeRedisQueue, consumer=self.id, queues=queues)
        kinds = [kind for kind, size in self._sizes.items() for _ in range(size)]
        threads = [
            threading.Thread(target=self._beside, args=[self._work, kind], name=f"srq-{number}", daemon=True)
            for number, kind in enumerate(kinds[1:], 2)
        ]
        relieving = threading.Thread(target=self._beside, args=[self._relieve], name="srq-ahead", daemon=True)
        self._hands.live()
        self._ready()
        for thread in (relieving, *threads):
            thread.start()
        try:
            self._work(kinds[0])
            for thread in threads:
                thread.join()
        except BaseException:
            self.stop()
            self._settling.cut(self._sources)
            raise
        finally:
            with self._lock:
                self._ended.set()
                self._ahead.set()
            relieving.join()
            try:
                self._sign_off()
            finally:
                self._errands.stopping = True  # what is owed after an error is not to be waited for without end
                self._errands.finish()
                self._claims.close()
                self._alarm.close()
                signals.send(signals.consumer_stopped, SafeRedisQueue, consumer=self.id, queues=queues)
        if self._error is not None:
            raise self._error

    def _work(self, kind: bool) -> None:
        try:
            while jobs := self._next(kind):
                self._paces[kind].took(self._handling.handle(jobs))
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
                    if self._jobs[kind] and not self._errands.stopping:
                        if self._finished:
                            self._send_finished()
                        return self._batch(self._jobs[kind])
                    over = self._over or kind in self._dry
                    if self._leading:
                        self._changed[kind].wait()
                    elif (self._unread and not self._errands.gave_up) or (time.monotonic() >= self._due() and not over):
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
                            self._alarm.ring()  # when its wait began, no thread of this kind was free
                        # Whoever led meanwhile may have been told of a moment before the end of that wait.
                        due = self._due()
                        self._changed[kind].wait(max(0, due - time.monotonic()) if due < self._until else None)
            finally:
                self._free[kind] -= 1
        if self._errands.stopping:
            self.give_back()
        return []

    def _batch(self, waiting: deque[Job]) -> list[Job]:
        """Take those that are to be handled together.

        What was delivered before comes alone: so that one which kills its process, or fails all, is found.
        """
        jobs = [waiting.popleft()]
        source, alone = jobs[0].source, jobs[0].found.delivery.deliveries > 1
        self._suspects += jobs[0].suspect
        while waiting and len(jobs) < source.batch and not alone:
            if waiting[0].source is not source or waiting[0].found.delivery.deliveries > 1:
                break
            jobs.append(waiting.popleft())
        return jobs

    @property
    def _unread(self) -> bool:
        """Whether there are acks to be sent, or replies to be read."""
        return bool(self._finished) or self._claims.unread

    @contextmanager
    def _leads(self) -> Iterator[Answer]:
        """Be the one that claims. Called with the lock, which is free meanwhile; what the answer got is shared out."""
        self._leading, answer = True, Answer()
        try:
            with self._released:
                yield answer
        finally:
            self._leading = False
            self._share_out(answer)

    def _lead(self) -> None:
        """Claim for all threads that have nothing."""
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
        # One may lead while another waits, and each may be told of a moment; the sooner one counts.
        now = time.monotonic()
        for source, wait in answer.waits.items():
            self._timetable.sooner(source, now + wait)
        self._line_up(answer.jobs)
        if len(answer.jobs) > 1:
            self._claimed = time.monotonic()
            if self._by_pace:
                self._ahead.set()
        if answer.jobs and now + min(answer.waits.values(), default=NEVER) < self._until - SOONER:
            self._call_idler()  # the others may all have items by that moment
        self._check_end(answer)
        self._call_up(answer.jobs)

    def _line_up(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._jobs[job.source.asynchronous].append(job)

    def _share_late(self, answer: Answer) -> None:
        """Share out what a server brought that was away, in whose thread this runs."""
        with self._lock:
            self._share_out(answer)
            self._claimed = time.monotonic()
            self._ahead.set()
            self._call_idler()

    def _back(self) -> None:
        """A server that was away is back, and was told what it was owed, in the thread in which this runs."""
        self._rest()
        with self._lock:
            self._ask_soon(self._sources)
            self._call_up([])
            self._call_idler()

    def _call_idler(self) -> None:
        """End the wait on the server, if somebody is there; with nobody, what rings would end all pauses."""
        if self._idler is not None:
            self._alarm.ring()

    def _needed(self, kind: bool) -> int:
        """How many threads have nothing to do; one that waits on the server cannot be called from there."""
        return max(0, self._free[kind] - (self._idler is kind) - len(self._jobs[kind]))

    def _most(self, source: Source, needed: int, *, ahead: bool = True) -> int:
        """How many items to ask a source for when there are threads for so many batches; ahead: more, if none wait."""
        most = needed * source.batch
        if ahead and not self._jobs[source.asynchronous] and not self._suspects:
            most = max(most, self._plan.prefetch or self._ahead_of(source))
        most = min(most, operations.BATCH)
        return most if self._claims.left is None else min(most, self._claims.left)

    def _ahead_of(self, source: Source) -> int:
        queue = source.queue
        if source.batch > 1:
            return 1  # it has its batch
        if self._claims.left is not None:
            return 1  # what is given back would count
        if queue.max_in_flight is not None or queue.rate is not None:
            return 1  # what waits here others might begin
        if any(one.weight for one in self._sources):
            return 1  # each turn is for one item
        return self._paces[source.asynchronous].ahead

    def _check_end(self, answer: Answer) -> None:
        if self._claims.left is not None and self._claims.left <= 0:
            self._over = True
        if self._plan.burst:
            for kind in self._sizes:
                if all(source in answer.dry for source in self._sources if source.asynchronous is kind):
                    self._dry.add(kind)
        if self._over or self._idler in self._dry:
            self._alarm.ring(for_good=self._over)
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
        self, finished: Sequence[Finished], needed: dict[bool, int], woken: Source | None, answer: Answer
    ) -> None:
        """Ack what is finished, and claim from one source after the other until each thread has something to do."""
        self._hands.live()
        self._claims.recall(answer)
        ahead = not answer.jobs
        if answer.jobs:  # by a claim behind a wait, or sent ahead, which are made where there is but one source
            source = answer.jobs[0].source
            needed[source.asynchronous] -= -(-len(answer.jobs) // source.batch)
        acks: dict[Source, list[Finished]] = {}
        for one in finished:
            acks.setdefault(one.job.source, []).append(one)
        for source, has_token in self._to_ask(woken, acks, needed):
            if self._is_away(source):
                continue
            kind = source.asynchronous
            n = self._most(source, needed[kind], ahead=ahead) if needed[kind] > 0 and not self._over else 0
            # Without room, whoever was woken passes that on: a claim of nothing rings for somebody else.
            if n > 0 or has_token:
                if n > 0:
                    self._timetable.begin(source)
                found = self._claims.claim(source, max(n, 0), acks.pop(source, ()), answer)
                needed[kind] -= -(-found // source.batch)
                if found < n and self._claims.plenty:
                    needed[kind] = 0  # the others are not to go before what is left of these large ones
        for source, rest in acks.items():
            self._settling.ack(source, rest)

    def _to_ask(
        self, woken: Source | None, acks: Container[Source], needed: Mapping[bool, int]
    ) -> Iterator[tuple[Source, bool]]:
        """The sources that are to be asked, in their turn, and whether their wake token was taken.

        The others ring when there is something. Those that come first are looked at for that, in one call: a source
        that always has items may keep us from waiting for a token.
        """
        order, now = self._turns.next(woken), time.monotonic()
        later: Sequence[Source] = ()
        if len(order) == 1 or self._plan.burst:
            due = order
        else:
            due = [source for source in order if source in acks or self._timetable.is_due(source, now)]
        if woken is None and len(due) < len(order):
            woken, _, later = self._token_before(due, order, needed)
            due = [source for source in order if source in due or self._timetable.is_due(source, now)]
        if woken is not None:
            yield woken, True
        yield from ((source, source in later) for source in due if source is not woken)

    def _token_before(self, due: Sequence[Source], order: Sequence[Source], needed: Mapping[bool, int]) -> Rung:
        """Take the wake token of a source that comes before all that are due; with weights: of any."""
        before = order if self._turns.weighted or not due else order[: order.index(due[0])]
        others = [source for source in before if source not in due and needed[source.asynchronous] > 0]
        rung = self._claims.take_token(others) if others and not self._over else Rung(None, ())
        self._ask_soon([*rung.unknown, *rung.later, *([rung.source] if rung.source else [])])
        return rung

    def _is_away(self, source: Source) -> bool:
        """Whether its server is away; it is asked again when that is back."""
        with self._lock:  # so that back comes after
            away = self._errands.away(source.queue.link)
            if away:
                self._timetable.begin(source)
            return away

    def _ask_soon(self, sources: Iterable[Source]) -> None:
        with self._lock:
            for source in sources:
                self._timetable.sooner(source, 0)

    def _due(self) -> float:
        """The moment from which on it is worth asking for items, for a kind of threads of which one has nothing."""
        return min((self._timetable.earliest(kind) for kind in self._sizes if self._needed(kind) > 0), default=NEVER)

    def _ask_ahead(self, source: Source) -> int:
        """How many items to claim while the last of these are handled; 0: none yet. Called with the lock."""
        if len(self._sources) > 1 or self._claims.left is not None or self._plan.burst or self._over:
            return 0
        if self._leading or self._suspects or self._claims.asked is not None or not self._claims.plenty:
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
                if self._claims.asked is None and not (self._by_pace and any(self._jobs.values())):
                    self._ahead.clear()
                elif not self._leading and time.monotonic() - self._claimed > WAITED:
                    self._take_over()
                    if self._by_pace or self._errands.stopping:
                        self._unload()
            self._rest()
            self._ahead.wait()

    def _take_over(self) -> None:
        """Take what was claimed ahead, though nobody needs it yet: from now on its leases are renewed one by one."""
        if self._claims.asked is not None:
            with self._leads() as answer:
                self._claims.collect(answer, self._claims.asked)

    def _unload(self) -> None:
        """As the one that leads: a claim meanwhile would find nothing, and take that for the end of a burst."""
        with self._leads():
            waiting = {job.source for jobs in self._jobs.values() for job in jobs}
            self.give_back()
        self._ask_soon(waiting)
        self._call_up([])

    # -- waiting

    def _wait(self, kind: bool) -> None:
        """Wait for items on the server. Called with the lock, which is free meanwhile."""
        now = time.monotonic()
        seconds = min(self._due() - now, LOOK)
        wanted = [source for source in self._sources if self._waits_for(source, kind)]
        self._heard = {source.asynchronous for source in wanted}
        sources = [source for source in wanted if not self._errands.away(source.queue.link)]
        n = self._behind()
        self._idler, self._until = kind, now + seconds
        answer: Answer | None = None
        rung = Rung(None, ())
        if n:
            self._timetable.begin(self._sources[0])  # by the claim behind the wait
        try:
            with self._released:
                if n:
                    answer = self._claims.park(self._sources[0], n, seconds)
                    rung = Rung(None, () if answer else self._sources)
                elif sources:
                    rung = self._claims.wait(seconds, sources)
                else:
                    self._alarm.pause(seconds)  # until one of the servers is back
        finally:
            self._idler, self._woken = None, rung.source
            self._alarm.calm()
            self._ask_soon([*rung.unknown, *([rung.source] if rung.source else [])])
            if answer is not None:
                self._share_out(answer)

    def _behind(self) -> int:
        """How many items to claim behind a wait; 0: that is known only after it."""
        if len(self._sources) > 1 or self._claims.left is not None or self._plan.burst or self._claims.refused:
            return 0
        if self._free != self._sizes:
            return 0  # a handler at work may hold the interpreter's lock: nobody would know of what the claim takes
        room = self._needed(self._sources[0].asynchronous)
        return self._most(self._sources[0], room) if room else 0

    def _waits_for(self, source: Source, kind: bool) -> bool:
        return source.asynchronous is kind or self._free[source.asynchronous] > 0

    # -- finishing

    def _finish(self, source: Source, finished: Sequence[Finished]) -> None:
        """Ack at once what is finished, unless somebody is about to claim: then with that."""
        for one in finished:
            self._hands.finish(one.job.record)
        self._hands.count_handled(len(finished))
        with self._lock:
            about_to_claim = not self._jobs[source.asynchronous] and self._claims.asked is None
            if not about_to_claim and not self._errands.away(source.queue.link):
                n = self._ask_ahead(source)
                self._claims.send(source, finished, n)
                if n:
                    self._ahead.set()
            else:
                self._finished += finished

    def _send_finished(self) -> None:
        """Ack what other threads finished meanwhile, before another item is begun.

        So all that may have been begun is at the head of what the server knows us to hold (see last_begun in Lua).
        """
        for source in {one.job.source for one in self._finished}:
            if not self._errands.away(source.queue.link):
                mine = [one for one in self._finished if one.job.source is source]
                self._finished = [one for one in self._finished if one.job.source is not source]
                self._claims.send(source, mine, 0)

    def _look_at_itself(self) -> None:
        if self._plan.max_memory is not None and _memory() > self._plan.max_memory:
            logger.info("memory limit reached, restarting the process consumer=%s", self.id)
            self._make_room()
        elif self._replaced and self._errands.exhausted and not self._hands.full:
            logger.warning("out of memory, files or threads, restarting the process consumer=%s", self.id)
            self._make_room()

    def _make_room(self) -> None:
        self._hands.full = True
        self.stop()
        self.give_back()

    def _sign_off(self) -> None:
        """Ack what is handled, release what was not started, and pass on what woke us."""
        with self._lock:
            finished, self._finished = [] if self._errands.gave_up else self._finished, []
        answer = Answer()
        self._claims.collect(answer)
        for source in self._sources:
            mine = [one for one in finished if one.job.source is source]
            if mine:
                self._settling.ack(source, mine)
        if not self._errands.gave_up:
            self._claims.recall(answer)
        self._line_up(answer.jobs)
        for _ in range(2):  # what is owed to a server that is away may bring more
            self.give_back()
            self._errands.finish()
        if self._over and not self._errands.gave_up:
            self._claims.pass_on()


def _sizes(sources: Sequence[Source], plan: Plan) -> dict[bool, int]:
    """How many threads there are of each kind, False: for sync handlers, True: for async ones."""
    sizes = {False: plan.threads, True: plan.concurrency}
    return {kind: size for kind, size in sizes.items() if any(source.asynchronous is kind for source in sources)}


def _servers(sources: Sequence[Source]) -> int:
    return len({source.queue.link for source in sources})


def _memory() -> int:
    """The memory of this process (bytes): what it has now, or where that is not told, the most it ever had."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
