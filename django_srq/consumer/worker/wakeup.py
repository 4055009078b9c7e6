"""The wakeup: ends a wait on the server from another thread or a signal handler."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

from django_srq.consumer import forks
from django_srq.consumer.signal_pipe import LONGEST_WAIT

PAUSE = 0.1  # seconds of a pause at most, once the wakeup rings for good


class Wakeup:
    """A pipe to this process itself (the self-pipe trick): from ``ring`` until ``calm`` there is something to read.

    A thread that waits on the server waits for its connection and for ``end``, the reading end, at the same time.
    """

    def __init__(self) -> None:
        self.end, self._other = os.pipe()
        for end in (self.end, self._other):
            os.set_blocking(end, False)
        self._rung = self._for_good = False
        self._open = True
        forks.keep_private(self)

    def ring(self, *, for_good: bool = False) -> None:
        """End the current wait. for_good: end all later waits too, as the worker is stopping. Does not block."""
        self._for_good = self._for_good or for_good
        with suppress(OSError):  # it is full, so it rings already; or it is closed, as the worker has ended
            os.write(self._other, b"x")
        self._rung = True  # after the write: a ring that calm() misses now, it sees after the next wait

    def calm(self) -> None:
        """Empty the pipe after a wait, so that the next one is not ended by this ring."""
        if self._rung:
            self._rung = False
            with suppress(BlockingIOError):
                os.read(self.end, 65536)  # all that a pipe holds: any byte that remained would end the next wait
        if self._for_good:
            self.ring()

    def pause(self, seconds: float) -> None:
        """Wait for so many seconds, or until the wakeup is rung."""
        if self._for_good:
            time.sleep(min(seconds, PAUSE))
        else:
            watched = select.poll()  # not select(), which knows only descriptors below 1024
            watched.register(self.end, select.POLLIN)
            watched.poll(min(max(0, seconds), LONGEST_WAIT) * 1000)

    def close(self) -> None:
        ends, self._other, self._open = (self.end, self._other), -1, False
        for end in ends:
            os.close(end)

    def close_in_fork(self) -> None:
        """Close the pipe in a fork of this process: a ring there would end the waits here."""
        if self._open:
            self.close()
