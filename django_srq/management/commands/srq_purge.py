from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_srq.management import dead
from django_srq.management.base import USAGE
from django_srq.management.bulk import BulkCommand, Preview
from django_srq.management.dead import Choice
from django_srq.management.report import Row
from django_srq.queue.places import PURGEABLE
from django_srq.registry import Queue


class Command(BulkCommand):
    help = (
        "Permanently delete the ready, delayed and dead items of queues. Items in flight are kept, and so are items "
        "put meanwhile."
    )
    examples = ("orders --dry-run", "orders --state dead --older-than 30d", "orders --state ready --no-input")
    offers_all = False
    doing = "purge"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--state", choices=PURGEABLE, help="only items in this state (default: all three)")
        dead.add_arguments(parser)

    def handle(
        self,
        *,
        queues: list[str],
        format: str,
        dry_run: bool,
        interactive: bool,
        state: str | None,
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
        self.state = state
        self.choice = Choice(error=error, older_than=older_than, limit=limit)
        self.bulk(self.chosen(queues), format=format, dry_run=dry_run, interactive=interactive)

    def preview(self, preview: Preview) -> None:
        counts = preview.queue.counts()
        if self.state == "dead" or self.choice["error"]:
            state = self.state or "dead"
            preview.items, preview.details = dead.count(preview.queue, self.choice, state)
            preview.hints = [] if preview.items else dead.hints(preview.queue, self.choice, state)
        else:
            states = [self.state] if self.state else PURGEABLE
            preview.items = sum(counts[state] for state in states)
            preview.details = [", ".join(f"{counts[state]:,} {state}" for state in states)] if preview.items else []
        preview.row.update(purged=preview.items, spared_in_flight=counts["in_flight"])

    def question(self, items: str, names: str) -> str:
        return f"Permanently delete {items} of {names}?"

    def act(self, queue: Queue, row: Row, on_batch: Callable[[int], None]) -> None:
        row.update(purged=0, spared_in_flight=None)

        def done(number: int) -> None:
            row["purged"] += number
            on_batch(number)

        queue.purge(self.state, **self.choice, on_batch=done)
        row["spared_in_flight"] = queue.counts()["in_flight"]
