"""Prints rows as a table and writes them as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import django
import redis

from benchmarks.harness import Bench, Row, Sizes

HEADINGS = ("measure", "median", "compared with", "its median", "ratio", "spread", "target", "reached")
_REACHED = {True: "yes", False: "NO", None: ""}


def conditions(bench: Bench) -> dict[str, str]:
    """The versions and the machine that the figures depend on."""
    info = bench.control.info("server")
    return {
        "server": f"{info.get('server_name', 'redis')} {info.get('valkey_version') or info['redis_version']}",
        "redis-py": redis.__version__ + (" with hiredis" if redis.utils.HIREDIS_AVAILABLE else " without hiredis"),
        "django": django.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def table(rows: Sequence[Row], sizes: Sizes) -> str:
    """A line for each row; without a reference, the target judges the value itself."""
    lines = [HEADINGS, *(_cells(row, sizes) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cells(row: Row, sizes: Sizes) -> tuple[str, ...]:
    if not row.values:
        return (row.measure, "–", row.note, *[""] * 5)  # noqa: RUF001
    low, high = row.spread
    compared = bool(row.reference)
    return (
        row.measure,
        f"{_number(statistics.median(row.values))} {row.unit}",
        row.against,
        _number(statistics.median(row.reference)) if compared else "",
        f"{row.figure:.2f}" if compared else "",
        f"{_number(low)}–{_number(high)}" if len(row.values) > 1 else "",  # noqa: RUF001
        str(row.target or ""),
        _REACHED[row.reached(sizes)],
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def write(path: Path, rows: Sequence[Row], bench: Bench) -> None:
    entries: list[dict[str, Any]] = [
        {
            **asdict(row),
            "figure": row.figure if row.values else None,
            "spread": row.spread if row.values else None,
            "reached": row.reached(bench.sizes),
        }
        for row in rows
    ]
    result = {"conditions": conditions(bench), "sizes": asdict(bench.sizes), "rows": entries}
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
