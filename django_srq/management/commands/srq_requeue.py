from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_srq.management import dead
from django_srq.management.base import USAGE
from django_srq.management.bulk import BulkCommand, Preview
from django_srq.management.dead import Choice
from django_srq.management.items import unknown
from django_srq.management.report import Row
from django_srq.registry import Queue

STATES = ("dead", "delayed")
UIDS_SHOWN = 10  # of items in other states


class Command(BulkCommand):
    help = (
        "Make dead items ready again, at the back of their queue: all of them, or those that the options choose. Their "
        "deliveries and crashes are counted from 0 again. With --state delayed: make delayed items ready now that wait "
        "after an error; their deliveries stay counted."
    )
    examples = ("orders --dry-run", "orders --error PaymentDeclined --older-than 2h", "orders --uid UID --uid UID")
    offers_all = False
    doing = "requeue"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        dead.add_arguments(parser)
        parser.add_argument(
            "--state",
            choices=STATES,
            default="dead",
            help="delayed: without --uid, only items that wait after an error",
        )
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
        state: str,
        error: str | None,
        older_than: dt.timedelta,
        limit: int | None,
        uid: list[str],
        **_: Any,
    ) -> None:
        if uid and (error or older_than or limit):
            raise CommandError("--uid cannot be combined with --error, --older-than or --limit.", returncode=USAGE)
        self.state = state
        if state == "delayed":
            self.doing = "make ready"
        self.uids = list(dict.fromkeys(uid))
        self.choice = Choice(error=error, older_than=older_than, limit=limit)
        self.bulk(self.chosen(queues), format=format, dry_run=dry_run, interactive=interactive)

    def preview(self, preview: Preview) -> None:
        if self.uids:
            states = preview.queue.states(*self.uids)
            preview.items = states.count(self.state)
            preview.hints = self._others(preview.queue.alias, dict(zip(self.uids, states, strict=True)))
        else:
            preview.items, details = dead.count(preview.queue, self.choice, self.state)
            preview.hints = [] if preview.items else dead.hints(preview.queue, self.choice, self.state)
            others = self.state == "delayed" and not preview.hints
            preview.details = [*details, *(_scheduled(preview.queue) if others else ())]
        preview.row["requeued"] = preview.items

    def _others(self, alias: str, states: Mapping[str, str | None]) -> list[str]:
        """Lines that say of the items in other states why nothing is done to them."""
        others = {uid: state for uid, state in states.items() if state != self.state}
        lines = [_explanation(alias, uid, state) for uid, state in list(others.items())[:UIDS_SHOWN]]
        if len(others) > UIDS_SHOWN:
            lines.append(f"{len(others) - UIDS_SHOWN:,} more items are not {self.state}.")
        return lines

    def question(self, items: str, names: str) -> str:
        return f"Requeue {items} of {names}?" if self.state == "dead" else f"Make {items} of {names} ready now?"

    def act(self, queue: Queue, row: Row, on_batch: Callable[[int], None]) -> None:
        row["requeued"] = 0

        def done(number: int) -> None:
            row["requeued"] += number
            on_batch(number)

        act = queue.requeue if self.state == "dead" else queue.run_now
        act(*self.uids, **self.choice, on_batch=done)


def _explanation(alias: str, uid: str, state: str | None) -> str:
    """The state of an item that is not requeued, and the command that helps."""
    queue, item = shlex.quote(alias), shlex.quote(uid)
    if state == "delayed":
        return f"{uid} is delayed, not dead: srq_requeue {queue} --state delayed --uid {item} makes it ready now."
    if state == "dead":
        return f"{uid} is dead, not delayed: srq_requeue {queue} --uid {item} makes it ready again."
    if state == "ready":
        return f"{uid} is ready already: srq_status {queue} shows whether consumers take it."
    if state == "in_flight":
        return f"{uid} is in flight: srq_recover {queue} makes it ready if its lease has ended."
    return unknown(uid)


def _scheduled(queue: Queue) -> list[str]:
    counts = queue.snapshot()
    scheduled = counts.delayed - counts.retrying
    return [f"{scheduled:,} scheduled, which stay delayed"] if scheduled else []
