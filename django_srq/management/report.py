"""What a command did, as a table for people or as JSON for programs.

A row is a dict that begins with the queue's alias. In JSON, times are ISO 8601 in UTC, and null means unknown.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Container, Sequence
from typing import Any

from django.utils import timezone

from django_srq.status.reports import iso
from django_srq.status.verdicts import readable

FORMATS = ("table", "json", "jsonl")
Row = dict[str, Any]


def lines(rows: Sequence[Row], format: str, **common: Any) -> list[str]:
    """common: what is true of all rows; JSON has it before them."""
    if format == "json":
        return [json.dumps({**common, "queues": rows}, indent=2, default=iso)]
    if format == "jsonl":
        return [json.dumps({**common, **row}, default=iso) for row in rows]
    return _table(rows) if rows else []


def aligned(rows: Sequence[Sequence[str]], words: Container[int]) -> list[list[str]]:
    """Pad the cells to the width of their column: words (indexes of columns) to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [cell.ljust(width) if i in words else cell.rjust(width) for i, (cell, width) in enumerate(pairs)]
        for pairs in (zip(row, widths, strict=True) for row in rows)
    ]


def local(moment: dt.datetime) -> str:
    """A time for people: in the project's time zone, to the second."""
    return timezone.localtime(moment).isoformat(sep=" ", timespec="seconds")


def _table(rows: Sequence[Row]) -> list[str]:
    head = [name.upper().replace("_", " ") for name in rows[0]]
    words = {i for i, name in enumerate(rows[0]) if not any(type(row[name]) is int for row in rows)}
    cells = [head, *([_shown(value) for value in row.values()] for row in rows)]
    return ["  ".join(row).rstrip() for row in aligned(cells, words)]


def _shown(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dt.datetime):
        return local(value)
    return readable(value)
