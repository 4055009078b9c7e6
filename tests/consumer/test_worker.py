"""The threads of a worker, and work that none of them may do while it holds the worker's lock."""

from __future__ import annotations

import threading

import pytest

from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from django_srq.consumer.ledger import FAILED, HELD, RUNNING
from django_srq.consumer.worker.settler import Settler
from django_srq.queue.serializers import JSON
from django_srq.transport.link import Link
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


@pytest.mark.parametrize("plan", [{"prefetch": ITEMS}, {}, {"burst": True}, {"max_items": 2 * ITEMS}])
@pytest.mark.parametrize("queues", [1, 2])
def test_nothing_is_sent_to_a_server_or_awaited_from_it_under_the_lock(make_queue, monkeypatch, plan, queues):
    made = [make_queue(str(number)) for number in range(queues)]
    seen, talked, locked = [], set(), []

    def watched(owner: type, name: str) -> None:
        talk = getattr(owner, name)

        def watch(*args, **options):
            talked.add(name)
            if consumer._worker._buffer._lock._is_owned():
                locked.append(name)
            return talk(*args, **options)

        monkeypatch.setattr(owner, name, watch)

    for owner, name in ((Link, "call"), (Link, "park"), (Link, "wait"), (Link, "once"), (Stream, "collect")):
        watched(owner, name)
    watched(Stream, "post")
    subscriptions = [Subscription(queue, lambda item: seen.append(item.payload), lease=600) for queue in made]
    consumer = InProcessConsumer(subscriptions, options=ConsumerOptions(threads=2, **plan))
    for queue in made:
        queue.put_many(["x"] * ITEMS)
    with running(consumer):
        wait_for(lambda: len(seen) == queues * ITEMS, "all items")
        wait_for(lambda: not any(any(queue.counts().values()) for queue in made), "their acks")
    assert {"call", "collect"} <= talked
    assert locked == []


def test_no_item_of_a_batch_is_running_while_the_server_is_told_of_a_payload_that_cannot_be_decoded(
    make_queue, client, monkeypatch
):
    """Their time limit would run. And the bad one is gone before the handler may kill the process: it is not blamed."""
    queue = make_queue(serializer=JSON())
    uids = queue.put_many("ab")
    client.hset(queue.keys["items"], uids[1], b"{")
    happened = []
    burying = Settler._bury

    def states() -> list[int]:
        return [entry.state for entry in consumer._ledger]

    monkeypatch.setattr(Settler, "_bury", lambda *arguments: (happened.append(states()), burying(*arguments))[1])

    def handle(items) -> None:
        happened.append(states())

    consumer = InProcessConsumer([Subscription(queue, handle, batch=2, lease=600)], burst=True)
    consumer.run()
    assert happened == [[HELD, FAILED], [RUNNING]]
    assert queue.counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 1}
