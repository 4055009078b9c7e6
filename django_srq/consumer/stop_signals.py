"""The signals that stop a consumer without child processes."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

from django_srq.consumer import dispositions
from django_srq.consumer.in_process import Cut

logger = logging.getLogger("django_srq.consumer")

NUMBERS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Within the block, the first SIGTERM or SIGINT lets the item in hand finish, and the second one cuts it.

    In a thread other than the main one this does nothing, as Python lets only the main thread set handlers.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._talkative = logger.isEnabledFor(logging.INFO)
        self._stopping = False
        self.exit_code = 0  # 128 + the number of a second signal

    def __enter__(self) -> StopSignals:
        self._numbers = NUMBERS if threading.current_thread() is threading.main_thread() else ()
        for number in self._numbers:
            dispositions.take(number, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        for number in self._numbers:
            dispositions.give_back(number)

    def _on_signal(self, number: int) -> None:
        if self._stopping:
            self.exit_code = 128 + number
            raise Cut
        self._stopping = True
        self._stop()
        if self._talkative:
            # Not logged: the signal may have interrupted a log call, whose buffers cannot be entered twice. And written
            # only if that does not block: the interrupted code may hold an item.
            with suppress(OSError):
                if select.select([], [2], [], 0)[1]:
                    os.write(2, b"stopping: waiting for the running handler; a second signal stops at once\n")
