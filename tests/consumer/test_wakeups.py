"""The threads of a worker: one of them waits on the server, and the others can end its wait."""

from __future__ import annotations

import os
import resource
import select
import threading
import time
from contextlib import ExitStack, closing, contextmanager

import pytest

from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from django_srq.consumer.ledger import Ledger
from django_srq.consumer.subscription import Kind
from django_srq.consumer.worker.claim import Answer
from django_srq.consumer.worker.claims import Claims
from django_srq.consumer.worker.steps import Lead
from django_srq.consumer.worker.waits import TokenResult, Waits
from django_srq.consumer.worker.wakeup import Wakeup
from django_srq.consumer.worker.worker import Worker
from django_srq.exceptions import LayoutError
from django_srq.operations import DeliveryRef
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from tests.support.proxy import Proxy
from tests.support.server_clock import now
from tests.support.servers import Server
from tests.support.waiting import PATIENT, parked, wait_for

LONG = 600.0  # seconds; a wait, or a lease, that does not end during a test


@pytest.fixture
def patient(monkeypatch):
    """During a test, no wait on the server ends by itself."""
    waiting, parking = Waits.wait, Waits.park
    monkeypatch.setattr(Waits, "wait", lambda self, seconds, subscriptions: waiting(self, LONG, subscriptions))
    monkeypatch.setattr(Waits, "park", lambda self, subscription, n, seconds: parking(self, subscription, n, LONG))


@pytest.fixture
def named(server_url, prefix, make_queue):
    """The queue, with connections that have the prefix as their name on the server."""
    link = named_link(server_url, prefix)
    yield make_queue(link=link)
    link.close()


def named_link(url: str, name: str) -> Link:
    return Link(client_from_url(url, client_name=name), timeout=PATIENT)


@contextmanager
def running(consumer: InProcessConsumer | Worker):
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        yield thread
    finally:
        consumer.stop()
        thread.join(60)
        assert not thread.is_alive()


def worker(*subscriptions: Subscription, **plans: object) -> Worker:
    plan = ConsumerOptions(**plans)
    return Worker(
        subscriptions, Worker.table(subscriptions, plan), consumer="c1", options=plan, report=lambda trouble: None
    )


def fetch(one: Worker, needed: dict[Kind, int], answer: Answer, woken: Subscription | None = None) -> None:
    one._roles._claims.fetch(Lead([], needed, woken), answer)


def test_the_last_of_max_items_ends_the_wait_of_another_thread(patient, queue, client):
    gate = threading.Event()
    consumer = InProcessConsumer(
        [Subscription(queue, lambda item: gate.wait(60))], options=ConsumerOptions(threads=2, max_items=2)
    )
    with running(consumer) as thread:
        queue.put("a")
        wait_for(lambda: queue.counts()["in_flight"] == 1, "the first in hand")
        wait_for(lambda: consumer._worker._buffer._idler is not None, "the other thread on the server")
        client.hset(queue.keys["items"], "legacy", "b")
        client.lpush(queue.keys["queue"], "legacy")  # without a wake token
        gate.set()
        thread.join(60)
        assert not thread.is_alive()
    assert consumer.handled == 2


def test_the_end_of_a_burst_ends_the_wait_of_another_thread(patient, make_queue):
    queue = make_queue(max_in_flight=1)
    queue.put_many("ab")

    def handle(item: object) -> None:
        wait_for(lambda: consumer._worker._buffer._idler is not None, "the other thread on the server")
        queue.purge("ready")

    consumer = InProcessConsumer([Subscription(queue, handle)], options=ConsumerOptions(burst=True, threads=2))
    with running(consumer) as thread:
        thread.join(60)
        assert not thread.is_alive()
    assert consumer.handled == 1


