"""Django signals about items and consumers, sent with ``send_robust``: an error of a receiver is logged, not raised.

``sender`` is the class of the queue. All signals but child_started, consumer_started and consumer_stopped have
``queue``, the alias. The call or the consumer that caused the event runs the receivers in its own thread and waits for
them; an asynchronous call runs them as Django's ``asend_robust`` does. When a receiver raises SystemExit, or anything
else that is no ``Exception``, the receivers after it are not called.

================  ==========================================  ==========================================================
signal            arguments                                   sent when
================  ==========================================  ==========================================================
item_put          ``uid``                                     the server has the item; not when its uid was there
item_started      ``item``, ``consumer``                      its handler is about to be called
item_acked        ``item``, ``consumer``, ``duration``        it was handled, and is gone from the queue
item_failed       ``item``, ``consumer``, ``duration``,       its handler raised an exception; ``state`` is its state
                  ``error``, ``state``                        now, or None when its lease was lost
item_recovered    ``uid``, ``consumer``, ``evidence``         its process died, and it is ready again
item_dead         ``uid``, ``consumer``, ``evidence``         it is dead
child_started     ``consumer``                                in each child process of a consumer, right after its fork
consumer_started  ``consumer``, ``queues``                    in each process that handles items, before the first one
consumer_stopped  ``consumer``, ``queues``                    in each process that handles items, after the last one
queue_paused      ``by``, ``reason``, ``until``               the queue was paused
================  ==========================================  ==========================================================

``duration`` is in seconds. ``consumer`` is the id of the process; of item_recovered, of the process that died.
``evidence`` is a dict of ``type``, ``message`` and what else is known. When a child process died, another child of its
consumer sends item_recovered and item_dead, in a thread of its own. If that child ends before it has sent them, they
are lost.

child_started is for clients that the project opened before the fork, such as at the import of a handler's module: their
sockets must not be shared, and their threads do not exist in the child. A receiver closes them, or makes them anew.
With ``--processes 0`` nothing is forked, and the signal is not sent. There is one exception: a command that is the
first process of a container (PID 1) works in a child, which it forks before handlers are imported. That child sends the
signal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.dispatch import Signal

from django_srq.runtime.completion import acompleted, completed, wait_here
from django_srq.runtime.guarded_log import guarded
from django_srq.runtime.interruption import is_interruption, may_be_interruption

logger = guarded("django_srq.signals", may_be_interruption)

item_put = Signal()
item_started = Signal()
item_acked = Signal()
item_failed = Signal()
item_recovered = Signal()
item_dead = Signal()
child_started = Signal()
consumer_started = Signal()
consumer_stopped = Signal()
queue_paused = Signal()


def send(signal: Signal, sender: type, **details: Any) -> None:
    """Call the receivers, and wait for the awaitables that they return. Their errors are logged, not raised."""
    with _logged(details):
        for _, response in signal.send_robust(sender, **details):
            if response is not None:
                with _logged(details):
                    completed(response, wait_here)


@contextmanager
def _logged(details: Mapping[str, Any], kind: type[BaseException] = BaseException) -> Iterator[None]:
    """Log errors of this kind instead of raising them; an asynchronous call raises its cancellation."""
    try:
        yield
    except kind as error:  # SystemExit, which Django lets through; or a coroutine while an event loop is running
        if is_interruption(error):
            raise
        logger.exception("a signal's receivers could not be called queue=%s", details.get("queue", ""))


class Announcement:
    """An effect (``transport/sansio.py``): sends a signal about a call that succeeded. Its errors change nothing."""

    def __init__(self, signal: Signal, sender: type, **details: Any) -> None:
        self.signal, self.sender, self.details = signal, sender, details

    def carry_out(self) -> None:
        send(self.signal, self.sender, **self.details)

    async def acarry_out(self) -> None:
        with _logged(self.details, Exception):
            for _, response in await self.signal.asend_robust(self.sender, **self.details):
                if response is not None:
                    with _logged(self.details, Exception):
                        await acompleted(response)
