"""From a put to the handler: an item for a consumer in another process that waits for one."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection

import redis

from benchmarks.bare import HandOff
from benchmarks.harness import PAYLOAD, Bench, Row, Target, alternate
from django_srq import SafeRedisQueue
from tests.waiting import wait_for

CONTENDERS = 2


def measure(bench: Bench) -> Iterator[Row]:
    queue = bench.queue()
    hand_off = HandOff(bench.server.client(), queue.name)
    with (
        _consumer(_consume_queue, bench.server.url, queue.name) as queue_times,
        _consumer(_consume_bare, bench.server.url, queue.name) as bare_times,
    ):
        samples: dict[str, list[list[float]]] = {"queue": [], "bare": []}

        def one_round() -> float:
            """One hand-off of each in turn: what slows the machine for a moment slows both."""
            ours, bare = [], []
            for _ in range(bench.sizes.hand_offs):
                ours.append(_hand_off(bench, lambda: queue.put(PAYLOAD), queue_times))
                bare.append(_hand_off(bench, lambda: hand_off.put(PAYLOAD), bare_times))
            samples["queue"].append(ours)
            samples["bare"].append(bare)
            return 0

        alternate({"both": one_round}, bench.sizes.rounds)
    queue_rounds, bare_rounds = samples["queue"][1:], samples["bare"][1:]
    for name, pick, target in (("median", statistics.median, Target(1.3)), ("99 %", _p99, None)):
        yield Row(
            f"put to handler, {name}",
            [pick(one) * 1000 for one in queue_rounds],
            "ms",
            "bare BLPOP + script",
            [pick(one) * 1000 for one in bare_rounds],
            target,
        )


def _p99(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=100, method="inclusive")[98]


def _hand_off(bench: Bench, put: Callable[[], object], times: Connection) -> float:
    """Seconds from the put to the consumer's hands."""
    wait_for(lambda: bench.control.info("clients")["blocked_clients"] == CONTENDERS, "both consumers to be idle")
    began = time.monotonic()
    put()
    return times.recv() - began


@contextmanager
def _consumer(consume: Callable[[str, str, Connection], None], url: str, name: str) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    times, theirs = context.Pipe(duplex=False)
    process = context.Process(target=consume, args=(url, name, theirs), daemon=True)
    process.start()
    try:
        with closing(times):
            yield times
    finally:
        process.kill()
        process.join()


def _consume_queue(url: str, name: str, times: Connection) -> None:
    queue = SafeRedisQueue(name=name, url=url)
    while True:
        item = queue.get()
        times.send(time.monotonic())  # one clock for all processes of a machine
        queue.ack(item)


def _consume_bare(url: str, name: str, times: Connection) -> None:
    hand_off = HandOff(redis.Redis.from_url(url, socket_timeout=None), name)
    while True:
        uid, _ = hand_off.get()
        times.send(time.monotonic())
        hand_off.ack(uid)