def test_an_appointment_made_while_another_thread_waits_is_kept(patient, make_queue, client):
    queue = make_queue(rate="1/s")
    gate, seen = threading.Event(), []

    def handle(item: object) -> None:
        seen.append(item)
        gate.wait(60)

    consumer = InProcessConsumer([Subscription(queue, handle)], options=ConsumerOptions(threads=2))
    with running(consumer):
        queue.put("a")
        wait_for(lambda: seen and consumer._worker._buffer._idler is not None, "the other thread on the server")
        client.hset(queue.keys["items"], "legacy", "b")
        client.lpush(queue.keys["queue"], "legacy")  # without a wake token
        client.hset(queue.keys["meta"], "next_due", now(client) + 900)
        consumer._worker._buffer._idler.until += LONG  # the fixture patient prolongs the wait
        gate.set()  # the thread that acks gets the appointment
        wait_for(lambda: len(seen) == 2, "the second")


def test_an_appointment_that_comes_with_another_item_goes_to_the_thread_that_waits(monkeypatch, make_queue, client):
    """The thread that got it is busy with an item of another queue for long."""
    limited, plain = make_queue("limited", rate="1/s"), make_queue("plain")
    gates, seen = {b"a": threading.Event(), b"b": threading.Event()}, []

    def handle(item: object) -> None:
        seen.append(item)
        gates[item.payload].wait(60)

    waiting, first = Waits.wait, [LONG]  # this wait does not end by itself

    def wait(waits: Waits, seconds: float, subscriptions: list[Subscription]) -> TokenResult:
        return waiting(waits, first.pop() if first else seconds, subscriptions)

    monkeypatch.setattr(Waits, "wait", wait)
    plain.put("a")
    consumer = InProcessConsumer(
        [Subscription(limited, seen.append), Subscription(plain, handle)], options=ConsumerOptions(threads=2)
    )
    with running(consumer):
        wait_for(lambda: seen and consumer._worker._buffer._idler is not None, "the other thread on the server")
        for queue, payload in ((plain, "b"), (limited, "c")):
            client.hset(queue.keys["items"], "legacy", payload)
            client.lpush(queue.keys["queue"], "legacy")  # without a wake token
        client.hset(limited.keys["meta"], "next_due", now(client) + 900)
        consumer._worker._buffer._idler.until += LONG
        gates[b"a"].set()
        try:
            wait_for(lambda: len(seen) == 3, "the third")
        finally:
            gates[b"b"].set()


def test_tokens_are_awaited_for_a_thread_that_is_free_again(patient, make_queue):
    """While all threads of one kind are busy, the thread of the other kind does not wait for their tokens."""
    plain, other = make_queue("plain"), make_queue("other")
    gate, seen = threading.Event(), []

    def handle(item: object) -> None:
        seen.append(item)
        gate.wait(60)

    consumer = InProcessConsumer([Subscription(plain, print), Subscription(other, handle, asynchronous=True)])
    with running(consumer):
        other.put("a")
        wait_for(lambda: seen, "the first")

        def waits_alone() -> bool:
            idler = consumer._worker._buffer._idler
            return idler is not None and idler.group.kind is Kind.SYNC and idler.heard == {Kind.SYNC}

        wait_for(waits_alone, "the other kind on the server")
        gate.set()
        wait_for(lambda: not other.counts()["in_flight"], "the ack of the first")
        other.put("b")
        wait_for(lambda: len(seen) == 2, "the second")


def test_a_thread_that_is_woken_without_room_passes_the_token_on(queue, client):
    subscription, answer = Subscription(queue, print), Answer()
    queue.put("a")
    client.delete(queue.keys["wake"])
    fetch(worker(subscription), {Kind.SYNC: 0}, answer, woken=subscription)
    assert client.llen(queue.keys["wake"]) == 1
    assert (answer.jobs, answer.waits, answer.dry) == ([], {}, set())


def test_a_token_that_was_taken_at_the_end_is_pushed_back(queue, client):
    one = worker(Subscription(queue, print))
    queue.put("a")
    client.delete(queue.keys["wake"])
    one.stop()
    one.run()
    assert client.llen(queue.keys["wake"]) == 1


