from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandParser

from django_srq import operations
from django_srq.management.bulk import BulkCommand, Preview, number_of
from django_srq.management.items import unknown
from django_srq.management.report import Row
from django_srq.operations import DeliveryRef
from django_srq.queue.arguments import uids_of
from django_srq.queue.calls import batches
from django_srq.queue.places import PURGEABLE, is_done, state_of
from django_srq.registry import Queue

# What is left of an item that is done: what becomes of it, and what would become of it.
UID = "uid is free to be put again", "uid would be free to be put again"
RESULT = "result is deleted", "result would be deleted"


class Command(BulkCommand):
    help = (
        "Permanently delete single items by their uids: ready, delayed and dead ones. Items in flight are kept: "
        "a consumer is working on them. A uid that is done but counts as there by unique_for may be put again. "
        "Of a task that is done, the result is deleted."
    )
    examples = ("orders --uid UID --dry-run", "orders --uid UID --uid UID", "orders --uid UID --yes --format json")
    offers_all = False
    doing = "drop"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--uid", action="append", required=True, help="the item; may be given several times (no default: required)"
        )

    def handle(
        self, *, queues: list[str], format: str, dry_run: bool, interactive: bool, uid: list[str], **_: Any
    ) -> None:
        self.uids = list(dict.fromkeys(uid))
        self.kept = 0
        # For each alias: uids whose items are gone, and what is left of each, so that there is something to do.
        self.finished: dict[str, dict[str, tuple[str, str]]] = {}
        self.bulk(self.chosen(queues), format=format, dry_run=dry_run, interactive=interactive)
        for queue in self.chosen(queues):
            if not dry_run:
                self._free(queue)
            for done, left in self.finished[queue.alias].items():
                self.stderr.write(f"{queue.alias}: {done!r} is done; its {left[dry_run]}", str)

    def _free(self, queue: Queue) -> None:
        for uids in batches(self.uids):
            queue.link.call(operations.drop(queue.keys, map(DeliveryRef, uids), state="done"), queue=queue.alias)

    def preview(self, preview: Preview) -> None:
        queue = preview.queue
        uids = uids_of(self.uids, queue.alias)
        calls = (operations.find(queue.keys, batch) for batch in batches(uids))
        found = [places for call in calls for places in queue.link.call(call, queue=queue.alias)]
        states = [state_of(places) for places in found]
        numbers = Counter(states)
        preview.items, kept = sum(numbers[state] for state in PURGEABLE), numbers["in_flight"]
        counted = ", ".join(f"{numbers[state]:,} {state}" for state in PURGEABLE if numbers[state])
        preview.details = [counted] if counted else []
        self.finished[queue.alias] = {
            uid: RESULT if "results" in places else UID
            for uid, places in zip(uids, found, strict=True)
            if is_done(places) or ("results" in places and "items" not in places)
        }
        missing = (uid for uid, state in zip(uids, states, strict=True) if state is None)
        preview.hints = [unknown(uid) for uid in missing if uid not in self.finished[queue.alias]]
        preview.row.update(dropped=preview.items, spared_in_flight=kept)
        self.kept += kept

    def question(self, items: str, names: str) -> str:
        kept = f" {number_of(self.kept)} in flight will be kept." if self.kept else ""
        return f"Permanently delete {items} of {names}?{kept}"

    def act(self, queue: Queue, row: Row, on_batch: Callable[[int], None]) -> None:
        row.update(dropped=0, spared_in_flight=None)
        for uids in batches(self.uids):
            number = queue.drop(*uids)
            row["dropped"] += number
            on_batch(number)
        row["spared_in_flight"] = queue.states(*self.uids).count("in_flight")
