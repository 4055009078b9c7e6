"""``python -m benchmarks``: measures everything; exit code 1 when a target is missed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import (
    connecting,
    growth,
    latency,
    memory,
    pages,
    races,
    report,
    round_trips,
    series,
    start,
    tasks,
    throughput,
)
from benchmarks.harness import QUICK, Bench, Row, Sizes
from benchmarks.server import pinned_server

MEASURES = (round_trips, latency, connecting, start, growth, series, memory, throughput, pages, races, tasks)
KNOWN = {measure.__name__.rpartition(".")[2]: measure for measure in MEASURES}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures the queue against its targets.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="small sizes; judges only what does not depend on the machine's speed"
    )
    size.add_argument(
        "--race-rounds",
        type=int,
        choices=range(1, 10),
        default=Sizes.race_rounds,
        metavar="N",
        help="how often all contenders of the races take turns, from 1 to 9 (default: %(default)s)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path(__file__).with_name("results.json"),
        metavar="PATH",
        help="where to write all values (default: %(default)s)",
    )
    parser.add_argument(
        "--only", nargs="*", metavar="MEASURE", help=f"some of: {' '.join(sorted(KNOWN))} (default: all)"
    )
    options = parser.parse_args()
    if wrong := set(options.only or ()) - KNOWN.keys():
        parser.error(f"no measure {', '.join(sorted(wrong))}; known: {', '.join(sorted(KNOWN))}")

    rows: list[Row] = []
    with pinned_server() as server:
        bench = Bench(server, QUICK if options.quick else Sizes(race_rounds=options.race_rounds))
        print(*(f"{name}: {value}" for name, value in report.conditions(bench).items()), sep="\n", end="\n\n")
        try:
            for measure in [KNOWN[name] for name in options.only] if options.only else MEASURES:
                print(f"{measure.__doc__.splitlines()[0]}", file=sys.stderr)
                for row in measure.measure(bench):
                    rows.append(row)
                    print(f"  {row.measure}", file=sys.stderr)
        finally:  # also when a measure was interrupted
            report.write(options.json, rows, bench)
    print(report.table(rows, bench.sizes))
    missed = [row.measure for row in rows if row.reached(bench.sizes) is False]
    if missed:
        print(f"\nmissed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
