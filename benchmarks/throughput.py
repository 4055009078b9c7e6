"""Calls per second, one after the other over one connection, next to those of PING through redis-py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from benchmarks.harness import PAYLOAD, Bench, Row, alternate
from django_srq.consumer import Consumer, Source


def measure(bench: Bench) -> Iterator[Row]:
    n, queue, client = bench.sizes.calls, bench.queue(), bench.server.client()

    def rate(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return n / (time.perf_counter() - began)

    def ping() -> float:
        return rate(lambda: [client.ping() for _ in range(n)])

    def put() -> float:
        return rate(lambda: [queue.put(PAYLOAD) for _ in range(n)])

    def get_ack() -> float:
        return rate(lambda: [queue.ack(queue.get(-1)) for _ in range(n)])

    def put_many() -> float:
        return rate(lambda: queue.put_many([PAYLOAD] * n))

    def consume() -> float:
        """Drains what put_many put: ack and claim in one round trip."""
        return rate(Consumer([Source(queue, lambda item: None)], burst=True).run)

    def pair(first: Callable[[], float], second: Callable[[], float], rates: list[float]) -> Callable[[], float]:
        def both() -> float:
            rates.append(first())
            return second()

        return both

    puts: list[float] = []
    batches: list[float] = []
    contenders = {"ping": ping, "get + ack": pair(put, get_ack, puts), "consume": pair(put_many, consume, batches)}
    rates = alternate(contenders, bench.sizes.rounds)
    rows = {
        "put, calls": puts[1:],
        "put_many, items": batches[1:],
        "get + ack, in two calls": rates["get + ack"],
        "consumer, ack + get in one": rates["consume"],
    }
    for name, values in rows.items():
        yield Row(name, values, "per s", "PING through redis-py", rates["ping"])
