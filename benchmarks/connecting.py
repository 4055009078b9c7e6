"""The cost of a new connection: a put over a new connection, with TLS and without."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection

from benchmarks.harness import PAYLOAD, Bench, Row, Target, alternate
from tests.support.tls import Front, PlainFront

FRONTS = {"TLS": Front, "plain": PlainFront}


def measure(bench: Bench) -> Iterator[Row]:
    """Both ways lead through a relay in a process of its own, because not every server is built with TLS."""
    with _front("TLS", bench.server.port) as secured, _front("plain", bench.server.port) as plain:
        puts = {"TLS": _putting(bench, secured), "plain": _putting(bench, plain)}
        values = alternate(puts, bench.sizes.rounds)
    name = "put on a new connection with TLS"
    yield Row(name, values["TLS"], "ms", "without TLS", values["plain"], Target(5))


def _putting(bench: Bench, url: str) -> Callable[[], float]:
    queue = bench.queue(url)

    def put() -> float:
        """The milliseconds of a put that has to open its connection."""
        took = 0.0
        for _ in range(bench.sizes.hand_offs):
            queue.link.close()
            began = time.perf_counter()
            queue.put(PAYLOAD)
            took += time.perf_counter() - began
        return took / bench.sizes.hand_offs * 1000

    return put


@contextmanager
def _front(kind: str, port: int) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    said, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_listen, args=(kind, port, theirs), daemon=True)
    process.start()
    try:
        with closing(said):
            yield said.recv()
    finally:
        process.kill()
        process.join()


def _listen(kind: str, port: int, said: Connection) -> None:
    said.send(FRONTS[kind](port).url)  # the threads of the front go on until this process is killed
