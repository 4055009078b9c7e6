"""The server's memory per item of 100 bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.bare import lay_out_as_saferedisqueue
from benchmarks.harness import PAYLOAD, Bench, Row, Target
from tests.support.waiting import wait_for

AT_A_TIME = 1000


def measure(bench: Bench) -> Iterator[Row]:
    n = bench.sizes.items
    queue = bench.queue()

    def put_as_saferedisqueue() -> None:
        with bench.server.client() as client:
            for _ in range(0, n, AT_A_TIME):
                lay_out_as_saferedisqueue(client, "theirs", [PAYLOAD] * AT_A_TIME)

    def put() -> None:
        queue.put_many([PAYLOAD] * n)

    def take() -> None:
        for _ in range(0, n, AT_A_TIME):
            queue.get_many(AT_A_TIME)

    theirs = _grown(bench, put_as_saferedisqueue) / n
    ours = _grown(bench, put) / n
    more = _grown(bench, take) / n
    bench.clear()
    yield Row("memory per queued item", [ours], "bytes", "saferedisqueue's layout", [theirs], Target(1.05, timed=False))
    yield Row("more while it is in flight", [more], "bytes", target=Target(300, timed=False))


def _grown(bench: Bench, work: Callable[[], None]) -> int:
    before = used(bench)
    work()
    return used(bench) - before


def used(bench: Bench) -> int:
    """The server's used_memory, after the buffers of other connections are gone."""
    bench.control.client_kill_filter(_type="normal", skipme=True)
    wait_for(lambda: bench.control.info("clients")["connected_clients"] == 1, "the other connections to be closed")
    return bench.control.info("memory")["used_memory"]
