"""What the commands that change whole queues have in common: their arguments, results, confirmation and stopping."""

from __future__ import annotations

import signal
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_srq import conf
from django_srq.exceptions import OutcomeUnknown, QueueUnavailable, SRQError
from django_srq.management import report
from django_srq.management.base import ERROR, EXIT_CODES, INTERRUPTED, USAGE, QueueCommand, exit_code
from django_srq.management.progress import Progress
from django_srq.management.report import Row
from django_srq.registry import Queue
from django_srq.status.verdicts import readable
from django_srq.transport.link import Link


@dataclass
class Results:
    rows: list[Row] = field(default_factory=list)  # of the queues where something was done or counted
    failures: list[SRQError] = field(default_factory=list)


class EachQueueCommand(QueueCommand):
    """A command that does the same to several queues, and prints a row for each."""

    offers_all = True  # whether it has --all

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queues", nargs="*", metavar="queue", help="alias of a queue")
        if self.offers_all:
            parser.add_argument("--all", action="store_true", dest="all_queues", help="all queues of the settings")
        parser.add_argument(
            "--format",
            choices=report.FORMATS,
            default="table",
            help="table: for people; json: one document with all; jsonl: a line for each queue",
        )

    def chosen(self, aliases: Sequence[str], all_queues: bool = False) -> list[Queue]:
        """The queues that were named, each once. Raises an error for an unknown one before anything is done."""
        if all_queues and aliases:
            raise CommandError("Name queues, or give --all, but not both.", returncode=USAGE)
        if not all_queues and not aliases:
            otherwise = ", or give --all" if self.offers_all else ""
            known = ", ".join(conf.aliases()) or "none"
            raise CommandError(f"Name queues{otherwise} (known: {known}).", returncode=USAGE)
        return [self.queue(alias) for alias in dict.fromkeys(conf.aliases() if all_queues else aliases)]

    def on_each(self, queues: Sequence[Queue], act: Callable[[Queue, Row], object], results: Results) -> None:
        """Call act for each queue, with a row to fill. A failure does not stop the other queues."""
        away: list[Link] = []
        for queue in queues:
            row: Row = {"queue": queue.alias}
            try:
                if queue.link in away:  # do not wait for the same server again
                    raise QueueUnavailable(
                        f"queue {queue.alias!r} was skipped: it is on the same server, {queue.link.address}"
                    )
                act(queue, row)
            except SRQError as error:
                results.failures.append(error)
                if isinstance(error, QueueUnavailable | OutcomeUnknown):
                    away.append(queue.link)
            finally:
                if len(row) > 1:
                    results.rows.append(row)

    def finish(self, results: Results, format: str, **common: Any) -> None:
        """Write the rows. Failures become one error with a line for each; the first decides the exit code."""
        self.say(results.rows, format, **common)
        if failures := results.failures:
            raise CommandError("\n".join(map(str, failures)), returncode=exit_code(failures[0])) from failures[0]

    def say(self, rows: Sequence[Row], format: str, **common: Any) -> None:
        for line in report.lines(rows, format, **common):
            self.stdout.write(line)


@dataclass
class Preview:
    """What the command would do to a queue."""

    queue: Queue
    row: Row = field(default_factory=dict)
    items: int = 0
    details: Sequence[str] = ()  # lines for people
    hints: Sequence[str] = ()  # what was asked for and is not there; told in any case


def number_of(items: int) -> str:
    return f"{items:,} item{'s' if items != 1 else ''}"


class _Stopped(Exception):
    """Raised between two batches after Ctrl-C."""


