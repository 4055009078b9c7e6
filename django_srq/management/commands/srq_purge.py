from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_srq.management import dead
from django_srq.management.base import USAGE
from django_srq.management.bulk import BulkCommand, Preview, number_of
from django_srq.management.dead import Choice
from django_srq.management.report import Row
from django_srq.queue.places import PURGEABLE
from django_srq.registry import Queue


class Command(BulkCommand):
    help = (
        "Permanently delete the ready, delayed and dead items of queues, and the results of tasks. Items in flight are "
        "kept, and so are items put meanwhile."
    )
    examples = (
        "orders --dry-run",
        "mail --results",
        "orders --state dead --older-than 30d",
        "orders --state ready --no-input",
    )
    offers_all = False
    doing = "purge"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--state", choices=PURGEABLE, help="only items in this state (default: all three, and results)"
        )
        parser.add_argument(
            "--results", action="store_true", help="only the results of tasks that are done (default: items, too)"
        )
        dead.add_arguments(parser)

    def handle(
        self,
        *,
        queues: list[str],
        format: str,
        dry_run: bool,
        interactive: bool,
        state: str | None,
        results: bool,
        error: str | None,
        older_than: dt.timedelta,
        limit: int | None,
        **_: Any,
    ) -> None:
        chooses = state == "dead" or (state == "delayed" and error)
        if (error or older_than or limit) and not chooses:
            raise CommandError(
                "--error, --older-than and --limit need --state dead, or --state delayed together with --error.",
                returncode=USAGE,
            )
        if results and state:
            raise CommandError("Give --state or --results, but not both.", returncode=USAGE)
        self.state, self.only_results = state, results
        self.items = 0
        self.results: int | None = None
        self.choice = Choice(error=error, older_than=older_than, limit=limit)
        self.bulk(self.chosen(queues), format=format, dry_run=dry_run, interactive=interactive)

    def preview(self, preview: Preview) -> None:
        counts, kept = preview.queue.counts(), self._results_of(preview.queue)
        if self.only_results:
            preview.items = 0
        elif self.state == "dead" or self.choice["error"]:
            state = self.state or "dead"
            preview.items, preview.details = dead.count(preview.queue, self.choice, state)
            preview.hints = [] if preview.items else dead.hints(preview.queue, self.choice, state)
        else:
            states = [self.state] if self.state else PURGEABLE
            preview.items = sum(counts[state] for state in states)
            preview.details = [", ".join(f"{counts[state]:,} {state}" for state in states)] if preview.items else []
        preview.row.update(purged=preview.items, spared_in_flight=counts["in_flight"])
        self.items += preview.items
        if kept is not None:
            preview.row["results"] = kept
            preview.items += kept
            self.results = kept + (self.results or 0)

    def _results_of(self, queue: Queue) -> int | None:
        """How many results will be deleted; None if none can be: of a queue without tasks, or with one state only."""
        if self.state is not None or not (self.only_results or queue.config.tasks):
            return None
        return queue.snapshot().results

    def plan(self, preview: Preview) -> str:
        results = preview.row.get("results")
        kept = preview.row["spared_in_flight"]
        what = self._counted(preview.row["purged"], results)
        return f"would purge {what}" + (f"; {kept:,} in flight would stay" if kept else "")

    def _counted(self, items: int, results: int | None) -> str:
        """Such as "5 items and 3 results"; results: None if none can be deleted."""
        counted = [] if self.only_results else [number_of(items)]
        if results is not None:
            counted.append(f"{results:,} result{'s' if results != 1 else ''}")
        return " and ".join(counted)

    def question(self, items: str, names: str) -> str:
        return f"Permanently delete {self._counted(self.items, self.results)} of {names}?"

    def act(self, queue: Queue, row: Row, on_batch: Callable[[int], None]) -> None:
        row.update(purged=0, spared_in_flight=None)

        def done(number: int) -> None:
            row["purged"] += number
            on_batch(number)

        def forgotten(number: int) -> None:
            row["results"] += number
            on_batch(number)

        if self._results_of(queue) is not None:
            row["results"] = 0
            queue.purge_results(on_batch=forgotten)
        if not self.only_results:
            queue.purge(self.state, **self.choice, on_batch=done)
        row["spared_in_flight"] = queue.counts()["in_flight"]
