"""Calls that must be made: what became of an item has to be said.

With queues on one server, whoever has something to say says it until that server took it: there is nothing else to do
meanwhile. With several, one that is away holds up nobody: what it is owed is said in a thread of its own, and until
that is done nothing else is asked of it.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from django_srq.connections import Link
from django_srq.consumer.alarm import Alarm
from django_srq.consumer.hands import Hands
from django_srq.exceptions import OutcomeUnknown, QueueUnavailable
from django_srq.operations import Call
from django_srq.queue import SafeRedisQueue
from django_srq.slots import Slot, slots

T = TypeVar("T")

LONGEST_PAUSE = 1.0  # seconds between looks at a server that is away
LAST_WORDS = 10.0  # seconds in which a stopping worker must be able to say what became of its items
ATTEMPT = 1.0  # seconds without a reply after which one of several servers counts as away


@dataclass
class _Errand(Generic[T]):
    queue: SafeRedisQueue
    call: Call[T]
    then: Callable[[T | None], None]  # what follows from the reply; None: it could not be said before the end
    slot: Slot  # the same all the time: it may have been carried out although no reply came
    borrowed: bool
    reply: T | None = None

    def end(self) -> None:
        self.give_back()
        self.then(self.reply)

    def give_back(self) -> None:
        if self.borrowed:
            slots.give_back(self.slot)


@dataclass
class _Owed:
    """What a server that is away is owed, and the thread that says it."""

    thread: threading.Thread
    errands: deque[_Errand[Any]] = field(default_factory=deque)


class Errands:
    """Makes calls until the server took them, and sees to what follows."""

    def __init__(
        self,
        links: Iterable[Link],
        hands: Hands,
        alarm: Alarm,
        *,
        report: Callable[[str], None],
        beside: Callable[..., None],
        back: Callable[[], None],
    ) -> None:
        """report is told of a trouble with a server, and with "" when that is over. beside: runs what a thread does.

        back is called in such a thread when one of several servers has got what it was owed.
        """
        self.stopping = False
        self.gave_up = False  # stopping, and the only server cannot be told what became of the items
        self._alone = len(set(links)) == 1
        self._hands, self._alarm = hands, alarm
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
    ) -> None:
        """Make a call, then what follows: now, or in another thread when the server is back (late, if that differs).

        slot: with the number that the call has in it, and that no later one gets; without one, it is borrowed.
        """
        errand = _Errand(queue, call, then, slot or slots.borrow(), borrowed=slot is None)
        try:
            if self._alone:
                self.gave_up = not self._insist(errand) or self.gave_up
            elif self.away(queue.link) or not self._say(errand, ATTEMPT):
                errand.then = late or then
                self._put_off(errand)
                return
        except BaseException:
            errand.give_back()
            raise
        errand.end()

    def finish(self) -> None:
        """Wait until nothing is owed any more, or it cannot be said. Blocks."""
        with self._lock:
            threads = [owed.thread for owed in self._owed.values()]
        for thread in threads:
            thread.join()

    def _put_off(self, errand: _Errand[Any]) -> None:
        link = errand.queue.link
        with self._lock:
            owed = self._owed.get(link)
            if owed is None:
                arguments = [self._catch_up, link]
                thread = threading.Thread(target=self._beside, args=arguments, name="srq-errands", daemon=True)
                owed = self._owed[link] = _Owed(thread)
                thread.start()
            owed.errands.append(errand)

    def _catch_up(self, link: Link) -> None:
        """Say to a server that is away what it is owed."""
        gave_up = False
        while (errand := self._next_owed(link)) is not None:
            gave_up = gave_up or not self._insist(errand)
            errand.end()
        self._back()

    def _next_owed(self, link: Link) -> _Errand[Any] | None:
        with self._lock:
            if self._owed[link].errands:
                return self._owed[link].errands.popleft()
            del self._owed[link]
            return None

    def _insist(self, errand: _Errand[Any]) -> bool:
        """Say something until the server took it. False: it cannot be said, and the worker is to stop."""
        give_up = None
        while not self._say(errand):
            if self.stopping:
                give_up = give_up or time.monotonic() + LAST_WORDS
                if self.gave_up or time.monotonic() > give_up or not any(self._hands):
                    return False
            self._alarm.pause(random.uniform(0, LONGEST_PAUSE))
        return True

    def _say(self, errand: _Errand[Any], timeout: float | None = None) -> bool:
        """timeout: seconds; that of the queue, if there is none."""
        queue = errand.queue
        try:
            errand.reply = queue.link.call(errand.call, queue=queue.label, timeout=timeout, slot=errand.slot)
        except (QueueUnavailable, OutcomeUnknown) as error:
            self._trouble(queue, str(error))
            return False
        self._trouble(queue, "")
        return True

    def _trouble(self, queue: SafeRedisQueue, error: str) -> None:
        if not error and queue.label not in self._troubles:
            return
        with self._lock:  # of many threads, each tells of the same
            self._troubles.pop(queue.label, None)
            if error:
                self._troubles[queue.label] = f"queue={queue.label} error={error}"
            self._report(next(iter(self._troubles.values()), ""))
