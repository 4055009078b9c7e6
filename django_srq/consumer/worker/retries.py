"""Calls that are repeated until the server has taken them, such as an ack: it must learn what became of an item.

If all queues are on one server (``InlineRetries``), the thread that makes the call repeats it: there is nothing else to
do meanwhile. If there are several servers (``BackgroundRetries``), one that is away must not hold up the work with the
others. So the calls to it are put off: a thread for that server makes them, and until it has made them nothing is
claimed there.
"""

from __future__ import annotations

import os
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from django_srq.consumer.ledger import Ledger
from django_srq.consumer.outage import trouble_with
from django_srq.consumer.worker.wakeup import Wakeup
from django_srq.exceptions import OutcomeUnknown, QueueUnavailable, SRQError
from django_srq.operations import Call
from django_srq.queue.failure import is_exhaustion
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.transport.link import Link
from django_srq.transport.slots import Slot, slots

T = TypeVar("T")

LONGEST_PAUSE = 1.0  # seconds at most between two attempts at a server that is away
LAST_WORDS = 10.0  # seconds for which a stopping worker tries to tell the server what became of its items
ATTEMPT = 1.0  # seconds without a reply after which one of several servers counts as away
SPARE = 4  # files that a child keeps open, to close them and make a call when an item has used up all others
SHORTEST = 0.1  # seconds for an attempt at least, also for the last one before giving up


class Exhausted(Exception):
    """This process has no memory, files or threads left to reach its server: only its end mends that."""


class Spare:
    """Files that a child keeps open, to close them and make a call when an item has used up all others."""

    def __init__(self) -> None:
        self.used = False
        self._files = [os.open(os.devnull, os.O_RDONLY) for _ in range(SPARE)]
        self._lock = threading.Lock()

    def use(self) -> bool:
        """Close the files; whether there were any.

        The worker is to end then: the next items would find no files, memory or threads either.
        """
        with self._lock:
            files, self._files, self.used = self._files, [], True
        for file in files:
            os.close(file)
        return bool(files)


