"""The progress of a long operation, for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from types import TracebackType
from typing import Any

from django.core.management.base import OutputWrapper

EVERY = 5.0  # seconds between two lines
BAR_FROM = 1000  # items; fewer are done before anybody could read a bar


class Progress:
    """On stderr: a bar if that is a terminal and tqdm is installed, otherwise a line every 5 seconds."""

    def __init__(
        self, doing: str, total: int, stream: OutputWrapper, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.doing, self.total, self.done = doing, total, 0
        self.stream, self.clock = stream, clock
        self.said = clock()
        self.bar = _bar(doing, total) if total >= BAR_FROM and stream.isatty() else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def add(self, number: int) -> None:
        """number: how many more items are done."""
        self.done += number
        if self.bar is not None:
            self.bar.update(number)
        elif self.clock() - self.said >= EVERY:
            self.said = self.clock()
            self.stream.write(f"{self.doing}: {self.done:,} of {max(self.total, self.done):,} so far", str)


def _bar(doing: str, total: int) -> Any:
    """A bar, or None without tqdm, which is imported here because it is optional and slow to import."""
    try:
        tqdm = import_module("tqdm")
    except ImportError:
        return None
    return tqdm.tqdm(desc=doing, total=total, unit=" items", file=sys.stderr, leave=False, dynamic_ncols=True)
