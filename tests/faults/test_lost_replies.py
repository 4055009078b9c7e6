"""Every call is carried out once, whatever happens to its request or its reply."""

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
from django_srq.exceptions import OutcomeUnknown, QueueFull, RetryLater
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

SOON = 0.05  # seconds until a call is given up, in tests of that
HOUR = 3_600_000  # ms
SCRIPTS = [
    file.name.removesuffix(".lua")
    for file in (resources.files("django_srq.operations") / "lua").iterdir()
    if file.is_file()
]


@pytest.fixture
def proxy(server_url: str, client: redis.Redis) -> Iterator[Proxy]:
    scripts = [Script.named(name) for name in SCRIPTS]
    for script, known in zip(scripts, client.script_exists(*(script.sha.decode() for script in scripts)), strict=True):
        if not known:  # the server would answer the first request with NOSCRIPT
            client.script_load(script.text)
    proxy = Proxy(server_url)
    yield proxy
    proxy.close()


@pytest.fixture(params=[SafeRedisQueue, Asynchronous], ids=["sync", "async"])
def through(request, proxy: Proxy) -> Iterator[Callable[..., SafeRedisQueue]]:
    """Makes the same queue through the proxy, called from a thread or from an event loop."""
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
    """Expect the call inside to be given up after so many seconds; a slow connection is opened before that time.

    Afterwards the proxy, which may be slower still, has read all that was sent.
    """
    link, patience = queue.link, queue.link.timeout
    len(queue)
    if isinstance(queue, Asynchronous):  # each of its calls has a new event loop, and connects
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


# -- the operations: the preparation of the queue, and the call


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


def delayed(queue: SafeRedisQueue) -> None:
    assert queue.fail(taken(queue), "boom", delay=60) == "delayed"


def claim(queue: SafeRedisQueue, _: object) -> list[Any]:
    return [(item.payload, timeless(item.token), item.deliveries) for item in queue.get_many(2)]


def settle_and_claim(queue: SafeRedisQueue, item: Item) -> Any:
    fused = operations.claim(queue.keys, consumer="c1", lease=60, legacy_lease=60, acks=[held(item)])
    reply = queue.link.call(fused, queue=queue.alias)
    return reply.acked, [(found.uid, timeless(found.delivery.token)) for found in reply.found]


KEPT = operations.kept(60, 2, b'{"s":"SUCCESSFUL","r":1}')


def ack_with_result(queue: SafeRedisQueue, item: Item) -> Any:
    return queue.link.call(operations.ack(queue.keys, [held(item)], [KEPT]), queue=queue.alias)


def settle_with_result_and_claim(queue: SafeRedisQueue, item: Item) -> Any:
    fused = operations.claim(queue.keys, consumer="c1", lease=60, legacy_lease=60, acks=[held(item)], results=[KEPT])
    reply = queue.link.call(fused, queue=queue.alias)
    return reply.acked, [(found.payload, timeless(found.delivery.token)) for found in reply.found]


def generated_and_taken(queue: SafeRedisQueue) -> Item:
    queue.put_many("abc")
    return queue.get(-1)


def done(queue: SafeRedisQueue) -> None:
    for item in (taken(queue), queue.get(-1)):
        ack_with_result(queue, item)


def replace_dead(queue: SafeRedisQueue, _: object) -> Any:
    items = [operations.Put("uid-a", b"new", b""), operations.Put("uid-b", b"new", b"")]
    put = operations.put(queue.keys, items, own=True, replaces_dead=True)
    return list(queue.link.call(put, queue=queue.alias).states)


def cancel(queue: SafeRedisQueue, _: object) -> bool:
    return queue.link.call(operations.cancel(queue.keys, "uid-a", KEPT), queue=queue.alias)


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
    single: bool = True  # it sends no other call before or after that of the script
    own_slot: bool = False  # the slot belongs to the item, not to the process

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
    "ack with a result": Case("ack", generated_and_taken, ack_with_result),
    "ack with a result, by number": Case("ack", taken, ack_with_result),
    "settle with a result, and claim": Case("claim", generated_and_taken, settle_with_result_and_claim),
    "settle with a result by number, and claim": Case("claim", taken, settle_with_result_and_claim),
    "put in place of a dead item": Case("put", dead, replace_dead),
    "put in place of a result": Case("put", done, lambda queue, _: queue.put("new", uid="uid-a")),
    "cancel": Case("cancel", ready, cancel),
    "cancel what is retrying": Case("cancel", delayed, cancel),
    "purge results": Case("purge_results", done, lambda queue, _: queue.purge_results()),
    "drop a result": Case("drop", done, lambda queue, _: queue.drop("uid-a")),
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
    "run now": Case("run_now", delayed, lambda queue, _: queue.run_now("uid-a")),
    "run all that are retrying": Case("run_retrying", delayed, lambda queue, _: queue.run_now()),
    "purge what is retrying": Case("purge_retrying", delayed, lambda queue, _: queue.purge("delayed", error="Failed")),
    "postpone": Case("fail", taken, lambda queue, item: queue.fail(item, RetryLater(60), delay=60)),
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
# An event loop sends all calls in the same way: of the cases that differ by their scripts only, it gets some.
IN_A_LOOP = ["put", "put_many", "claim", "settle and claim", "ack", "fail_many", "move: the put", "move: the ack"]


