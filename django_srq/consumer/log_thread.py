"""A thread that logs, for threads that must not wait for a log."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

MOST = 1000  # records that wait at one time; further ones are dropped


class LogThread:
    """Passes records on to a logger whose handlers may block for ever, such as on a full pipe or a hanging mount."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def log(self, level: int, message: str, *args: object, error: bool = False) -> None:
        """Have a record logged. error: with the exception that is being handled. Does not block."""
        if not self._logger.isEnabledFor(level):
            return
        exc_info = sys.exc_info() if error else None
        self.handle(self._logger.makeRecord(self._logger.name, level, __file__, 0, message, args, exc_info))

    def handle(self, record: logging.LogRecord) -> None:
        """Have a record logged, or count it as dropped if too many wait. Does not block."""
        if self._calls.qsize() >= MOST:
            self.dropped += 1
        else:
            self._do(partial(self._logger.handle, record))

    def flush(self, seconds: float) -> bool:
        """Wait until all records so far are logged, for so many seconds at most; whether they are."""
        if self._thread is None:
            return True
        logged = threading.Event()
        self._do(logged.set)
        return logged.wait(seconds)

    def _do(self, call: Callable[[], object]) -> None:
        self._calls.put(call)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="srq-log", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._calls.get()()
            if self.dropped:
                dropped, self.dropped = self.dropped, 0
                self._logger.warning("log records dropped, because the log was blocked count=%d", dropped)
