"""The threads of a worker, and work that none of them may do while it holds the worker's lock."""

from __future__ import annotations

import threading

from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from django_srq.transport.stream import Stream
from tests.consumer.test_wakeups import running
from tests.support.waiting import wait_for

ITEMS = 20


def test_a_slow_connection_for_acks_delays_no_other_thread(queue, monkeypatch):
    queue.put_many(["x"] * ITEMS)
    seen, connecting, gate, ready = [], threading.Event(), threading.Event(), Stream._ready

    def slow(self, sent):
        connecting.set()
        gate.wait(60)
        return ready(self, sent)

    monkeypatch.setattr(Stream, "_ready", slow)
    options = ConsumerOptions(threads=3, prefetch=ITEMS)
    with running(InProcessConsumer([Subscription(queue, seen.append, lease=600)], options=options)):
        try:
            wait_for(lambda: len(seen) == ITEMS, "all items, beside the thread that connects")
            assert connecting.is_set()
            assert queue.counts()["in_flight"] >= 1  # the first item is not acked yet
        finally:
            gate.set()
        wait_for(lambda: sum(queue.counts().values()) == 0, "all acks")