def test_items_that_were_not_started_are_released_at_a_stop(queue):
    subscription, answer = Subscription(queue, print), Answer()
    one = worker(subscription)
    uids = queue.put_many("ab")
    fetch(one, {Kind.SYNC: 2}, answer)
    one._buffer.groups.add(answer.jobs)
    assert queue.counts()["in_flight"] == 2
    one.stop()
    one.run()
    assert [(item.uid, item.deliveries) for item in queue.get_many(2)] == [(uid, 1) for uid in uids]
    assert not any(one._ledger)


def test_a_worker_that_gave_up_leaves_its_last_claim_to_the_supervisor(queue):
    one = worker(Subscription(queue, print))
    one.stop()
    one._retries.gave_up = True
    one._roles.sign_off()
    assert one._roles._claims._slot.seq == 0  # another call in the slot would hide the items of the last claim


def test_servers_have_the_time_for_last_calls_from_the_end_of_the_last_item_on(queue, monkeypatch):
    one, ended, ends = worker(Subscription(queue, print)), threading.Event(), []
    monkeypatch.setattr(Link, "break_off", lambda link, threads: ends.append(time.monotonic()))
    record, _ = one._ledger.hold(0, DeliveryRef("uid", "token"), until=0)
    began = time.monotonic()
    ending = threading.Thread(target=one.end_soon, args=[ended], kwargs={"after": 2, "after_trouble": 2})
    ending.start()
    wait_for(lambda: time.monotonic() - began > 3, "an item that takes longer than that")
    one._ledger.free(record)
    freed = time.monotonic()
    wait_for(lambda: ends, "the end of the calls")
    ended.set()
    ending.join()
    assert ends[0] - freed > 1


def test_a_refused_wait_does_not_speed_up_the_claims():
    server = Server()
    try:
        queue = SafeRedisQueue(name="q", url=server.url, timeout=PATIENT)
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "default", "-blpop")
            with running(InProcessConsumer([Subscription(queue, lambda item: None)])):
                queue.put("a")
                wait_for(lambda: queue.snapshot().stats.get("acked"), "the ack")
                begun, before = time.monotonic(), claims(client)
                wait_for(lambda: time.monotonic() > begun + 4, "what it does meanwhile")
                assert claims(client) - before <= (time.monotonic() - begun) + 4
        queue.link.close()
    finally:
        server.close()


def claims(client) -> int:
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


# -- the claim behind a wait


def looks_at(client) -> tuple[int, int, int]:
    """How often the server has read data, ended a wait, and run a script."""
    stats = client.info("all")
    return stats["total_reads_processed"], stats.get("cmdstat_blpop", {}).get("calls", 0), claims(client)


def test_no_call_is_made_between_a_put_and_its_handler(patient, server):
    begun, gate = threading.Event(), threading.Event()

    def handle(item: object) -> None:
        begun.set()
        gate.wait(60)

    # The producer has a link of its own, which is connected already and knows that the server has the script.
    with closing(named_link(server.url, "worker")) as waiting, closing(named_link(server.url, "producer")) as link:
        producer = SafeRedisQueue(name="q", link=link)
        producer.put("before")
        producer.purge("ready")
        with server.client() as client, running(worker(Subscription(SafeRedisQueue(name="q", link=waiting), handle))):
            wait_for(lambda: parked(client, "worker"), "an idle worker")
            before = client.info("stats")["total_reads_processed"]
            producer.put("a")
            assert begun.wait(60)
            asked = client.info("stats")["total_reads_processed"] - before
            gate.set()
    assert asked == 2  # the put, and this INFO


def test_an_idle_worker_makes_one_request_per_wait(server):
    with closing(named_link(server.url, "worker")) as link, server.client() as client:
        with running(worker(Subscription(SafeRedisQueue(name="q", link=link), print, lease=0.2))):
            wait_for(lambda: parked(client, "worker"), "an idle worker")
            looks = [looks_at(client)]
            wait_for(lambda: looks.append(looks_at(client)) or looks[-1][1] >= looks[0][1] + 10, "ten waits to end")
        reads, waits, scripts = (after - before for before, after in zip(looks[0], looks[-1], strict=True))
        assert abs(scripts - waits) <= 1
        assert abs(reads - 2 * (len(looks) - 1) - waits) <= 1  # each look reads INFO and the list of clients


