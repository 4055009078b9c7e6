from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.template.defaultfilters import filesizeformat

from django_srq import conf, status
from django_srq.management.arguments import number_in
from django_srq.management.base import UNREACHABLE, QueueCommand
from django_srq.management.report import aligned
from django_srq.status import QueueReport, ServerReport, Snapshot
from django_srq.status.verdicts import readable
from django_srq.transport.link import TIMEOUT
from django_srq.values import SECONDS

WATCH = 2.0  # seconds between two updates
HOME, END_OF_LINE, REST = "\x1b[H", "\x1b[K", "\x1b[J"  # to the top; delete to the end of the line, of the screen
COLUMNS: dict[str, Callable[[QueueReport], object]] = {
    "QUEUE": lambda queue: queue.alias,
    "STATE": lambda queue: queue.state_label,
    "READY": lambda queue: queue.ready,
    "IN FLIGHT": lambda queue: queue.in_flight,
    "DELAYED": lambda queue: queue.delayed,
    "DEAD": lambda queue: queue.dead,
    "OLDEST": lambda queue: queue.oldest_wait_label or None,
    "CONSUMERS": lambda queue: queue.consumers,
    "PUT": lambda queue: None if queue.ready is None else queue.totals.get("put", 0),
    "ACKED": lambda queue: None if queue.ready is None else queue.totals.get("acked", 0),
    "FAILED": lambda queue: None if queue.ready is None else queue.totals.get("failed", 0),
}
WORDS, STATE = 2, 1  # number of columns with words, at the left; the one with the state


class Command(QueueCommand):
    help = (
        "Show whether anything is wrong with the queues, and what is in them. "
        "Exits with 69 when a server cannot be reached, after showing what is known."
    )

    examples = ("", "orders mail", "--watch 5", "--format json")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queues", nargs="*", metavar="queue", help="alias of a queue (default: all queues)")
        parser.add_argument(
            "--format",
            choices=["table", "json", "jsonl"],
            default="table",
            help="table: for people; json: one document with all; jsonl: a line for each queue",
        )
        parser.add_argument(
            "--watch",
            nargs="?",
            type=number_in(SECONDS, "; name queues before --watch"),
            const=WATCH,
            metavar="SECONDS",
            help=f"refresh every so many seconds, until Ctrl-C (default: show once; without SECONDS: {WATCH:g})",
        )

    def handle(self, *, queues: list[str], format: str, watch: float | None, **_: Any) -> None:
        for alias in queues:
            if alias not in conf.aliases():
                self.queue(alias)  # raises, with a suggestion
        chosen = queues or None
        if watch is not None:
            self._watch(chosen, format, watch)
            return
        snapshot = status.snapshot(chosen, timeout=TIMEOUT)
        self.stdout.write("\n".join(self._lines(snapshot, format)))
        if missed := snapshot.unreachable:
            raise CommandError(f"Cannot be reached: {', '.join(missed)}.", returncode=UNREACHABLE)

    def _watch(self, chosen: list[str] | None, format: str, seconds: float) -> None:
        redraws = format == "table" and self.stdout.isatty()
        try:
            while True:
                lines = self._lines(status.snapshot(chosen, timeout=TIMEOUT), format)
                if redraws:
                    self.stdout.write(HOME + "".join(f"{line}{END_OF_LINE}\n" for line in lines) + REST, ending="")
                else:
                    blank = "\n" if format == "table" else ""
                    self.stdout.write("\n".join(lines) + "\n" + blank, ending="")
                self.stdout.flush()
                time.sleep(seconds)
        except KeyboardInterrupt:
            return

    def _lines(self, snapshot: Snapshot, format: str) -> list[str]:
        if format == "json":
            return [json.dumps(snapshot.to_dict(), indent=2)]
        if format == "jsonl":
            data = snapshot.to_dict()
            return [json.dumps({"at": data["at"], **queue}) for queue in data["queues"]]
        return [*self._verdict(snapshot), "", *self._table(snapshot.queues), "", *_footer(snapshot)]

    def _verdict(self, snapshot: Snapshot) -> list[str]:
        well = [self._painted(snapshot.all_well, "ok")] if snapshot.level == "ok" else []
        return [*well, *(self._painted(str(finding), finding.level) for finding in snapshot.findings)]

    def _table(self, queues: Sequence[QueueReport]) -> list[str]:
        rows = [list(COLUMNS), *([_shown(read(queue)) for read in COLUMNS.values()] for queue in queues)]
        padded = _fitting(aligned(rows, words=range(WORDS)), self._width())
        for row, queue in zip(padded[1:], queues, strict=True):
            row[STATE] = self._painted(row[STATE], queue.level)
        return ["  ".join(row).rstrip() for row in padded]

    def _width(self) -> int | None:
        """How many columns the terminal has; None if there is no terminal."""
        return shutil.get_terminal_size().columns if self.stdout.isatty() else None

    def _painted(self, text: str, level: str) -> str:
        paint = {"error": self.style.ERROR, "warning": self.style.WARNING, "ok": self.style.SUCCESS}.get(level)
        return paint(text) if paint else text


def _fitting(rows: list[list[str]], width: int | None) -> list[list[str]]:
    """Leave out the last columns if the terminal is too narrow for them: the totals there matter least."""
    kept = len(rows[0])
    while width is not None and kept > WORDS + 1 and len("  ".join(rows[0][:kept])) > width:
        kept -= 1
    return [row[:kept] for row in rows]


def _shown(value: object) -> str:
    return "-" if value is None else readable(value)


def _footer(snapshot: Snapshot) -> list[str]:
    lines = [_server_line(server) for server in snapshot.servers]
    return [*lines, f"{snapshot.at:%Y-%m-%d %H:%M:%S} UTC"]


def _server_line(server: ServerReport) -> str:
    if server.down_since is not None:
        return f"{server.address}: not available, noticed {server.down_since:%Y-%m-%d %H:%M:%S} UTC"
    said = [f"{server.type} {server.version}"] if server.type else []
    if server.memory is not None:
        limit = f" of {filesizeformat(server.memory_limit)}" if server.memory_limit else ""
        said.append(f"memory {filesizeformat(server.memory)}{limit}")
    said.append(f"read in {server.latency_ms:.1f} ms")
    return f"{server.address}: {', '.join(said)}"
