"""The worker: threads of one process that take items of one or more queues, call handlers, and ack or fail items."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Collection, Sequence

from django_srq import signals
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.subscription import Kind, Subscription
from django_srq.consumer.worker import prefetch
from django_srq.consumer.worker.buffer import Buffer
from django_srq.consumer.worker.claim import ClaimCalls
from django_srq.consumer.worker.claims import Claims, claim_slots
from django_srq.consumer.worker.events import Events
from django_srq.consumer.worker.executor import Executor
from django_srq.consumer.worker.intake import Intake
from django_srq.consumer.worker.job import Job
from django_srq.consumer.worker.pipeline import Pipeline
from django_srq.consumer.worker.prefetch import Prefetch, Quota
from django_srq.consumer.worker.retries import ATTEMPT, Retries
from django_srq.consumer.worker.roles import Roles
from django_srq.consumer.worker.settler import Settler
from django_srq.consumer.worker.task_executor import Turns
from django_srq.consumer.worker.thread_groups import ThreadGroup
from django_srq.consumer.worker.waits import Waits
from django_srq.consumer.worker.wakeup import Wakeup
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.runtime.guarded_log import guarded
from django_srq.transport.link import Link
from django_srq.transport.slots import Slot

logger = guarded("django_srq.consumer")

LOOK_EVERY = 0.1  # seconds between two looks whether a stopped worker still waits for a server


class Worker:
    """Serves the subscriptions with a fixed number of threads; the thread that calls ``run`` is one of them.

    Each thread gets its next jobs (``Roles.next``), runs the handler with them (``Executor.run``), and has the server
    told what became of them (``Settler.settle``). ``Buffer`` says which thread claims for all (``Claims.fetch``), and
    which one waits on the server.

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
        on_idle: Callable[[], None] = lambda: None,
        replaced: bool = False,
    ) -> None:
        """report: called with a description of a trouble with a server, and with "" when the trouble is over.

        on_idle: called in each thread when it has nothing to do for now. ready: called once before the first item.
        replaced: when this process cannot go on, a supervisor starts another one.
        """
        self.id = consumer
        self._subscriptions, self._ledger, self._options = list(subscriptions), ledger, options
        self._ready, self._replaced = ready, replaced
        self._error: BaseException | None = None
        self._threads: set[int] = set()  # the idents of those that are at work
        wakeup, quota, sizes = Wakeup(), Quota(max_items), _sizes(subscriptions, options)
        # Two slots: one for claims that are made at once or sent ahead, one for claims behind a wait.
        slot, parking = (Slot(name) for name in claim_slots(consumer))
        links = {subscription.queue.link for subscription in subscriptions}
        self._retries = retries = Retries.for_servers(
            links,
            ledger,
            wakeup,
            report=report,
            run_or_stop=self._run_or_stop,
            on_recovered=self._recovered,
            replaced=replaced,
        )
        calls = ClaimCalls(consumer, subscriptions, lambda each: sizes[each.kind] * each.batch)
        streams = {link: link.stream(ATTEMPT if len(links) > 1 else None) for link in links}
        pipeline = Pipeline(calls, ledger, slot, streams)
        choice = Prefetch(subscriptions, options, quota)
        self._buffer = buffer = Buffer(subscriptions, sizes, choice, pipeline, retries, wakeup, burst=options.burst)
        events = Events(consumer)
        turns = Turns(options.threads, lambda: retries.stopping)
        self._executor = Executor(ledger, events, turns, supervised=replaced)
        self._settler = settler = Settler(consumer, ledger, events, retries, buffer, pipeline)
        intake = Intake(calls, ledger, quota, buffer, settler, retries)
        waits = Waits(calls, ledger, parking, intake, retries, wakeup)
        claims = Claims(
            subscriptions,
            ledger,
            slot,
            calls=calls,
            pipeline=pipeline,
            intake=intake,
            waits=waits,
            buffer=buffer,
            settler=settler,
            retries=retries,
        )
        self._roles = Roles(
            buffer, claims, pipeline, waits, settler, retries, wakeup, adaptive=choice.adaptive, on_idle=on_idle
        )

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
        self._retries.stopping = True
        self._buffer.stop()

    def give_back(self) -> None:
        """Release the items that were claimed and not started. A stopped worker starts none of them any more."""
        self._roles.give_back()

    def end_soon(self, ended: threading.Event, *, after: float, after_trouble: float) -> None:
        """Do not let a stopped worker that has nothing in hand wait for a server: break off its calls. Blocks.

        The supervisor, or the end of a lease, brings back what a claim may have taken. ended: set when the worker has
        ended. after, after_trouble: seconds that all its servers together have for the last calls, from the moment on
        at which nothing is in hand; the latter once one is away.
        """
        since = time.monotonic()
        while not ended.wait(LOOK_EVERY):
            if any(self._ledger):
                since = time.monotonic()
            elif time.monotonic() - since > (after_trouble if self._retries.in_trouble else after):
                for link in {subscription.queue.link for subscription in self._subscriptions}:
                    link.break_off(list(self._threads))

    @property
    def silent(self) -> Collection[Link]:
        """The servers that are away or refuse calls."""
        return self._retries.silent

    def run(self) -> None:
        """Handle items until stopped, or until the options say so. Blocks. Raises the error of a thread that failed.

        Afterwards handled items are acked and unstarted ones released, unless the server stays away.
        """
        queues = [subscription.queue.alias for subscription in self._subscriptions]
        signals.send(signals.consumer_started, SafeRedisQueue, consumer=self.id, queues=queues)
        first, *others = [group for group in self._buffer.groups for _ in range(group.size)]
        threads = [self._thread(f"srq-{number}", self._work, group) for number, group in enumerate(others, 2)]
        relieving = self._thread("srq-ahead", self._roles.relieve)
        self._ledger.beat()
        self._threads.add(threading.get_ident())
        self._ready()
        for thread in (relieving, *threads):
            thread.start()
        try:
            self._work(first)
            for thread in threads:
                thread.join()
        except BaseException:
            self.stop()
            self._settler.cut(self._subscriptions)
            raise
        finally:
            self._buffer.end()
            relieving.join()
            try:
                self._roles.sign_off()
            finally:
                self._retries.stopping = True  # after an error, too, do not wait for a server without end
                self._retries.finish()
                self._roles.close()
                self._threads.clear()
                signals.send(signals.consumer_stopped, SafeRedisQueue, consumer=self.id, queues=queues)
        if self._error is not None:
            raise self._error

    def _thread(self, name: str, work: Callable[..., None], *args: object) -> threading.Thread:
        return threading.Thread(target=self._run_or_stop, args=[work, *args], name=name, daemon=True)

    def _run_or_stop(self, work: Callable[..., None], *args: object) -> None:
        """Run the work of a thread. An error ends the worker: else the thread's items would stay in hand."""
        self._threads.add(threading.get_ident())
        try:
            work(*args)
        except BaseException as error:
            self._error = self._error or error
            self.stop()
        finally:
            self._threads.discard(threading.get_ident())

    def _work(self, group: ThreadGroup) -> None:
        jobs: Sequence[Job] = ()
        try:
            while jobs := self._roles.next(group, jobs):
                group.pace.took(self._handle(jobs))
                self._look_at_itself()
        except Exception as error:
            self._error = self._error or error
            self.stop()
        finally:
            self._buffer.notify_all()

    def _handle(self, jobs: Sequence[Job]) -> float:
        """Handle jobs, and settle them. Returns how long they took (seconds).

        That is the time of the handler; after a failure it includes the time for telling the server.
        """
        started = time.monotonic()
        if not (ours := self._settler.still_ours(jobs)):
            return time.monotonic() - started
        outcomes = self._executor.run(ours)
        self._settler.settle(outcomes)
        if outcomes.remaining:
            self._handle(outcomes.remaining)
        return outcomes.seconds if outcomes.all_well else time.monotonic() - started

    def _recovered(self) -> None:
        """A server that was away has taken all calls owed to it; called in the thread that made them."""
        self._roles.recovered()

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


def _sizes(subscriptions: Sequence[Subscription], options: ConsumerOptions) -> dict[Kind, int]:
    """How many threads there are of each kind."""
    sizes = {Kind.SYNC: options.threads, Kind.ASYNC: options.concurrency}
    return {
        kind: size for kind, size in sizes.items() if any(subscription.kind is kind for subscription in subscriptions)
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
