"""``python -m benchmarks.versions FOLDER``: calls of a plain queue by this version and by that of another checkout.

Both take turns, each in a process of its own, on one server. Exit code 1 when this version is slower by more than 2 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import report
from benchmarks.harness import QUICK, Row, Sizes, Target, alternate
from benchmarks.peers import APPS
from benchmarks.server import pinned_server

HERE = Path(__file__).resolve().parents[1]
TIMES = ("passed", "computed here", "computed by the server")
MOST = Target(1.02)

Figures = dict[str, list[list[float]]]  # of each call, a list of the TIMES for each round


def measure(url: str, other: Path, calls: int, rounds: int) -> Iterator[Row]:
    figures: dict[str, Figures] = {"this": {}, "other": {}}
    turns = {
        "this": lambda: _turn(HERE, url, calls, figures["this"]),
        "other": lambda: _turn(other, url, calls, figures["other"]),
    }
    alternate(turns, rounds)
    for call, values in figures["this"].items():
        for place, time in enumerate(TIMES):
            ours, theirs = ([each[place] for each in found[1:]] for found in (values, figures["other"][call]))
            yield Row(f"{call}, {time}", ours, "µs", str(other), theirs, MOST)


def _turn(checkout: Path, url: str, calls: int, figures: Figures) -> float:
    run = subprocess.run(
        [sys.executable, str(APPS / "calls.py"), url, str(calls)],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=True,
    )
    measured = json.loads(run.stdout)
    assert Path(measured["package"]).is_relative_to(checkout), measured["package"]
    for call, times in measured["found"].items():
        figures.setdefault(call, []).append(times)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=20, help="how often both take turns (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="few calls, which judge nothing")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    with pinned_server() as server:
        rounds = sizes.rounds if options.quick else options.rounds
        rows = list(measure(server.url, options.folder.resolve(), 4 * sizes.calls, rounds))
    print(report.table(rows, sizes))
    return 1 if any(row.reached(sizes) is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
