"""Tests the benchmarks of tasks, of their deaths, and of two versions. No test checks a speed."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import peers, races, tasks, versions
from benchmarks.harness import QUICK, Bench, Sizes
from tests.support.servers import Server

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 300  # seconds; reached only when a run hangs
KILLS = """
import sys
from pathlib import Path
from benchmarks import deaths
from tests.support.servers import Server

server = Server()
try:
    sys.exit(not deaths.kills_of_tasks(server, Path(sys.argv[1]), 6))
finally:
    server.close()
"""


@pytest.fixture
def bench():
    server = Server()
    try:
        yield Bench(server, QUICK)
    finally:
        server.close()


def test_every_backend_has_exact_versions_and_settings():
    for peer in (tasks.OURS, *tasks.PEERS):
        assert (peers.APPS / f"{peer.app}.py").exists()
        assert all("==" in requirement for requirement in peer.requirements)
        assert (peers.APPS / f"{peer.environment['DJANGO_SETTINGS_MODULE']}.py").exists()
    assert tasks.TIMES.keys() <= {peer.name for peer in tasks.PEERS}


def test_our_tasks_are_enqueued_and_run(bench, monkeypatch):
    monkeypatch.setattr(tasks, "PEERS", ())
    rows = {row.measure: row for row in tasks.measure(bench)}
    measures = ("enqueue", "enqueue, CPU", "tasks, 1 process", "tasks, 1 process, CPU", "memory of a result")
    assert list(rows) == [f"{what}: {tasks.OURS.name}" for what in measures]
    assert [row.note for row in rows.values()] == [""] * 5
    assert all(row.figure > 0 for row in rows.values())
    assert rows[f"memory of a result: {tasks.OURS.name}"].target.most == 420


def test_ours_is_compared_with_the_peers_that_have_targets():
    (redis, database, *_), ours = tasks.PEERS, tasks.OURS
    rates = races.Race({ours.name: [100.0], redis.name: [10.0], database.name: [10.0]}, {"threadmill 0.8": "no"})
    costs = tasks.Costs(rates, {ours.name: [10.0], redis.name: [40.0], database.name: [90.0]})
    rows = {row.measure: row for row in tasks._side_by_side("enqueue", costs)}
    assert rows["enqueue: threadmill 0.8"].note == "no"
    judged = {name: row.reached(Sizes()) for name, row in rows.items() if row.target}
    assert judged == {f"enqueue, against {redis.name}": True, f"enqueue, CPU against {redis.name}": False}


def test_without_postgresql_its_peer_is_absent_with_the_reason(bench, monkeypatch):
    def no_server(folder):
        raise AssertionError("there is no initdb")

    monkeypatch.setattr(tasks, "database", no_server)
    monkeypatch.setattr(tasks, "PEERS", [replace(peer, requirements=()) for peer in tasks.PEERS])
    monkeypatch.setattr(races, "_drive", lambda *given: {"cpu": 1, "seconds": 1})
    monkeypatch.setattr(races, "_drain", lambda *given: (1, 1, 1, 1))
    monkeypatch.setattr(tasks, "_after", lambda *given: 0)
    notes = {row.measure: row.note for row in tasks.measure(bench) if row.note}
    assert notes == {"django-tasks-db 0.13": "there is no initdb"}


def test_tasks_survive_kills(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", KILLS, tmp_path],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "6 random SIGKILLs" in run.stdout
    assert "60 tasks, {'SUCCESSFUL': 60}, 0 wrong values, audit: clean" in run.stdout


def test_two_versions_take_turns(bench):
    rows = list(versions.measure(bench.server.url, ROOT, 20, 2))
    assert [row.measure for row in rows] == [
        f"{call}, {time}" for call in ("put", "get", "ack", "consume") for time in versions.TIMES
    ]
    assert all(len(row.values) == len(row.reference) == 2 for row in rows)
    assert all(value > 0 for row in rows for value in (*row.values, *row.reference))


def test_the_other_version_is_really_the_other_one(bench, tmp_path):
    with pytest.raises(AssertionError, match="django_srq"):
        list(versions.measure(bench.server.url, tmp_path, 20, 1))
