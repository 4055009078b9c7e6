"""What ends a wait on the server, from another thread or a signal handler."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

from django_srq.consumer import forks

PAUSE = 0.1  # seconds at most, once it rings for good
LONGEST_WAIT = 86400.0  # seconds; poll() takes no more than 24 days


class Wakeup:
    """A pipe: from the moment at which it is rung until it is calmed, there is something to read from it."""

    def __init__(self) -> None:
        self.end, self._other = os.pipe()
        for end in (self.end, self._other):
            os.set_blocking(end, False)
        self._rung = self._for_good = False
        self._open = True
        forks.keep(self)

    def ring(self, *, for_good: bool = False) -> None:
        """for_good: all is over, and nothing is waited for any more."""
        self._for_good = self._for_good or for_good
        with suppress(OSError):  # full, or closed: it has ended
            os.write(self._other, b"x")
        self._rung = True  # after the write: what is not seen now is seen after the next wait

    def calm(self) -> None:
        """After a wait."""
        if self._rung:
            self._rung = False
            with suppress(BlockingIOError):
                os.read(self.end, 65536)  # all that a pipe holds: what remained would end every wait
        if self._for_good:
            self.ring()

    def pause(self, seconds: float) -> None:
        """Wait for so many seconds, or until it rings."""
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

    def let_go(self) -> None:
        """In a fork: what it rang there would ring here."""
        if self._open:
            self.close()
