"""Round trips per operation, and those of an idle consumer, counted between client and server."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator

from benchmarks.harness import PAYLOAD, Bench, Row, Target
from benchmarks.server import Meter
from django_srq import SafeRedisQueue
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from tests.support.waiting import wait_for

ONE = Target(1, timed=False)


def measure(bench: Bench) -> Iterator[Row]:
    meter = Meter(bench.server.port)
    queue = bench.queue(meter.url)
    queue.put(PAYLOAD)
    queue.ack(queue.get(-1))  # opens the connection, and loads the scripts into the server
    yield from _operations(queue, meter, bench.sizes.counted)
    yield _fused(queue, meter, bench.sizes.counted)
    yield _idle(bench, meter, bench.sizes.idle)
    meter.close()


def _operations(queue: SafeRedisQueue, meter: Meter, n: int) -> Iterator[Row]:
    def count(measure: str, operation: Callable[[], object]) -> Row:
        before = meter.round_trips
        for _ in range(n):
            operation()
        return Row(measure, [(meter.round_trips - before) / n], "round trips", target=ONE)

    taken = []
    yield count("put", lambda: queue.put(PAYLOAD))
    yield count("get that does not block", lambda: taken.append(queue.get(-1)))
    yield count("ack", lambda: queue.ack(taken.pop()))
    yield count("get on an empty queue", lambda: queue.get(-1))


def _fused(queue: SafeRedisQueue, meter: Meter, n: int) -> Row:
    """The round trips that an item adds for a consumer that claims single items, as it does unless they are very short.

    Two runs are subtracted, so that their beginning and their end do not count.
    """
    one_by_one = ConsumerOptions(burst=True, prefetch=1)

    def drain(items: int) -> int:
        queue.put_many([PAYLOAD] * items)
        before = meter.round_trips
        InProcessConsumer([Subscription(queue, lambda item: None)], options=one_by_one).run()
        return meter.round_trips - before

    drain(1)
    # The median, because the thread that renews the leases may open a connection at any time.
    return Row("ack + get of a consumer", [(drain(2 * n) - drain(n)) / n for _ in range(5)], "round trips", target=ONE)


def _idle(bench: Bench, meter: Meter, seconds: float) -> Row:
    queue = bench.queue()
    process = multiprocessing.get_context("spawn").Process(target=_consume, args=(meter.url, queue.name), daemon=True)
    process.start()
    try:
        wait_for(lambda: any("pid" in about for about in queue.snapshot().consumers.values()), "its entry")
        wait_for(lambda: bench.control.info("clients")["blocked_clients"], "the consumer to be idle")
        before, began = meter.round_trips, time.monotonic()
        time.sleep(seconds)
        rate = (meter.round_trips - before) / (time.monotonic() - began)
        return Row("idle consumer", [rate], "round trips/s", target=Target(0.5, timed=False))
    finally:
        process.kill()
        process.join()


def _consume(url: str, name: str) -> None:
    InProcessConsumer([Subscription(SafeRedisQueue(name=name, url=url), lambda item: None)]).run()
