"""The arguments that choose items by their error: dead ones, or delayed ones that are retrying."""

from __future__ import annotations

import datetime as dt
from typing import TypedDict

from django.core.management.base import CommandParser

from django_srq.management.arguments import duration, number_in
from django_srq.registry import Queue
from django_srq.status.verdicts import readable
from django_srq.values import COUNTS

GROUPS_SHOWN = 10


class Choice(TypedDict):
    """Keyword arguments of a queue's ``requeue``, ``run_now`` and ``purge``."""

    error: str | None
    older_than: dt.timedelta
    limit: int | None


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "--error",
        metavar="NAME",
        help="only items of this error: its group as --dry-run shows it, its type, or the name of its class",
    )
    parser.add_argument(
        "--older-than",
        type=duration,
        default=dt.timedelta(),
        metavar="DURATION",
        help="only items that died, or failed last, longer ago than this, such as 30m, 2h or 7d",
    )
    parser.add_argument(
        "--limit",
        type=number_in(COUNTS),
        metavar="N",
        help="at most N items of each queue, those that died, or are due, first",
    )


def count(queue: Queue, choice: Choice, state: str = "dead") -> tuple[int, list[str]]:
    """How many dead or retrying (delayed) items were chosen, and lines for people with the number of each error."""
    count_groups = queue.count_dead if state == "dead" else queue.count_retrying
    groups = count_groups(error=choice["error"], older_than=choice["older_than"])
    total = sum(groups.values())
    largest = sorted(groups.items(), key=lambda group: (-group[1], group[0]))
    lines = [f"{n:,} {readable(name)}" for name, n in largest[:GROUPS_SHOWN]]
    if len(largest) > GROUPS_SHOWN:
        lines.append(f"{sum(n for _, n in largest[GROUPS_SHOWN:]):,} of other errors")
    return total if choice["limit"] is None else min(total, choice["limit"]), lines