def test_the_claim_behind_a_wait_that_timed_out_finds_an_item_without_a_token(named, client, prefix):
    claimed = []
    one = worker(
        Subscription(named, lambda item: claimed.append((item.payload, one._roles._claims._slot.seq)), lease=0.5)
    )
    with running(one):
        wait_for(lambda: parked(client, prefix), "an idle worker")
        before = one._roles._claims._slot.seq
        client.hset(named.keys["items"], "legacy", "a")
        client.lpush(named.keys["queue"], "legacy")
        wait_for(lambda: claimed, "the item")
    assert claimed == [(b"a", before)]  # no other claim was made for it


@pytest.mark.parametrize("kind", ["lose reply", "hold reply"])
def test_a_claim_behind_a_wait_whose_reply_does_not_come_is_repeated(
    patient, queue, make_queue, server_url, client, prefix, kind
):
    seen = []
    with closing(Proxy(server_url)) as proxy, closing(named_link(proxy.url, prefix)) as link:
        fault = proxy.arm(kind, b"c1.w")
        subscription = Subscription(
            make_queue(link=link), lambda item: seen.append((item.payload, item.deliveries)), lease=LONG
        )
        one = worker(subscription)
        with running(one):
            wait_for(lambda: parked(client, prefix), "an idle worker")
            queue.put("a")
            if kind == "hold reply":
                wait_for(lambda: fault.held, "the reply on its way")
                one._buffer._wakeup.ring()
            wait_for(lambda: seen, "the item, although the reply did not come")
        assert seen == [(b"a", 1)]
        assert sum(queue.counts().values()) == 0


@pytest.mark.parametrize("interrupt", ["ring", "stop"])
def test_a_claim_behind_an_interrupted_wait_that_arrives_late_takes_nothing(patient, server, interrupt):
    """The server gets it only after the worker has asked for its outcome, and perhaps after later calls."""
    queue = SafeRedisQueue(name="q", url=server.url, timeout=PATIENT)
    with closing(Proxy(server.url)) as proxy, closing(named_link(proxy.url, "worker")) as link:
        fault = proxy.arm("stall request", b"c1.w")
        one = worker(Subscription(SafeRedisQueue(name="q", link=link), print, lease=LONG))
        with server.client() as client, running(one):
            fault.wait()
            (one.stop if interrupt == "stop" else one._buffer._wakeup.ring)()
            if interrupt == "ring":
                # Or the wait after that, because an interrupt may be noticed twice.
                wait_for(lambda: one._roles._waits._slot.seq >= 2 and one._roles._waits.unsure is None, "the next wait")
        queue.put("a")
        before = claims(client)
        fault.deliver()
        wait_for(lambda: claims(client) == before + 1, "the claim")
    item = queue.get(-1)
    assert (item.payload, item.deliveries) == (b"a", 1)
    queue.link.close()


def test_an_item_put_while_a_worker_stops_is_handled_or_given_back(patient, queue, named, client, prefix):
    for number in range(30):
        seen: list[object] = []
        consumer = InProcessConsumer([Subscription(named, seen.append, lease=LONG)])
        with running(consumer):
            wait_for(lambda: parked(client, prefix), "an idle consumer")
            if number % 3 == 0:
                queue.put("a")
                consumer.stop()
            elif number % 3 == 1:
                consumer.stop()
                queue.put("a")
            else:
                stopping = threading.Thread(target=consumer.stop)
                stopping.start()
                queue.put("a")
                stopping.join(60)
        counts = queue.counts()
        assert (counts["in_flight"], counts["ready"] + len(seen)) == (0, 1)
        queue.purge("ready")


