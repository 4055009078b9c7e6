from __future__ import annotations

import json
import os
import shutil
import textwrap
import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.template.defaultfilters import filesizeformat
from django.utils import timezone

from django_srq import conf, status
from django_srq.management import screen
from django_srq.management.arguments import number_in
from django_srq.management.base import INTERRUPTED, TERMINATED, UNHEALTHY, UNREACHABLE, USAGE, QueueCommand
from django_srq.management.report import aligned
from django_srq.status import QueueReport, ServerReport, Snapshot
from django_srq.status.verdicts import SEVERITY, Finding, grouped, readable
from django_srq.transport.link import TIMEOUT
from django_srq.values import SECONDS

WATCH = 2.0  # seconds between two updates
COLUMNS: dict[str, Callable[[QueueReport], object]] = {
    "QUEUE": lambda queue: queue.alias,
    "STATE": lambda queue: queue.state_label,
    "READY": lambda queue: queue.ready,
    "IN FLIGHT": lambda queue: queue.in_flight,
    "DELAYED": lambda queue: queue.delayed,
    "RETRYING": lambda queue: queue.retrying,
    "DEAD": lambda queue: queue.dead,
    "OLDEST": lambda queue: queue.oldest_wait_label or None,
    "CONSUMERS": lambda queue: queue.consumers,
    "IN/MIN": lambda queue: None if queue.ready is None else queue.rates[0],
    "OUT/MIN": lambda queue: None if queue.ready is None else queue.rates[1],
    "OUTLOOK": lambda queue: queue.outlook or None,
}
# The columns that are there only when a queue is for tasks.
OF_TASKS: dict[str, Callable[[QueueReport], object]] = {"DONE": lambda queue: queue.done}
UNBROKEN = "\N{NO-BREAK SPACE}"
WORDS, STATE = 2, 1  # number of columns with words, at the left; the one with the state
# The columns that a narrow terminal has no room for, the one that goes first at the front.
EXPENDABLE = ("DONE", "OUTLOOK", "DELAYED", "IN FLIGHT", "OLDEST", "RETRYING", "CONSUMERS", "OUT/MIN", "IN/MIN", "DEAD")


class Command(QueueCommand):
    help = (
        "Show whether anything is wrong with the queues, and what is in them. What is known is shown, whatever the "
        "exit code says."
    )
    examples = ("", "orders mail", "--watch 5", "--check", "--format json")
    exit_codes = {
        0: "shown; with --check: there is no error",
        USAGE: "wrong usage, unknown queue, or a queue is misconfigured",
        UNHEALTHY: "--check found an error; 2 and 69 come before it",
        INTERRUPTED: "stopped by Ctrl-C; 0 with --watch",
        TERMINATED: "--watch was ended by SIGTERM",
    }

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queues", nargs="*", metavar="queue", help="alias of a queue (default: all queues)")
        parser.add_argument(
            "--format",
            choices=["table", "json", "jsonl"],
            default="table",
            help="table: for people; json: one document with all; jsonl: a line for each queue",
        )
        how = parser.add_mutually_exclusive_group()
        how.add_argument(
            "--check",
            action="store_true",
            help="for monitoring: exit with 3 when there is an error; as a table, print only the findings",
        )
        how.add_argument(
            "--watch",
            nargs="?",
            type=number_in(SECONDS, "; name queues before --watch"),
            const=WATCH,
            metavar="DURATION",
            help="refresh after so many seconds, or such as 1m, until Ctrl-C "
            f"(default: show once; without DURATION: {WATCH:g})",
        )

    def handle(self, *, queues: list[str], format: str, check: bool, watch: float | None, **_: Any) -> None:
        for alias in queues:
            if alias not in conf.aliases():
                self.queue(alias)  # raises, with a suggestion
        chosen = queues or None
        if watch is not None:
            self._watch(chosen, format, watch)
            return
        snapshot = status.snapshot(chosen, timeout=TIMEOUT)
        only_findings = check and format == "table"
        lines = [*chain(*self._findings(snapshot))] if only_findings else self._lines(snapshot, format)
        self.stdout.write("\n".join(lines))
        _raise_for(snapshot, errors=check)

    def _watch(self, chosen: list[str] | None, format: str, seconds: float) -> None:
        def look() -> Snapshot:
            return status.snapshot(chosen, timeout=TIMEOUT)

        try:
            if format == "table" and self._is_terminal() and os.environ.get("TERM") != "dumb":
                with screen.alternate_screen(self.stdout):
                    _repeat(lambda: self._redraw(look(), seconds), seconds)
            else:
                _repeat(lambda: self._append(look(), format), seconds)
        except KeyboardInterrupt:
            return

    def _append(self, snapshot: Snapshot, format: str) -> None:
        blank = "\n" if format == "table" else ""
        self.stdout.write("\n".join(self._lines(snapshot, format)) + "\n" + blank, ending="")
        self.stdout.flush()

    def _lines(self, snapshot: Snapshot, format: str) -> list[str]:
        if format == "json":
            return [json.dumps(snapshot.to_dict(), indent=2)]
        if format == "jsonl":
            data = snapshot.to_dict()
            return [json.dumps({"at": data["at"], **queue}) for queue in data["queues"]]
        return [*chain(*self._findings(snapshot)), "", *self._table(snapshot.queues), "", *_footer(snapshot)]

    def _redraw(self, snapshot: Snapshot, seconds: float) -> None:
        head = f"every {seconds:g} s · {timezone.localtime(snapshot.at):%H:%M:%S} · Ctrl-C ends"
        width, height = shutil.get_terminal_size()
        worst_first = sorted(snapshot.queues, key=lambda queue: SEVERITY.get(queue.state, len(SEVERITY)))
        queues = snapshot.queues if len(snapshot.queues) <= height // 2 else worst_first
        lines = screen.fit(head, self._findings(snapshot), self._table(queues), _servers(snapshot), height)
        screen.draw(self.stdout, lines, width, height)

    def _findings(self, snapshot: Snapshot) -> list[list[str]]:
        """The verdict, then the findings: the lines of each, which a terminal would else wrap in mid-word."""
        well = [(snapshot.all_well, "ok")] if snapshot.level == "ok" else []
        said = [(_sentence(finding), finding.level) for finding in snapshot.findings]
        return [[self._painted(line, level) for line in self._wrapped(text)] for text, level in [*well, *said]]

    def _wrapped(self, text: str) -> list[str]:
        width = self._width()
        lines = [text] if width is None else textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)
        return [line.replace(UNBROKEN, " ") for line in lines]

    def _table(self, queues: Sequence[QueueReport]) -> list[str]:
        columns = {**COLUMNS, **OF_TASKS} if any(queue.tasks for queue in queues) else COLUMNS
        rows = [list(columns), *([_shown(read(queue)) for read in columns.values()] for queue in queues)]
        padded = _fitting(aligned(rows, words=range(WORDS)), self._width())
        for row, queue in zip(padded[1:], queues, strict=True):
            row[STATE] = self._painted(row[STATE], queue.level)
        return ["  ".join(row).rstrip() for row in padded]

    def _is_terminal(self) -> bool:
        return self.stdout.isatty()

    def _width(self) -> int | None:
        """How many columns the terminal has; None if there is no terminal."""
        return shutil.get_terminal_size().columns if self._is_terminal() else None

    def _painted(self, text: str, level: str) -> str:
        paint = {"error": self.style.ERROR, "warning": self.style.WARNING, "ok": self.style.SUCCESS}.get(level)
        return paint(text) if paint else text


