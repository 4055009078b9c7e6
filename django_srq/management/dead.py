"""The arguments that choose items by their error: dead ones, or delayed ones that are retrying."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, TypedDict

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
        help="only items of this error: its group as --dry-run shows it, its type, or the name of its class "
        "(default: any)",
    )
    parser.add_argument(
        "--older-than",
        type=duration,
        default=dt.timedelta(),
        metavar="DURATION",
        help="only items that died, or failed last, longer ago than this, such as 30m, 2h or 7d (default: any age)",
    )
    parser.add_argument(
        "--limit",
        type=number_in(COUNTS),
        metavar="N",
        help="at most N items of each queue, those that died, or are due, first (default: all)",
    )


def count(queue: Queue, choice: Choice, state: str = "dead") -> tuple[int, list[str]]:
    """How many dead or retrying (delayed) items were chosen, and lines for people with the number of each error."""
    groups = _groups(queue, state, error=choice["error"], older_than=choice["older_than"])
    total, lines = sum(groups.values()), numbers(groups)
    if choice["limit"] is None or choice["limit"] >= total:
        return total, lines
    first = "died" if state == "dead" else "are due"
    return choice["limit"], [*lines, f"of these the {choice['limit']:,} that {first} first (--limit)"]


def _groups(queue: Queue, state: str, **chosen: Any) -> Mapping[str, int]:
    return (queue.count_dead if state == "dead" else queue.count_retrying)(**chosen)


def numbers(groups: Mapping[str, int]) -> list[str]:
    """A line for each error, with the number of its items, the most frequent first."""
    largest = sorted(groups.items(), key=lambda group: (-group[1], group[0]))
    lines = [f"{n:,} {readable(name)}" for name, n in largest[:GROUPS_SHOWN]]
    if len(largest) > GROUPS_SHOWN:
        lines.append(f"{sum(n for _, n in largest[GROUPS_SHOWN:]):,} of other errors")
    return lines


def hints(queue: Queue, choice: Choice, state: str = "dead") -> list[str]:
    """Lines that say why no item was chosen by its error."""
    if not choice["error"]:
        return []
    if choice["older_than"] and _groups(queue, state, error=choice["error"]):
        ended = "died" if state == "dead" else "failed"
        return [f"no item with this error {ended} that long ago (--older-than)"]
    return absent(choice["error"], state, _groups(queue, state))


def absent(error: str, state: str, groups: Mapping[str, int]) -> list[str]:
    """Lines that say that no item in this state has the error. groups: the errors that there are."""
    if not groups:
        return [f"no item is {state}"]
    return [f"no {state} item has the error {readable(error)!r}. These are there:", *numbers(groups)]
