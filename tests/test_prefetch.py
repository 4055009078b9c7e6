"""Items claimed ahead: acked one by one all the same, given back when they are not started."""

from __future__ import annotations

import threading

import pytest

from django_srq import SafeRedisQueue
from django_srq.consumer import Consumer, Plan, Source
from tests.servers import Server
from tests.waiting import wait_for


def consume(queue, handle, **plan):
    return Consumer([Source(queue, handle)], plan=Plan(burst=True, **{"prefetch": 10, **plan})).run()


@pytest.mark.parametrize("threads", [1, 3])
def test_all_are_handled_once(queue, threads):
    queue.put_many(range(95))
    seen: list[bytes] = []
    assert consume(queue, lambda item: seen.append(item.payload), threads=threads) == 95
    assert sorted(seen, key=int) == [str(n).encode() for n in range(95)]
    assert threads > 1 or seen == [str(n).encode() for n in range(95)]
    assert sum(queue.counts().values()) == 0
    assert queue.snapshot().stats["acked"] == 95
    assert queue.audit() == []


def test_each_is_acked_before_the_next_is_begun(queue, client):
    """So a crash repeats no more than the item in hand."""
    queue.put_many(range(10))
    gone: list[int] = []

    def handle(item: object) -> None:
        done = len(gone)
        gone.append(wait_for(lambda: 10 - client.hlen(queue.keys["items"]) == done and done + 1, "the ack before"))

    consume(queue, handle)
    assert gone == list(range(1, 11))


def test_many_items_are_one_claim(queue, client):
    queue.put_many(range(20))
    consume(queue, lambda item: None)  # now the server knows the scripts
    queue.put_many(range(30))
    before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    consume(queue, lambda item: None)
    calls = client.info("commandstats")["cmdstat_evalsha"]["calls"] - before
    # 27 acks by themselves and 3 with the next claim; 3 claims, and one that finds nothing; it signs on and off.
    assert calls <= 27 + 4 + 3


def test_what_was_not_started_is_given_back_when_stopped(queue):
    queue.put_many(range(10))
    begun, end = threading.Event(), threading.Event()

    def handle(item: object) -> None:
        begun.set()
        end.wait(60)

    consumer = Consumer([Source(queue, handle)], plan=Plan(prefetch=10))
    thread = threading.Thread(target=consumer.run)
    thread.start()
    assert begun.wait(60)
    assert queue.counts() == {"ready": 0, "in_flight": 10, "delayed": 0, "dead": 0}
    consumer.stop()
    end.set()
    thread.join(60)
    assert not thread.is_alive()
    assert [(item.payload, item.deliveries) for item in queue.items()] == [(str(n).encode(), 0) for n in range(1, 10)]


def test_failures_among_them(queue):
    queue.put_many(range(10))

    def handle(item: object) -> None:
        if int(item.payload) % 2:
            raise ValueError

    assert consume(queue, handle) == 10
    assert sorted(int(item.payload) for item in queue.items("delayed")) == [1, 3, 5, 7, 9]
    assert sum(queue.counts().values()) == 5


@pytest.mark.parametrize("cut_at", [2, 5, 9])
def test_acks_whose_replies_are_lost(cut_at):
    """All connections break in the middle: each ack is carried out once, and each item handled once."""
    server = Server()
    try:
        queue = SafeRedisQueue(name="cut", url=server.url, timeout=20)
        queue.put_many(range(30))
        seen: list[bytes] = []

        def handle(item: object) -> None:
            seen.append(item.payload)
            if len(seen) % 10 == cut_at:
                with server.client() as client:
                    client.client_kill_filter(_type="normal", skipme=True)

        assert consume(queue, handle) == 30
        assert seen == [str(n).encode() for n in range(30)]
        assert sum(queue.counts().values()) == 0
        assert queue.snapshot().stats["acked"] == 30
        queue.link.close()
    finally:
        server.close()
