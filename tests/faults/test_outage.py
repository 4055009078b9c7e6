"""The server is away, or nobody calls it for a while: acknowledged calls are kept, no item is blamed for a crash."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from django_srq import SafeRedisQueue, operations, queues
from django_srq.exceptions import OutcomeUnknown, QueueUnavailable
from django_srq.operations import DeliveryRef
from django_srq.queue.item import Item
from django_srq.transport.slots import Slot
from tests.support.decoding import decoded
from tests.support.server_clock import now, pass_time
from tests.support.servers import Server
from tests.support.waiting import wait_for

LEASE = 60  # seconds
SHORT = 0.3  # seconds; for leases that end during the test
FAR = 10**9  # ms


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.close()


@pytest.fixture
def queue(server: Server) -> Iterator[SafeRedisQueue]:
    queue = SafeRedisQueue(name="outage", url=server.url, autoclean_interval=LEASE, timeout=20)
    yield queue
    queue.link.close()


@pytest.fixture
def hasty(queue: SafeRedisQueue) -> SafeRedisQueue:
    """The same queue with short leases."""
    return SafeRedisQueue(name=queue.name, link=queue.link, autoclean_interval=SHORT)


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    """A bare client; its commands do not count as calls of a queue."""
    with server.client() as client:
        yield client


def claim(queue: SafeRedisQueue, consumer: str = "c1") -> list[Item]:
    call = operations.claim(queue.keys, consumer=consumer, lease=queue.lease, legacy_lease=LEASE)
    return decoded(queue, queue.link.call(call, queue=queue.alias).found)


def supervised_and_plain(queue: SafeRedisQueue, client: redis.Redis) -> tuple[Item, Item]:
    """Take two items: one for a supervised consumer, and one with a plain get."""
    queue.put_many(["supervised", "plain"])
    items = claim(queue)[0], queue.get(-1)
    assert len(deadlines(queue, client)) == 2
    return items


def deadlines(queue: SafeRedisQueue, client: redis.Redis) -> dict[str, float]:
    return {uid.decode(): score for uid, score in client.zrange(queue.keys["leases"], 0, -1, withscores=True)}


def silence(queue: SafeRedisQueue, client: redis.Redis) -> None:
    """Let time pass in which nobody calls the queue, and all leases end."""
    pass_time(client, queue.keys, LEASE + 1)
    for field in ("seen", "kept"):
        client.hincrby(queue.keys["meta"], field, -1000 * (LEASE + 1))


def restart(server: Server) -> None:
    server.kill()
    server.start()


def restart_when_leases_ended(server: Server, queue: SafeRedisQueue, client: redis.Redis) -> None:
    restart(server)
    silence(queue, client)


def stay_silent(_: Server, queue: SafeRedisQueue, client: redis.Redis) -> None:
    silence(queue, client)


def stay_silent_unseen(_: Server, queue: SafeRedisQueue, client: redis.Redis) -> None:
    """Like stay_silent, but scripts may not ask INFO whether the server was restarted meanwhile."""
    client.execute_command("ACL", "SETUSER", "default", "-info")
    silence(queue, client)


def test_acknowledged_puts_and_acks_survive_a_restart_of_the_server(server, queue):
    uids = queue.put_many(["a", "b", "c", "d"])
    items = queue.get_many(2)
    queue.ack(items[0])
    restart(server)
    assert queue.counts() == {"ready": 2, "in_flight": 1, "delayed": 0, "dead": 0}
    assert queue.audit() == []
    assert queue.fail(items[1]) == "ready"
    assert [item.uid for item in queue.items()] == [uids[2], uids[3], uids[1]]


def test_puts_during_an_outage_are_carried_out_once(server, queue):
    uids: list[str] = []
    stop = threading.Event()

    def produce() -> None:
        while not stop.is_set():
            uids.append(queue.put(str(len(uids))))

    producer = threading.Thread(target=produce)
    producer.start()
    for _ in range(2):
        before = len(uids)
        wait_for(lambda before=before: len(uids) > before + 20, "puts")
        restart(server)
    before = len(uids)
    wait_for(lambda: len(uids) > before, "a put after the outage")
    stop.set()
    producer.join()
    assert [item.uid for item in queue.items()] == uids


def test_an_outage_longer_than_the_time_limit_is_an_error(server):
    impatient = SafeRedisQueue(name="outage", url=server.url, timeout=20)
    item = impatient.put("payload") and impatient.get(-1)
    server.kill()
    impatient.link.timeout = 0.2
    for call in (lambda: impatient.put("other"), lambda: impatient.get(-1), lambda: impatient.ack(item)):
        with pytest.raises((QueueUnavailable, OutcomeUnknown), match="'outage'"):
            call()
    server.start()
    impatient.link.timeout = 20
    assert impatient.ack(item)
    assert impatient.counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 0}
    impatient.link.close()


@pytest.mark.parametrize(
    ("away", "spared"),
    [(restart_when_leases_ended, {b"supervised", b"plain"}), (stay_silent_unseen, {b"supervised"})],
    ids=["the server was away", "nobody called, and INFO is refused"],
)
def test_a_lease_that_ended_during_an_outage_is_prolonged_once(server, queue, client, away, spared):
    items = supervised_and_plain(queue, client)
    away(server, queue, client)
    ended = deadlines(queue, client)

    recovered = {item.payload for item in queue.get_many(2)}
    assert recovered == {b"supervised", b"plain"} - spared
    moved = {item.uid: deadlines(queue, client)[item.uid] for item in items if item.payload in spared}
    assert all(deadline > ended[uid] + 1000 * LEASE for uid, deadline in moved.items())

    # A second outage right afterwards does not prolong it again.
    client.execute_command("ACL", "SETUSER", "default", "+info")
    client.hset(queue.keys["meta"], mapping={"run_id": "another", "seen": now(client) - FAR})
    assert not {item.uid for item in queue.get_many(2)} & moved.keys()
    assert {uid: deadlines(queue, client)[uid] for uid in moved} == moved
    pass_time(client, queue.keys, LEASE + 1)
    client.hset(queue.keys["meta"], mapping={"run_id": "a third", "seen": now(client) - FAR})
    # The supervised item counts as begun when its consumer died, so it is handed out alone.
    assert moved.keys() <= {item.uid for _ in range(2) for item in queue.get_many(2)}
    assert queue.audit() == []


def test_a_silence_without_a_restart_prolongs_only_by_the_time_of_a_renewal(server, queue, client):
    """A holder that lives gets the time to renew, but not a whole lease."""
    item, _ = supervised_and_plain(queue, client)
    stay_silent(server, queue, client)
    assert [other.payload for other in queue.get_many(2)] == [b"plain"]
    left = deadlines(queue, client)[item.uid] - now(client)
    assert 0 < left < 1000 * (LEASE / 3 + 1) + 2
    pass_time(client, queue.keys, LEASE / 3 + 2)
    assert queue.get(-1).uid == item.uid
    assert queue.audit() == []


def test_a_silence_prolongs_a_lease_once(server, queue, client):
    """Otherwise a consumer that crashes again and again could keep an item from all others."""
    item, _ = supervised_and_plain(queue, client)
    stay_silent(server, queue, client)
    assert item.uid not in {other.uid for other in queue.get_many(2)}
    silence(queue, client)
    assert queue.get(-1).uid == item.uid


def test_a_lone_consumer_does_not_wait_for_a_second_lease_after_its_restart(server, project, client):
    """The first is killed with an item in hand. Nobody calls for more than half a lease, then the second one starts."""
    lease = 60
    project.configure({"told": {"HANDLER": "tests.support.handlers.told"}}, {"URL": server.url, "LEASE": lease})
    queue, meta = queues["told"], queues["told"].keys["meta"]
    queue.put({"do": "suspend", "name": "item"})
    first = project.start("srq_consume")
    wait_for(lambda: any(line.startswith("item 1 ") for line in project.lines()), "the first delivery")
    project.kill(first)
    pass_time(client, queue.keys, lease * 2 / 3)
    for field in ("seen", "kept"):
        client.hincrby(meta, field, -1000 * lease * 2 // 3)
    project.start("srq_consume")
    wait_for(lambda: client.hexists(meta, "quiet"), "the first call of the second consumer")
    pass_time(client, queue.keys, lease / 3 + 2)
    wait_for(lambda: any(line.startswith("item 2 ") for line in project.lines()), "the second delivery")
    assert not client.hexists(meta, "silent")


def test_a_server_stopped_for_longer_than_a_lease_takes_no_item_from_its_holder(server, project, client):
    """The server is not restarted, and another consumer is ready to take the item (the third guarantee)."""
    lease = 3
    project.configure({"slow": {"HANDLER": "tests.support.handlers.slow"}}, {"URL": server.url, "LEASE": lease})
    queue = queues["slow"]
    queue.put("item")
    project.start("srq_consume")
    project.said("begin item 1")
    project.start("srq_consume")
    wait_for(lambda: client.hlen(queue.keys["consumers"]) == 2, "the other consumer")
    ((uid, ended),) = deadlines(queue, client).items()
    server.process.send_signal(signal.SIGSTOP)
    try:
        # The server uses the clock of this machine.
        wait_for(lambda: time.time() * 1000 > ended + 1000 * lease / 3, "the lease to end")
    finally:
        server.process.send_signal(signal.SIGCONT)
    wait_for(lambda: client.hexists(queue.keys["meta"], "quiet"), "a call after the stop")
    wait_for(lambda: deadlines(queue, client)[uid] > now(client) + 500 * lease, "the lease to be renewed")
    project.go.touch()
    project.said("end item 1")
    assert project.lines() == ["begin item 1", "end item 1"]


@pytest.mark.parametrize("away", [restart_when_leases_ended, stay_silent], ids=["the server was away", "nobody called"])
def test_a_consumer_that_survives_an_outage_keeps_its_item(server, queue, client, away):
    item, _ = supervised_and_plain(queue, client)
    away(server, queue, client)
    queue.get(-1)
    (renewed,) = queue.link.call(
        operations.extend(queue.keys, [DeliveryRef(item.uid, item.token)], lease=60), queue=queue.alias
    )
    assert renewed
    assert deadlines(queue, client)[item.uid] > now(client) + 30_000
    assert queue.ack(item)


def test_the_lease_of_a_lost_consumer_ends_in_time_while_others_call(queue, hasty, client):
    queue.put("payload")
    (item,) = claim(hasty)
    deadline = deadlines(queue, client)[item.uid]
    again = wait_for(lambda: queue.get(-1), "recovery")
    assert now(client) >= deadline
    assert (again.uid, again.deliveries) == (item.uid, 2)


@pytest.mark.parametrize("away", [restart_when_leases_ended, stay_silent], ids=["the server was away", "nobody called"])
@pytest.mark.parametrize("consumer", ["c1", "g1"])
def test_a_lease_that_began_after_an_outage_ends_in_time(server, queue, client, away, consumer):
    """The first call after the outage is the claim that gives this lease."""
    claim(queue, consumer)
    queue.put("payload")
    away(server, queue, client)
    (item,) = claim(queue, consumer)
    pass_time(client, queue.keys, LEASE + 1)
    assert queue.get(-1).uid == item.uid


@pytest.mark.parametrize("consumer", ["c1", "g1"])
def test_a_deadline_far_in_the_future_is_shortened(queue, client, consumer):
    queue.put("payload")
    (item,) = claim(queue, consumer)
    client.zadd(queue.keys["leases"], {item.uid: now(client) + FAR})
    client.hdel(queue.keys["meta"], "kept")
    assert not queue.get(-1)
    assert deadlines(queue, client)[item.uid] <= now(client) + 1000 * LEASE
    pass_time(client, queue.keys, LEASE + 1)
    assert queue.get(-1).uid == item.uid


def test_a_call_from_before_an_outage_is_not_carried_out_again(server, queue):
    call = operations.put(queue.keys, [operations.Put("uid", b"payload", b"")], own=False)
    before = queue.link.call(call, queue=queue.alias, slot=Slot(b"slot", 1))
    restart(server)
    assert queue.link.call(call, queue=queue.alias, slot=Slot(b"slot", 1)) == before
    assert len(queue) == 1