def _sentence(finding: Finding) -> str:
    command = finding.command.replace(" ", UNBROKEN)  # so that it stays on a line, as far as it fits
    return " ".join(filter(None, [f"{finding.level_label}:", finding.text, finding.advice, command]))


def _repeat(work: Callable[[], None], seconds: float) -> None:
    while True:
        work()
        time.sleep(seconds)


def _raise_for(snapshot: Snapshot, *, errors: bool) -> None:
    """Settings that are wrong come first, as they have to be mended before anything else; then servers.

    errors: whether to raise for other errors, too.
    """
    if wrong := snapshot.misconfigured:
        raise CommandError(f"Misconfigured: {', '.join(map(readable, wrong))}.", returncode=USAGE)
    if missed := snapshot.unreachable:
        raise CommandError(f"Cannot be reached: {', '.join(map(readable, missed))}.", returncode=UNREACHABLE)
    found = sum(finding.level == "error" for finding in snapshot.findings)
    if errors and found:
        raise CommandError(f"{found} error{'s' if found > 1 else ''} found.", returncode=UNHEALTHY)


def _fitting(rows: list[list[str]], width: int | None) -> list[list[str]]:
    """Leave out columns if the terminal is too narrow for all of them. The first row has their names."""
    names = [name.strip() for name in rows[0]]
    kept = list(range(len(names)))
    for name in EXPENDABLE:
        if name not in names:
            continue
        if width is None or len("  ".join(rows[0][i] for i in kept)) <= width:
            break
        kept.remove(names.index(name))
    return [[row[i] for i in kept] for row in rows]


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return grouped(value) if isinstance(value, int | float) else readable(value)


def _footer(snapshot: Snapshot) -> list[str]:
    return [*_servers(snapshot), f"{timezone.localtime(snapshot.at):%Y-%m-%d %H:%M:%S %Z}"]


def _servers(snapshot: Snapshot) -> list[str]:
    return [_server_line(server) for server in snapshot.servers]


def _server_line(server: ServerReport) -> str:
    if server.down_since is not None:
        return f"{server.address}: not available, noticed {timezone.localtime(server.down_since):%Y-%m-%d %H:%M:%S %Z}"
    said = [f"{server.type} {server.version}"] if server.type else []
    if server.memory is not None:
        limit = f" of {filesizeformat(server.memory_limit)}" if server.memory_limit else ""
        said.append(f"memory {filesizeformat(server.memory)}{limit}")
    said.append(f"read in {server.latency_ms:.1f} ms")
    return f"{server.address}: {', '.join(said)}"
