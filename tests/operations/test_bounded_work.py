"""The work of one call is bounded, and so are the records about past things, however large the queue is."""

from __future__ import annotations

import json

import pytest

from django_srq import SafeRedisQueue, operations
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription, adapt
from django_srq.operations import ClaimReply
from django_srq.transport.sync_pool import SyncPool
from tests.support.server_clock import now, pass_time

BATCH = 100  # items that housekeeping handles in one call
PASSED = 1000  # suspects that a claim passes over in search of other items
GROUPS = 200  # of dead items
ARGUMENTS = 3999  # the most arguments of a command, which some services limit to this
HOUR = 3_600_000  # ms


def claim(queue: SafeRedisQueue) -> ClaimReply:
    """Claim once; returns the reply."""
    return queue.link.call(operations.claim(queue.keys, consumer="g1", lease=60, legacy_lease=60), queue=queue.alias)


def test_due_items_are_made_ready_in_batches(queue, client):
    uids = queue.put_many(range(250), delay=60)
    pass_time(client, queue.keys, 61)
    assert claim(queue).found[0].uid == uids[0]
    assert queue.counts() == {"ready": BATCH - 1, "in_flight": 1, "delayed": 250 - BATCH, "dead": 0}
    assert [item.uid for _ in range(3) for item in queue.get_many(250)] == uids[1:]


def test_ended_leases_are_recovered_in_batches(queue, client):
    uids = queue.put_many(range(250))
    queue.get_many(250)
    pass_time(client, queue.keys, 61)
    assert claim(queue).found[0].uid == uids[0]
    assert queue.counts() == {"ready": BATCH - 1, "in_flight": 250 - BATCH + 1, "delayed": 0, "dead": 0}
    again = [item for _ in range(3) for item in queue.get_many(250)]
    assert [(item.uid, item.deliveries) for item in again] == [(uid, 2) for uid in uids[1:]]


def test_a_claim_that_finds_only_ghosts_asks_to_be_repeated(queue):
    uids = queue.put_many(range(250))
    queue.drop(*uids[:249])
    replies = [claim(queue) for _ in range(3)]
    assert [(len(reply.found), reply.wait) for reply in replies] == [(0, 0), (0, 0), (1, 0)]
    assert claim(queue).wait != 0
    assert replies[2].found[0].uid == uids[249]
    assert len(queue) == 0


def test_get_skips_any_number_of_ghosts(queue):
    uids = queue.put_many(range(1050))
    queue.drop(*uids[:1049])
    assert queue.get(-1).uid == uids[1049]
    assert not queue.get(-1)


def test_a_claim_skips_a_bounded_number_of_suspects(queue, client):
    """When there are more, an item put later with another priority is handed out before items behind the suspects."""
    uids = queue.put_many(range(PASSED + 200))
    queue.put("low", priority=-5)
    client.hset(queue.keys["crashes"], mapping=dict.fromkeys(uids[: PASSED + 100], 1))

    def found(n: int, process: str = "c1.2") -> tuple[list[bytes], float | None]:
        reply = queue.link.call(queue.claim(process, lease=60, n=n), queue=queue.alias)
        return [item.payload for item in reply.found], reply.wait

    assert found(1, "c1.1") == ([b"0"], 0)
    assert found(1) == ([b"low"], 1)
    assert found(1) == ([], 1)
    client.hdel(queue.keys["crashes"], *uids[1:100])
    assert found(PASSED) == ([b"%d" % n for n in [*range(1, 100), *range(PASSED + 100, PASSED + 200)]], 1)


def test_groups_of_dead_items_are_bounded(make_queue, client):
    queue = make_queue(max_deliveries=1)

    def groups() -> dict[str, int]:
        found = client.hgetall(queue.keys["deadgroups"])
        return {name.decode(): int(value.split()[0]) for name, value in found.items()}

    for n in range(GROUPS + 5):
        queue.put(n)
        assert queue.fail(queue.get(-1), f"error {n}") == "dead"
    assert len(groups()) == GROUPS + 1
    assert groups()["other"] == 5
    dead = [item.uid for item in queue.items("dead")]
    assert queue.drop(dead[0], dead[-1]) == 2
    assert (len(groups()), groups()["other"]) == (GROUPS, 4)
    assert queue.requeue() == GROUPS + 3
    assert groups() == {}


def test_equal_errors_are_one_group(make_queue, client):
    queue = make_queue(max_deliveries=1)
    for n in range(3):
        queue.put(n)
        queue.fail(queue.get(-1), "no stock")
    ((name, value),) = client.hgetall(queue.keys["deadgroups"]).items()
    *numbers, example = value.split()
    count, first, last = map(int, numbers)
    assert (name, count) == (b"Failed: no stock", 3)
    assert example.decode() in {item.uid for item in queue.items("dead")}
    assert now(client) - HOUR < first <= last <= now(client)


@pytest.mark.parametrize(("unseen", "kept"), [(HOUR + 60_000, False), (HOUR - 60_000, True)])
def test_entries_of_consumers_that_ended_without_removing_them_are_deleted(queue, client, unseen, kept):
    def enlist(consumer: str) -> None:
        queue.link.call(operations.register(queue.keys, consumer, b'{"host":"h"}'), queue=queue.alias)

    enlist("c-old")
    client.hset(queue.keys["consumers"], "c-old", json.dumps({"seen": now(client) - unseen, "host": "h"}))
    enlist("c-new")
    assert set(queue.snapshot().consumers) == ({"c-old", "c-new"} if kept else {"c-new"})


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """The number of arguments of each request."""
    counted, exchange = [], SyncPool.exchange

    def counting(self: SyncPool, commands: bytes, *args: object, **options: object) -> object:
        counted.append(int(commands[1 : commands.index(b"\r")]))
        return exchange(self, commands, *args, **options)

    monkeypatch.setattr(SyncPool, "exchange", counting)
    return counted


def test_the_arguments_of_fail_many_are_bounded(make_queue, counted):
    queue = make_queue()
    queue.put_many(range(1000))
    assert queue.fail_many(queue.get_many(1000), ValueError("no")) == ["ready"] * 1000
    assert 3900 < max(counted) <= ARGUMENTS


def test_the_arguments_of_fail_many_with_an_error_for_each_item_are_bounded(make_queue, counted):
    queue = make_queue(max_deliveries=1)
    queue.put_many(range(1000))

    def refuse(payloads):
        return {place: ValueError(f"no {payload}") for place, payload in enumerate(payloads)}

    subscription = Subscription(queue, adapt(refuse, batch=True), batch=1000, lease=600)
    assert InProcessConsumer([subscription], options=ConsumerOptions(burst=True)).run() == 1000
    assert queue.counts()["dead"] == 1000
    assert 3900 < max(counted) <= ARGUMENTS
