from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django_srq.management.bulk import BulkCommand, Preview
from django_srq.management.report import Row
from django_srq.registry import Queue


class Command(BulkCommand):
    help = (
        "Recover items whose leases have ended, even if AUTOCLEAN_INTERVAL is None. They become ready again, or dead "
        "if they have no deliveries or crashes left."
    )
    examples = ("orders --dry-run", "--all --no-input")
    doing = "recover"

    def handle(
        self, *, queues: list[str], all_queues: bool, format: str, dry_run: bool, interactive: bool, **_: Any
    ) -> None:
        self.bulk(self.chosen(queues, all_queues), format=format, dry_run=dry_run, interactive=interactive)

    def preview(self, preview: Preview) -> None:
        preview.items = preview.queue.ended_leases()
        preview.row.update(leases=preview.items, ready=None if preview.items else 0)

    def question(self, items: str, names: str) -> str:
        return f"Recover {items} of {names}? An item that a consumer is still working on would be handled twice."

    def act(self, queue: Queue, row: Row, on_batch: Callable[[int], None]) -> None:
        row.update(leases=0, ready=0)

        def done(made: int, looked: int) -> None:
            row["leases"] += looked
            row["ready"] += made
            on_batch(looked)

        queue.recover(on_batch=done)
