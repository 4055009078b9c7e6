"""Whether get and ack cost more when many items are in flight or waiting: time in the server, where it can grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.harness import PAYLOAD, Bench, Row, Target, alternate
from django_srq import SafeRedisQueue

AT_A_TIME = 20_000  # items put at once: they are all held in memory here meanwhile


def measure(bench: Bench) -> Iterator[Row]:
    sizes = bench.sizes
    few, many = bench.queue(), bench.queue()
    for queue, n in ((few, sizes.few), (many, sizes.many_in_flight)):
        _put(queue, n)
        _take(queue, n)
    yield from _compare(bench, few, many, f"{sizes.many_in_flight:,} in flight", f"{sizes.few:,}")
    bench.clear()

    few, many = bench.queue(), bench.queue()
    for queue, n in ((few, sizes.few), (many, sizes.many_waiting)):
        _put(queue, n)
    yield from _compare(bench, few, many, f"{sizes.many_waiting:,} waiting", f"{sizes.few:,}")
    bench.clear()


def _put(queue: SafeRedisQueue, n: int) -> None:
    for start in range(0, n, AT_A_TIME):
        queue.put_many([PAYLOAD] * min(AT_A_TIME, n - start))


def _take(queue: SafeRedisQueue, n: int) -> None:
    left = n
    while left:
        left -= len(queue.get_many(min(1000, left)))


def _compare(bench: Bench, few: SafeRedisQueue, many: SafeRedisQueue, what: str, against: str) -> Iterator[Row]:
    calls = max(10, bench.sizes.calls // 5)

    def timed(operation: Callable[[], object]) -> float:
        before = script_time(bench)
        for _ in range(calls):
            operation()
        after = script_time(bench)
        return (after[1] - before[1]) / (after[0] - before[0])

    def cycle(queue: SafeRedisQueue, costs: dict[str, list[float]]) -> float:
        queue.put_many([PAYLOAD] * calls)  # so that as many wait as before
        taken = []
        costs["get"].append(timed(lambda: taken.append(queue.get(-1))))
        costs["ack"].append(timed(lambda: queue.ack(taken.pop())))
        return 0

    of_few: dict[str, list[float]] = {"get": [], "ack": []}
    of_many: dict[str, list[float]] = {"get": [], "ack": []}
    alternate({"few": lambda: cycle(few, of_few), "many": lambda: cycle(many, of_many)}, 2 * bench.sizes.rounds)
    for operation in ("get", "ack"):
        yield Row(f"{operation}, {what}", of_many[operation][1:], "µs", against, of_few[operation][1:], Target(1.3))


def script_time(bench: Bench) -> tuple[int, float]:
    """How many scripts the server ran, and the time (µs) that it took."""
    stats = bench.control.info("commandstats")["cmdstat_evalsha"]
    return stats["calls"], stats["usec"]
