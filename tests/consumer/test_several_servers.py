"""Queues on several servers: a server that is away delays no other, and gets the calls it is owed when it is back."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest

from django_srq import SafeRedisQueue, operations, queues
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from django_srq.consumer.clock import lease_time
from django_srq.consumer.leases import Leases
from django_srq.consumer.ledger import FAILED, HELD, RUNNING
from django_srq.consumer.processes.child_handle import ChildHandle
from django_srq.consumer.processes.supervisor import Supervisor
from django_srq.consumer.subscription import Kind
from django_srq.consumer.worker import claims
from django_srq.consumer.worker.buffer import Buffer
from django_srq.consumer.worker.claim import Answer
from django_srq.consumer.worker.claims import Claims
from django_srq.consumer.worker.pipeline import Pipeline
from django_srq.consumer.worker.worker import Worker
from django_srq.exceptions import LayoutError
from django_srq.operations import DeliveryRef
from django_srq.queue.backoff import Backoff
from tests.consumer.test_supervisor import account_for
from tests.consumer.test_wakeups import fetch, patient, running, worker  # noqa: F401
from tests.support.decoding import decoded
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import PATIENT, wait_for

LONG = 600.0  # seconds; a lease that does not end during a test


@pytest.fixture
def pair() -> Iterator[SimpleNamespace]:
    """A queue on a server that stays, and a queue on a server that goes away and comes back with its data."""
    servers = Server(), Server("--appendonly", "yes", "--appendfsync", "always")
    try:
        here, there = (SafeRedisQueue(name="q", url=server.url) for server in servers)
        yield SimpleNamespace(here=here, there=there, stays=servers[0], away=servers[1])
    finally:
        for server in servers:
            server.close()


def serve(pair: SimpleNamespace, handle, **plan: object) -> InProcessConsumer:
    """A consumer of both queues; it asks the server that goes away first."""
    subscriptions = [
        Subscription(queue, lambda item, queue=queue: handle(queue, item), lease=LONG, backoff=Backoff(0))
        for queue in (pair.there, pair.here)
    ]
    return InProcessConsumer(subscriptions, options=ConsumerOptions(**plan))


def empty(queue: SafeRedisQueue) -> bool:
    return not any(queue.counts().values())


def backlogs(consumer: InProcessConsumer | Worker) -> int:
    worker = consumer if isinstance(consumer, Worker) else consumer._worker
    return len(worker._retries._backlogs)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_server_that_is_away_delays_no_other(pair, threads):
    seen: list[tuple[SafeRedisQueue, bytes, int]] = []
    consumer = serve(pair, lambda queue, item: seen.append((queue, item.payload, item.deliveries)), threads=threads)
    with running(consumer):
        pair.there.put("before")
        wait_for(lambda: len(seen) == 1 and empty(pair.there), "the item of the one that goes")
        pair.away.kill()
        for number in range(20):
            pair.here.put(str(number))
            wait_for(lambda: len(seen) == number + 2, "an item of the other")  # noqa: B023
        pair.away.start()
        pair.there.put("after")
        wait_for(lambda: len(seen) == 22, "the item of the one that is back")
        wait_for(lambda: empty(pair.there) and empty(pair.here), "the acks")
    assert sorted(seen[-1:]) == [(pair.there, b"after", 1)]
    assert {deliveries for _, _, deliveries in seen} == {1}


@pytest.mark.parametrize("outcome", ["ack", "fail"])
def test_the_outcome_of_an_item_is_reported_when_its_server_is_back(pair, outcome):
    """Meanwhile the thread handles items of the other server."""
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
        wait_for(lambda: empty(pair.there), "the calls that were put off")
    assert seen == [b"first", b"second"] + ([b"first"] if outcome == "fail" else [])
    assert consumer.handled == len(seen)
    assert pair.there.snapshot().stats.get("failed", 0) == (outcome == "fail")


def test_only_one_claim_is_owed_however_often_the_others_are_asked(pair):
    pair.there.put_many(range(50))
    pair.away.kill()
    seen: list[bytes] = []
    gate = threading.Event()

    def handle(queue: SafeRedisQueue, item) -> None:
        seen.append(item.payload)
        assert queue is pair.here or gate.wait(60)

    with running(serve(pair, handle)):
        for number in range(10):
            pair.here.put(str(number))
            wait_for(lambda: len(seen) == number + 1, "an item of the other")  # noqa: B023
        pair.away.start()
        wait_for(lambda: len(seen) == 11, "the first of the one that is back")
        assert pair.there.counts()["in_flight"] == 1
        gate.set()


def test_a_claim_whose_reply_was_lost_takes_items_once(pair):
    """They are handled when the server is back; meanwhile, other servers get claims in the same slot."""
    seen: list[tuple[bytes, int]] = []
    with closing(Proxy(pair.away.url)) as proxy:
        fault = proxy.arm("lose reply", b"$2\r\nc1\r\n$1\r\n1\r\n", times=1000)  # the first claim
        there = SafeRedisQueue(name="q", url=proxy.url)
        subscriptions = [
            Subscription(queue, lambda item: seen.append((item.payload, item.deliveries)), lease=LONG)
            for queue in (there, pair.here)
        ]
        assert not pair.there.get(-1)  # now the server knows the script, and carries out a claim whose reply is lost
        pair.there.put_many("bc")
        one = worker(*subscriptions)
        with running(one):
            fault.wait()
            wait_for(lambda: backlogs(one), "a claim that is put off")
            pair.here.put("a")
            wait_for(lambda: len(seen) == 1 and empty(pair.here), "the item of the other")
            proxy.disarm()
            wait_for(lambda: len(seen) == 3, "those of the one that is back")
        there.link.close()
    assert seen == [(b"a", 1), (b"b", 1), (b"c", 1)]


@pytest.mark.usefixtures("patient")
def test_a_server_that_is_back_is_asked_at_once(pair):
    """This does not wait until the wait on the other server ends."""
    pair.there.put_many("ab")
    seen: list[bytes] = []

    def handle(queue: SafeRedisQueue, item) -> None:
        seen.append(item.payload)
        if seen == [b"a"]:
            pair.away.kill()
            raise ValueError  # the failure is owed first, so nothing is claimed there before the server is back

    consumer = serve(pair, handle)
    with running(consumer):
        wait_for(lambda: backlogs(consumer) and consumer._worker._buffer._idler is not None, "an idle worker")
        pair.away.start()
        wait_for(lambda: seen == [b"a", b"b", b"a"] and empty(pair.there), "the next items, and the acks")


@pytest.mark.usefixtures("patient")
def test_items_of_a_late_claim_are_begun_at_once(pair, monkeypatch):
    """The thread that waits on another server is woken for them, before all owed calls are made."""
    monkeypatch.setattr(Buffer, "wake", lambda self: None)
    pair.there.put("a")
    pair.away.kill()
    seen: list[bytes] = []
    consumer = serve(pair, lambda queue, item: seen.append(item.payload))
    with running(consumer):
        wait_for(lambda: backlogs(consumer) and consumer._worker._buffer._idler is not None, "an idle worker")
        pair.away.start()
        wait_for(lambda: seen == [b"a"], "the item")


def test_max_items_holds_although_a_claim_comes_late(pair):
    pair.there.put_many("abc")
    pair.away.kill()
    pair.here.put_many("de")
    seen: list[bytes] = []

    def handle(queue: SafeRedisQueue, item) -> None:
        seen.append(item.payload)
        if item.payload == b"e":
            pair.away.start()
            wait_for(lambda: pair.there.snapshot().stats.get("delivered"), "the late claim")
            wait_for(lambda: pair.there.counts()["ready"] == 3, "what it took, given back")

    consumer = serve(pair, handle, max_items=2, prefetch=1)  # adaptive prefetch would give it back anyway
    assert consumer.run() == 2
    assert seen == [b"d", b"e"]
    assert pair.there.counts()["ready"] == 3
    assert {item.deliveries for item in pair.there.items()} == {0}


def test_a_consumer_ends_without_waiting_for_a_server_that_it_owes_nothing(pair):
    pair.away.kill()
    pair.here.put("a")
    thread = threading.Thread(target=serve(pair, lambda queue, item: None, max_items=1).run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert empty(pair.here)


def test_a_consumer_does_not_end_before_it_has_reported_its_items(pair):
    pair.there.put("a")
    consumer = serve(pair, lambda queue, item: pair.away.kill(), max_items=1)
    thread = threading.Thread(target=consumer.run, daemon=True)
    thread.start()
    wait_for(lambda: backlogs(consumer), "an ack that is put off")
    thread.join(1)
    assert thread.is_alive()
    pair.away.start()
    thread.join(60)
    assert not thread.is_alive()
    assert empty(pair.there)


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


def test_an_outage_and_its_end_are_logged_once(pair, caplog):
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


@pytest.mark.parametrize("all_away", [False, True])
def test_an_idle_worker_does_not_keep_retrying_because_a_server_is_away(pair, monkeypatch, all_away):
    rounds: list[int] = []
    fetching = Claims.fetch
    monkeypatch.setattr(Claims, "fetch", lambda *arguments: (rounds.append(1), fetching(*arguments))[1])
    pair.away.kill()
    if all_away:
        pair.stays.kill()
    consumer = serve(pair, lambda queue, item: None, threads=3)
    with running(consumer):
        wait_for(
            lambda: backlogs(consumer) == 1 + all_away and consumer._worker._buffer._idler is not None, "an idle worker"
        )
        before, looks = len(rounds), []
        wait_for(lambda: looks.append(1) or len(looks) > 100, "a while")
        assert len(rounds) - before < 10  # it has nothing to ask for 5 s
        if all_away:
            pair.stays.start()
        pair.away.start()


def test_a_stop_ends_although_a_server_stays_away(pair, monkeypatch):
    monkeypatch.setattr("django_srq.consumer.worker.retries.LAST_WORDS", 0.5)
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
    assert empty(pair.here)  # the other server got all that it was owed


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


def test_a_server_that_hangs_delays_no_other(pair, monkeypatch):
    """Not even through acks sent without waiting for the reply: none is sent to a server that is known to be away."""
    in_vain: list[bool] = []
    sending = Pipeline.send

    def send(pipeline: Pipeline, subscription: Subscription, *arguments) -> None:
        in_vain.append(consumer._worker._retries.away(subscription.queue.link))
        sending(pipeline, subscription, *arguments)

    monkeypatch.setattr(Pipeline, "send", send)
    there = SafeRedisQueue(name="q", url=pair.away.url, timeout=PATIENT)
    gates = {str(number): threading.Event() for number in range(4)}
    go = threading.Event()
    seen: list[bytes] = []

    def handle(queue: SafeRedisQueue, item) -> None:
        if queue is there:
            assert gates[item.payload.decode()].wait(60)
        else:
            assert go.wait(60)
            seen.append(item.payload)

    def at_work() -> int:
        return sum(entry.state == RUNNING and entry.subscription == 0 for entry in consumer._ledger)

    there.put_many(gates)
    consumer = serve(SimpleNamespace(there=there, here=pair.here), handle, threads=5, prefetch=10)
    with running(consumer):
        wait_for(lambda: at_work() == 4, "four handlers at work")
        os.kill(pair.away.process.pid, signal.SIGSTOP)
        try:
            for number, gate in enumerate(gates.values(), 1):
                go.clear()
                pair.here.put_many(range(20))
                wait_for(
                    lambda: any(group.jobs for group in consumer._worker._buffer.groups),
                    "items that wait for their turn",
                )
                gate.set()
                wait_for(lambda: at_work() == 4 - number, "the end of one")  # noqa: B023
                go.set()
                wait_for(lambda: len(seen) == 20 * number and empty(pair.here), "the other's items")  # noqa: B023
        finally:
            go.set()
            os.kill(pair.away.process.pid, signal.SIGCONT)
        wait_for(lambda: empty(there), "the calls that were put off")
    assert in_vain
    assert not any(in_vain)
    there.link.close()


def test_there_is_room_for_all_owed_calls():
    """All claims and acks for two servers, in threads of both kinds, are owed; the third server is served."""
    servers = [Server("--appendonly", "yes") for _ in range(3)]
    gates = [threading.Event() for _ in servers]
    links = [SafeRedisQueue(url=server.url).link for server in servers]
    plans = [
        Subscription(SafeRedisQueue(name=name, link=link), lambda item, gate=gate: gate.wait(60), lease=LONG, **kind)
        for link, gate in zip(links, gates, strict=True)
        for name, kind in (("sync", {}), ("async", {"asynchronous": True}))
    ]
    consumer = InProcessConsumer(plans, options=ConsumerOptions(prefetch=50))
    try:
        with running(consumer):
            for number, server in enumerate(servers):
                mine = [subscription.queue for subscription in plans[2 * number : 2 * number + 2]]
                for queue in mine:
                    queue.put_many(range(50))
                wait_for(lambda: all(queue.counts()["in_flight"] == 50 for queue in mine), "claims")  # noqa: B023
                if number < 2:
                    server.kill()
                gates[number].set()
            wait_for(lambda: all(map(empty, mine)), "the third one's items")
            for server in servers[:2]:
                server.start()
            wait_for(lambda: all(empty(subscription.queue) for subscription in plans), "the calls that were put off")
    finally:
        for server in servers:
            server.close()


def test_items_whose_outcome_cannot_be_reported_stay_in_the_ledger(pair, monkeypatch):
    """The supervisor reports them when the process is gone."""
    monkeypatch.setattr("django_srq.consumer.worker.retries.LAST_WORDS", 0.5)
    pair.there.put_many(range(5))
    begun, gate = threading.Event(), threading.Event()

    def handle(queue: SafeRedisQueue, item) -> None:
        begun.set()
        gate.wait(60)
        raise ValueError

    consumer = serve(pair, handle, prefetch=5)
    with running(consumer):
        assert begun.wait(60)
        pair.away.kill()
        consumer.stop()
        gate.set()
    assert [entry.state for entry in consumer._ledger] == [FAILED, HELD, HELD, HELD, HELD]


@pytest.mark.parametrize("way", ["ahead", "parked"])
def test_a_claim_is_repeated_with_its_own_number_after_later_claims(pair, monkeypatch, way):
    """Its slot has later numbers by then: with one of those it would take other items, and leave its own to nobody."""
    with closing(Proxy(pair.away.url)) as proxy:
        assert not pair.there.get(-1)  # now the server knows the script
        pair.there.put_many("ab")
        there = SafeRedisQueue(name="q", url=proxy.url)
        subscriptions = Subscription(there, print, lease=LONG), Subscription(pair.here, print, lease=LONG)
        one, late = worker(*subscriptions), []
        claims, waits, pipeline = one._roles._claims, one._roles._waits, one._roles._pipeline
        monkeypatch.setattr(one._buffer, "put", late.append)
        fault = proxy.arm("lose reply", b"$2\r\nc1" if way == "ahead" else b"$4\r\nc1.w", times=1000)
        if way == "ahead":
            pipeline.send(subscriptions[0], pipeline.prepare(subscriptions[0], (), 1))
            claims.claim(subscriptions[1], 1, (), Answer())
            claims.collect(Answer())
        else:
            waits.park(subscriptions[0], 1, 1)
            waits.recall(Answer())
            waits._slot.seq += 1  # as when the next claim begins
        fault.wait()
        wait_for(lambda: one._retries.away(there.link), "a claim that is owed")
        claims.claim(subscriptions[1], 1, (), Answer())
        proxy.disarm()
        wait_for(lambda: late, "what it took")
        assert [job.found.payload for job in late[0].jobs] == [b"a"]
        assert pair.there.counts()["in_flight"] == 1
        one._roles.close()
        there.link.close()


def test_a_claim_that_was_given_up_is_left_to_the_supervisor(pair, monkeypatch):
    """It may have taken items, which only its slot knows: a later claim in that slot would hide them."""
    monkeypatch.setattr("django_srq.consumer.worker.retries.LAST_WORDS", 0.1)
    with closing(Proxy(pair.away.url)) as proxy:
        assert not pair.there.get(-1)  # now the server knows the script
        pair.there.put("a")
        fault = proxy.arm("lose reply", b"$2\r\nc1\r\n$1\r\n1\r\n", times=1000)
        there = SafeRedisQueue(name="q", url=proxy.url)
        one = worker(Subscription(there, print, lease=LONG), Subscription(pair.here, print))
        passing = one._roles._claims.pass_on
        monkeypatch.setattr(one._roles._claims, "pass_on", lambda: (proxy.disarm(), passing()))
        with running(one):
            fault.wait()
            wait_for(lambda: backlogs(one), "a claim that is put off")
        there.link.close()
    closing_it = operations.crashed(pair.there.keys, [], evidence=b"{}", how="release", slot=b"c1")
    assert list(pair.there.link.call(closing_it, queue="q").found.values()) == ["ready"]


@pytest.mark.parametrize("is_at_work", [True, False])
def test_items_of_an_owed_claim_are_not_blamed_for_the_death_of_a_handler(pair, monkeypatch, is_at_work):
    """Even if the child has made other claims since."""
    monkeypatch.setattr("django_srq.consumer.worker.retries.LAST_WORDS", 0.1)
    subscriptions = [Subscription(pair.there, print, lease=LONG), Subscription(pair.here, print, lease=LONG)]
    with closing(Proxy(pair.away.url)) as proxy:
        assert not pair.there.get(-1)  # now the server knows the script
        pair.there.put("a")
        fault = proxy.arm("lose reply", b"$2\r\nc1\r\n$1\r\n1\r\n", times=1000)
        there = SafeRedisQueue(name="q", url=proxy.url, timeout=1)
        one = worker(Subscription(there, print, lease=LONG), subscriptions[1])
        one._ledger._head.slot = b"c1"
        passing = one._roles._claims.pass_on
        monkeypatch.setattr(one._roles._claims, "pass_on", lambda: (proxy.disarm(), passing()))
        with running(one):
            fault.wait()
            wait_for(lambda: backlogs(one), "a claim that is put off")
            pair.here.put("b")
            wait_for(lambda: empty(pair.here), "an item of the other")
            assert [place for place, _ in one._ledger.claims_put_off] == [0]
        there.link.close()
    if is_at_work:
        pair.here.put("c")
        call = pair.here.claim("c1", lease=LONG)
        (item,) = decoded(pair.here, pair.here.link.call(call, queue="q").found)
        one._ledger.start(one._ledger.hold(1, DeliveryRef(item.uid, item.token), until=lease_time() + LONG)[0])
    account_for(Supervisor(subscriptions, ConsumerOptions()), ChildHandle("c1", 0, one._ledger, 0))
    assert [item.delivery.crashes for item in pair.there.items("ready")] == [int(not is_at_work)]
    assert [item.delivery.crashes for item in pair.here.items("ready")] == [1] * is_at_work


def test_after_an_owed_claim_the_other_queues_are_asked_in_the_same_round(pair):
    """The earlier claim that left items behind was for another server."""
    pair.here.put("a")
    one = worker(*(Subscription(queue, print, lease=LONG) for queue in (pair.there, pair.here)))
    one._buffer.ahead.plenty = True
    pair.away.kill()
    answer = Answer()
    fetch(one, {Kind.SYNC: 1}, answer)
    assert [job.found.payload for job in answer.jobs] == [b"a"]
    pair.away.start()
    wait_for(lambda: not backlogs(one), "the claim")
    one._roles.close()


def test_a_queue_that_refuses_its_calls_keeps_none_from_another_queue_on_its_server(pair):
    other = SafeRedisQueue(name="other", link=pair.there.link)
    begun, gate = [], threading.Event()

    def handle(item) -> None:
        begun.append(item)
        gate.wait(60)

    subscriptions = [Subscription(queue, handle, lease=LONG) for queue in (pair.there, other, pair.here)]
    consumer = InProcessConsumer(subscriptions, options=ConsumerOptions(threads=2))
    pair.there.put("a")
    other.put("b")
    ended: list[BaseException] = []

    def run() -> None:
        try:
            consumer.run()
        except LayoutError as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_for(lambda: len(begun) == 2, "both items at work")
    with closing(pair.away.client()) as client:
        client.hset(pair.there.keys["meta"], "layout", "99")
    pair.away.kill()
    gate.set()
    wait_for(lambda: backlogs(consumer), "the calls that are put off")
    pair.away.start()
    thread.join(60)
    assert len(ended) == 1
    assert empty(other)


def test_too_much_memory_ends_a_process_although_a_server_is_away(pair, monkeypatch):
    """The successor of the process serves the other queues."""
    monkeypatch.setattr("django_srq.consumer.worker.retries.LAST_WORDS", 0.5)
    pair.there.put("a")
    consumer = serve(pair, lambda queue, item: pair.away.kill(), max_memory=1)
    thread = threading.Thread(target=consumer.run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert consumer._ledger.wants_successor


def test_nothing_is_woken_while_no_thread_waits(pair):
    """A wakeup would end all later pauses, and a server that refuses at once would be asked without end."""
    begun, gate = threading.Event(), threading.Event()

    def handle(queue: SafeRedisQueue, item) -> None:
        begun.set()
        gate.wait(60)

    pair.away.kill()
    pair.here.put("a")
    consumer = serve(pair, handle)
    with running(consumer):
        assert begun.wait(60)
        assert backlogs(consumer)
        pair.away.start()
        wait_for(lambda: not backlogs(consumer), "what was owed")
        assert not select.select([consumer._worker._buffer._wakeup.end], [], [], 0)[0]
        gate.set()


def test_at_the_end_a_silent_server_delays_the_word_to_no_other(pair, monkeypatch):
    """The last calls pass on the wake tokens that the worker may have taken."""
    monkeypatch.setattr(claims, "PASSING_ON", PATIENT)
    one = worker(Subscription(pair.there, print), Subscription(pair.here, print))
    os.kill(pair.away.process.pid, signal.SIGSTOP)
    one.stop()
    ending = threading.Thread(target=one.run)
    ending.start()
    with pair.stays.client() as client:
        wait_for(lambda: client.hexists(pair.here.keys["slots"], "c1"), "the call to the other")
    assert ending.is_alive()
    os.kill(pair.away.process.pid, signal.SIGCONT)
    ending.join(60)
    assert not ending.is_alive()


def test_a_consumer_removes_its_entries_where_it_can(pair):
    subscriptions = [Subscription(pair.there, print), Subscription(pair.here, print)]
    leases = Leases("c1", subscriptions, list)
    leases.renew()
    assert "c1" in pair.here.snapshot().consumers
    pair.away.kill()
    leases.sign_off()
    assert "c1" not in pair.here.snapshot().consumers


def test_the_processes_of_a_consumer_go_on_while_a_server_is_away(pair, project):
    handled = {"HANDLER": "tests.support.handlers.note"}
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