@pytest.mark.parametrize("trouble", ["restart", "scripts forgotten"])
def test_a_claim_behind_a_wait_survives_the_loss_of_the_script(patient, server, trouble):
    seen = []
    with closing(named_link(server.url, "worker")) as link, server.client() as client:
        queue = SafeRedisQueue(name="q", link=link)
        one = worker(Subscription(queue, lambda item: seen.append((item.payload, item.deliveries)), lease=LONG))
        with running(one):
            wait_for(lambda: parked(client, "worker"), "an idle worker")
            if trouble == "restart":
                server.kill()
                server.start()
            else:
                client.script_flush()
            queue.put("a")
            wait_for(lambda: seen, "the item")
            assert not one._roles._waits.refused
    assert seen == [(b"a", 1)]


def test_one_thread_waits_while_the_other_works(patient, queue, named, client, prefix):
    gate, seen = threading.Event(), []

    def handle(item) -> None:
        seen.append((item.payload, item.deliveries))
        if item.payload == b"first":
            gate.wait(60)

    with running(worker(Subscription(named, handle, lease=LONG), threads=2)):
        queue.put("first")
        for number in range(50):
            wait_for(lambda: parked(client, prefix), "a thread that waits")
            queue.put(str(number))
            wait_for(lambda: seen[-1][0] == str(number).encode(), "the item")  # noqa: B023
        gate.set()
        for number in range(50, 500):
            queue.put(str(number))  # now one thread finishes while the other is woken
        wait_for(lambda: len(seen) >= 501, "all items")
        wait_for(lambda: sum(queue.counts().values()) == 0, "their acks")
    assert sorted(seen) == sorted([(b"first", 1), *((b"%d" % number, 1) for number in range(500))])


def test_no_claim_waits_behind_a_wait_while_a_handler_may_hold_the_interpreters_lock(patient, queue, monkeypatch):
    working, gate, seen, parks = threading.Event(), threading.Event(), [], []
    parking = Waits.park

    def park(self, *arguments):
        parks.append(working.is_set())
        return parking(self, *arguments)

    def handle(item) -> None:
        seen.append(item.payload)
        if item.payload == b"first":
            working.set()
            gate.wait(60)
            working.clear()

    monkeypatch.setattr(Waits, "park", park)
    one = worker(Subscription(queue, handle, lease=LONG), threads=2)
    with running(one):
        wait_for(lambda: one._buffer._idler is not None, "an idle worker")
        queue.put("first")
        assert working.wait(60)
        for number in range(20):
            queue.put(str(number))
            wait_for(lambda: seen[-1] == str(number).encode(), "the item")  # noqa: B023
        gate.set()
        before = len(parks)

        def parked_again() -> bool:
            """This need not happen after each item: one thread may begin to wait while the other is still at work."""
            queue.put("last")
            wait_for(lambda: not any(queue.counts().values()), "the item")
            return len(parks) > before

        wait_for(parked_again, "an idle worker again")
    assert True not in parks


def test_many_wakeups_end_a_single_wait():
    wakeup = Wakeup()
    for _ in range(1000):
        wakeup.ring()
    wakeup.calm()
    assert not select.select([wakeup.end], [], [], 0)[0]
    wakeup.ring(for_good=True)
    wakeup.calm()
    assert select.select([wakeup.end], [], [], 0)[0]
    wakeup.close()
    wakeup.ring()  # by a thread that does not know yet that the worker has ended


def test_a_wakeup_during_the_claim_of_another_thread_is_not_forgotten(patient, queue, make_queue, monkeypatch):
    """The claim came before the item and found nothing; the worker must not wait until the next look for it."""
    other, seen, gate = make_queue("other"), [], threading.Event()
    fetching = Claims.fetch

    def slow(self, lead, answer) -> None:
        fetching(self, lead, answer)
        if lead.finished and not seen:
            other.put("a")
            wait_for(lambda: self._buffer._idler is None, "the other thread, which is woken")

    monkeypatch.setattr(Claims, "fetch", slow)
    subscriptions = (
        Subscription(queue, lambda item: gate.wait(60)),
        Subscription(other, lambda item: seen.append(item.payload)),
    )
    one = worker(*subscriptions, threads=2)
    with running(one):
        queue.put("first")
        wait_for(lambda: queue.counts()["in_flight"] and one._buffer._idler is not None, "one works, the other waits")
        gate.set()
        wait_for(lambda: seen, "the item")


