"""Django signals about items and consumers, sent with ``send_robust``: what a receiver raises is logged, not passed on.

SystemExit and what else is no ``Exception`` ends the round: the receivers behind it are not called.

``sender`` is the class of the queue, ``queue`` its alias. Receivers run before what caused the event goes on, in its
thread; those of an asynchronous call as Django's ``asend_robust`` runs them. item_recovered and item_dead about a
process that died are sent by another one of its consumer, in a thread of their own; those that it has not sent when it
ends are lost.

================  ===================================================================================================
item_put          ``uid``; the server has the item
item_started      ``item``, ``consumer``; its handler is about to be called
item_acked        ``item``, ``consumer``, ``duration`` (seconds); handled, and gone from the queue
item_failed       ``item``, ``consumer``, ``duration``, ``error``, ``state`` (where it went; None: the lease was lost)
item_recovered    ``uid``, ``consumer`` (the one that died), ``evidence``; ready again
item_dead         ``uid``, ``consumer``, ``evidence`` (type, message and what else is known); set aside
child_started     ``consumer``; in each child process of a consumer, the later ones too, right after its fork
consumer_started  ``consumer``, ``queues``; in each process that handles items
consumer_stopped  the same
queue_paused      ``by``, ``reason``, ``until``
================  ===================================================================================================

child_started is for clients that the project opened before the fork, such as at the import of a handler's module: their
sockets must not be shared, and their threads do not exist in the child. A receiver closes them, or makes them anew.
Without child processes (``--processes 0``) nothing is forked, and it is not sent. But where the command is the first
process of a container (PID 1), its work is done in a child, which is forked before it imports handlers and sends this.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.dispatch import Signal

from django_srq.runtime.completion import acompleted, completed, wait_here
from django_srq.runtime.interruption import is_interruption

logger = logging.getLogger("django_srq.signals")

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


def send(signal: Signal, sender: type, **about: Any) -> None:
    """Call the receivers, and await what they return to be awaited: whatever becomes of that is logged."""
    with _logged(about):
        for _, response in signal.send_robust(sender, **about):
            with _logged(about):
                completed(response, wait_here)


@contextmanager
def _logged(about: Mapping[str, Any], kind: type[BaseException] = BaseException) -> Iterator[None]:
    """kind: what is not passed on; of an asynchronous call, whoever cancels that is to know."""
    try:
        yield
    except kind as error:  # SystemExit, which Django lets through; or a coroutine beside a running event loop
        if is_interruption(error):
            raise
        logger.exception("a signal's receivers could not be called queue=%s", about.get("queue", ""))


class Announcement:
    """Tells of what was carried out, which goes well whatever becomes of this; a request of steps."""

    def __init__(self, signal: Signal, sender: type, **about: Any) -> None:
        self.signal, self.sender, self.about = signal, sender, about

    def carry_out(self) -> None:
        send(self.signal, self.sender, **self.about)

    async def acarry_out(self) -> None:
        with _logged(self.about, Exception):
            for _, response in await self.signal.asend_robust(self.sender, **self.about):
                with _logged(self.about, Exception):
                    await acompleted(response)
