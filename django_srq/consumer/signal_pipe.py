"""The self-pipe of a process: a loop waits on it for signals."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from django_srq.consumer import dispositions, forks

LONGEST_WAIT = 86400.0  # seconds; poll() takes no more than 24 days


class SignalPipe:
    """The signals that this process gets, in the order in which they come, for a loop that waits for them.

    This is a self-pipe: the interpreter writes the number of each signal into it (``signal.set_wakeup_fd``). Children
    wake the loop through the same pipe.
    """

    NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

    def __init__(self, more: Collection[int] = ()) -> None:
        """more: signals to take besides those of ``NUMBERS``."""
        self._numbers = {*self.NUMBERS, *more}

    def __enter__(self) -> SignalPipe:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        for number in self._numbers:
            dispositions.ignore(number)  # by a handler that does nothing: the interpreter still writes to the pipe
        self._fd_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        return self

    def __exit__(self, *exc: object) -> None:
        signal.set_wakeup_fd(self._fd_before)
        for number in self._numbers:
            dispositions.give_back(number)
        os.close(self._reading)
        os.close(self._writing)

    def wait(self, seconds: float) -> None:
        watched = select.poll()  # not select(), which knows only descriptors below 1024
        watched.register(self._reading, select.POLLIN)
        watched.poll(min(seconds, LONGEST_WAIT) * 1000)

    def read(self) -> list[int]:
        """The signals that came since the last call. Does not block."""
        try:
            return [number for number in os.read(self._reading, 4096) if number]
        except BlockingIOError:
            return []

    def wake(self) -> None:
        """End the loop's wait, from a child process. Does not block."""
        with suppress(OSError):  # the pipe is full, so the wait ends anyway; or the supervisor is gone
            os.write(self._writing, b"\0")

    @contextmanager
    def hold_back(self) -> Iterator[None]:
        """Hold signals back within the block; they come afterwards. A child that is forked here gets only its own."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self.NUMBERS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def forget(self) -> None:
        """In a child: ignore the signals. The supervisor gets them too, and tells its children what to do."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            dispositions.ignore(number)
        os.close(self._reading)
        forks.keep_private(self)

    def close_in_fork(self) -> None:
        """In a fork of a child: close the pipe, as this process must not wake the supervisor."""
        os.close(self._writing)
        self._writing = -1
