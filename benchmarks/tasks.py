"""Django's tasks by django-srq and by other backends: the same tasks, each with its own worker command, in turns."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import races
from benchmarks.harness import Bench, Row, Target
from benchmarks.memory import used
from benchmarks.peers import Contender
from benchmarks.server import on_the_core_of
from tests.support.postgresql import database

_COMMAND = ("python", "-m", "django")
_LIBRARIES = ("Django==6.1.3", "redis==8.1.0", "hiredis==3.5.0")
_THREADMILL = (*_COMMAND, "threadmill", "worker", "--workers", "1")


def _on(backend: str) -> dict[str, str]:
    return {"BENCH_BACKEND": backend, "DJANGO_SETTINGS_MODULE": "tasks_settings"}


OURS = Contender("django-srq", "tasks_app", (*_COMMAND, "srq_consume"), environment=_on("srq"))
THREADMILL = Contender(
    "threadmill 0.8",
    "tasks_app",
    _THREADMILL,
    requirements=("threadmill==0.8.4", *_LIBRARIES),
    pace=8000,
    python_from=(3, 14),
    environment=_on("threadmill"),
)
PEERS = (
    Contender(
        "django-tasks-redis 0.4",
        "tasks_app",
        (*_COMMAND, "run_redis_tasks", "--continuous"),
        requirements=("django-tasks-redis==0.4.0", *_LIBRARIES),
        pace=2000,
        python_from=(3, 12),
        environment=_on("redis"),
    ),
    # Its connection to the database stays open, which is faster than Django's default.
    Contender(
        "django-tasks-db 0.13",
        "tasks_app",
        (*_COMMAND, "db_worker", "--no-startup-delay"),
        requirements=("django-tasks-db==0.13.0", "psycopg[binary]==3.3.4", "Django==6.1.3"),
        pace=1500,
        python_from=(3, 12),
        environment=_on("database"),
    ),
    THREADMILL,
    # The last version for older Pythons; it fetches tasks one by one.
    replace(
        THREADMILL,
        name="threadmill 0.3",
        requirements=("threadmill==0.3.1", *_LIBRARIES),
        pace=4000,
        python_from=(3, 12),
    ),
)
# How many times as fast as a peer ours is, and how many times the CPU time of ours the peer takes.
TIMES = {"django-tasks-redis 0.4": 5, "threadmill 0.8": 2, "threadmill 0.3": 2}


@dataclass
class TasksBench(Bench):
    """Also empties the table of django-tasks-db."""

    database: Contender | None = None

    def clear(self) -> None:
        super().clear()
        if self.database:
            races._drive(self, self.database, "clear", 0)


def measure(bench: Bench) -> Iterator[Row]:
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        field = [OURS, *_peers(bench, stack, absent)]
        yield from races._absent(absent)
        on_postgresql = next((peer for peer in field if "BENCH_DATABASE" in peer.environment), None)
        bench = TasksBench(bench.server, bench.sizes, on_postgresql)
        if on_postgresql:
            races._drive(bench, on_postgresql, "migrate", 0)
        yield from _side_by_side("enqueue", _enqueue(bench, field))
        yield from _side_by_side("tasks, 1 process", _run(bench, field))
        yield from _memory(bench, field)


def _peers(bench: Bench, stack: ExitStack, absent: dict[str, str]) -> Iterator[Contender]:
    for peer in PEERS:
        if not races._is_there(peer, absent):
            continue
        if peer.environment["BENCH_BACKEND"] == "database":
            try:
                peer = replace(peer, environment=peer.environment | stack.enter_context(_postgresql(bench)))
            except AssertionError as reason:
                absent[peer.name] = str(reason)
                continue
        yield peer


@contextmanager
def _postgresql(bench: Bench) -> Iterator[Mapping[str, str]]:
    """A server on the core of Redis; as that, it does not wait for the disk."""
    with tempfile.TemporaryDirectory(prefix="srq-bench-", dir="/tmp") as folder, ExitStack() as stack:
        os.chmod(folder, 0o777)  # the server has a user of its own
        with on_the_core_of(bench.server):
            settings = stack.enter_context(database(Path(folder)))
        yield {"BENCH_DATABASE": json.dumps({**settings, "CONN_MAX_AGE": None})}


# -- the measures: tasks a second, and CPU time a task


@dataclass(frozen=True)
class Costs:
    rates: races.Race
    cpu: Mapping[str, Sequence[float]]  # µs a task


def _enqueue(bench: Bench, field: Sequence[Contender]) -> Costs:
    cpu: dict[str, list[float]] = {}

    def enqueue(contender: Contender) -> float:
        n = _number(bench, contender)
        done = races._drive(bench, contender, "put", n)
        cpu.setdefault(contender.name, []).append(done["cpu"] / n * 1e6)
        bench.clear()
        return n / done["seconds"]

    return Costs(races._take_turns(bench, field, enqueue), cpu)


def _run(bench: Bench, field: Sequence[Contender]) -> Costs:
    cpu: dict[str, list[float]] = {}

    def run(contender: Contender) -> float:
        rate, _, _, spent = races._drain(bench, contender, 1, _number(bench, contender))
        cpu.setdefault(contender.name, []).append(spent)
        return rate

    return Costs(races._take_turns(bench, field, run), cpu)


def _number(bench: Bench, contender: Contender) -> int:
    return max(200, bench.sizes.race * contender.pace // 20_000)


def _side_by_side(what: str, costs: Costs) -> Iterator[Row]:
    rates = costs.rates.figures
    for name, values in rates.items():
        yield Row(f"{what}: {name}", values, "per s")
        yield Row(f"{what}, CPU: {name}", costs.cpu[name], "µs a task")
    for name, note in costs.rates.absent.items():
        yield Row(f"{what}: {name}", [], "per s", note=note)
    if OURS.name not in rates:
        return
    for name, times in TIMES.items():
        if name in rates:
            ours, theirs = costs.cpu[OURS.name], costs.cpu[name]
            yield Row(f"{what}, against {name}", rates[OURS.name], "per s", name, rates[name], Target(least=times))
            yield Row(f"{what}, CPU against {name}", ours, "µs a task", name, theirs, Target(1 / times))


# -- the measure: memory


def _memory(bench: Bench, field: Sequence[Contender]) -> Iterator[Row]:
    """The server's memory for a result that is kept, of a call of 100 bytes."""

    def kept(contender: Contender) -> float:
        # The run with few tasks has all that does not grow with their number.
        few, many = 50, _number(bench, contender) // 2
        return (_after(bench, contender, many) - _after(bench, contender, few)) / (many - few)

    race = races._once(bench, [each for each in field if "BENCH_DATABASE" not in each.environment], kept)
    for name, values in race.figures.items():
        target = Target(420) if name == OURS.name else None
        yield Row(f"memory of a result: {name}", values, "bytes", target=target)
    for name, note in race.absent.items():
        yield Row(f"memory of a result: {name}", [], "bytes", note=note)


def _after(bench: Bench, contender: Contender, n: int) -> int:
    """The server's memory when so many tasks have run; the results of the last few may be missing each time."""
    bench.clear()
    races._drive(bench, contender, "put_many", n)
    with races._worker(bench, contender, 1, [n - 1]) as worker:
        races._wait_for_item(worker, n - 1)
    bench.control.script_flush("SYNC")  # with what the scripts have left in the interpreter's memory
    bench.control.config_resetstat()
    memory = used(bench)
    bench.clear()
    return memory