class BulkCommand(EachQueueCommand):
    """A command that changes many items in batches: it counts, asks, shows progress, and can be stopped between two."""

    doing = ""  # as in "would requeue 1 item"; label of the progress
    exit_codes = {
        ERROR: "an error, or the answer to the question was no",
        USAGE: f"{EXIT_CODES[USAGE]}; no terminal to ask on",
    }

    @abstractmethod
    def preview(self, preview: Preview) -> None:
        """Count the items, and fill the preview."""

    @abstractmethod
    def act(self, queue: Queue, row: Row, on_batch: Callable[[int], None]) -> None:
        """Do it, and keep the row true at any moment. Call on_batch after each batch, with its number of items."""

    @abstractmethod
    def question(self, items: str, names: str) -> str:
        """The question to the user. items: their number, as in "1 item"; names: aliases of the queues."""

    def plan(self, preview: Preview) -> str:
        """What a dry run says."""
        kept = preview.row.get("spared_in_flight")
        return f"would {self.doing} {number_of(preview.items)}" + (f"; {kept:,} in flight would stay" if kept else "")

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
        parser.add_argument(
            "--no-input",
            "--noinput",
            "--yes",
            action="store_false",
            dest="interactive",
            help="do not ask for confirmation",
        )

    def bulk(self, queues: Sequence[Queue], *, format: str, dry_run: bool, interactive: bool) -> None:
        asks = interactive and not dry_run
        if asks and not (sys.stdin is not None and sys.stdin.isatty() and self.stderr.isatty()):
            raise CommandError(
                "Nothing was done: there is no terminal to ask for confirmation on. Give --no-input to skip the "
                "question, or --dry-run to count.",
                returncode=USAGE,
            )
        results = Results()
        try:
            previews = self._previews(queues, results)
            items = sum(preview.items for preview in previews)
            self._hint(previews)
            if format == "table" and (asks or dry_run):
                self._explain(previews)
            if asks and items:
                self._ask(previews, items)
        except KeyboardInterrupt:
            self.stderr.write("")  # ends the line with the question
            raise CommandError("Stopped. Nothing was done.", returncode=INTERRUPTED) from None
        if items and not dry_run:
            results.rows = []
            self._do([preview.queue for preview in previews], items, results, format)
        if dry_run and format == "table":
            for preview in previews:
                self.stdout.write(f"{readable(preview.queue.alias)}: {self.plan(preview)}")
            self.stderr.write("Only counted: nothing was done.", str)
            results.rows = []  # as columns they would look done
        self.finish(results, format, dry_run=dry_run)

    def _previews(self, queues: Sequence[Queue], results: Results) -> list[Preview]:
        previews: list[Preview] = []

        def count(queue: Queue, row: Row) -> None:
            preview = Preview(queue, row)
            self.preview(preview)
            previews.append(preview)

        self.on_each(queues, count, results)
        return previews

    def _hint(self, previews: Sequence[Preview]) -> None:
        for preview in previews:
            for line in preview.hints:
                self.stderr.write(f"{preview.queue.alias}: {line}", str)

    def _explain(self, previews: Sequence[Preview]) -> None:
        for preview in previews:
            for line in preview.details:
                self.stderr.write(f"{preview.queue.alias}: {line}", str)

    def _ask(self, previews: Sequence[Preview], items: int) -> None:
        names = ", ".join(preview.queue.alias for preview in previews if preview.items)
        question = self.question(number_of(items), names)
        self.stderr.write(f"{question} [y/N] ", str, ending="")
        self.stderr.flush()
        answer = sys.stdin.readline()
        if not answer:
            self.stderr.write("")
        if answer.strip().lower() not in {"y", "yes"}:
            raise CommandError("Nothing was done.", returncode=ERROR)

    def _do(self, queues: Sequence[Queue], items: int, results: Results, format: str) -> None:
        try:
            with _stop_on_ctrl_c() as stop, Progress(self.doing, items, self.stderr) as progress:

                def on_batch(number: int) -> None:
                    progress.add(number)
                    if stop.is_set():
                        raise _Stopped

                self.on_each(queues, lambda queue, row: self.act(queue, row, on_batch), results)
        except (_Stopped, KeyboardInterrupt) as stopped:
            self.say(results.rows, format, dry_run=False)
            cut = isinstance(stopped, KeyboardInterrupt)
            how = "Stopped in the middle of a batch, which may have been done" if cut else "Stopped between two batches"
            lines = [*map(str, results.failures), f"{how}; the items that are left are unchanged."]
            raise CommandError("\n".join(lines), returncode=INTERRUPTED) from None


@contextmanager
def _stop_on_ctrl_c() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event; a second one has its usual effect."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python lets only the main thread set handlers
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
