"""The threads of a worker: who waits on the server, and that nothing keeps them there."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import pytest

from django_srq.consumer import Consumer, Plan, Source
from django_srq.consumer.hands import Hands
from django_srq.consumer.worker import Worker, _Answer
from django_srq.queue import LOOK, SafeRedisQueue
from tests.servers import Server
from tests.waiting import PATIENT, wait_for


@pytest.fixture
def patient(monkeypatch):
    """No wait on the server ends by itself during a test."""
    waiting = Worker._wait_on_server
    monkeypatch.setattr(Worker, "_wait_on_server", lambda self, seconds, sources: waiting(self, 600, sources))


@contextmanager
def running(consumer: Consumer):
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        yield thread
    finally:
        consumer.stop()
        thread.join(60)
        assert not thread.is_alive()


def worker(*sources: Source) -> Worker:
    plan = Plan()
    hands = Hands(Worker.capacity(sources, plan))
    return Worker(sources, hands, consumer="c1", plan=plan, report=lambda trouble: None)


def test_the_last_of_max_items_ends_the_wait_of_another_thread(patient, queue, client):
    gate = threading.Event()
    consumer = Consumer([Source(queue, lambda item: gate.wait(60))], plan=Plan(threads=2, max_items=2))
    with running(consumer) as thread:
        queue.put("a")
        wait_for(lambda: queue.counts()["in_flight"] == 1, "the first in hand")
        wait_for(lambda: consumer._worker._idler is not None, "the other thread on the server")
        client.hset(queue.keys["items"], "legacy", "b")
        client.lpush(queue.keys["queue"], "legacy")  # and no bell rings
        gate.set()
        thread.join(60)
        assert not thread.is_alive()
    assert consumer.handled == 2


def test_the_end_of_a_burst_ends_the_wait_of_another_thread(patient, make_queue):
    queue = make_queue(max_in_flight=1)
    queue.put_many("ab")

    def handle(item: object) -> None:
        wait_for(lambda: consumer._worker._idler is not None, "the other thread on the server")
        queue.purge("ready")

    consumer = Consumer([Source(queue, handle)], plan=Plan(burst=True, threads=2))
    with running(consumer) as thread:
        thread.join(60)
        assert not thread.is_alive()
    assert consumer.handled == 1


def test_a_thread_that_is_free_again_is_heard_for(patient, make_queue):
    """Of two kinds; while all of the one were busy, the other's thread did not listen for them."""
    plain, other = make_queue("plain"), make_queue("other")
    gate, seen = threading.Event(), []

    def handle(item: object) -> None:
        seen.append(item)
        gate.wait(60)

    consumer = Consumer([Source(plain, print), Source(other, handle, asynchronous=True)])
    with running(consumer):
        other.put("a")
        wait_for(lambda: seen, "the first")
        inner = consumer._worker
        wait_for(lambda: inner._idler is False and inner._heard == {False}, "the other kind on the server")
        gate.set()
        wait_for(lambda: not other.counts()["in_flight"], "the ack of the first")
        other.put("b")
        wait_for(lambda: len(seen) == 2, "the second")


def test_whoever_is_woken_without_room_passes_that_on(queue, client):
    source, answer = Source(queue, print), _Answer()
    queue.put("a")
    client.delete(queue.keys["wake"])
    worker(source)._round([], {False: 0}, source, answer)
    assert client.llen(queue.keys["wake"]) == 1
    assert (answer.jobs, answer.wait, answer.dry) == ([], LOOK, set())


def test_a_token_that_was_taken_at_the_end_is_passed_on(queue, client):
    one = worker(Source(queue, print))
    queue.put("a")
    client.delete(queue.keys["wake"])
    one.stop()
    one.run()
    assert client.llen(queue.keys["wake"]) == 1


def test_what_was_not_started_when_it_stops_is_released(queue):
    source, answer = Source(queue, print), _Answer()
    one = worker(source)
    uids = queue.put_many("ab")
    one._round([], {False: 2}, None, answer)
    one._jobs[False].extend(answer.jobs)
    assert queue.counts()["in_flight"] == 2
    one.stop()
    one.run()
    assert [(item.uid, item.deliveries) for item in queue.get_many(2)] == [(uid, 1) for uid in uids]
    assert not any(one._hands)


def test_a_worker_that_gave_up_leaves_its_last_claim_to_the_supervisor(queue):
    one = worker(Source(queue, print))
    one.stop()
    one._gave_up = True
    one._sign_off()
    assert one._slot.seq == 0  # another call in the slot would hide what the last one took


def test_a_wait_that_is_refused_is_no_reason_to_hurry():
    server = Server()
    try:
        queue = SafeRedisQueue(name="q", url=server.url, timeout=PATIENT)
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "default", "-blpop")
            with running(Consumer([Source(queue, lambda item: None)])):
                queue.put("a")
                wait_for(lambda: queue.snapshot().stats.get("acked"), "the ack")
                begun, before = time.monotonic(), claims(client)
                wait_for(lambda: time.monotonic() > begun + 2, "what it does meanwhile")
                assert claims(client) - before <= (time.monotonic() - begun) * 2 + 5
        queue.link.close()
    finally:
        server.close()


def claims(client) -> int:
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))
