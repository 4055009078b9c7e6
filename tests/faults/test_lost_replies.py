"""Every call is carried out once, whatever happens to its request and its reply on the way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pytest
import redis

from django_srq import SafeRedisQueue, operations
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from django_srq.consumer.outage import Outage
from django_srq.exceptions import OutcomeUnknown, QueueFull
from django_srq.operations import DeliveryRef, Put, Script
from django_srq.queue.backoff import Backoff
from django_srq.queue.item import Item
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from django_srq.transport.slots import Slot
from tests.support.async_queue import Asynchronous
from tests.support.decoding import decoded
from tests.support.proxy import Proxy
from tests.support.server_clock import now, pass_time
from tests.support.waiting import PATIENT, wait_for

SOON = 0.05  # seconds after which a call is given up where that is the point
HOUR = 3_600_000  # ms
SCRIPTS = [
    file.name.removesuffix(".lua")
    for file in (resources.files("django_srq.operations") / "lua").iterdir()
    if file.is_file()
]


@pytest.fixture
def proxy(server_url: str, client: redis.Redis) -> Iterator[Proxy]:
    for name in SCRIPTS:
        client.script_load(Script.named(name).text)  # so that the first request is not answered by NOSCRIPT
    proxy = Proxy(server_url)
    yield proxy
    proxy.close()


@pytest.fixture(params=[SafeRedisQueue, Asynchronous], ids=["sync", "async"])
def through(request, proxy: Proxy) -> Iterator[Callable[..., SafeRedisQueue]]:
    """The same queue as seen through the proxy, from a thread and from an event loop."""
    links: list[Link] = []

    def through(queue: SafeRedisQueue) -> SafeRedisQueue:
        links.append(Link(client_from_url(proxy.url), timeout=PATIENT))
        return request.param(name=queue.name, link=links[-1])

    yield through
    for link in links:
        link.close()


@contextmanager
def giving_up(
    proxy: Proxy, queue: SafeRedisQueue, seconds: float = SOON
) -> Iterator[pytest.ExceptionInfo[OutcomeUnknown]]:
    """The call inside is given up after so long; its connection is there already, however slow the machine is.

    After it the proxy, which may be slower still, has read all that was sent.
    """
    link, patience = queue.link, queue.link.timeout
    len(queue)
    if isinstance(queue, Asynchronous):  # which has a new event loop, and connects, for each call
        seconds = max(seconds, 10 * SOON)
    link.timeout = seconds
    with pytest.raises(OutcomeUnknown, match="put it again with the same uid|safe to repeat|comes back") as caught:
        yield caught
    link.timeout = patience
    link.close()
    proxy.settle()


def target_of(queue: SafeRedisQueue) -> SafeRedisQueue:
    return SafeRedisQueue(name=f"{queue.name}-target", link=queue.link)


def held(item: Item) -> DeliveryRef:
    return DeliveryRef(str(item.uid), item.token, item.delivery.number)


# -- the operations: what there is before, and what is done


def ready(queue: SafeRedisQueue) -> None:
    for payload in ("a", "b", "c"):
        queue.put(payload, uid=f"uid-{payload}")


def taken(queue: SafeRedisQueue) -> Item:
    ready(queue)
    return queue.get(-1)


def supervised(queue: SafeRedisQueue) -> Item:
    ready(queue)
    claim = operations.claim(queue.keys, consumer="c1", lease=60, legacy_lease=60)
    return decoded(queue, queue.link.call(claim, queue=queue.alias).found)[0]


def ended(queue: SafeRedisQueue) -> None:
    taken(queue)
    end_lease(queue, "uid-a")


def end_lease(queue: SafeRedisQueue, uid: str) -> None:
    client = queue.link.client
    client.zadd(queue.keys["leases"], {uid: now(client) - 1000})


def dead(queue: SafeRedisQueue) -> None:
    queue.link.call(operations.fail(queue.keys, held(taken(queue)), bury=True), queue=queue.alias)


def claim(queue: SafeRedisQueue, _: object) -> list[Any]:
    return [(item.payload, timeless(item.token), item.deliveries) for item in queue.get_many(2)]


def settle_and_claim(queue: SafeRedisQueue, item: Item) -> Any:
    fused = operations.claim(queue.keys, consumer="c1", lease=60, legacy_lease=60, acks=[held(item)])
    reply = queue.link.call(fused, queue=queue.alias)
    return reply.acked, [(found.uid, timeless(found.delivery.token)) for found in reply.found]


def claimed_in_a_slot(queue: SafeRedisQueue) -> None:
    ready(queue)
    claim = operations.claim(queue.keys, consumer="c1", lease=60, legacy_lease=60)
    queue.link.call(claim, queue=queue.alias, slot=Slot(b"c1", 1))


def withdraw(queue: SafeRedisQueue, _: object) -> int:
    return queue.link.call(operations.withdraw(queue.keys, b"c1", 1), queue=queue.alias)


def crash(queue: SafeRedisQueue, item: Item) -> Any:
    evidence = b'{"type":"Crashed","message":"killed"}'
    return queue.link.call(operations.crashed(queue.keys, [held(item)], evidence=evidence), queue=queue.alias)


def register(queue: SafeRedisQueue, _: object) -> bool:
    return queue.link.call(operations.register(queue.keys, "c1", b'{"host":"here"}'), queue=queue.alias) > 0


def close(queue: SafeRedisQueue, _: object) -> object:
    return queue.link.call(operations.crashed(queue.keys, [], evidence=b"{}", slot=b"of-the-dead"), queue=queue.alias)


@dataclass
class Case:
    script: str
    prepare: Callable[[SafeRedisQueue], Any]
    operate: Callable[[SafeRedisQueue, Any], Any]
    single: bool = True  # nothing else is called before and after it
    own_slot: bool = False  # its slot belongs to the item and not to the process

    @property
    def sha(self) -> bytes:
        return Script.named(self.script).sha


def move(queue: SafeRedisQueue, _: object) -> int:
    return queue.move(target_of(queue))


CASES = {
    "put": Case("put", ready, lambda queue, _: queue.put("new")),
    "put own uid": Case("put", ready, lambda queue, _: queue.put("new", uid="own", strict=True)),
    "put delayed": Case("put", ready, lambda queue, _: queue.put("new", delay=60)),
    "put with priority": Case("put", ready, lambda queue, _: queue.put("new", priority=7)),
    "put_many": Case("put", ready, lambda queue, _: queue.put_many(["d", "e"])),
    "claim": Case("claim", ready, claim),
    "claim what is due": Case("claim", lambda queue: queue.put("due", delay=0.001), claim),
    "claim what comes back": Case("claim", ended, claim),
    "settle and claim": Case("claim", taken, settle_and_claim),
    "ack": Case("ack", taken, lambda queue, item: queue.ack(item)),
    "ack by uid": Case("ack", taken, lambda queue, item: queue.ack(item.uid)),
    "fail": Case("fail", taken, lambda queue, item: queue.fail(item, "boom")),
    "fail with delay": Case("fail", taken, lambda queue, item: queue.fail(item, "boom", delay=60)),
    "fail_many": Case("fail", taken, lambda queue, item: queue.fail_many([item, "uid-b"], "boom")),
    "extend": Case("extend", taken, lambda queue, item: queue.extend(item, 90)),
    "release": Case("release", taken, lambda queue, item: queue.release(item)),
    "withdraw": Case("withdraw", claimed_in_a_slot, withdraw),
    "crashed": Case("crashed", supervised, crash),
    "recover": Case("recover", ended, lambda queue, _: queue.recover()),
    "requeue": Case("requeue", dead, lambda queue, _: queue.requeue("uid-a")),
    "requeue all": Case("requeue_dead", dead, lambda queue, _: queue.requeue()),
    "drop": Case("drop", ready, lambda queue, _: queue.drop("uid-b")),
    "purge": Case("purge", taken, lambda queue, _: queue.purge()),
    "purge what is dead": Case("purge_dead", dead, lambda queue, _: queue.purge("dead")),
    "pause": Case("pause", ready, lambda queue, _: queue.pause("maintenance")),
    "resume": Case("resume", lambda queue: queue.pause(), lambda queue, _: queue.resume()),
    "register": Case("register", ready, register),
    "crashed, with nothing in hand": Case("crashed", ready, close),
    "move: the claim": Case("claim", ready, move, single=False),
    "move: the put": Case("put", ready, move, single=False, own_slot=True),
    "move: the ack": Case("ack", ready, move, single=False),
}
SINGLE = {name: case for name, case in CASES.items() if case.single}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_single_case = pytest.mark.parametrize("case", SINGLE.values(), ids=SINGLE)


# -- what there is afterwards


def timeless(token: str) -> str:
    """Without the time of the claim."""
    return re.sub(r"@\d+", "", token)


def contents(client: redis.Redis, queue: SafeRedisQueue) -> dict[str, Any]:
    """All that a doubled operation could change, without times and generated uids."""
    keys = queue.keys
    payloads = client.hgetall(keys["items"])

    def named(uids: Any) -> list[bytes]:
        return [payloads.get(uid, uid) for uid in uids]

    def hash_of(key: str) -> dict[bytes, bytes]:
        return {payloads.get(field, field): value for field, value in client.hgetall(keys[key]).items()}

    return {
        "items": sorted(payloads.values()),
        "queue": named(client.lrange(keys["queue"], 0, -1)),
        "wake": client.llen(keys["wake"]),
        "paused": client.exists(keys["paused"]),
        "counters": client.hmget(keys["meta"], "puts", "order", "ghosts"),
        "closed": [slot for slot, value in client.hgetall(keys["slots"]).items() if slot == b"of-the-dead"],
        "holders": {payload: timeless(token.decode()) for payload, token in hash_of("holders").items()},
        "stats": queue.snapshot().stats,
        **{key: hash_of(key) for key in ("deliveries", "crashes")},
        **{key: sorted(hash_of(key)) for key in ("errors", "headers", "consumers")},
        **{
            key: named(client.zrange(keys[key], 0, -1)) for key in ("returned", "priority", "delayed", "dead", "leases")
        },
    }


def everything(client: redis.Redis, queue: SafeRedisQueue) -> list[dict[str, Any]]:
    assert queue.audit() == []
    return [contents(client, queue), contents(client, target_of(queue))]


def uids_as_payloads(client: redis.Redis, queue: SafeRedisQueue, result: Any) -> Any:
    payloads = client.hgetall(queue.keys["items"])
    uids = result if isinstance(result, list) else [result]
    return [payloads.get(uid.encode(), uid) if isinstance(uid, str) else uid for uid in uids]


@dataclass
class Trial:
    """One operation on a queue, and the same without any fault on a twin of the queue."""

    client: redis.Redis
    case: Case
    queue: SafeRedisQueue
    remote: SafeRedisQueue
    twin: SafeRedisQueue

    def operate(self) -> None:
        """Prepare and operate on both; what happens through the proxy must be what happens directly."""
        expected = self.operate_on(self.twin, self.twin)
        assert self.operate_on(self.queue, self.remote) == expected

    def operate_on(self, queue: SafeRedisQueue, seen: SafeRedisQueue) -> Any:
        prepared = self.case.prepare(queue)
        if self.case.prepare is CASES["claim what is due"].prepare:
            wait_until_due(self.client, queue)
        return uids_as_payloads(self.client, queue, self.case.operate(seen, prepared))

    def check(self) -> None:
        """Both queues are the same."""
        assert everything(self.client, self.queue) == everything(self.client, self.twin)


def wait_until_due(client: redis.Redis, queue: SafeRedisQueue) -> None:
    due = client.zrange(queue.keys["delayed"], 0, 0, withscores=True)[0][1]
    wait_for(lambda: now(client) > due, "an item to be due")


@pytest.fixture
def trial(client, make_queue, through) -> Callable[..., Trial]:
    def trial(case: Case) -> Trial:
        queue = make_queue("-one")
        return Trial(client, case, queue, through(queue), make_queue("-twin"))

    return trial


# -- every operation


@each_case
@pytest.mark.parametrize("kind", ["lose reply", "lose request"])
def test_what_is_lost_is_sent_again_and_carried_out_once(proxy, trial, case, kind):
    one = trial(case)
    fault = proxy.arm(kind, case.sha)
    one.operate()
    assert fault.hits == 1
    one.check()


@each_case
def test_original_that_arrives_after_its_repeat_does_nothing(proxy, trial, case):
    one = trial(case)
    fault = proxy.arm("hold request", case.sha)
    one.operate()
    assert len(fault.deliver()) == 1
    one.check()


@each_case
def test_original_that_arrives_after_later_calls_is_refused(proxy, trial, case):
    one = trial(case)
    fault = proxy.arm("hold request", case.sha)
    one.operate()
    for queue in (one.remote, one.twin):
        queue.put("later", uid="later")
    (reply,) = fault.deliver()
    assert reply.startswith(b"-SRQLATE") is not case.own_slot
    one.check()


@each_single_case
def test_call_given_up_does_nothing_once_another_was_made(proxy, trial, case):
    one = trial(case)
    prepared = case.prepare(one.queue)
    case.prepare(one.twin)
    fault = proxy.arm("hold request", case.sha, times=1000)
    with giving_up(proxy, one.remote):
        case.operate(one.remote, prepared)
    proxy.disarm()
    for queue in (one.queue, one.twin):
        queue.put("later", uid="later")
    replies = fault.deliver()
    assert all(reply.startswith(b"-SRQLATE") for reply in replies)
    one.check()


# -- single cases


def test_call_given_up_is_carried_out_at_most_once(proxy, queue, through):
    remote = through(queue)
    fault = proxy.arm("hold request", Script.named("put").sha, times=1000)
    with giving_up(proxy, remote, 40 * SOON):  # long enough for several attempts
        remote.put("payload")
    assert len(fault.deliver()) > 1
    assert queue.counts()["ready"] == 1
    assert [item.payload for item in queue.items()] == [b"payload"]


def test_put_again_with_the_same_uid_after_an_unknown_outcome(proxy, queue, through):
    remote = through(queue)
    proxy.arm("lose reply", Script.named("put").sha, times=1000)
    with giving_up(proxy, remote):
        remote.put("payload", uid="order-17")
    proxy.disarm()
    assert remote.put("payload", uid="order-17") == "order-17"
    assert [item.uid for item in queue.items()] == ["order-17"]


def test_delayed_reply_is_waited_for(proxy, queue, through):
    fault = proxy.arm("hold reply")
    courier = threading.Thread(target=fault.deliver)
    courier.start()
    uid = through(queue).put("payload")
    courier.join()
    assert [item.uid for item in queue.items()] == [uid]


def test_late_reply_is_not_taken_for_that_of_the_next_call(proxy, queue, through):
    remote = through(queue)
    fault = proxy.arm("hold reply", Script.named("put").sha)
    with giving_up(proxy, remote):
        remote.put("first", uid="first")
    proxy.disarm()
    second = threading.Thread(target=remote.put, args=["second"], kwargs={"uid": "second"})
    second.start()
    fault.deliver()
    second.join()
    assert [remote.get(-1).uid, remote.get(-1).uid] == ["first", "second"]


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Interrupts the main thread as Ctrl-C does: by the signal of which asyncio makes a cancellation."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kind", ["stall request", "hold reply"])
def test_interrupted_call_burns_its_number(proxy, queue, through, interrupt, kind):
    remote = through(queue)
    fault = proxy.arm(kind, then=interrupt)
    with pytest.raises(KeyboardInterrupt):
        remote.put("first")
    remote.put("second")
    (reply,) = fault.deliver()
    assert reply.startswith(b"-SRQLATE") is (kind == "stall request")
    carried_out = [b"second"] if kind == "stall request" else [b"first", b"second"]
    assert [item.payload for item in queue.items()] == carried_out


def test_closed_slot_refuses_the_claim_of_a_dead_consumer(queue, link):
    ready(queue)
    claim = operations.claim(queue.keys, consumer="c1", lease=60, legacy_lease=60)
    slot = Slot(b"of-the-dead", 7)
    link.call(operations.crashed(queue.keys, [], evidence=b"{}", slot=slot.name), queue=queue.alias)
    with pytest.raises(redis.ConnectionError, match="SRQLATE"):
        link.call(claim, queue=queue.alias, slot=slot)
    assert queue.counts()["in_flight"] == 0


FORK = """
import os, sys
from django_srq import SafeRedisQueue
queue = SafeRedisQueue(name=sys.argv[2], url=sys.argv[1], timeout=60)
queue.put("before the fork")
child = os.fork()
queue.put("child" if child == 0 else "parent")
queue.put("child" if child == 0 else "parent")
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
"""


def test_forked_child_has_slots_of_its_own(server_url, client, queue):
    subprocess.run(
        [sys.executable, "-c", FORK, server_url, queue.name],
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    payloads = sorted(item.payload for item in queue.items())
    assert payloads == [b"before the fork", b"child", b"child", b"parent", b"parent"]
    slots = client.hkeys(queue.keys["slots"])
    assert len({slot.partition(b".")[0] for slot in slots}) == len(slots) == 2


def test_repeated_claim_gets_the_same_items_with_renewed_leases(client, queue, link):
    ready(queue)
    claim = operations.claim(queue.keys, consumer="c1", lease=60, legacy_lease=60, n=2)
    slot = Slot(b"slot", 1)
    first = link.call(claim, queue=queue.alias, slot=slot)
    client.zadd(queue.keys["leases"], dict.fromkeys(("uid-a", "uid-b"), now(client) + 1000))
    assert link.call(claim, queue=queue.alias, slot=slot) == first
    deadlines = [score for _, score in client.zrange(queue.keys["leases"], 0, -1, withscores=True)]
    assert len(deadlines) == 2
    assert min(deadlines) > now(client) + 30_000


def test_repeated_claim_gets_no_item_that_somebody_else_has_by_now(queue, link):
    ready(queue)
    claim = operations.claim(queue.keys, consumer="g1", lease=60, legacy_lease=60, n=2)
    slot = Slot(b"slot", 1)
    link.call(claim, queue=queue.alias, slot=slot)
    end_lease(queue, "uid-a")
    assert queue.get(-1).uid == "uid-a"
    assert [found.uid for found in link.call(claim, queue=queue.alias, slot=slot).found] == ["uid-b"]


def test_consumer_gets_what_it_was_given_while_no_reply_came(proxy, queue, through, monkeypatch):
    """For longer than the time limit: the ack and the claim of the next item were carried out, unheard."""
    remote, seen, troubles = through(queue), [], []
    queue.put_many("abc")

    def handle(item: Item) -> None:
        seen.append((item.payload, item.deliveries))
        if item.payload == b"a":
            remote.link.timeout = SOON
            proxy.arm("lose reply", Script.named("claim").sha, times=1000)

    def report(outage: Outage, trouble: str) -> None:
        troubles.append(trouble)
        remote.link.timeout = PATIENT
        proxy.disarm()

    monkeypatch.setattr(Outage, "report", report)
    InProcessConsumer([Subscription(remote, handle)], burst=True).run()
    assert "no reply to claim within" in troubles[0]
    assert troubles[1:] == [""]
    assert seen == [(b"a", 1), (b"b", 1), (b"c", 1)]
    assert queue.snapshot().stats == {"put": 3, "delivered": 3, "acked": 3}


@pytest.mark.parametrize("kind", ["hold request", "lose reply"])
def test_put_many_says_what_is_in_doubt_and_that_can_be_put_again(proxy, queue, through, monkeypatch, kind):
    monkeypatch.setattr("django_srq.queue.puts.BATCH", 2)
    remote, payloads = through(queue), ["a", "b", "marked", "d", "e"]
    proxy.arm(kind, b"marked", times=1000)
    with giving_up(proxy, remote, 20 * SOON) as caught:  # in which the first batch is carried out
        remote.put_many(payloads)
    proxy.disarm()
    error = caught.value
    assert (len(error.put), len(error.in_doubt)) == (2, 2)
    assert str(error).endswith("; 2 of 5 items were put, 2 may have been")
    remote.put_many(payloads[2:4], uids=error.in_doubt)
    remote.put_many(payloads[4:])
    assert [item.payload.decode() for item in queue.items()] == payloads
    assert [item.uid for item in queue.items()][:4] == error.put + error.in_doubt


@pytest.mark.parametrize("priority", [0, 5])
def test_item_that_was_moved_but_not_acked_is_not_put_a_second_time(proxy, queue, through, priority):
    queue.put("payload", priority=priority)
    remote = through(queue)
    proxy.arm("hold request", Script.named("ack").sha, times=1000)
    with giving_up(proxy, remote, 20 * SOON):  # in which the claim and the put are carried out
        remote.move(target_of(queue))
    moved = target_of(queue).get(-1)
    assert target_of(queue).ack(moved)
    pass_time(queue.link.client, queue.keys, queue.lease + 1)
    assert queue.move(target_of(queue)) == 1
    assert (len(queue), len(target_of(queue))) == (0, 0)
    assert queue.counts()["in_flight"] == 0


def test_item_that_a_full_queue_refused_is_moved_when_there_is_room(queue):
    target = SafeRedisQueue(name=f"{queue.name}-target", link=queue.link, max_length=1)
    uid = queue.put("payload")
    blocker = target.put("in the way")
    with pytest.raises(QueueFull):
        queue.move(target)
    assert [item.uid for item in queue.items()] == [uid]
    target.drop(blocker)
    assert queue.move(target) == 1
    assert [item.uid for item in target.items()] == [uid]


def test_what_the_target_has_already_is_asked_again_by_a_later_attempt_only(queue):
    """So that a late copy of the request that was refused puts nothing."""
    slot = Slot(b"move", 1)
    queue.put("theirs", uid="same")

    def put(attempt: int) -> list[str]:
        call = operations.put(queue.keys, [Put("same", b"mine", b"")], own=True, attempt=attempt)
        return list(queue.link.call(call, queue=queue.alias, slot=slot).states)

    assert put(1) == ["ready"]
    queue.drop("same")
    assert put(1) == ["ready"]
    assert len(queue) == 0
    assert put(2) == [""]
    queue.ack(queue.get(-1))
    assert (put(2), put(3), put(1)) == ([""], [""], [""])
    assert len(queue) == 0


def test_slots_unused_for_an_hour_are_trimmed(client, queue):
    queue.put("payload")
    (used,) = client.hkeys(queue.keys["slots"])
    long_ago, lately = now(client) - HOUR - 1000, now(client) - HOUR + 60_000
    client.hset(queue.keys["slots"], mapping={"unused": f"7 {long_ago} 1", "rested": f"7 {lately} 1"})
    client.hdel(queue.keys["meta"], "kept")
    queue.get(-1)
    assert set(client.hkeys(queue.keys["slots"])) == {used, b"rested"}


@pytest.mark.parametrize("timeout", [7200, float("inf")])
def test_no_call_is_sent_again_when_its_slot_may_be_trimmed(queue, timeout):
    assert Link(queue.link.client, timeout=timeout).timeout <= HOUR / 1000 / 2


def test_number_of_slots_is_that_of_the_calls_at_one_time(client, queue):
    for number in range(20):
        queue.ack(queue.put(str(number)))
    assert client.hlen(queue.keys["slots"]) == 1


@pytest.mark.parametrize("kind", ["lose reply", "lose request"])
def test_waiting_call_whose_reply_is_lost_loses_nothing(proxy, queue, through, kind):
    remote = through(queue)
    fault = proxy.arm(kind, b"BLPOP")
    got: list[Item] = []
    waiter = threading.Thread(target=lambda: got.append(remote.get(60)))
    waiter.start()
    fault.wait()
    uid = queue.put("payload")
    waiter.join(30)
    assert [item.uid for item in got] == [uid]
    assert queue.counts() == {"ready": 0, "in_flight": 1, "delayed": 0, "dead": 0}


def test_calls_of_many_threads_over_a_bad_line(proxy, queue, through):
    remote = through(queue)
    proxy.arm("lose reply", times=30)
    acked: list[bytes] = []

    def work(name: str) -> None:
        for number in range(10):
            remote.put(f"{name}{number}")
        for _ in range(10):
            item = remote.get(-1)
            acked.append(item.payload)
            assert remote.ack(item)

    threads = [threading.Thread(target=work, args=name) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(acked) == sorted(f"{name}{number}".encode() for name in "abcd" for number in range(10))
    stats = queue.snapshot().stats
    assert (stats["put"], stats["delivered"], stats["acked"]) == (40, 40, 40)


@pytest.mark.parametrize("kind", ["lose reply", "lose request"])
@pytest.mark.parametrize("script", ["claim", "ack", "fail"])
def test_consumer_of_many_threads_over_a_bad_line(proxy, queue, through, script, kind):
    remote, seen = through(queue), []
    uids = queue.put_many(range(40))

    def handle(item: Item) -> None:
        seen.append(item.uid)
        if script == "fail":
            raise LookupError

    proxy.arm(kind, Script.named(script).sha, times=15)
    plan = ConsumerOptions(threads=4, max_items=40)
    InProcessConsumer([Subscription(remote, handle, backoff=Backoff(base=1000))], options=plan).run()
    assert sorted(seen) == sorted(uids)
    stats = queue.snapshot().stats
    assert (stats["delivered"], stats.get("acked", 0), stats.get("failed", 0)) == (
        (40, 0, 40) if script == "fail" else (40, 40, 0)
    )
    assert queue.audit() == []