def on_each_side(cases: dict[str, Case]) -> pytest.MarkDecorator:
    sides = [
        *((SafeRedisQueue, name) for name in cases),
        *((Asynchronous, name) for name in IN_A_LOOP if name in cases),
    ]
    return pytest.mark.parametrize(
        ("case", "through"),
        [(cases[name], side) for side, name in sides],
        ids=[f"{name}-{'async' if side is Asynchronous else 'sync'}" for side, name in sides],
        indirect=["through"],
    )


# -- the state afterwards


def timeless(token: str) -> str:
    """The token without the time of the claim."""
    return re.sub(r"@\d+", "", token)


def contents(client: redis.Redis, queue: SafeRedisQueue) -> dict[str, Any]:
    """All that an operation carried out twice could change, except times and generated uids."""
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
        "results": sorted(re.sub(rb"@?\d{13}", b"", value) for value in client.hvals(keys["results"])),
        "finished": client.zcard(keys["finished"]),
        **{key: hash_of(key) for key in ("deliveries", "crashes", "retrying")},
        "groups": [group.count for group in queue.link.call(operations.retry_groups(keys), queue=queue.alias)],
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
    """The same operation on two queues: through the faulty proxy, and directly on a second queue, the twin."""

    client: redis.Redis
    case: Case
    queue: SafeRedisQueue
    remote: SafeRedisQueue
    twin: SafeRedisQueue

    def operate(self) -> None:
        """Prepare both queues and operate on them; the results must be equal."""
        expected = self.operate_on(self.twin, self.twin)
        assert self.operate_on(self.queue, self.remote) == expected

    def operate_on(self, queue: SafeRedisQueue, seen: SafeRedisQueue) -> Any:
        prepared = self.case.prepare(queue)
        if self.case.prepare is CASES["claim what is due"].prepare:
            wait_until_due(self.client, queue)
        return uids_as_payloads(self.client, queue, self.case.operate(seen, prepared))

    def check(self) -> None:
        """Both queues must have the same contents."""
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
def test_a_lost_call_is_sent_again_and_carried_out_once(proxy, trial, case, kind):
    one = trial(case)
    fault = proxy.arm(kind, case.sha)
    one.operate()
    assert fault.hits == 1
    one.check()


@on_each_side(CASES)
def test_an_original_that_arrives_after_its_repeat_does_nothing(proxy, trial, case):
    one = trial(case)
    fault = proxy.arm("hold request", case.sha)
    one.operate()
    assert len(fault.deliver()) == 1
    one.check()


@on_each_side(CASES)
def test_an_original_that_arrives_after_later_calls_is_refused(proxy, trial, case):
    one = trial(case)
    fault = proxy.arm("hold request", case.sha)
    one.operate()
    for queue in (one.remote, one.twin):
        queue.put("later", uid="later")
    (reply,) = fault.deliver()
    assert reply.startswith(b"-SRQLATE") is not case.own_slot
    one.check()


@on_each_side(SINGLE)
def test_a_call_that_was_given_up_does_nothing_after_a_later_call(proxy, trial, case):
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


def test_a_call_that_was_given_up_is_carried_out_at_most_once(proxy, queue, through):
    remote = through(queue)
    fault = proxy.arm("hold request", Script.named("put").sha, times=1000)
    with giving_up(proxy, remote, 40 * SOON):  # seconds; long enough for several attempts
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


def test_a_call_waits_for_a_delayed_reply(proxy, queue, through):
    fault = proxy.arm("hold reply")
    courier = threading.Thread(target=fault.deliver)
    courier.start()
    uid = through(queue).put("payload")
    courier.join()
    assert [item.uid for item in queue.items()] == [uid]


