"""Items claimed ahead: each is acked when it is handled, and given back when it is not started."""

from __future__ import annotations

import threading
import time

import pytest

from django_srq import SafeRedisQueue, signals
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from django_srq.consumer.leases import Leases
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.worker import prefetch
from django_srq.consumer.worker.claims import Claims
from django_srq.consumer.worker.roles import Roles
from django_srq.consumer.worker.settler import Settler
from django_srq.operations import DeliveryRef
from django_srq.queue.backoff import Backoff
from django_srq.transport.stream import Stream
from tests.consumer.test_wakeups import running
from tests.support.servers import Server
from tests.support.waiting import wait_for

# Seconds: no lease is renewed during a test, because calls are counted here, and no failed item comes back.
LONG = 600


# In a burst, a consumer claims when the last items are handled; otherwise it claims while they are.
burst_or_not = pytest.mark.parametrize("burst", [True, False])


def consume(queue, handle, *, burst=True, **plan):
    subscription = Subscription(queue, handle, lease=LONG, backoff=Backoff(base=2 * LONG))
    consumer = InProcessConsumer([subscription], options=ConsumerOptions(burst=burst, **{"prefetch": 10, **plan}))
    if burst:
        return consumer.run()
    with running(consumer):
        wait_for(lambda: not any(queue.counts()[state] for state in ("ready", "in_flight")), "all items")
    return consumer.handled


@burst_or_not
@pytest.mark.parametrize("threads", [1, 3])
def test_all_items_are_handled_once(queue, threads, burst):
    queue.put_many(range(95))
    seen: list[bytes] = []
    assert consume(queue, lambda item: seen.append(item.payload), threads=threads, burst=burst) == 95
    assert sorted(seen, key=int) == [str(n).encode() for n in range(95)]
    assert threads > 1 or seen == [str(n).encode() for n in range(95)]
    assert sum(queue.counts().values()) == 0
    assert queue.snapshot().stats["acked"] == 95
    assert queue.audit() == []


@burst_or_not
def test_each_item_is_acked_before_the_next_is_begun(queue, client, burst):
    """So a crash repeats only the item in hand. This holds also while the server does not know the scripts yet."""
    client.script_flush()
    queue.put_many(range(20))
    gone: list[int] = []

    def handle(item: object) -> None:
        done = len(gone)
        gone.append(wait_for(lambda: 20 - client.hlen(queue.keys["items"]) == done and done + 1, "the ack before"))

    consume(queue, handle, burst=burst)
    assert gone == list(range(1, 21))


def test_many_items_are_claimed_in_one_call(queue, client):
    queue.put_many(range(20))
    consume(queue, lambda item: None)  # loads the scripts into the server
    queue.put_many(range(30))
    before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    consume(queue, lambda item: None)
    calls = client.info("commandstats")["cmdstat_evalsha"]["calls"] - before
    # 27 acks alone and 3 with the next claim; 3 claims, and one that finds nothing; the consumer registers and leaves.
    assert calls <= 27 + 4 + 3


def test_items_that_were_not_started_are_given_back_at_a_stop(queue):
    queue.put_many(range(10))
    begun, end = threading.Event(), threading.Event()

    def handle(item: object) -> None:
        begun.set()
        end.wait(60)

    consumer = InProcessConsumer([Subscription(queue, handle)], options=ConsumerOptions(prefetch=10))
    thread = threading.Thread(target=consumer.run)
    thread.start()
    assert begun.wait(60)
    assert queue.counts() == {"ready": 0, "in_flight": 10, "delayed": 0, "dead": 0}
    consumer.stop()
    end.set()
    thread.join(60)
    assert not thread.is_alive()
    assert [(item.payload, item.deliveries) for item in queue.items()] == [(str(n).encode(), 0) for n in range(1, 10)]


@burst_or_not
def test_failures_among_prefetched_items(queue, burst):
    queue.put_many(range(30))

    def handle(item: object) -> None:
        if int(item.payload) % 2:
            raise ValueError

    assert consume(queue, handle, burst=burst) == 30
    assert sorted(int(item.payload) for item in queue.items("delayed")) == list(range(1, 30, 2))
    assert sum(queue.counts().values()) == 15


@pytest.mark.parametrize("cut_at", [2, 5, 9])
def test_acks_survive_the_loss_of_their_replies(cut_at):
    """All connections break in the middle: each ack is carried out once, and each item is handled once."""
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


# -- adaptive prefetch


def test_short_items_are_claimed_ahead_in_growing_numbers(queue):
    queue.put_many(range(1000))
    seen: list[int] = []
    looks = {0, *range(500, 1000, 50)}
    handled = iter(range(1000))

    def handle(item: object) -> None:
        if next(handled) in looks:  # a call of counts takes longer than an item here
            seen.append(queue.counts()["in_flight"])

    assert consume(queue, handle, prefetch=None) == 1000
    assert seen[0] == 1
    assert max(seen) > 1


@burst_or_not
def test_slow_items_are_claimed_one_by_one(queue, burst):
    queue.put_many(range(20))
    seen: list[int] = []

    def handle(item: object) -> None:
        seen.append(queue.counts()["in_flight"])
        pass_time()

    consume(queue, handle, prefetch=None, burst=burst)
    assert seen == [1] * 20


def pass_time() -> None:
    done = time.monotonic() + 2 * prefetch.AHEAD
    wait_for(lambda: time.monotonic() > done, "a while")


