"""Calls that must be made: what became of an item has to be said.

With queues on one server, whoever has something to say says it until that server took it: there is nothing else to do
meanwhile. With several, one that is away holds up nobody: what it is owed is said in a thread of its own, and until
that is done nothing more is claimed there.
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

LONGEST_PAUSE = 1.0  # seconds between looks at a server that is away
LAST_WORDS = 10.0  # seconds in which a stopping worker must be able to say what became of its items
ATTEMPT = 1.0  # seconds without a reply after which one of several servers counts as away
SPARE = 4  # files that a child keeps open, to tell of an item that took all others
SHORTEST = 0.1  # seconds; the last attempt before it is given up


class Exhausted(Exception):
    """This process cannot even reach its server, for want of memory, files or threads: only its end mends that."""


@dataclass
class _Retry(Generic[T]):
    queue: SafeRedisQueue
    call: Call[T]
    then: Callable[[T | None], None]  # what follows from the reply; None: it could not be made before the end
    slot: Slot  # the same all the time: it may have been carried out although no reply came
    borrowed: bool
    unread: Callable[[bool], Call[T]] | None = None  # makes the call that takes its place when no reply can be read
    silent: bool = False  # no reply came in time
    reply: T | None = None

    def end(self) -> None:
        self.give_back()
        self.then(self.reply)

    def give_back(self) -> None:
        if self.borrowed:
            slots.give_back(self.slot)


@dataclass
class _Owed:
    """What a server that is away is owed, and the thread that says it; given up: that has ended."""

    thread: threading.Thread
    given_up: bool = False
    retries: deque[_Retry[Any]] = field(default_factory=deque)


class Retries:
    """Makes calls until the server took them, and sees to what follows."""

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
        """report is told of a trouble with a server, and with "" when that is over. beside: runs what a thread does.

        back is called in such a thread when one of several servers has got what it was owed. replaced: see ``Worker``.
        """
        self._replaced = replaced
        self.exhausted = False
        self._spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(SPARE)] if replaced else []
        self.stopping = False
        self._ending = False  # nothing more is begun: a server that has nothing of what is in hand is not waited for
        self.gave_up = False  # stopping, and the only server cannot be told what became of the items
        self._alone = len(set(links)) == 1
        self._ledger, self._wakeup = ledger, wakeup
        self._report, self._beside, self._back = report, beside, back
        self._lock = threading.Lock()
        self._owed: dict[Link, _Owed] = {}
        self._troubles: dict[str, str] = {}

    def away(self, link: Link) -> bool:
        return link in self._owed

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
        """Make a call, then what follows: now, or in another thread when the server is back (late, if that differs).

        slot: with the number that the call has in it, and that no later one gets; without one, it is borrowed. unread:
        makes the call that takes its place, in its slot, when a reply cannot be read to its end (True), or did not
        even begin twice (False), which may be because of its size as well: small ones may still come through. put_off:
        called before it is left to another thread.
        """
        errand = _Retry(queue, call, then, slot or slots.borrow(), borrowed=slot is None, unread=unread)
        try:
            if self._alone:
                if not self._insist(errand):
                    self.gave_up = True
            elif self.away(queue.link) or not self._say(errand, ATTEMPT):
                errand.then = late or then
                put_off()
                self._put_off(errand)
                return
        except BaseException:
            errand.give_back()
            raise
        errand.end()

    def finish(self) -> None:
        """Wait until what is owed now is said, or cannot be said. Blocks."""
        self._ending = True
        with self._lock:
            threads = [owed.thread for owed in self._owed.values()]
        for thread in threads:
            thread.join()

    def _put_off(self, errand: _Retry[Any]) -> None:
        link = errand.queue.link
        with self._lock:
            owed = self._owed.get(link)
            if owed is None:
                arguments = [self._catch_up, link]
                thread = threading.Thread(target=self._beside, args=arguments, name="srq-errands", daemon=True)
                thread.start()  # which waits for the lock
                owed = self._owed[link] = _Owed(thread)
            owed.retries.append(errand)
            given_up = owed.given_up
        if given_up:
            self._give_up(link)

    def _catch_up(self, link: Link) -> None:
        """Say to a server that is away what it is owed."""
        wrong: Exception | None = None
        while (errand := self._next_owed(link)) is not None:
            try:
                said = self._insist(errand)
                errand.end()
                if not said:
                    self._give_up(link)
                    return
            except Exception as error:  # one of a single queue, such as a wrong layout; others are owed as well
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
        """The server stays away, and the items in hand, for the supervisor or until their leases end."""
        with self._lock:
            owed = self._owed[link]
            owed.given_up = True
            retries, owed.retries = owed.retries, deque()
        for errand in retries:
            errand.end()

    def _insist(self, errand: _Retry[Any]) -> bool:
        """Send a call until the server took it. False: it cannot be made, and the worker is to end."""
        give_up: float | None = None
        while True:
            if self.stopping:
                give_up = give_up or time.monotonic() + LAST_WORDS
            if self._say(errand, None if give_up is None else give_up - time.monotonic()):
                return True
            if (self.stopping or self._ending) and not any(self._ledger):
                return False
            if give_up is not None and (self.gave_up or time.monotonic() > give_up):
                return False
            self._wakeup.pause(random.uniform(0, LONGEST_PAUSE))

    def _say(self, errand: _Retry[Any], seconds: float | None = None) -> bool:
        """seconds: how long it may take at most, if that is less than the queue's time limit."""
        queue = errand.queue
        timeout = queue.link.timeout if seconds is None else min(queue.link.timeout, max(SHORTEST, seconds))
        try:
            errand.reply = queue.link.call(errand.call, queue=queue.alias, timeout=timeout, slot=errand.slot)
        except (QueueUnavailable, OutcomeUnknown) as error:
            if self._replaced and (is_exhaustion(error) or _out_of_files()):
                if not self.use_spare():
                    raise Exhausted(str(error)) from error
                return self._say(errand, seconds)
            if isinstance(error, OutcomeUnknown) and errand.unread is not None:
                if error.cut_short or errand.silent:
                    errand.call, errand.unread = errand.unread(error.cut_short), None
                errand.silent = True
                if error.cut_short:
                    return self._say(errand, seconds)
            self._trouble(queue, str(error))
            return False
        self._trouble(queue, "")
        return True

    def use_spare(self) -> bool:
        """Let go of the spare files, so that last calls can be made; whether there were any.

        The next items would find no files, memory or threads either: the worker is to end.
        """
        with self._lock:
            spare, self._spare, self.exhausted = self._spare, [], True
        for file in spare:
            os.close(file)
        return bool(spare)

    def _trouble(self, queue: SafeRedisQueue, error: str) -> None:
        if not error and queue.alias not in self._troubles:
            return
        with self._lock:  # of many threads, each tells of the same
            self._troubles.pop(queue.alias, None)
            if error:
                self._troubles[queue.alias] = f"queue={queue.alias} error={error}"
            self._report(next(iter(self._troubles.values()), ""))


def _out_of_files() -> bool:
    """Whether this process can open nothing, which the failure of a name look-up does not say."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False
