from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeVar

from django.core.management.base import CommandError, CommandParser

from django_srq import operations
from django_srq.management import dead, items
from django_srq.management.arguments import number_in
from django_srq.management.base import ERROR, EXIT_CODES, USAGE, QueueCommand
from django_srq.management.uids import unknown
from django_srq.operations import BATCH, STATES, Call, ItemPage, ItemView
from django_srq.queue.arguments import uids_of
from django_srq.values import COUNTS

T = TypeVar("T")

DEFAULT = "dead"  # state
SHOWN = 20  # items
PAGE = 100  # items that one call reads
LARGEST_IN_LIST, LARGEST = 16 << 10, 1 << 20  # bytes of a payload that is read: in a list, and alone


class Command(QueueCommand):
    help = (
        "Show the items of a queue, a line each; or, of the items with the given uids, all that is known: payload, "
        "headers, errors and tracebacks. Changes nothing. Secrets are masked as in the status view (SRQ_ADMIN REDACT)."
    )
    examples = ("orders", "orders --error KeyError --limit 5", "orders UID", "orders --state ready --format json")
    exit_codes = {ERROR: f"no item with a given uid is there; or {EXIT_CODES[ERROR]}"}

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queue", help="alias of the queue")
        parser.add_argument("uids", nargs="*", metavar="uid", help="uid of an item (default: list items)")
        parser.add_argument(
            "--state",
            choices=STATES,
            metavar="STATE",
            help=f"the state of the items: {', '.join(STATES)} (default: {DEFAULT})",
        )
        parser.add_argument(
            "--error",
            metavar="NAME",
            help="only items with this error: its group as a dry run of srq_requeue shows it, its type, or the name of "
            "its class (default: any)",
        )
        parser.add_argument("--limit", type=number_in(COUNTS), metavar="N", help=f"at most N items (default: {SHOWN})")
        parser.add_argument(
            "--format", choices=["table", "json"], default="table", help="table: for people; json: an array of objects"
        )

    def handle(
        self,
        *,
        queue: str,
        uids: list[str],
        state: str | None,
        error: str | None,
        limit: int | None,
        format: str,
        **_: Any,
    ) -> None:
        self.shown = self.queue(queue)
        if uids and (state or error or limit):
            raise CommandError("Give uids, or --state, --error and --limit, but not both.", returncode=USAGE)
        if error and state not in (None, "dead"):
            raise CommandError("--error needs --state dead.", returncode=USAGE)
        if uids:
            self._show(uids_of(dict.fromkeys(uids), self.shown.alias), format)
        else:
            self._list(state, error, limit or SHOWN, format)

    def _show(self, uids: list[str], format: str) -> None:
        found = {uid: self._call(operations.show(self.shown.keys, uid, largest=LARGEST)) for uid in uids}
        there = [item for item in found.values() if item is not None]
        if format == "json":
            self._write_json(there)
        else:
            blocks = ["\n".join(items.details(self.shown.config, item)) for item in there]
            self.stdout.write("\n\n".join(blocks), ending="\n" if blocks else "")
        if missing := [unknown(uid) for uid, item in found.items() if item is None]:
            raise CommandError("\n".join(f"{self.shown.alias}: {line}" for line in missing), returncode=ERROR)

    def _list(self, state: str | None, error: str | None, limit: int, format: str) -> None:
        chosen = state or DEFAULT
        groups = self.shown.count_dead(error=error) if error else {}
        found: list[ItemView] = []
        pages = self._pages(chosen, groups) if groups or not error else iter(())
        for page in pages:
            found += (item for item in page.items if not error or _group_of(item) in groups)
            at, total = page.at, sum(groups.values()) if error else page.total
            if len(found) >= limit:
                break
        del found[limit:]
        if format == "json":
            self._write_json(found)
        elif found:
            for line in items.lines(self.shown.config, found, at, self._width()):
                self.stdout.write(line)
            if total > len(found):
                self._say(f"{len(found):,} of {total:,} {_word(chosen)} items; --limit shows more")
        if not found:
            self._say_why(chosen, error)

    def _pages(self, state: str, groups: Collection[str]) -> Iterator[ItemPage]:
        anchor = "0"
        while anchor:
            call = operations.list_items(
                self.shown.keys,
                state,
                anchor=anchor,
                count=PAGE,
                look=BATCH if groups else PAGE,
                newest=state == "dead",
                largest=LARGEST_IN_LIST,
                group=next(iter(groups)) if len(groups) == 1 else "",
            )
            page = self._call(call)
            yield page
            anchor = page.anchor

    def _say_why(self, state: str, error: str | None) -> None:
        """Say why nothing was found."""
        if error:
            for line in dead.absent(error, state, self.shown.count_dead()):
                self._say(line)
            return
        others = [f"{n:,} {_word(name)}" for name, n in self.shown.counts().items() if n and name != state]
        there = f"; there are {', '.join(others)} (--state)" if others else ""
        self._say(f"no item is {_word(state)}{there}")

    def _say(self, line: str) -> None:
        self.stderr.write(f"{self.shown.alias}: {line}", str)

    def _call(self, call: Call[T]) -> T:
        return self.shown.link.call(call, queue=self.shown.alias)

    def _write_json(self, found: Sequence[ItemView]) -> None:
        self.stdout.write(json.dumps([items.data(self.shown.config, item) for item in found], indent=2))

    def _width(self) -> int | None:
        return shutil.get_terminal_size().columns if self.stdout.isatty() else None


def _group_of(item: ItemView) -> str:
    return str((item.delivery.error or {}).get("group", "other"))


def _word(state: str) -> str:
    return state.replace("_", " ")
