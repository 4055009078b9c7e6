"""The Django signals about the items of dead children.

The supervisor runs no code of the project. So it passes the signals on to its children as events, and they send them.
"""

from __future__ import annotations

import json
import queue
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from django_srq import signals
from django_srq.consumer.processes.child_handle import ChildHandle
from django_srq.queue.safe_redis_queue import SafeRedisQueue

_SIGNALS = {"item_recovered": signals.item_recovered, "item_dead": signals.item_dead}
_SIGNAL_FOR = {"ready": "item_recovered", "dead": "item_dead"}  # by the state of the item after the death


class EventRelay:
    """The supervisor's side: the events that no child has taken yet."""

    def __init__(self) -> None:
        self.waiting: deque[dict[str, Any]] = deque()

    def add(self, state: str, **arguments: Any) -> None:
        """Add the event for an item that is in this state now. arguments: those of the Django signal."""
        if name := _SIGNAL_FOR.get(state):
            self.waiting.append({"signal": name, "arguments": arguments})

    def pass_on(self, children: Iterable[ChildHandle]) -> None:
        """Write the events to the children, as many as their pipes have room for. Does not block."""
        ready = [child for child in children if child.ledger.ready and not child.kill_reason]
        # A child that was told to stop may end before it sends them: it is chosen only if there is no other one.
        for child in [child for child in ready if not child.stopping] or ready:
            while self.waiting and child.send(json.dumps(self.waiting[0]).encode() + b"\n"):
                self.waiting.popleft()


class EventSender:
    """The child's side: sends the events as Django signals."""

    def __init__(self, on_idle: Callable[[], None]) -> None:
        """on_idle: called after each signal, as its receivers may have opened database connections."""
        self._on_idle = on_idle
        self._events: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def add(self, event: bytes) -> None:
        self._events.put(event)

    def run(self) -> None:
        """Send the events as they come. Blocks for ever; in a thread of its own, as receivers may be slow."""
        while True:
            event = json.loads(self._events.get())
            signals.send(_SIGNALS[event["signal"]], SafeRedisQueue, **event["arguments"])
            self._on_idle()
