"""Queues on several servers: one that is away holds up nobody, and is told what it is owed when it is back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from django_srq import SafeRedisQueue, queues
from django_srq.backoff import Backoff
from django_srq.consumer import Consumer, Plan, Source
from django_srq.consumer.worker import Worker
from tests.servers import Server
from tests.test_waits import running
from tests.waiting import wait_for

LONG = 600.0  # seconds; a lease that does not end during a test


@pytest.fixture
def pair() -> Iterator[SimpleNamespace]:
    """A queue on a server that stays, and one on a server that goes and comes back with its data."""
    servers = Server(), Server("--appendonly", "yes", "--appendfsync", "always")
    try:
        here, there = (SafeRedisQueue(name="q", url=server.url) for server in servers)
        yield SimpleNamespace(here=here, there=there, away=servers[1])
    finally:
        for server in servers:
            server.close()


def serve(pair: SimpleNamespace, handle, **plan: object) -> Consumer:
    """The one that goes is asked first."""
    sources = [
        Source(queue, lambda item, queue=queue: handle(queue, item), lease=LONG, backoff=Backoff(0))
        for queue in (pair.there, pair.here)
    ]
    return Consumer(sources, plan=Plan(**plan))


def empty(queue: SafeRedisQueue) -> bool:
    return not any(queue.counts().values())


@pytest.mark.parametrize("threads", [1, 3])
def test_a_server_that_is_away_holds_up_no_other(pair, threads):
    seen: list[tuple[SafeRedisQueue, bytes, int]] = []
    consumer = serve(pair, lambda queue, item: seen.append((queue, item.payload, item.deliveries)), threads=threads)
    with running(consumer):
        pair.there.put("before")
        wait_for(lambda: len(seen) == 1 and empty(pair.there), "the item of the one that goes")
        pair.away.kill()
        for number in range(20):
            pair.here.put(str(number))
            wait_for(lambda: len(seen) == number + 2, "an item of the other", seconds=4)  # noqa: B023
        pair.away.start()
        pair.there.put("after")
        wait_for(lambda: len(seen) == 22, "the item of the one that is back")
        wait_for(lambda: empty(pair.there) and empty(pair.here), "the acks")
    assert sorted(seen[-1:]) == [(pair.there, b"after", 1)]
    assert {deliveries for _, _, deliveries in seen} == {1}


@pytest.mark.parametrize("outcome", ["ack", "fail"])
def test_what_became_of_an_item_is_said_when_its_server_is_back(pair, outcome):
    """Meanwhile its thread goes on with what the other server has."""
    seen: list[bytes] = []

    def handle(queue: SafeRedisQueue, item) -> None:
        seen.append(item.payload)
        if queue is pair.there and len(seen) == 1:
            pair.away.kill()
            if outcome == "fail":
                raise ValueError

    pair.there.put("first")
    consumer = serve(pair, handle)
    with running(consumer):
        wait_for(lambda: seen, "the first")
        pair.here.put("second")
        wait_for(lambda: seen == [b"first", b"second"] and empty(pair.here), "the second, and its ack")
        pair.away.start()
        wait_for(lambda: empty(pair.there), "what was owed")
    assert seen == [b"first", b"second"] + ([b"first"] if outcome == "fail" else [])
    assert consumer.handled == len(seen)
    assert pair.there.snapshot().stats.get("failed", 0) == (outcome == "fail")


def test_a_claim_whose_reply_was_lost_is_made_once(pair):
    """What it took is handled when its server is back, by the one that holds it."""
    seen: list[tuple[bytes, int]] = []
    consumer = serve(pair, lambda queue, item: seen.append((item.payload, item.deliveries)))
    with running(consumer):
        wait_for(lambda: consumer._worker._idler is not None, "an idle worker")
        pair.away.kill()
        pair.here.put("a")
        wait_for(lambda: len(seen) == 1 and empty(pair.here), "the item of the other")
        pair.away.start()
        pair.there.put_many("bc")
        wait_for(lambda: len(seen) == 3, "those of the one that is back")
    assert seen == [(b"a", 1), (b"b", 1), (b"c", 1)]


def test_no_more_than_max_items_are_handled_although_a_claim_comes_late(pair):
    pair.there.put_many("abc")
    pair.away.kill()
    pair.here.put_many("de")
    seen: list[bytes] = []
    consumer = serve(pair, lambda queue, item: seen.append(item.payload), max_items=2)
    with running(consumer):
        wait_for(lambda: len(seen) == 2, "the two")
        pair.away.start()
    assert seen == [b"d", b"e"]
    assert pair.there.counts()["ready"] == 3  # in flight is none
    assert {item.deliveries for item in pair.there.items()} == {0}


def test_a_burst_does_not_end_while_a_server_is_away(pair):
    pair.there.put_many("ab")
    pair.here.put("c")
    pair.away.kill()
    seen: list[bytes] = []
    consumer = serve(pair, lambda queue, item: seen.append(item.payload), burst=True)
    thread = threading.Thread(target=consumer.run, daemon=True)
    thread.start()
    wait_for(lambda: seen == [b"c"] and empty(pair.here), "the item of the other")
    pair.away.start()
    thread.join(60)
    assert seen == [b"c", b"a", b"b"]


def test_the_trouble_is_told_once_and_its_end(pair, caplog):
    caplog.set_level(logging.INFO, "django_srq.consumer")
    seen: list[bytes] = []
    told = lambda text: [record for record in caplog.records if text in record.getMessage()]  # noqa: E731
    with running(serve(pair, lambda queue, item: seen.append(item.payload))):
        pair.away.kill()
        for number in range(3):
            pair.here.put(str(number))
            wait_for(lambda: len(seen) == number + 1, "an item of the other")  # noqa: B023
        wait_for(lambda: told("server unavailable"), "word of the trouble")
        pair.away.start()
        wait_for(lambda: told("server available again"), "word of its end")
    assert len(told("server unavailable")) == 1


def test_an_idle_worker_does_not_keep_asking_for_a_server_that_is_away(pair, monkeypatch):
    rounds: list[int] = []
    rounding = Worker._round
    monkeypatch.setattr(Worker, "_round", lambda *arguments: (rounds.append(1), rounding(*arguments))[1])
    pair.away.kill()
    consumer = serve(pair, lambda queue, item: None, threads=3)
    with running(consumer):
        wait_for(lambda: consumer._worker._errands._owed and consumer._worker._idler is not None, "an idle worker")
        before, looks = len(rounds), []
        # The server that is there tells how long that was: it is asked again after 5 s at the latest.
        wait_for(lambda: looks.append(1) or len(rounds) > before, "the next round")
        assert len(looks) > 20


def test_a_stop_ends_although_a_server_stays_away(pair, monkeypatch):
    monkeypatch.setattr("django_srq.consumer.errands.LAST_WORDS", 0.5)
    pair.there.put("a")
    begun = threading.Event()
    gate = threading.Event()

    def handle(queue: SafeRedisQueue, item) -> None:
        begun.set()
        gate.wait(60)

    with running(serve(pair, handle, threads=2)):
        assert begun.wait(60)
        pair.here.put("b")
        wait_for(lambda: pair.here.counts()["in_flight"], "the other thread at work")
        pair.away.kill()
        gate.set()
    assert empty(pair.here)  # what is said to the other server is said


def test_all_servers_away_and_back(pair):
    servers = pair.away, Server()
    try:
        both = SimpleNamespace(there=pair.there, here=SafeRedisQueue(name="q", url=servers[1].url), away=pair.away)
        seen: list[bytes] = []
        with running(serve(both, lambda queue, item: seen.append(item.payload), threads=2)):
            for server in servers:
                server.kill()
            for server in servers:
                server.start()
            both.here.put("a")
            both.there.put("b")
            wait_for(lambda: sorted(seen) == [b"a", b"b"], "both items")
    finally:
        servers[1].close()


def test_there_is_room_for_what_is_owed(pair):
    """Many failures wait for their server, while the other one goes on."""
    pair.there.put_many(range(100))
    seen: list[bytes] = []
    gate = threading.Event()

    def handle(queue: SafeRedisQueue, item) -> None:
        if queue is pair.there:
            gate.wait(60)
            raise ValueError
        seen.append(item.payload)

    consumer = serve(pair, handle, threads=4, prefetch=25)
    with running(consumer):
        wait_for(lambda: pair.there.counts()["in_flight"] >= 25, "what is claimed")
        pair.away.kill()
        gate.set()
        pair.here.put_many(range(300))
        wait_for(lambda: len(seen) == 300 and empty(pair.here), "what the other has")
        pair.away.start()
        wait_for(lambda: pair.there.snapshot().stats.get("failed", 0) >= 100, "the failures")
        assert consumer._worker._error is None


def test_the_processes_of_a_consumer_go_on_too(pair, project):
    handled = {"HANDLER": "tests.handlers.note"}
    project.configure({"there": {**handled, "URL": pair.away.url}, "here": handled}, project.settings.SRQ_DEFAULTS)
    process = project.start("srq_consume", "there", "here", "--processes", "2")
    queues["there"].put("before")
    project.said("before 1")
    pair.away.kill()
    for number in range(10):
        queues["here"].put(number)
        project.said(f"{number} 1")
    pair.away.start()
    queues["there"].put("after")
    project.said("after 1")
    process.terminate()
    assert process.wait(60) == 0
