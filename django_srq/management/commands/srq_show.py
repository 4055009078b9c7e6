from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any, Literal, TypeVar

from django.core.management.base import CommandError, CommandParser

from django_srq import operations
from django_srq.management import dead, items
from django_srq.management.arguments import number_in
from django_srq.management.base import ERROR, EXIT_CODES, USAGE, QueueCommand
from django_srq.operations import BATCH, STATES, Call, ItemView
from django_srq.queue.arguments import uids_of
from django_srq.status.tasks import done_task, is_of_tasks
from django_srq.values import COUNTS

T = TypeVar("T")

STATES_SHOWN = (*STATES, "retrying", "done")
FAILED = ("dead", "retrying")  # states of items that have an error
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
            choices=STATES_SHOWN,
            metavar="STATE",
            help=f"only items that are {', '.join(STATES)}; or retrying, which means delayed after an error; or done, "
            "which are tasks whose results are kept (default: dead, then retrying)",
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
        if error and state not in (None, *FAILED):
            raise CommandError("--error needs --state dead or retrying, or no --state.", returncode=USAGE)
        if uids:
            self._show(uids_of(dict.fromkeys(uids), self.shown.alias), format)
        else:
            self._list((state,) if state else FAILED, error or "", limit or SHOWN, format)

    def _show(self, uids: list[str], format: str) -> None:
        found = {uid: self._found(uid) for uid in uids}
        there = [item for item in found.values() if item is not None]
        if format == "json":
            self._write_json(there)
        else:
            blocks = ["\n".join(items.details(self.shown.config, item)) for item in there]
            self.stdout.write("\n\n".join(blocks), ending="\n" if blocks else "")
        if missing := [items.unknown(uid) for uid, item in found.items() if item is None]:
            raise CommandError("\n".join(f"{self.shown.alias}: {line}" for line in missing), returncode=ERROR)

    def _found(self, uid: str) -> ItemView | None:
        item = self._call(operations.show(self.shown.keys, uid, largest=LARGEST))
        if item is None and is_of_tasks(self.shown.config):
            (view,) = self._call(operations.results(self.shown.keys, [uid]))
            if view is not None and view.state == "done":
                return done_task(view, largest=LARGEST)
        return item

    def _list(self, states: Sequence[str], error: str, limit: int, format: str) -> None:
        self.counts = self.shown.snapshot()
        found: list[ItemView] = []
        total = 0
        for state in states:
            groups = self._groups(state, error) if error else {}
            number = sum(groups.values()) if error else self._number(state)
            fitting = self._items(state, groups, detail="all" if format == "json" else "last")
            found += islice(fitting, min(limit - len(found), number))
            total += number
        if format == "json":
            self._write_json(found)
        elif found:
            for line in items.lines(self.shown.config, found, self.counts.at, self._width()):
                self.stdout.write(line)
            if total > len(found):
                self._say(f"{len(found):,} of {total:,} {_words(states)} items; --limit shows more")
        if not found:
            self._say_why(states, error)

    def _number(self, state: str) -> int:
        number: int = getattr(self.counts, "results" if state == "done" else state)
        return number

    def _groups(self, state: str, error: str) -> dict[str, int]:
        """The groups that the error names, with the numbers of their items; "" names all."""
        count = self.shown.count_dead if state == "dead" else self.shown.count_retrying
        return count(error=error or None)

    def _items(self, state: str, groups: Collection[str], detail: Literal["all", "last"]) -> Iterator[ItemView]:
        """The items of a state, or only those of these groups."""
        if state == "done":
            yield from self._done()
            return
        anchor = "0"
        while anchor:
            call = operations.list_items(
                self.shown.keys,
                "delayed" if state == "retrying" else state,
                anchor=anchor,
                count=PAGE,
                look=BATCH if groups else PAGE,
                newest=state == "dead",
                largest=LARGEST_IN_LIST,
                detail=detail,
                group=next(iter(groups)) if len(groups) == 1 else "",
            )
            page = self._call(call)
            for item in page.items:
                if (state != "retrying" or item.delivery.retrying) and (not groups or item.delivery.group in groups):
                    yield item
            anchor = page.anchor

    def _done(self) -> Iterator[ItemView]:
        before: float | None = None
        while True:
            page = self._call(operations.finished(self.shown.keys, before=before, n=PAGE))
            for view in page.items:
                yield done_task(view, largest=LARGEST_IN_LIST)
            before = page.before
            if before is None:
                return

    def _say_why(self, states: Sequence[str], error: str) -> None:
        """Say why nothing was found."""
        if error:
            groups = sum((Counter(self._groups(state, "")) for state in states), Counter[str]())
            for line in dead.absent(error, _words(states), groups):
                self._say(line)
            return
        others = [
            f"{n:,} {_words([name])}" for name in (*STATES, "done") if name not in states and (n := self._number(name))
        ]
        there = f"; there are {', '.join(others)} (--state)" if others else ""
        self._say(f"no item is {_words(states)}{there}")

    def _say(self, line: str) -> None:
        self.stderr.write(f"{self.shown.alias}: {line}", str)

    def _call(self, call: Call[T]) -> T:
        return self.shown.link.call(call, queue=self.shown.alias)

    def _write_json(self, found: Sequence[ItemView]) -> None:
        self.stdout.write(json.dumps([items.data(self.shown.config, item) for item in found], indent=2))

    def _width(self) -> int | None:
        return shutil.get_terminal_size().columns if self.stdout.isatty() else None


def _words(states: Sequence[str]) -> str:
    return " or ".join(states).replace("_", " ")
