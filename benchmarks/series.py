"""The cost of the time series behind the charts for put, get and ack: server time, beside that of plain counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest.mock import patch

from benchmarks.growth import script_time
from benchmarks.harness import PAYLOAD, Bench, Row, Target, alternate
from django_srq import SafeRedisQueue
from django_srq.operations import scripts
from django_srq.operations.scripts import Script

OPERATIONS = ("put", "get", "ack")
# The functions of lua/shared/series.lua, without series: a counter is a field of stats, written at once.
_COUNTERS = """
local function count(counter, by)
  redis.call('HINCRBY', stats, counter, by or 1)
end
local function count_time(kind)
  count(kind == 'wait' and 'delivered' or 'acked')
end
local function finish(outcome)
  redis.call('HSET', slots, ARGV[1], ARGV[2] .. ' ' .. seconds .. '000 ' .. outcome)
  return outcome
end
"""


def measure(bench: Bench) -> Iterator[Row]:
    queue, calls = bench.queue(), bench.sizes.calls
    queue.put_many([PAYLOAD] * calls)
    plain = {name: _without_series(name) for name in ("put", "claim", "ack")}
    with_series: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    without: dict[str, list[float]] = {name: [] for name in OPERATIONS}

    def only_counting() -> float:
        with patch.object(Script, "named", staticmethod(plain.__getitem__)):
            return _cycle(bench, queue, calls, without)

    both = {"series": lambda: _cycle(bench, queue, calls, with_series), "counters": only_counting}
    alternate(both, 2 * bench.sizes.rounds)
    for name in OPERATIONS:
        yield Row(
            f"{name}, with time series", with_series[name][1:], "µs", "counters only", without[name][1:], Target(1.1)
        )
    bench.clear()


def _cycle(bench: Bench, queue: SafeRedisQueue, calls: int, costs: dict[str, list[float]]) -> float:
    def timed(operation: Callable[[], object]) -> float:
        operation()  # the first call of a script loads it
        before = script_time(bench)
        for _ in range(calls):
            operation()
        after = script_time(bench)
        return (after[1] - before[1]) / (after[0] - before[0])

    taken: list[object] = []
    costs["put"].append(timed(lambda: queue.put(PAYLOAD)))
    costs["get"].append(timed(lambda: taken.append(queue.get(-1))))
    costs["ack"].append(timed(lambda: queue.ack(taken.pop())))  # type: ignore[arg-type]
    return 0


def _without_series(name: str) -> Script:
    """The script with its part that counts exchanged."""
    shared = scripts._shared
    with patch.object(scripts, "_shared", lambda part: _COUNTERS if part == "series" else shared(part)):
        script: Script = Script.named.__wrapped__(name)  # type: ignore[attr-defined]
    assert script.sha != Script.named(name).sha
    return script
