"""Tests ``python -m benchmarks``: it runs, has a row for each measure, and judges them. No test checks a speed."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import pages, peers, races, report, start
from benchmarks.harness import QUICK, Bench, Row, Sizes, Target, alternate
from benchmarks.server import Meter
from tests.support.servers import Server
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 300  # seconds; reached only when the run hangs

PROMISED = {
    "put": 1,
    "get that does not block": 1,
    "get on an empty queue": 1,
    "ack": 1,
    "ack + get of a consumer": 1,
    "idle consumer": 0.5,
    "put to handler, median": 1.3,
    "put to handler, a consumer of 200 queues, median": 5,
    "put on a new connection with TLS": 5,
    **{
        f"{what}, {many} {state}": 1.2
        for state, sizes in {"in flight": ["500", "2,000"], "waiting": ["1,000", "5,000"]}.items()
        for many in sizes
        for what in ("put", "get", "ack", "put, over the wire", "get and ack, over the wire")
    },
    "put, with time series": 1.1,
    "get, with time series": 1.1,
    "ack, with time series": 1.1,
    **{f"page {name}, 5,000 items": 1.3 for name in pages.PAGES},
    **{
        f"batch: {action} {f'of {group}' if group else state.replace('_', ' ')}": 200
        for action, state, group in pages.BATCHES
    },
    "overview of 20 queues": 1,
    "its SQL queries beyond the admin's": 2,
    "its HTML": 25,
    "CSS and JavaScript": 12,
    "overview, servers down": 1,
    "memory per queued item": 1.05,
    "more while it is in flight": 300,
}
AT_LEAST = {
    "put, calls": 0.8,
    "consumer, items": 0.7,
    "put_many against bare commands": 0.6,
}
MAY_BE_NONE = {"idle consumer", "its SQL queries beyond the admin's"}
REPORTED = {
    "put to handler, 99 %",
    "put_many, items",
    "get + ack, in two calls",
    "bytes of the puts, raw socket",
}
OF_ITSELF = ["round_trips", "latency", "connecting", "growth", "series", "memory", "throughput", "pages"]
TIMED = Row("timed", [3.0, 1.0, 2.0], "ms", "bare", [1.0, 1.0, 1.0], Target(1.5))
COUNTED = Row("counted", [2.0], "round trips", target=Target(1, timed=False))


def test_a_quick_run(tmp_path):
    path = tmp_path / "results.json"
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", path, "--only", *OF_ITSELF],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    rows = {row["measure"]: row for row in json.loads(path.read_text("utf-8"))["rows"]}
    targets = {name: row["target"] for name, row in rows.items() if row["target"]}
    assert {name: target["most"] for name, target in targets.items() if target["most"]} == PROMISED
    assert {name: target["least"] for name, target in targets.items() if target["least"]} == AT_LEAST
    assert {name for name, row in rows.items() if not row["target"]} == REPORTED
    # A quick run judges only targets that do not depend on the machine's speed, and reaches all of them.
    assert {name for name, row in rows.items() if row["reached"]} == {
        name for name, row in rows.items() if row["target"] and not row["target"]["timed"]
    }
    assert all(value > 0 for name, row in rows.items() for value in row["values"] if name not in MAY_BE_NONE)
    for name in rows:
        assert name in run.stdout


def test_the_ratio_is_the_median_of_the_rounds():
    assert TIMED.figure == 2
    assert TIMED.spread == (1.5, 2.5)
    assert COUNTED.figure == 2


@pytest.mark.parametrize(
    ("row", "sizes", "reached"),
    [(TIMED, Sizes(), False), (TIMED, QUICK, None), (COUNTED, Sizes(), False), (COUNTED, QUICK, False)],
)
def test_timed_targets_are_judged_only_at_full_size(row, sizes, reached):
    assert row.reached(sizes) is reached


def test_a_target_can_be_a_minimum():
    row = Row("fast", [3.0, 1.0, 2.0], "per s", "bare", [1.0, 1.0, 1.0], Target(least=1.5))
    assert row.reached(Sizes()) is True
    assert Row("slow", [1.0], "per s", target=Target(least=1.5)).reached(Sizes()) is False
    assert "≥ 1.5" in report.table([row], Sizes())


def test_an_absent_contender_is_in_the_table_with_the_reason():
    row = Row("put: peer", [], "", target=Target(1), note="cannot be installed: no such thing")
    assert row.reached(Sizes()) is None
    assert "cannot be installed: no such thing" in report.table([row], Sizes())


def test_a_missed_target_sets_the_exit_code(monkeypatch, tmp_path, capsys):
    class Measures:
        __doc__ = "None."

        @staticmethod
        def measure(bench):
            return [COUNTED]

    monkeypatch.setattr(command, "MEASURES", [Measures])
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick", "--json", str(tmp_path / "results.json")])
    assert command.main() == 1
    out, err = capsys.readouterr()
    assert "NO" in out.split()
    assert "missed: counted" in err


def test_the_table_compares_a_row_with_its_reference():
    line = report.table([TIMED], Sizes()).splitlines()[-1]
    for part in ("2.00 ms", "bare", "1.00", "1.50–2.50", "≤ 1.5", "NO"):
        assert part in line


def test_contenders_take_turns_and_the_first_round_warms_up():
    calls = []

    def contender(name):
        return lambda: calls.append(name) or len(calls)

    values = alternate({"a": contender("a"), "b": contender("b")}, 2)
    assert "".join(calls) == "abbaab"
    assert values == {"a": [4, 5], "b": [3, 6]}


def test_the_meter_counts_round_trips():
    server = Server()
    meter = Meter(server.port)
    try:
        queue = Bench(server, QUICK).queue(meter.url)
        queue.put(b"")
        before = meter.round_trips
        queue.put(b"x" * 1_000_000)  # more than one packet
        queue.put_many([b"x"] * 2000)
        assert meter.round_trips - before == 3
        queue.link.close()
    finally:
        meter.close()
        server.close()


def test_the_start_of_commands_with_many_queues(monkeypatch):
    """A quick run leaves this measure out, because it starts many processes."""
    monkeypatch.setattr(start, "MANY", 3)
    monkeypatch.setattr(start, "alternate", lambda starts, rounds: {name: [begin()] for name, begin in starts.items()})
    server = Server()
    try:
        rows = list(start.measure(Bench(server, QUICK)))
    finally:
        server.close()
    assert [row.measure for row in rows] == [f"{command}, 3 queues" for command in start.COMMANDS]
    assert all(value > 0 for row in rows for value in (*row.values, *row.reference))


# -- the peers


HANDLED = """
import sys
sys.path.insert(0, {apps!r})
import marks
for number in range(5):
    marks.handled(number)