def test_a_late_reply_is_not_taken_for_the_reply_to_the_next_call(proxy, queue, through):
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
    """Interrupts the main thread with SIGINT, as Ctrl-C does; asyncio turns it into a cancellation."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kind", ["stall request", "hold reply"])
def test_an_interrupted_call_uses_up_its_number(proxy, queue, through, interrupt, kind):
    remote = through(queue)
    fault = proxy.arm(kind, then=interrupt)
    with pytest.raises(KeyboardInterrupt):
        remote.put("first")
    remote.put("second")
    (reply,) = fault.deliver()
    assert reply.startswith(b"-SRQLATE") is (kind == "stall request")
    carried_out = [b"second"] if kind == "stall request" else [b"first", b"second"]
    assert [item.payload for item in queue.items()] == carried_out


def test_a_closed_slot_refuses_the_claim_of_a_dead_consumer(queue, link):
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


def test_a_forked_child_has_slots_of_its_own(server_url, client, queue):
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


def test_a_repeated_claim_gets_the_same_items_with_renewed_leases(client, queue, link):
    ready(queue)
    claim = operations.claim(queue.keys, consumer="c1", lease=60, legacy_lease=60, n=2)
    slot = Slot(b"slot", 1)
    first = link.call(claim, queue=queue.alias, slot=slot)
    client.zadd(queue.keys["leases"], dict.fromkeys(("uid-a", "uid-b"), now(client) + 1000))
    assert link.call(claim, queue=queue.alias, slot=slot) == first
    deadlines = [score for _, score in client.zrange(queue.keys["leases"], 0, -1, withscores=True)]
    assert len(deadlines) == 2
    assert min(deadlines) > now(client) + 30_000


def test_a_repeated_claim_leaves_out_items_that_another_consumer_has_by_now(queue, link):
    ready(queue)
    claim = operations.claim(queue.keys, consumer="g1", lease=60, legacy_lease=60, n=2)
    slot = Slot(b"slot", 1)
    link.call(claim, queue=queue.alias, slot=slot)
    end_lease(queue, "uid-a")
    assert queue.get(-1).uid == "uid-a"
    assert [found.uid for found in link.call(claim, queue=queue.alias, slot=slot).found] == ["uid-b"]


def test_a_consumer_handles_the_items_of_a_claim_without_a_reply(proxy, queue, through, monkeypatch):
    """The server carries out the ack and the claim, but replies for longer than the time limit do not arrive."""
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
def test_put_many_names_the_uids_in_doubt_which_can_be_put_again(proxy, queue, through, monkeypatch, kind):
    monkeypatch.setattr("django_srq.queue.puts.BATCH", 2)
    remote, payloads = through(queue), ["a", "b", "marked", "d", "e"]
    proxy.arm(kind, b"marked", times=1000)
    with giving_up(proxy, remote, 20 * SOON) as caught:  # enough time for the first batch
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
def test_an_item_that_was_moved_but_not_acked_is_not_moved_again(proxy, queue, through, priority):
    queue.put("payload", priority=priority)
    remote = through(queue)
    proxy.arm("hold request", Script.named("ack").sha, times=1000)
    with giving_up(proxy, remote, 20 * SOON):  # enough time for the claim and the put
        remote.move(target_of(queue))
    moved = target_of(queue).get(-1)
    assert target_of(queue).ack(moved)
    pass_time(queue.link.client, queue.keys, queue.lease + 1)
    assert queue.move(target_of(queue)) == 1
    assert (len(queue), len(target_of(queue))) == (0, 0)
    assert queue.counts()["in_flight"] == 0


def test_an_item_that_a_full_target_refused_is_moved_when_there_is_room(queue):
    target = SafeRedisQueue(name=f"{queue.name}-target", link=queue.link, max_length=1)
    uid = queue.put("payload")
    blocker = target.put("in the way")
    with pytest.raises(QueueFull):
        queue.move(target)
    assert [item.uid for item in queue.items()] == [uid]
    target.drop(blocker)
    assert queue.move(target) == 1
    assert [item.uid for item in target.items()] == [uid]


def test_a_later_attempt_of_a_move_asks_the_target_again_about_a_uid(queue):
    """A late copy of an earlier attempt gets the old answer, so it puts nothing."""
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


def test_sequential_calls_share_a_slot(client, queue):
    for number in range(20):
        queue.ack(queue.put(str(number)))
    assert client.hlen(queue.keys["slots"]) == 1


@pytest.mark.parametrize("kind", ["lose reply", "lose request"])
def test_a_blocking_get_survives_the_loss_of_its_reply(proxy, queue, through, kind):
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


def test_calls_of_many_threads_over_a_lossy_line(proxy, queue, through):
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
def test_a_consumer_with_many_threads_over_a_lossy_line(proxy, queue, through, script, kind):
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
