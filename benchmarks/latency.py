"""The time from a put to the handler: an item for an idle consumer in another process."""

from __future__ import annotations

import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from typing import TypeVar

import redis

from benchmarks.bare import HandOff
from benchmarks.harness import PAYLOAD, Bench, Row, Target, alternate
from django_srq import SafeRedisQueue
from django_srq.consumer import InProcessConsumer, Subscription
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from tests.support.waiting import wait_for

T = TypeVar("T")
CONTENDERS = 2
MANY = 200  # queues of a single consumer


def measure(bench: Bench) -> Iterator[Row]:
    queue = bench.queue()
    hand_off = HandOff(bench.server.client(), queue.name)
    with (
        _consumer(_consume_queue, bench.server.url, queue.name) as queue_times,
        _consumer(_consume_bare, bench.server.url, queue.name) as bare_times,
    ):
        samples: dict[str, list[list[float]]] = {"queue": [], "bare": []}

        def one_round() -> float:
            """One hand-off of each contender in turn: a moment in which the machine is slow hits all of them."""
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
            [pick(times) * 1000 for times in queue_rounds],
            "ms",
            "bare BLPOP + script",
            [pick(times) * 1000 for times in bare_rounds],
            target,
        )

    yield _many_queues(bench)


def _many_queues(bench: Bench) -> Row:
    """Single items for an idle consumer of many queues."""
    queues = [bench.queue() for _ in range(MANY)]
    names = [queue.name for queue in queues]
    rounds = []
    with _consumer(_consume_many, bench.server.url, names) as times:
        for _ in range(bench.sizes.rounds):
            chosen = random.sample(queues, min(MANY, bench.sizes.hand_offs))
            rounds.append([_hand_off(bench, lambda queue=queue: queue.put(PAYLOAD), times, idle=1) for queue in chosen])
    return Row(
        f"put to handler, a consumer of {MANY} queues, median",
        [statistics.median(times) * 1000 for times in rounds],
        "ms",
        target=Target(5),
    )


def _p99(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=100, method="inclusive")[98]


def _hand_off(bench: Bench, put: Callable[[], object], times: Connection, *, idle: int = CONTENDERS) -> float:
    """Seconds from the put until the consumer has the item."""
    wait_for(lambda: bench.control.info("clients")["blocked_clients"] == idle, "idle consumers")
    began = time.monotonic()
    put()
    return times.recv() - began


@contextmanager
def _consumer(consume: Callable[[str, T, Connection], None], url: str, name: T) -> Iterator[Connection]:
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
        times.send(time.monotonic())  # all processes of a machine share this clock
        queue.ack(item)


def _consume_many(url: str, names: Sequence[str], times: Connection) -> None:
    link = Link(client_from_url(url))
    subscriptions = [
        Subscription(SafeRedisQueue(name=name, link=link), lambda item: times.send(time.monotonic())) for name in names
    ]
    InProcessConsumer(subscriptions).run()


def _consume_bare(url: str, name: str, times: Connection) -> None:
    hand_off = HandOff(redis.Redis.from_url(url, socket_timeout=None), name)
    while True:
        uid, _ = hand_off.get()
        times.send(time.monotonic())
        hand_off.ack(uid)
