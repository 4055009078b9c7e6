"""The same work by django-srq and by its peers: each with its own API and its own worker command, in turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.harness import Bench, Row, Target
from benchmarks.memory import used
from benchmarks.peers import APPS, OURS, PEERS, Absent, Contender
from tests.support.project import kill_session
from tests.support.waiting import wait_for

FIRST, LAST = 0.3, 0.95  # parts of a drain: between them all processes are at work, however long their starts took
PATIENCE = 300  # seconds for one drain
HELD = 1000  # items in flight; the most that django-srq claims at one time


@dataclass(frozen=True)
class Race:
    """The figures of each contender, one a round, and the reasons why others are absent."""

    figures: Mapping[str, list[float]]
    absent: Mapping[str, str]


def measure(bench: Bench) -> Iterator[Row]:
    absent: dict[str, str] = {}
    field = [OURS, *(peer for peer in PEERS if _is_there(peer, absent))]
    yield from _absent(absent)
    yield from _puts(bench, field, "put", "put one by one", Target(least=1))
    yield from _drains(bench, field, 1, Target(least=2.0))
    yield from _hand_offs(bench, field)
    yield from _puts(bench, field, "put_many", "put in batches", None)
    yield from _memory(bench, field)
    yield from _memory_in_flight(bench, field)
    yield from _idle(bench, field)
    for processes in (2, 4):
        yield from _drains(bench, field, processes, Target(least=2.5))


def _is_there(peer: Contender, absent: dict[str, str]) -> bool:
    try:
        return bool(peer.python)
    except Absent as reason:
        absent[peer.name] = str(reason)
        return False


def _absent(absent: Mapping[str, str]) -> Iterator[Row]:
    for name, reason in absent.items():
        yield Row(name, [], "", note=reason)


# -- the measures


def _puts(bench: Bench, field: Sequence[Contender], verb: str, what: str, target: Target | None) -> Iterator[Row]:
    cpu: dict[str, list[float]] = {}

    def put(contender: Contender) -> float:
        n = max(50, bench.sizes.race * min(contender.pace, 5000) // 20_000)
        done = _drive(bench, contender, verb, n)
        cpu.setdefault(contender.name, []).append(done["cpu"] / n * 1e6)
        bench.clear()
        return n / done["seconds"]

    race = _take_turns(bench, field, put)
    yield from _rows(what, "items/s", race, target)
    for name, values in cpu.items():
        yield Row(f"{what}, client CPU: {name}", values, "µs an item")


def _drains(bench: Bench, field: Sequence[Contender], processes: int, target: Target) -> Iterator[Row]:
    details: dict[str, list[tuple[float, float, float]]] = {}

    def drain(contender: Contender) -> float:
        n = max(100, bench.sizes.race * contender.pace // 20_000)
        rate, *rest = _drain(bench, contender, processes, n)
        details.setdefault(contender.name, []).append(tuple(rest))
        return rate

    runners = [*field, *(_our_ways() if processes == 1 else ())]
    race = _take_turns(bench, runners, drain)
    what = f"drain, {processes} process{'es' * (processes > 1)}"
    yield from _rows(what, "items/s", race, target)
    if processes == 1:
        yield from _against_each_other(what, race)
        for name, values in details.items():
            for place, (label, unit) in enumerate(
                (("round trips", "an item"), ("commands", "an item"), ("CPU of the worker", "µs an item"))
            ):
                target = Target(1, timed=False) if (name, label) == (OURS.name, "round trips") else None
                yield Row(f"{what}, {label}: {name}", [value[place] for value in values], unit, target=target)


def _our_ways() -> Iterator[Contender]:
    """django-srq with other options, and two loops of bare scripts, which bound what any worker of it can reach."""
    for options in ("--threads 4", "--prefetch 1", "--threads 4 --prefetch 1", "--prefetch 10", "--prefetch 100"):
        yield replace(OURS, name=f"{OURS.name} {options}", command=(*OURS.command, *options.split()))
    for ahead in (10, 100):
        yield replace(OURS, name=_alone(ahead), command=("python", "srq_scripts.py", str(ahead)))


def _alone(ahead: int) -> str:
    return f"{OURS.name}'s scripts alone, {ahead} ahead"


def _against_each_other(what: str, race: Race) -> Iterator[Row]:
    best, threads, one_by_one = _best_peer(race), f"{OURS.name} --threads 4", f"{OURS.name} --prefetch 1"
    for name, than, least in (
        (OURS.name, "saferedisqueue 3.0", 2.5),
        (threads, OURS.name, 1.5),
        (f"{threads} --prefetch 1", one_by_one, 1.5),
        (one_by_one, OURS.name, None),
        (f"{OURS.name} --prefetch 10", best, 6),
        (_alone(10), best, None),
        (f"{OURS.name} --prefetch 100", best, 8),
        (_alone(100), best, None),
    ):
        if name in race.figures and than in race.figures:
            target = Target(least=least) if least else None
            yield Row(f"{what}, compared: {name}", race.figures[name], "items/s", than, race.figures[than], target)


def _hand_offs(bench: Bench, field: Sequence[Contender]) -> Iterator[Row]:
    high: dict[str, list[float]] = {}

    def latency(contender: Contender) -> float:
        with _worker(bench, contender, 1) as worker:
            n = bench.sizes.hand_offs
            _drive(bench, contender, "hand_off", 3)
            wait_for(lambda: len(worker.lines()) >= 3, f"{contender.name} to be awake", seconds=60)
            _drive(bench, contender, "hand_off", n)
            wait_for(lambda: len(worker.lines()) >= n + 3, f"the last item of {contender.name}", seconds=60)
            seconds = sorted(float(line) * 1000 for line in worker.lines()[3:])
        high.setdefault(contender.name, []).append(seconds[int(len(seconds) * 0.99)])
        return statistics.median(seconds)

    safe = [contender for contender in field if not contender.loses]
    race = _take_turns(bench, safe, latency)
    yield from _rows("put to handler, p50", "ms", race, Target(1.2), best=min)
    tails = Race({name: high[name] for name in race.figures}, {})
    yield from _rows("put to handler, p99", "ms", tails, Target(1.2), best=min)


def _idle(bench: Bench, field: Sequence[Contender]) -> Iterator[Row]:
    commands: dict[str, list[float]] = {}

    def round_trips(contender: Contender) -> float:
        with _worker(bench, contender, 1) as worker:
            time.sleep(5)  # until then it has started, and has found the queue empty
            before = _commands(bench)
            time.sleep(bench.sizes.idle)
            after = _commands(bench)
            worker.lines()  # fails if the worker has ended
        # This function's own INFO is one of each.
        commands[contender.name] = [(after[1] - before[1] - 1) / bench.sizes.idle]
        return (after[0] - before[0] - 1) / bench.sizes.idle

    race = _once(bench, field, round_trips)
    for name, values in race.figures.items():
        target = Target(0.5, timed=False) if name == OURS.name else None
        yield Row(f"idle, round trips: {name}", values, "per s", target=target)
    yield from (Row(f"idle, round trips: {name}", [], "per s", note=reason) for name, reason in race.absent.items())
    for name, values in commands.items():
        yield Row(f"idle, commands: {name}", values, "per s")


def _memory(bench: Bench, field: Sequence[Contender]) -> Iterator[Row]:
    def grown(contender: Contender) -> float:
        n = max(200, bench.sizes.race * min(contender.pace, 5000) // 20_000)
        before = bench.control.info("memory")["used_memory"]
        _drive(bench, contender, "put_many", n)
        size = (bench.control.info("memory")["used_memory"] - before) / n
        bench.clear()
        return size

    yield from _rows("memory, queued", "bytes an item", _once(bench, field, grown), None, best=min)


def _memory_in_flight(bench: Bench, field: Sequence[Contender]) -> Iterator[Row]:
    more: dict[str, list[float]] = {}

    def grown(contender: Contender) -> float:
        # The run with one item has all that does not grow with the items: the worker's own keys, and the scripts.
        one, many = (_hold(bench, contender, n) for n in (1, HELD))
        queued, in_flight = ((late - early) / (HELD - 1) for early, late in zip(one, many, strict=True))
        more[contender.name] = [in_flight - queued]
        return in_flight

    race = _once(bench, [contender for contender in field if not contender.alone], grown)
    race = replace(
        race, absent={**race.absent, **{contender.name: contender.alone for contender in field if contender.alone}}
    )
    yield from _rows("memory, in flight", "bytes an item", race, None, best=min)
    for name, values in more.items():
        target = Target(300, timed=False) if name == OURS.name else None
        yield Row(f"memory, in flight, more than queued: {name}", values, "bytes an item", target=target)


def _hold(bench: Bench, contender: Contender, n: int) -> tuple[int, int]:
    """The server's memory with so many items queued, and then with as many in flight.

    The worker is killed before the second reading, so its buffers are gone; its items stay in flight, as after any
    crash.
    """
    bench.clear()
    # Without this, the server would already know the scripts and the kinds of commands, and only the first run would
    # pay.
    bench.control.script_flush("SYNC")
    bench.control.config_resetstat()
    _drive(bench, contender, "put_many", n)
    queued = used(bench)
    with _worker(bench, contender, 1, holding=HELD) as worker:

        def all_there() -> bool:
            worker.lines()  # fails if the worker has ended
            return _drive(bench, contender, "in_flight", n)["found"] >= n

        wait_for(all_there, f"{n} items of {contender.name} in flight", seconds=60)
    in_flight = used(bench)
    bench.clear()
    return queued, in_flight


# -- taking turns


def _once(bench: Bench, field: Sequence[Contender], figure: Callable[[Contender], float]) -> Race:
    """Measure each contender once; for figures that do not depend on the load of the machine."""
    return _take_turns(replace(bench, sizes=replace(bench.sizes, race_rounds=1)), field, figure)


def _take_turns(bench: Bench, field: Sequence[Contender], figure: Callable[[Contender], float]) -> Race:
    """Measure each contender in every round, with new processes and in turns. A contender that fails is left out."""
    figures: dict[str, list[float]] = {contender.name: [] for contender in field}
    absent: dict[str, str] = {}
    for turn in range(bench.sizes.race_rounds):
        start = turn % len(field)
        for contender in (*field[start:], *field[:start]):
            if contender.name in absent:
                continue
            try:
                figures[contender.name].append(figure(contender))
            except (AssertionError, OSError, subprocess.SubprocessError, KeyError, ValueError) as error:
                absent[contender.name] = f"failed: {str(error).splitlines()[0][:200]}"
                bench.clear()
    return Race({name: values for name, values in figures.items() if name not in absent}, absent)


def _rows(
    what: str,
    unit: str,
    race: Race,
    target: Target | None,
    best: Callable[[Sequence[float]], float] = max,
) -> Iterator[Row]:
    for name, values in race.figures.items():
        yield Row(f"{what}: {name}", values, unit)
    yield from (Row(f"{what}: {name}", [], unit, note=reason) for name, reason in race.absent.items())
    first = _best_peer(race, best)
    if first and OURS.name in race.figures:
        yield Row(f"{what}, against the best peer", race.figures[OURS.name], unit, first, race.figures[first], target)


def _best_peer(race: Race, best: Callable[[Sequence[float]], float] = max) -> str:
    """The name of the best peer; "" when there is none."""
    peers = {name: values for name, values in race.figures.items() if not name.startswith(OURS.name)}
    ranked = {statistics.median(values): name for name, values in peers.items()}
    return ranked[best(list(ranked))] if ranked else ""


# -- processes


def _environment(bench: Bench, contender: Contender, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(APPS), str(APPS.parent.parent)])
    inherited = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    ours = {"BENCH_URL": bench.server.url, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    return {**inherited, **ours, **contender.environment, **more}


def _drive(bench: Bench, contender: Contender, verb: str, n: int) -> dict[str, float]:
    command = [contender.python, str(APPS / "drive.py"), contender.app, verb, str(n)]
    run = subprocess.run(
        command,
        cwd=APPS,
        env=_environment(bench, contender, BENCH_GAP="0.02"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert run.returncode == 0, (run.stderr.strip().splitlines() or ["?"])[-1]
    return json.loads(run.stdout.splitlines()[-1])


@dataclass
class Worker:
    """A running worker command."""

    marks: Path  # the file that its handlers write
    log: Path
    processes: list[subprocess.Popen[bytes]]

    def lines(self) -> list[str]:
        """The lines that the handlers wrote so far; AssertionError when the worker has ended."""
        if all(process.poll() is not None for process in self.processes):
            said = self.log.read_text(errors="replace").strip().splitlines() or ["?"]
            raise AssertionError(f"the worker ended: {said[-1]}")
        return self.marks.read_text().splitlines() if self.marks.exists() else []

    def times(self) -> dict[int, float]:
        return {int(number): float(moment) for number, moment in map(str.split, self.lines())}


@contextmanager
def _worker(
    bench: Bench, contender: Contender, processes: int, at: Sequence[int] = (), holding: int = 0
) -> Iterator[Worker]:
    with tempfile.TemporaryDirectory(prefix="srq-bench-") as folder, ExitStack() as stack:
        worker = Worker(Path(folder) / "marks", Path(folder) / "log", [])
        log = stack.enter_context(worker.log.open("w"))
        environment = _environment(bench, contender, BENCH_MARKS=str(worker.marks), BENCH_AT=" ".join(map(str, at)))
        if holding:  # dramatiq has no option for it, but this variable
            environment |= {"BENCH_HOLDING": str(holding), "dramatiq_queue_prefetch": str(holding)}
        for command in contender.commands(processes, bench.server.url, holding):
            process = subprocess.Popen(
                command, cwd=APPS, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            worker.processes.append(process)
            stack.callback(_end, process)
        yield worker


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a worker and its children, which are in its session."""
    kill_session(process)