class Troubles:
    """The troubles with the servers, by queue. The oldest one is reported while it lasts, and "" when none is left."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._by_queue: dict[SafeRedisQueue, str] = {}
        self._lock = threading.Lock()  # several threads may meet the same trouble at one time

    def __bool__(self) -> bool:
        return bool(self._by_queue)

    def begin(self, queue: SafeRedisQueue, error: SRQError) -> None:
        with self._lock:
            self._by_queue.pop(queue, None)
            self._by_queue[queue] = trouble_with(queue, error)
            self._report_first()

    def end(self, queue: SafeRedisQueue) -> None:
        if queue in self._by_queue:  # without the lock: most calls meet no trouble
            with self._lock:
                self._by_queue.pop(queue, None)
                self._report_first()

    @property
    def servers(self) -> set[Link]:
        with self._lock:
            return {queue.link for queue in self._by_queue}

    def _report_first(self) -> None:
        self._report(next(iter(self._by_queue.values()), ""))


@dataclass
class _Retry(Generic[T]):
    """A call that the server has not taken yet, and what follows from its reply."""

    queue: SafeRedisQueue
    call: Call[T]
    then: Callable[[T | None], None]  # called with the reply; with None if the call could not be made before the end
    slot: Slot  # the same for all attempts: an attempt may have been carried out although no reply came
    borrowed: bool  # the slot is to be given back
    late: Callable[[T | None], None] | None  # called instead of ``then`` if the call was put off
    unread: Callable[[bool], Call[T]] | None  # makes the call that replaces it when its reply cannot be read
    silent: bool = False  # an attempt got no reply in time
    reply: T | None = None

    def end(self) -> None:
        self.give_back()
        self.then(self.reply)

    def give_back(self) -> None:
        if self.borrowed:
            slots.give_back(self.slot)

    def replace_unread(self, error: QueueUnavailable | OutcomeUnknown) -> bool:
        """Replace the call if its reply cannot be read. Returns whether the next attempt is worth making at once."""
        if self.unread is None or not isinstance(error, OutcomeUnknown):
            return False
        if error.cut_short or self.silent:
            self.call, self.unread = self.unread(error.cut_short), None
        self.silent = True
        return error.cut_short


class Retries(ABC):
    """Makes calls until the server has taken them, and then does what follows from the replies."""

    def __init__(self, ledger: Ledger, wakeup: Wakeup, *, report: Callable[[str], None], replaced: bool) -> None:
        self.stopping = False  # the worker takes no more items: soon a server that is away is not waited for
        self.gave_up = False  # stopping, and the only server cannot be told what became of the items
        self._ledger, self._wakeup = ledger, wakeup
        self._spare = Spare() if replaced else None
        self._troubles = Troubles(report)

    @staticmethod
    def for_servers(
        links: Iterable[Link],
        ledger: Ledger,
        wakeup: Wakeup,
        *,
        report: Callable[[str], None],
        run_or_stop: Callable[..., None],
        on_recovered: Callable[[], None],
        replaced: bool = False,
    ) -> Retries:
        """The retries of a worker whose queues are on these servers. report, replaced: see ``Worker``.

        run_or_stop, on_recovered: see ``BackgroundRetries``.
        """
        if len(set(links)) == 1:
            return InlineRetries(ledger, wakeup, report=report, replaced=replaced)
        return BackgroundRetries(
            ledger, wakeup, report=report, replaced=replaced, run_or_stop=run_or_stop, on_recovered=on_recovered
        )

    def do(
        self,
        queue: SafeRedisQueue,
        call: Call[T],
        then: Callable[[T | None], None],
        *,
        late: Callable[[T | None], None] | None = None,
        slot: Slot | None = None,
        unread: Callable[[bool], Call[T]] | None = None,
        put_off: Callable[[], object] = lambda: None,
    ) -> None:
        """Make a call, and pass its reply to ``then``, or None if it could not be made before the end.

        With a single server this blocks until the server has taken the call. If one of several servers is away, its
        thread makes the call when it is back, and passes the reply to ``late``, or to ``then`` without one.

        slot: with the number of this call, which no other call may get; without a slot, one is borrowed. unread: makes
        the call that replaces this one in its slot, when a reply broke off (called with True), or when two attempts got
        no reply at all (False): the size of the reply may be the reason, and a small one may still come through.
        put_off: called before the call is left to the server's thread.
        """
        retry = _Retry(queue, call, then, slot or slots.borrow(), borrowed=slot is None, late=late, unread=unread)
        try:
            is_over = self._make(retry, put_off)
        except BaseException:
            retry.give_back()
            raise
        if is_over:
            retry.end()

    @abstractmethod
    def _make(self, retry: _Retry[Any], put_off: Callable[[], object]) -> bool:
        """Make a call, or give it up. False: it is put off instead."""

    @abstractmethod
    def away(self, link: Link) -> bool:
        """Whether a server is away, and calls to it are put off."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until all calls that are put off now are made, or given up. Blocks."""

    @property
    def in_trouble(self) -> bool:
        """Whether a server is away or refuses calls."""
        return bool(self._troubles)

    @property
    def silent(self) -> Collection[Link]:
        """The servers that are away or refuse calls."""
        return self._troubles.servers

    def at_each(self, links: Iterable[Link], work: Callable[[Link], None]) -> None:
        """Do some work at several servers. Blocks."""
        for link in links:
            work(link)

    def call_in_vain(self, queue: SafeRedisQueue, error: QueueUnavailable | OutcomeUnknown) -> None:
        """Note that a call, which is not to be repeated, could not be made."""
        self._troubles.begin(queue, error)

    @property
    def exhausted(self) -> bool:
        """Whether this process has used its spare files."""
        return self._spare is not None and self._spare.used

    def use_spare(self) -> bool:
        """Close the spare files, so that the last calls can be made; whether there were any."""
        return self._spare is not None and self._spare.use()

    @property
    def _begins_no_more(self) -> bool:
        """Whether no more items are begun. Once none is in hand then, a server that is away is not waited for."""
        return self.stopping

    def _repeat(self, retry: _Retry[Any]) -> bool:
        """Send a call until the server has taken it. False: it could not be made, and the worker is to end. Blocks."""
        give_up: float | None = None
        while True:
            if self.stopping:
                give_up = give_up or time.monotonic() + LAST_WORDS
            if self._attempt(retry, None if give_up is None else give_up - time.monotonic()):
                return True
            if self._begins_no_more and not any(self._ledger):
                return False
            if give_up is not None and (self.gave_up or time.monotonic() > give_up):
                return False
            self._wakeup.pause(random.uniform(0, LONGEST_PAUSE))

    def _attempt(self, retry: _Retry[Any], seconds: float | None = None) -> bool:
        """Make one attempt; whether the server has taken the call.

        seconds: how long the attempt may take at most, if that is less than the queue's time limit.
        """
        queue = retry.queue
        timeout = queue.link.timeout if seconds is None else min(queue.link.timeout, max(SHORTEST, seconds))
        try:
            retry.reply = queue.link.call(retry.call, queue=queue.alias, timeout=timeout, slot=retry.slot)
        except (QueueUnavailable, OutcomeUnknown) as error:
            if self._made_room(error) or retry.replace_unread(error):
                return self._attempt(retry, seconds)
            self._troubles.begin(queue, error)
            return False
        self._troubles.end(queue)
        return True

    def _made_room(self, error: QueueUnavailable | OutcomeUnknown) -> bool:
        """Close the spare files if this process is exhausted: the next attempt may succeed. Exhausted: none is left."""
        if self._spare is None or not (is_exhaustion(error) or _out_of_files()):
            return False
        if not self._spare.use():
            raise Exhausted(str(error)) from error
        return True


