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
from django_srq.management.uids import elsewhere
from django_srq.registry import Queue


class Command(BulkCommand):
    help = (
        "Make dead items ready again, at the back of their queue: all of them, or those that the options choose. Their "
        "deliveries and crashes are counted from 0 again."
    )
    examples = ("orders --dry-run", "orders --error PaymentDeclined --older-than 2h", "orders --uid UID --uid UID")
    offers_all = False
    doing = "requeue"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        dead.add_arguments(parser)
        parser.add_argument(
            "--uid", action="append", default=[], help="only this item; may be given several times (default: all)"
        )

    def handle(
        self,
        *,
        queues: list[str],
        format: str,
        dry_run: bool,
        interactive: bool,
        error: str | None,
        older_than: dt.timedelta,
        limit: int | None,
        uid: list[str],
        **_: Any,
    ) -> None:
        if uid and (error or older_than or limit):
            raise CommandError("--uid cannot be combined with --error, --older-than or --limit.", returncode=USAGE)
        self.uids = list(dict.fromkeys(uid))
        self.choice = Choice(error=error, older_than=older_than, limit=limit)
        self.bulk(self.chosen(queues), format=format, dry_run=dry_run, interactive=interactive)

    def preview(self, preview: Preview) -> None:
        if self.uids:
            states = preview.queue.states(*self.uids)
            preview.items = states.count("dead")
            preview.hints = elsewhere(self.uids, states, "dead")
        else:
            preview.items, preview.details = dead.count(preview.queue, self.choice)
            preview.hints = [] if preview.items else dead.hints(preview.queue, self.choice)
        preview.row["requeued"] = preview.items

    def question(self, items: str, names: str) -> str:
        return f"Requeue {items} of {names}?"

    def act(self, queue: Queue, row: Row, on_batch: Callable[[int], None]) -> None:
        row["requeued"] = 0

        def done(number: int) -> None:
            row["requeued"] += number
            on_batch(number)

        queue.requeue(*self.uids, **self.choice, on_batch=done)