def _drain(bench: Bench, contender: Contender, processes: int, n: int) -> tuple[float, float, float, float]:
    """Items per second, and per item: round trips, commands and the worker's CPU time (µs).

    The last three are read from outside, when the first and the last marked item have been handled. If the first
    reading comes so late that half of the items between them are handled, it is worthless: then twice as many are
    drained.
    """
    bench.clear()
    _drive(bench, contender, "put_many", n)
    first, half, last = int(n * FIRST), int(n * (FIRST + LAST) / 2), int(n * LAST)
    with _worker(bench, contender, processes, (first, half, last)) as worker:
        _wait_for_item(worker, first)
        before = (*_commands(bench), _cpu())
        late = half in worker.times()
        if not late:
            _wait_for_item(worker, last)
            after = (*_commands(bench), _cpu())
            times = worker.times()
    bench.clear()
    if late:
        return _drain(bench, contender, processes, 2 * n)
    items = last - first
    round_trips, commands, cpu = ((end - start) / items for start, end in zip(before, after, strict=True))
    return items / (times[last] - times[first]), round_trips, commands, cpu * 1e6


def _wait_for_item(worker: Worker, number: int) -> None:
    wait_for(lambda: number in worker.times(), f"item {number}", seconds=PATIENCE)


def _commands(bench: Bench) -> tuple[int, int]:
    """How often the server read from its clients (once per round trip), and how many commands it carried out."""
    stats = bench.control.info("stats")
    return stats["total_reads_processed"], stats["total_commands_processed"]


def _cpu() -> float:
    """Seconds of CPU time of the workers: all descendants of this process, except the servers."""
    ticks = os.sysconf("SC_CLK_TCK")
    mine, total = os.getpid(), 0.0
    parents, spent = {}, {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, fields = int(entry.parent.name), entry.read_text().rpartition(")")[2].split()
        except OSError:  # the process has just ended
            continue
        parents[pid], spent[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / ticks
    for pid in parents:
        parent = pid
        while parent not in (mine, 0, 1) and parent in parents:
            parent = parents[parent]
        if parent == mine and pid != mine and not _is_server(pid):
            total += spent[pid]
    return total


def _is_server(pid: int) -> bool:
    try:
        program = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]
    except OSError:
        return False
    return b"server" in program or b"postgres" in program