def test_an_item_of_the_last_wait_fills_the_place_of_a_claimed_one(queue):
    one, answer = worker(subscription := Subscription(queue, print)), Answer()
    queue.put_many("ab")
    one._roles._waits._slot.seq += 1
    queue.link.call(queue.claim(one.id, lease=LONG), queue=queue.alias, slot=one._roles._waits._slot)
    one._roles._waits.unsure = subscription
    fetch(one, {Kind.SYNC: 1}, answer)
    assert [job.found.payload for job in answer.jobs] == [b"a"]
    assert queue.counts()["ready"] == 1


def test_the_ledger_has_room_for_the_items_of_a_wait_beside_those_of_the_claims(make_queue):
    plain, other = make_queue("plain"), make_queue("other")
    subscriptions = Subscription(plain, print), Subscription(other, print, asynchronous=True)
    one = worker(*subscriptions, threads=2, prefetch=10)
    assert not plain.get(-1)  # now the server has the script, without which a claim behind a wait takes nothing
    plain.put_many("0123456789" * 2)
    other.put_many("0123456789")
    waited, claimed = one._roles._waits.park(subscriptions[0], 10, 1), Answer()
    fetch(one, {Kind.SYNC: 1, Kind.ASYNC: 1}, claimed)
    assert (len(waited.jobs), len(claimed.jobs)) == (10, 20)


def test_the_waiting_and_the_leading_thread_do_not_record_items_at_the_same_time(queue, monkeypatch):
    one, holding, owned = worker(subscription := Subscription(queue, print)), Ledger.hold, []

    def hold(*arguments, **more):
        owned.append(one._roles._claims._intake._taking.locked())
        return holding(*arguments, **more)

    monkeypatch.setattr(Ledger, "hold", hold)
    assert not queue.get(-1)  # now the server has the script, without which a claim behind a wait takes nothing
    queue.put_many("ab")
    one._roles._waits.park(subscription, 1, 1)
    fetch(one, {Kind.SYNC: 1}, Answer())
    assert owned == [True, True]


def test_handled_items_are_acked_although_another_queue_has_an_error(make_queue, client):
    broken, queue = make_queue("broken"), make_queue("queue")
    subscriptions, handled = (Subscription(broken, print), Subscription(queue, print)), Answer()
    one = worker(*subscriptions)
    queue.put("a")
    fetch(one, {Kind.SYNC: 1}, handled)
    one._handle(handled.jobs)
    one._roles._waits.unsure = subscriptions[0]
    client.hset(broken.keys["meta"], "layout", "99")
    with pytest.raises(LayoutError):
        one._roles.sign_off()
    assert queue.snapshot().stats["acked"] == 1


def test_the_silence_of_idle_consumers_does_not_count_as_an_outage(queue):
    """They ask again within half a lease, even if the lease is short, and even if there was no lease before."""

    def told_to_wait(lease: float) -> float | None:
        return queue.link.call(queue.claim("c1", lease=lease), queue=queue.alias).wait

    assert told_to_wait(15) is None  # every 5 s is often enough
    assert told_to_wait(9) == 3
    assert told_to_wait(3) == 1


def test_a_wakeup_works_with_many_open_files():
    """select() takes only file descriptors below 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    with open(os.devnull) as nothing, ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))  # after these files are closed
        for _ in range(1100):
            opened.callback(os.close, os.dup(nothing.fileno()))
        wakeup = Wakeup()
        wakeup.ring()
        wakeup.pause(PATIENT)
        wakeup.close()
