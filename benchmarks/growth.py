"""Whether put, get and ack cost more when many items are in flight or waiting: in the server, and over the wire."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from benchmarks.harness import PAYLOAD, Bench, Row, Target, alternate
from django_srq import SafeRedisQueue

AT_A_TIME = 20_000  # items in one put_many; this process holds them all in memory
Costs = defaultdict[str, list[float]]  # lists of times, by the name of the measure


def measure(bench: Bench) -> Iterator[Row]:
    for state, sizes in (("in flight", bench.sizes.in_flight), ("waiting", bench.sizes.waiting)):
        queues = {n: bench.queue() for n in sizes}
        for n, queue in queues.items():
            _put(queue, n)
            if state == "in flight":
                _take(queue, n)
        yield from _compare(bench, queues, state)
        bench.clear()


def _put(queue: SafeRedisQueue, n: int) -> None:
    for start in range(0, n, AT_A_TIME):
        queue.put_many([PAYLOAD] * min(AT_A_TIME, n - start))


def _take(queue: SafeRedisQueue, n: int) -> None:
    left = n
    while left:
        left -= len(queue.get_many(min(1000, left)))


def _compare(bench: Bench, queues: Mapping[int, SafeRedisQueue], state: str) -> Iterator[Row]:
    costs: dict[int, Costs] = {n: defaultdict(list) for n in queues}
    cycles = {str(n): lambda n=n: _cycle(bench, queues[n], costs[n]) for n in queues}
    alternate(cycles, 2 * bench.sizes.rounds)
    few, *more = queues
    for many in more:
        for what, values in costs[many].items():
            yield Row(f"{what}, {many:,} {state}", values[1:], "µs", f"{few:,}", costs[few][what][1:], Target(1.2))


def _cycle(bench: Bench, queue: SafeRedisQueue, costs: Costs) -> float:
    """Put some items, get and ack as many; the queue is as long afterwards as before."""
    calls = max(10, bench.sizes.calls // 5)
    taken = []

    def timed(operation: Callable[[], object]) -> tuple[float, float]:
        """The time of one call (µs): in the server's script, and for the caller."""
        before, began = script_time(bench), time.perf_counter()
        for _ in range(calls):
            operation()
        seconds, after = time.perf_counter() - began, script_time(bench)
        return (after[1] - before[1]) / (after[0] - before[0]), seconds / calls * 1e6

    spent = {
        "put": timed(lambda: queue.put(PAYLOAD)),
        "get": timed(lambda: taken.append(queue.get(-1))),
        "ack": timed(lambda: queue.ack(taken.pop())),
    }
    for operation, (in_server, _) in spent.items():
        costs[operation].append(in_server)
    costs["put, over the wire"].append(spent["put"][1])
    costs["get and ack, over the wire"].append(spent["get"][1] + spent["ack"][1])
    return 0


def script_time(bench: Bench) -> tuple[int, float]:
    """The number of scripts that the server ran, and their time (µs)."""
    stats = bench.control.info("commandstats")["cmdstat_evalsha"]
    return stats["calls"], stats["usec"]