class InlineRetries(Retries):
    """Retries for a single server: the thread that makes a call repeats it."""

    def _make(self, retry: _Retry[Any], put_off: Callable[[], object]) -> bool:
        if not self._repeat(retry):
            self.gave_up = True
        return True

    def away(self, link: Link) -> bool:
        return False

    def finish(self) -> None:
        pass  # nothing is put off


@dataclass
class _Backlog:
    """The calls to a server that is away, and the thread that makes them."""

    thread: threading.Thread
    given_up: bool = False  # the thread has ended without making them all
    retries: deque[_Retry[Any]] = field(default_factory=deque)


class BackgroundRetries(Retries):
    """Retries for several servers: while one is away, a thread for it repeats the calls to it."""

    def __init__(
        self,
        ledger: Ledger,
        wakeup: Wakeup,
        *,
        report: Callable[[str], None],
        replaced: bool,
        run_or_stop: Callable[..., None],
        on_recovered: Callable[[], None],
    ) -> None:
        """run_or_stop: runs the work of a thread, and ends the worker if that fails.

        on_recovered: called when a server that was away has taken its backlog, in the thread that made the calls.
        """
        super().__init__(ledger, wakeup, report=report, replaced=replaced)
        self._run_or_stop, self._on_recovered = run_or_stop, on_recovered
        self._finishing = False
        self._backlogs: dict[Link, _Backlog] = {}
        self._lock = threading.Lock()

    def away(self, link: Link) -> bool:
        return link in self._backlogs

    def finish(self) -> None:
        self._finishing = True
        with self._lock:
            threads = [backlog.thread for backlog in self._backlogs.values()]
        for thread in threads:
            thread.join()

    def at_each(self, links: Iterable[Link], work: Callable[[Link], None]) -> None:
        """Do some work at several servers, each in a thread of its own: none waits for another. Blocks."""
        threads = []
        try:
            for link in links:
                thread = threading.Thread(target=self._run_or_stop, args=[work, link], name="srq-retries", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no thread can be started
                    work(link)
                else:
                    threads.append(thread)
        finally:
            for thread in threads:
                thread.join()

    @property
    def _begins_no_more(self) -> bool:
        return self.stopping or self._finishing

    def _make(self, retry: _Retry[Any], put_off: Callable[[], object]) -> bool:
        if not self.away(retry.queue.link) and self._attempt(retry, ATTEMPT):
            return True
        retry.then = retry.late or retry.then
        put_off()
        self._put_off(retry)
        return False

    def _put_off(self, retry: _Retry[Any]) -> None:
        link = retry.queue.link
        with self._lock:
            backlog = self._backlogs.get(link)
            if backlog is None:
                arguments = [self._catch_up, link]
                thread = threading.Thread(target=self._run_or_stop, args=arguments, name="srq-retries", daemon=True)
                thread.start()  # it waits for the lock
                backlog = self._backlogs[link] = _Backlog(thread)
            backlog.retries.append(retry)
            given_up = backlog.given_up
        if given_up:
            self._give_up(link)

    def _catch_up(self, link: Link) -> None:
        """Make the calls to a server that is away."""
        first_error: Exception | None = None
        while (retry := self._next(link)) is not None:
            try:
                is_taken = self._repeat(retry)
                retry.end()
                if not is_taken:
                    self._give_up(link)
                    return
            except Exception as error:  # it may concern one queue, such as a wrong layout: make the other calls as well
                first_error = first_error or error
        if first_error is not None:
            raise first_error
        self._on_recovered()

    def _next(self, link: Link) -> _Retry[Any] | None:
        with self._lock:
            if self._backlogs[link].retries:
                return self._backlogs[link].retries.popleft()
            del self._backlogs[link]
            return None

    def _give_up(self, link: Link) -> None:
        """Give up the calls to a server that stays away.

        Its items stay in hand: the supervisor settles them when the process is gone, or their leases end.
        """
        with self._lock:
            backlog = self._backlogs[link]
            backlog.given_up = True
            retries, backlog.retries = backlog.retries, deque()
        for retry in retries:
            retry.end()


def _out_of_files() -> bool:
    """Whether this process can open no file: the error of a failed name look-up does not tell that."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False