def test_a_slow_report_of_a_failure_counts_as_a_slow_item(queue):
    queue.put_many(range(20))
    seen: list[int] = []

    def handle(item: object) -> None:
        seen.append(queue.counts()["in_flight"])
        raise ValueError

    def take_long(**about: object) -> None:
        pass_time()

    signals.item_failed.connect(take_long)
    try:
        consume(queue, handle, prefetch=None)
    finally:
        signals.item_failed.disconnect(take_long)
    assert seen == [1] * 20


def test_a_slow_send_of_an_ack_does_not_count_as_a_slow_item(queue, monkeypatch):
    """With many threads, sends delay each other; to claim single items then would make it worse."""
    send = Stream.send
    monkeypatch.setattr(Stream, "send", lambda *args, **options: (pass_time(), send(*args, **options))[1])
    queue.put_many(range(100))
    seen: list[int] = []
    handled = iter(range(100))

    def handle(item: object) -> None:
        if next(handled) in range(50, 100, 5):  # several: one may follow an item that was slow on a busy machine
            seen.append(queue.counts()["in_flight"])

    assert consume(queue, handle, prefetch=None) == 100
    assert max(seen) > 1


@burst_or_not
@pytest.mark.parametrize("limit", [{"max_in_flight": 50}, {"rate": "100000/s"}])
def test_with_limits_nothing_is_claimed_ahead(make_queue, limit, burst):
    queue = make_queue(**limit)
    queue.put_many(range(300))
    handled: list[int] = []
    seen: list[int] = []

    def handle(item: object) -> None:
        handled.append(1)
        if len(handled) % 50 == 0:
            seen.append(queue.counts()["in_flight"])

    assert consume(queue, handle, prefetch=None, burst=burst) == 300
    assert seen == [1] * 6


@pytest.fixture
def quick(monkeypatch):
    """As after items so short that ten are claimed at one time."""
    monkeypatch.setattr(prefetch.AdaptivePrefetch, "ahead", 10)


def test_items_behind_a_slow_item_are_given_back(queue, quick):
    """They were claimed because the items before were short."""
    queue.put_many(range(20))
    begun, end = threading.Event(), threading.Event()
    handled: list[bytes] = []

    def handle(item: object) -> None:
        handled.append(item.payload)
        if len(handled) == 3:
            begun.set()
            assert end.wait(60)

    consumer = InProcessConsumer([Subscription(queue, handle)], burst=True)
    thread = threading.Thread(target=consumer.run, daemon=True)
    thread.start()
    assert begun.wait(60)
    wait_for(lambda: queue.counts() == {"ready": 17, "in_flight": 1, "delayed": 0, "dead": 0}, "the others back")
    assert {item.deliveries for item in queue.items()} == {0}
    end.set()
    thread.join(60)
    assert handled == [str(n).encode() for n in range(20)]  # in the original order
    assert sum(queue.counts().values()) == 0


def test_a_burst_does_not_end_while_items_are_being_given_back(queue, quick, monkeypatch):
    """A thread without work finds the queue empty meanwhile, and must not take that for the end of the burst."""
    queue.put_many(range(20))
    claimed, giving = threading.Event(), threading.Event()
    release, claim, unload = Settler.release, Claims.claim, Roles._unload

    def unload_when_blocked(roles, answer):
        if blocked:  # on a slow machine it must not do so sooner
            unload(roles, answer)

    def slow_release(settler, subscription, jobs):
        if jobs:
            giving.set()
            claimed.wait(1)  # no claim may come, so this waits in vain
        release(settler, subscription, jobs)

    def told_claim(*args):
        found = claim(*args)
        if giving.is_set():
            claimed.set()
        return found

    monkeypatch.setattr(Roles, "_unload", unload_when_blocked)
    monkeypatch.setattr(Settler, "release", slow_release)
    monkeypatch.setattr(Claims, "claim", told_claim)
    handled, blocked = [], []

    def handle(item: object) -> None:
        handled.append(item)
        waiting = sum(len(group.jobs) for group in consumer._worker._buffer.groups)
        if blocked or (waiting > 4 and len(handled) + waiting >= 18):  # the last items are in hand
            blocked.append(item)
            assert giving.wait(60)

    consumer = InProcessConsumer([Subscription(queue, handle)], options=ConsumerOptions(burst=True, threads=2))
    assert consumer.run() == 20
    assert blocked


def test_the_prefetch_falls_at_once_when_items_become_slow():
    paced = prefetch.AdaptivePrefetch()
    assert paced.ahead == 1
    for _ in range(100):
        paced.took(0.0001)
    assert 40 < paced.ahead <= 50
    paced.took(1.0)
    assert paced.ahead == 1
    for _ in range(200):
        paced.took(0)
    assert paced.ahead == prefetch.MOST


def test_a_lease_is_renewed_until_the_ack_is_known_to_have_arrived(queue, client):
    """An ack that was lost is sent again only after the next item, however long that takes."""
    queue.put("a")
    item = queue.get(-1)
    ledger = Ledger(1)
    ledger.hold(0, DeliveryRef(item.uid, item.token), until=0)
    ledger.ack(0)
    Leases("c1", [Subscription(queue, print, lease=LONG)], lambda: [ledger]).renew()
    seconds, _ = client.time()
    assert client.zscore(queue.keys["leases"], item.uid) / 1000 > seconds + LONG / 2
