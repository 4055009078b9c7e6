from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from django_srq import conf
from django_srq.consumer import Consumer, Source, adapted, with_fresh_connections
from django_srq.item import Item
from django_srq.management.command import ERROR, USAGE, QueueCommand
from django_srq.registry import Queue

logger = logging.getLogger("django_srq.consumer")
LEVELS = {0: logging.ERROR, 1: logging.INFO, 2: logging.INFO, 3: logging.DEBUG}  # by --verbosity


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0, not {text!r}")
    return int(text)


class Command(QueueCommand):
    help = (
        "Handle the items of queues, in the order in which the queues are given; without names, of every queue that "
        "has a HANDLER. The items of a named queue without one are printed as 'uid payload' and acked."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queues", nargs="*", metavar="queue", help="alias of a queue")
        parser.add_argument("--burst", action="store_true", help="end when nothing is ready")
        parser.add_argument("--max-items", type=_count, help="end after so many items")

    def handle(self, *, queues: list[str], burst: bool, max_items: int | None, verbosity: int, **_: Any) -> None:
        sources = [self._source(queue) for queue in self._chosen(queues)]
        _log_to_stderr(LEVELS[verbosity])
        consumer = Consumer(sources, burst=burst, max_items=max_items)
        before = _stop_on_signals(consumer)
        try:
            consumer.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _chosen(self, aliases: list[str]) -> list[Queue]:
        if aliases:
            return [self.queue(alias) for alias in dict.fromkeys(aliases)]
        chosen = [self.queue(alias) for alias in conf.aliases() if conf.queue_config(alias).handler]
        if not chosen:
            known = ", ".join(conf.aliases()) or "none"
            raise CommandError(
                f"No queue has a HANDLER. Name the queues whose items are to be printed (known: {known}).",
                returncode=USAGE,
            )
        return chosen

    def _source(self, queue: Queue) -> Source:
        handler = queue.config.load_handler()
        if handler is None:
            self.stderr.write(f"{queue.alias} has no HANDLER: its items are printed and acked.")
        handle: Callable[[Item], object] = with_fresh_connections(adapted(handler)) if handler else self._print
        return Source(queue, handle, lease=queue.config.lease, backoff=queue.backoff)

    def _print(self, item: Item) -> None:
        # Flushed before it returns: the ack follows only when standard output took it.
        try:
            self.stdout.write(f"{item.uid} {_shown(item.payload)}")
            self.stdout.flush()
        except BrokenPipeError:
            self.stderr.write("Standard output was closed. The item that it did not take stays in the queue.")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at exit
            sys.exit(ERROR)


def _shown(payload: Any) -> str:
    if isinstance(payload, bytes):
        return payload.decode(errors="backslashreplace")
    return payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False, default=str)


def _stop_on_signals(consumer: Consumer) -> dict[signal.Signals, Any]:
    """The first SIGTERM or SIGINT finishes the item in hand, the second cuts it. Returns the handlers from before."""
    if threading.current_thread() is not threading.main_thread():
        return {}  # Python lets only the main thread set handlers

    def on_signal(number: int, frame: FrameType | None) -> None:
        for stop in (signal.SIGTERM, signal.SIGINT):
            signal.signal(stop, lambda number, frame: sys.exit(128 + number))
        if talkative:
            # Not logged: the signal may have come in the middle of a log line, and buffers cannot be entered twice.
            with contextlib.suppress(OSError):
                os.write(2, b"stopping: the item in hand is finished; a second signal cuts it\n")
        consumer.stop()

    talkative = logger.isEnabledFor(logging.INFO)
    return {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}


def _log_to_stderr(level: int) -> None:
    """Only when the project configures no logger of ours: nobody should have to, to see what the consumer does."""
    logger = logging.getLogger("django_srq")
    configured = any(name.split(".")[0] == "django_srq" for name in settings.LOGGING.get("loggers", ()))
    if configured or logger.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
