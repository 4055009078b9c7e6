from __future__ import annotations

import datetime as dt
import getpass
import os
from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_srq.management.arguments import moment
from django_srq.management.base import USAGE
from django_srq.management.bulk import EachQueueCommand, Results
from django_srq.management.report import Row
from django_srq.registry import Queue


class Command(EachQueueCommand):
    help = "Pause queues: consumers finish the items that they hold, and take no more. Items can still be put."
    examples = ("orders --reason 'stock-taking' --until 2h", "--all --until 2026-01-31T12:00")

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--reason", default="", metavar="TEXT", help="the reason, shown in the status (default: none)"
        )
        parser.add_argument("--by", metavar="NAME", help="who pauses them (default: the login name)")
        parser.add_argument(
            "--until",
            type=moment,
            metavar="WHEN",
            help="when the pause ends by itself: 2026-01-31T12:00 in the project's time zone, 2026-01-31T12:00+01:00, "
            "or 30m, 2h or 7d from now (default: srq_resume ends it)",
        )

    def handle(
        self,
        *,
        queues: list[str],
        all_queues: bool,
        format: str,
        reason: str,
        by: str | None,
        until: dt.datetime | dt.timedelta | None,
        **_: Any,
    ) -> None:
        who = _login_name() if by is None else by

        def pause(queue: Queue, row: Row) -> None:
            end = _end(queue, until)
            was_paused = not queue.pause(reason, by=who, until=end)
            row.update(paused=True, was_paused=was_paused, until=end, by=who)

        results = Results()
        self.on_each(self.chosen(queues, all_queues), pause, results)
        self.finish(results, format)


def _end(queue: Queue, until: dt.datetime | dt.timedelta | None) -> dt.datetime | None:
    """The end of the pause, by the server's clock, which decides when it is over. Raises an error for the past."""
    if until is None:
        return None
    now = queue.snapshot().at
    end = now + until if isinstance(until, dt.timedelta) else until
    if end <= now:
        clock = f"{now:%Y-%m-%d %H:%M:%S} UTC"
        raise CommandError(f"--until is in the past: the server of {queue.alias} has {clock}.", returncode=USAGE)
    return end


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have no name
        return f"uid {os.getuid()}"
