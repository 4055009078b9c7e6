"""Calls that must be made: what became of an item has to be said."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from django_srq.consumer.alarm import Alarm
from django_srq.consumer.hands import Hands
from django_srq.exceptions import OutcomeUnknown, QueueUnavailable
from django_srq.operations import Call
from django_srq.queue import SafeRedisQueue
from django_srq.slots import Slot, slots

T = TypeVar("T")

LONGEST_PAUSE = 1.0  # seconds between looks at a server that is away
LAST_WORDS = 10.0  # seconds in which a stopping worker must be able to say what became of its items


class Errands:
    """Makes calls until the server took them."""

    def __init__(self, hands: Hands, alarm: Alarm, report: Callable[[str], None]) -> None:
        """report is told of a trouble with a server, and with "" when that is over."""
        self.stopping = False
        self.gave_up = False  # stopping, with a server that cannot be told what became of the items
        self._hands, self._alarm, self._report = hands, alarm, report
        self._lock = threading.Lock()
        self._troubles: dict[str, str] = {}

    def insist(self, queue: SafeRedisQueue, call: Call[T], *, slot: Slot | None = None) -> T | None:
        """Send a call until the server took it. Blocks. None when stopping and it cannot be."""
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
                if self.stopping:
                    give_up = give_up or time.monotonic() + LAST_WORDS
                    if self.gave_up or time.monotonic() > give_up or not any(self._hands):
                        self.gave_up = True
                        return None
                self._alarm.pause(random.uniform(0, LONGEST_PAUSE))
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
