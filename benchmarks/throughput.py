"""Calls per second, sequentially over one connection, beside PING through redis-py and beside the bare bytes."""

from __future__ import annotations

import itertools
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import redis

from benchmarks.harness import PAYLOAD, Bench, Row, Target, alternate
from django_srq import operations
from django_srq.consumer import InProcessConsumer, Subscription
from django_srq.operations import Put
from django_srq.operations.identifiers import new_uid

BATCH = 1000
SEQUENCE = itertools.count(1)


def measure(bench: Bench) -> Iterator[Row]:
    n, queue, client = bench.sizes.calls, bench.queue(), bench.server.client()
    socket_ = socket.create_connection(("127.0.0.1", bench.server.port))
    socket_.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

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
        """Drain the items of put_many: the ack and the next claim share a round trip."""
        return rate(InProcessConsumer([Subscription(queue, lambda item: None)], burst=True).run)

    def bare_puts() -> float:
        """Send the bytes of the puts, packed beforehand; the replies are parsed afterwards."""
        keys = bench.queue().keys
        calls = [operations.put(keys, [Put(new_uid(), PAYLOAD, b"")], own=False) for _ in range(n)]
        packed = [call.pack(b"bare", next(SEQUENCE)) for call in calls]
        return rate(lambda: [_exchange(socket_, command) for command in packed])

    def bare_batches() -> float:
        """As many items in variadic commands within MULTI."""
        name = uuid.uuid4().hex
        return rate(lambda: [_put_bare(client, name, min(BATCH, n - start)) for start in range(0, n, BATCH)])

    def pair(first: Callable[[], float], second: Callable[[], float], rates: list[float]) -> Callable[[], float]:
        def both() -> float:
            rates.append(first())
            return second()

        return both

    puts: list[float] = []
    batches: list[float] = []
    contenders = {
        "ping": ping,
        "get + ack": pair(put, get_ack, puts),
        "consume": pair(put_many, consume, batches),
        "bare puts": bare_puts,
        "bare batches": bare_batches,
    }
    with closing(socket_):
        rates = alternate(contenders, bench.sizes.rounds)
    rows: dict[str, tuple[list[float], Target | None]] = {
        "put, calls": (puts[1:], Target(least=0.8)),
        "put_many, items": (batches[1:], None),
        "get + ack, in two calls": (rates["get + ack"], None),
        "consumer, items": (rates["consume"], Target(least=0.7)),
        "bytes of the puts, raw socket": (rates["bare puts"], None),
    }
    for name, (values, target) in rows.items():
        yield Row(name, values, "per s", "PING through redis-py", rates["ping"], target)
    yield Row(
        "put_many against bare commands", batches[1:], "per s", "LPUSH, HSET in MULTI", rates["bare batches"],
        Target(least=0.6),
    )  # fmt: skip


def _exchange(socket_: socket.socket, command: bytes) -> Any:
    """The least that a round trip costs in Python: it parses nothing, because these replies all have the same end."""
    socket_.sendall(command)
    reply = socket_.recv(65536)
    while not reply.endswith(b"\r\n"):
        reply += socket_.recv(65536)
    return reply


def _put_bare(client: redis.Redis, name: str, n: int) -> None:
    uids = [str(uuid.uuid4()) for _ in range(n)]
    with client.pipeline(transaction=True) as pipeline:
        pipeline.lpush(f"bare:{name}:queue", *uids)
        pipeline.hset(f"bare:{name}:items", mapping=dict.fromkeys(uids, PAYLOAD))
        pipeline.execute()
