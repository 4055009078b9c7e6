from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, TypeVar

from django.core.management.base import CommandError, CommandParser

from django_srq.exceptions import PayloadError, SRQError
from django_srq.management.arguments import number_in
from django_srq.management.base import USAGE, QueueCommand
from django_srq.queue.calls import batches
from django_srq.values import DELAYS, PRIORITIES

T = TypeVar("T")

CHUNK = 1 << 18  # bytes of standard input at a time, at most; a pipe has 64 KiB ready
NOTHING = object()  # the item of a blank line between lines of JSON


class Command(QueueCommand):
    help = "Put items into a queue and print their uids. Without payloads, each line of standard input is one."
    examples = ("notes 'Hello World'", """orders '{"order": 17}' --json""", "orders --json < orders.jsonl")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queue", help="alias of the queue")
        parser.add_argument("payload", nargs="*", help="a payload, as text (default: each line of stdin)")
        parser.add_argument("--json", action="store_true", help="the payloads are JSON")
        parser.add_argument(
            "--delay",
            type=number_in(DELAYS),
            default=0,
            metavar="DURATION",
            help="time until the items are ready, in seconds or such as 5m or 2h",
        )
        parser.add_argument(
            "--priority", type=number_in(PRIORITIES), default=0, metavar="N", help="-100 to 100; higher is served first"
        )
        parser.add_argument(
            "--uid",
            help="a uid of your own, for a single payload; adds nothing while an item of that uid is in the queue, "
            "and for UNIQUE_FOR after its ack (default: a new one for each item)",
        )

    def handle(
        self,
        *,
        queue: str,
        payload: list[str],
        json: bool,
        delay: float,
        priority: int,
        uid: str | None,
        verbosity: int,
        **_: Any,
    ) -> None:
        target = self.queue(queue)
        self.hints = not json and verbosity > 0 and target.config.serializer == "json"
        if uid is not None and len(payload) != 1:
            raise CommandError("--uid needs exactly one payload.", returncode=USAGE)
        if not payload and sys.stdin is None:
            raise CommandError("Standard input is closed: name payloads.", returncode=USAGE)

        def put(items: Sequence[Any]) -> list[str]:
            uids = None if uid is None else [uid]
            timeout = target.link.timeout  # nobody's request waits for this put
            return target.put_many(items, uids=uids, delay=delay, priority=priority, timeout=timeout)

        number = 0
        parse = _json if json else str
        for items in _batches("payload", [payload], parse) if payload else self._from_lines(parse, skip_blank=json):
            try:
                uids = put(items)
            except SRQError as error:
                self._tell(error.put, number)  # large items go in several calls, of which the first may have succeeded
                raise
            number = self._tell(uids, number)
            self._hint(items)

    def _tell(self, uids: Sequence[str], number: int) -> int:
        """Print the uids of items that were put. number: how many were put before; returns it with these added."""
        number += len(uids)
        self.done = f"put before that: {number:,}" if number else ""
        self.stdout.write("".join(f"{uid}\n" for uid in uids), ending="")
        self.stdout.flush()
        return number

    def _hint(self, texts: Sequence[str]) -> None:
        """Say once that --json was forgotten, as it seems."""
        if self.hints and any(map(_is_json_data, texts)):
            self.hints = False
            self.stderr.write("Put as text, though it looks like JSON: give --json to put the data.", str)

    def _from_lines(self, parse: Callable[[str], Any], *, skip_blank: bool) -> Iterator[Sequence[Any]]:
        encoding = sys.stdin.encoding

        def read(line: bytes) -> Any:
            return NOTHING if skip_blank and not line.strip() else parse(line.decode(encoding))

        return _batches("line", self._arrivals(), read)

    def _arrivals(self) -> Iterator[list[bytes]]:
        """The lines of standard input, as many at a time as have arrived: a typed line is put at once."""
        if sys.stdin.isatty():
            self.stderr.write("One payload per line; Ctrl-D ends the input.")
        rest = b""
        while data := os.read(sys.stdin.fileno(), CHUNK):
            *lines, rest = (rest + data).split(b"\n")
            yield [line.removesuffix(b"\r") for line in lines]
        if rest:
            yield [rest]


def _is_json_data(text: str) -> bool:
    """Whether the text is an object or an array of JSON."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {text[:80]!r} ({error})") from error


def _batches(what: str, arrivals: Iterable[list[T]], read: Callable[[T], Any]) -> Iterator[Sequence[Any]]:
    """The items, in batches for one call. An item that cannot be read is an error once those before it were yielded."""
    numbers, wrong = count(1), None
    for arrival in arrivals:
        items = []
        for entry, number in zip(arrival, numbers, strict=False):
            try:
                if (item := read(entry)) is not NOTHING:
                    items.append(item)
            except ValueError as error:
                wrong = PayloadError(f"{what} {number}: {error}")
                break
        yield from batches(items)
        if wrong:
            raise wrong