marks.arrived(0)
"""


def test_only_the_marked_items_are_written(tmp_path):
    environment = {**os.environ, "BENCH_MARKS": str(tmp_path / "marks"), "BENCH_AT": "1 3"}
    code = HANDLED.format(apps=str(peers.APPS))
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    lines = [line.split()[0] for line in (tmp_path / "marks").read_text().splitlines()]
    assert lines[:2] == ["1", "3"]
    assert len(lines) == 3


def test_a_peer_that_cannot_be_installed_is_absent_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "VENVS", tmp_path)
    peer = replace(peers.PEERS[0], requirements=("no-such/requirement",))
    absent = {}
    assert not races._is_there(peer, absent)
    assert "cannot be installed" in absent[peer.name]
    assert [row.note for row in races._absent(absent)] == [absent[peer.name]]


def test_every_peer_has_exact_versions_and_an_app():
    for peer in (peers.OURS, *peers.PEERS):
        assert (peers.APPS / f"{peer.app}.py").exists()
        assert all("==" in requirement for requirement in peer.requirements)


@pytest.mark.parametrize("ours", [peers.OURS, *races._our_ways()], ids=lambda ours: ours.name)
def test_the_worker_of_django_srq_in_a_race(ours):
    server = Server()
    try:
        rate, round_trips, commands, cpu = races._drain(Bench(server, QUICK), ours, 1, 3000)
        assert rate > 0
        assert cpu > 0
        assert 0 < round_trips < (2.2 if "threads 4" in ours.name else 1.2)
        assert commands > 1
    finally:
        server.close()


def test_a_drain_with_a_late_first_reading_is_repeated_with_more_items(monkeypatch):
    drained, drive = [], races._drive
    server = Server()
    bench = Bench(server, QUICK)

    def cpu():
        if len(drained) == 1:
            wait_for(lambda: not bench.control.exists("srq:bench:queue"), "an empty queue")
        return cpu_of_workers()

    cpu_of_workers = races._cpu
    monkeypatch.setattr(races, "_cpu", cpu)
    monkeypatch.setattr(races, "_drive", lambda *given: drained.append(given[-1]) or drive(*given))
    try:
        *_, round_trips, commands, cpu = races._drain(bench, peers.OURS, 1, 3000)
    finally:
        server.close()
    assert drained == [3000, 6000]
    assert min(round_trips, commands, cpu) > 0


def test_the_variants_of_our_worker_are_compared_with_the_best_peer():
    ours = {peers.OURS.name: [7.0], **{way.name: [9.0] for way in races._our_ways()}}
    race = races.Race({**ours, "saferedisqueue 3.0": [2.0], "huey 3.5": [3.0]}, {})
    rows = {row.measure: row for row in races._against_each_other("drain", race)}
    beside = {name.partition(": ")[2].removeprefix(peers.OURS.name).strip(): row.against for name, row in rows.items()}
    assert beside == {
        "": "saferedisqueue 3.0",
        "--threads 4": peers.OURS.name,
        "--threads 4 --prefetch 1": f"{peers.OURS.name} --prefetch 1",
        "--prefetch 1": peers.OURS.name,
        "--prefetch 10": "huey 3.5",
        "'s scripts alone, 10 ahead": "huey 3.5",
        "--prefetch 100": "huey 3.5",
        "'s scripts alone, 100 ahead": "huey 3.5",
    }
    missed = {name.partition("--")[2] for name, row in rows.items() if row.reached(Sizes()) is False}
    assert missed == {"threads 4", "threads 4 --prefetch 1", "prefetch 10", "prefetch 100"}


def test_each_peer_counts_its_items_in_flight_or_has_a_reason_why_not():
    for peer in (peers.OURS, *peers.PEERS):
        counts = "def in_flight():" in (peers.APPS / f"{peer.app}.py").read_text("utf-8")
        assert counts or peer.alone
        assert not (peer.holding and peer.alone)


def test_the_memory_of_our_items_in_flight(monkeypatch):
    monkeypatch.setattr(races, "HELD", 300)
    huey = next(peer for peer in peers.PEERS if peer.app == "huey_app")  # huey keeps nothing in flight on the server
    server = Server()
    try:
        rows = {row.measure: row for row in races._memory_in_flight(Bench(server, QUICK), [peers.OURS, huey])}
    finally:
        server.close()
    ours, more = (rows[f"memory, in flight{what}: {peers.OURS.name}"] for what in ("", ", more than queued"))
    assert more.figure > 0  # the amount depends on the server and on the small number of items
    assert ours.figure > more.figure + 100  # the item itself has 100 bytes
    assert rows[f"memory, in flight: {huey.name}"].note == huey.alone


def test_a_failing_contender_leaves_the_race():
    server = Server()
    try:

        def figure(contender):
            assert contender is peers.OURS, "it fell over"
            return 2.0

        race = races._take_turns(Bench(server, QUICK), [peers.OURS, peers.PEERS[0]], figure)
        assert race.figures == {peers.OURS.name: [2.0]}
        assert race.absent == {peers.PEERS[0].name: "failed: it fell over"}
    finally:
        server.close()


def test_the_race_does_not_wait_for_a_worker_that_has_ended():
    server = Server()
    try:
        worker = replace(peers.OURS, command=(*peers.OURS.command, "--no-such-option"))
        with pytest.raises(AssertionError, match="the worker ended: .*--no-such-option"):
            races._drain(Bench(server, QUICK), worker, 1, 100)
        with pytest.raises(AssertionError, match="the worker ended: .*--no-such-option"):
            races._hold(Bench(server, QUICK), worker, 1)
    finally:
        server.close()
