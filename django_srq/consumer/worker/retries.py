"""Calls that are retried until the server has taken them, such as an ack: it must learn what became of an item.

If all queues are on one server, the thread that makes the call repeats it until the server has taken it: there is
nothing else to do meanwhile. If there are several servers, one that is away must not hold up the work with the others.
So a thread for that server makes the calls that are owed to it, and until it has made them nothing is claimed there.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from django_srq.consumer.ledger import Ledger
from django_srq.consumer.worker.wakeup import Wakeup
from django_srq.exceptions import OutcomeUnknown, QueueUnavailable
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


@dataclass
class _Retry(Generic[T]):
    queue: SafeRedisQueue
    call: Call[T]
    then: Callable[[T | None], None]  # called with the reply; with None if the call could not be made before the end
    slot: Slot  # the same for all attempts: an attempt may have been carried out although no reply came
    borrowed: bool  # the slot is to be given back
    unread: Callable[[bool], Call[T]] | None = None  # makes the call that replaces it when its reply cannot be read
    silent: bool = False  # an attempt got no reply in time
    reply: T | None = None

    def end(self) -> None:
        self.give_back()
        self.then(self.reply)

    def give_back(self) -> None:
        if self.borrowed:
            slots.give_back(self.slot)


@dataclass
class _Owed:
    """The calls that are owed to a server that is away, and the thread that makes them."""

    thread: threading.Thread
    given_up: bool = False  # the thread has ended without making them all
    retries: deque[_Retry[Any]] = field(default_factory=deque)


class Retries:
    """Makes calls until the server has taken them, and then does what follows from the replies."""

    def __init__(
        self,
        links: Iterable[Link],
        ledger: Ledger,
        wakeup: Wakeup,
        *,
        report: Callable[[str], None],
        beside: Callable[..., None],
        back: Callable[[], None],
        replaced: bool = False,
    ) -> None:
        """report, replaced: see ``Worker``. beside: runs the work of a thread, and ends the worker if that fails.

        back: called when one of several servers has taken all calls owed to it, in the thread that made them.
        """
        self._replaced = replaced
        self.exhausted = False
        self._spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(SPARE)] if replaced else []
        self.stopping = False
        self._ending = False  # no more items are begun: once none is in hand, a server that is away is not waited for
        self.gave_up = False  # stopping, and the only server cannot be told what became of the items
        self._alone = len(set(links)) == 1  # there is a single server
        self._ledger, self._wakeup = ledger, wakeup
        self._report, self._beside, self._back = report, beside, back
        self._lock = threading.Lock()
        self._owed: dict[Link, _Owed] = {}
        self._troubles: dict[str, str] = {}

    def away(self, link: Link) -> bool:
        return link in self._owed  # of several servers: calls to a single one are never owed, but repeated at once

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
        retry = _Retry(queue, call, then, slot or slots.borrow(), borrowed=slot is None, unread=unread)
        try:
            if self._alone:
                if not self._insist(retry):
                    self.gave_up = True
            elif self.away(queue.link) or not self._say(retry, ATTEMPT):
                retry.then = late or then
                put_off()
                self._put_off(retry)
                return
        except BaseException:
            retry.give_back()
            raise
        retry.end()

    def finish(self) -> None:
        """Wait until all calls that are owed now are made, or given up. Blocks."""
        self._ending = True
        with self._lock:
            threads = [owed.thread for owed in self._owed.values()]
        for thread in threads:
            thread.join()

    def _put_off(self, retry: _Retry[Any]) -> None:
        link = retry.queue.link
        with self._lock:
            owed = self._owed.get(link)
            if owed is None:
                arguments = [self._catch_up, link]
                thread = threading.Thread(target=self._beside, args=arguments, name="srq-retries", daemon=True)
                thread.start()  # it waits for the lock
                owed = self._owed[link] = _Owed(thread)
            owed.retries.append(retry)
            given_up = owed.given_up
        if given_up:
            self._give_up(link)

    def _catch_up(self, link: Link) -> None:
        """Make the calls that are owed to a server that is away."""
        wrong: Exception | None = None
        while (retry := self._next_owed(link)) is not None:
            try:
                said = self._insist(retry)
                retry.end()
                if not said:
                    self._give_up(link)
                    return
            except Exception as error:  # it may concern one queue, such as a wrong layout: make the other calls as well
                wrong = wrong or error
        if wrong is not None:
            raise wrong
        self._back()

    def _next_owed(self, link: Link) -> _Retry[Any] | None:
        with self._lock:
            if self._owed[link].retries:
                return self._owed[link].retries.popleft()
            del self._owed[link]
            return None

    def _give_up(self, link: Link) -> None:
        """Give up the calls owed to a server that stays away.

        Its items stay in hand: the supervisor settles them when the process is gone, or their leases end.
        """
        with self._lock:
            owed = self._owed[link]
            owed.given_up = True
            retries, owed.retries = owed.retries, deque()
        for retry in retries:
            retry.end()

    def _insist(self, retry: _Retry[Any]) -> bool:
        """Send a call until the server has taken it. False: it could not be made, and the worker is to end. Blocks."""
        give_up: float | None = None
        while True:
            if self.stopping:
                give_up = give_up or time.monotonic() + LAST_WORDS
            if self._say(retry, None if give_up is None else give_up - time.monotonic()):
                return True
            if (self.stopping or self._ending) and not any(self._ledger):
                return False
            if give_up is not None and (self.gave_up or time.monotonic() > give_up):
                return False
            self._wakeup.pause(random.uniform(0, LONGEST_PAUSE))

    def _say(self, retry: _Retry[Any], seconds: float | None = None) -> bool:
        """Make one attempt; whether the server has taken the call.

        seconds: how long the attempt may take at most, if that is less than the queue's time limit.
        """
        queue = retry.queue
        timeout = queue.link.timeout if seconds is None else min(queue.link.timeout, max(SHORTEST, seconds))
        try:
            retry.reply = queue.link.call(retry.call, queue=queue.alias, timeout=timeout, slot=retry.slot)
        except (QueueUnavailable, OutcomeUnknown) as error:
            if self._replaced and (is_exhaustion(error) or _out_of_files()):
                if not self.use_spare():
                    raise Exhausted(str(error)) from error
                return self._say(retry, seconds)
            if isinstance(error, OutcomeUnknown) and retry.unread is not None:
                if error.cut_short or retry.silent:
                    retry.call, retry.unread = retry.unread(error.cut_short), None
                retry.silent = True
                if error.cut_short:
                    return self._say(retry, seconds)
            self._trouble(queue, str(error))
            return False
        self._trouble(queue, "")
        return True

    def use_spare(self) -> bool:
        """Close the spare files, so that the last calls can be made; whether there were any.

        The worker is to end then: the next items would find no files, memory or threads either.
        """
        with self._lock:
            spare, self._spare, self.exhausted = self._spare, [], True
        for file in spare:
            os.close(file)
        return bool(spare)

    def _trouble(self, queue: SafeRedisQueue, error: str) -> None:
        if not error and queue.alias not in self._troubles:
            return
        with self._lock:  # several threads may report the same trouble at one time
            self._troubles.pop(queue.alias, None)
            if error:
                self._troubles[queue.alias] = f"queue={queue.alias} error={error}"
            self._report(next(iter(self._troubles.values()), ""))


def _out_of_files() -> bool:
    """Whether this process can open no file: the error of a failed name look-up does not tell that."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False
