"""``unique_for``: a uid counts as there for so long after the ack of its item."""

from __future__ import annotations

import asyncio
import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest

from django_srq import SafeRedisQueue, operations, queues
from django_srq.exceptions import ConfigurationError, DuplicateItem, InvalidArgument
from django_srq.operations import DeliveryRef, Put
from django_srq.operations.scripts import UNIQUES_MOST
from django_srq.transport.slots import Slot
from tests.support.server_clock import now, pass_time

HOUR = 3600


def added(queue, uid="nightly", **options):
    """Whether a put adds an item."""
    before = sum(queue.counts().values())
    assert queue.put("x", uid=uid, **{"unique_for": HOUR, **options}) == uid
    return sum(queue.counts().values()) > before


def handle(queue):
    assert queue.ack(queue.get(-1))


def remembered(queue, client):
    return {uid.decode(): end for uid, end in client.zrange(queue.keys["uniques"], 0, -1, withscores=True)}


ACKS = {
    "ack": lambda queue: queue.ack(queue.get(-1)),
    "ack by uid": lambda queue: queue.ack(queue.get(-1).uid),
    "ack_many": lambda queue: queue.ack_many(queue.get_many(2)),
}


@pytest.mark.parametrize("ack", ["ack", "ack by uid", "ack_many", "fused", "processing"])
def test_a_uid_counts_as_there_for_so_long_after_its_ack(queue, client, ack):
    assert added(queue)
    assert not added(queue)
    pass_time(client, queue.keys, HOUR - 60)
    if ack == "fused":
        item = queue.get(-1)
        held = [DeliveryRef(item.uid, item.token, item.delivery.number)]
        call = operations.claim(queue.keys, consumer="c1", lease=60, legacy_lease=60, n=0, acks=held)
        assert queue.link.call(call, queue="q").acked == [True]
    elif ack == "processing":
        with queue.processing(-1):
            pass
    else:
        ACKS[ack](queue)
    pass_time(client, queue.keys, HOUR - 60)
    assert not added(queue)
    with pytest.raises(DuplicateItem) as raised:
        queue.put("x", uid="nightly", strict=True)
    assert (raised.value.state, raised.value.uid) == ("done", "nightly")
    assert str(raised.value).endswith(": nightly was handled or moved, and counts as there by unique_for (done)")
    pass_time(client, queue.keys, 120)
    assert added(queue)


def test_an_item_that_waits_longer_is_there_until_its_ack_and_so_long_after(queue, client):
    assert added(queue)
    pass_time(client, queue.keys, 10 * HOUR)
    assert not added(queue)
    handle(queue)
    assert not added(queue)


def test_a_delay_counts_as_time_in_the_queue(queue, client):
    assert added(queue, delay=5 * HOUR)
    pass_time(client, queue.keys, 4 * HOUR)
    assert not added(queue)


def test_of_several_hosts_one_puts(make_queue):
    queue = make_queue()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: queue.put(n, uid="nightly", unique_for=HOUR), range(40)))
        assert len(queue) == 1
        handle(queue)
        list(pool.map(lambda n: queue.put(n, uid="nightly", unique_for=HOUR), range(40)))
    assert len(queue) == 0
    assert queue.snapshot().stats["put"] == 1


def test_a_uid_without_unique_for_may_be_put_again(queue):
    assert added(queue, unique_for=None)
    handle(queue)
    assert added(queue, unique_for=0)


def test_put_many_and_the_asynchronous_twins(queue):
    async def main():
        await queue.aput("x", uid="a", unique_for=dt.timedelta(hours=1))
        await queue.aput_many("xy", uids=["a", "b"], unique_for=HOUR)

    asyncio.run(main())
    queue.put_many("yz", uids=["b", "c"], unique_for=HOUR)
    assert len(queue) == 3
    queue.ack_many(queue.get_many(3))
    queue.put_many("wxyz", uids=["a", "b", "c", "d"])
    assert [item.uid for item in queue.items()] == ["d"]


def test_the_option_of_a_queue_is_for_uids_of_the_caller(settings, server_url, prefix, client):
    settings.SRQ_QUEUES = {"orders": {"URL": server_url, "PREFIX": prefix, "UNIQUE_FOR": HOUR}}
    queue = queues["orders"]
    queue.put(1, uid="a")
    queue.put(1)
    queue.put(1, uid="b", unique_for=0)
    queue.put(1, uid="c", unique_for=2 * HOUR)
    ends = remembered(queue, client)
    assert set(ends) == {"a", "c"}
    assert HOUR - 60 < (ends["c"] - ends["a"]) / 1000 < HOUR + 60


@pytest.mark.parametrize("value", [-1, "1", True, float("inf"), dt.timedelta(-1)])
def test_a_wrong_time_is_refused(queue, value):
    with pytest.raises(InvalidArgument, match="unique_for is a number of seconds or a timedelta"):
        queue.put(1, uid="a", unique_for=value)


def test_a_generated_uid_cannot_be_unique(queue):
    for put in (lambda: queue.put(1, unique_for=5), lambda: queue.put_many([1], unique_for=5)):
        with pytest.raises(InvalidArgument, match="unique_for needs a uid of your own"):
            put()
    with pytest.raises(ConfigurationError, match="unique_for is a number of seconds above 0 .*, or None"):
        SafeRedisQueue(unique_for=0)


def test_what_is_deleted_on_purpose_may_be_put_again(queue, client):
    assert added(queue)
    assert queue.drop("nightly") == 1
    assert added(queue)
    assert queue.purge() == 1
    assert added(queue, priority=5)
    assert queue.purge("ready") == 1
    assert added(queue, delay=60)
    assert queue.purge("delayed") == 1
    assert added(queue)
    queue.link.call(operations.fail(queue.keys, DeliveryRef(queue.get(-1).uid), bury=True), queue="q")
    assert queue.purge("dead") == 1
    assert added(queue)
    handle(queue)
    assert not added(queue)
    assert queue.drop("nightly") == 0  # done: nothing to delete, but it may be put again
    assert added(queue)


def test_a_done_uid_is_answered_before_a_full_queue(make_queue):
    queue = make_queue(max_length=1)
    assert added(queue)
    handle(queue)
    queue.put("y")
    assert not added(queue)


def test_a_moved_item_counts_as_done_here_and_takes_its_time_along(make_queue):
    here, there = make_queue(), make_queue("-there")
    assert added(here)
    assert here.move(there) == 1
    assert not added(here)
    assert there.move(here) == 1  # the memory of a uid holds up no item
    assert here.move(there) == 1
    handle(there)
    assert not added(there)


def test_a_put_whose_reply_was_lost_adds_once_although_the_item_was_acked_meanwhile(queue, link):
    slot = Slot(b"test", 1)
    call = operations.put(queue.keys, [Put("nightly", b"x", b"")], own=True, unique_for=HOUR)
    assert list(link.call(call, queue="q", slot=slot).states) == [""]
    handle(queue)
    assert list(link.call(call, queue="q", slot=slot).states) == [""]
    assert len(queue) == 0


def test_an_ack_of_an_older_version_leaves_the_time_since_the_put(queue, client):
    """That version deletes the item with its records, and does not know the key."""
    assert added(queue)
    item = queue.get(-1)
    for key in ("items", "holders", "headers"):
        client.hdel(queue.keys[key], item.uid)
    client.zrem(queue.keys["leases"], item.uid)
    pass_time(client, queue.keys, HOUR - 60)
    assert not added(queue)
    pass_time(client, queue.keys, 120)
    assert added(queue)
    assert queue.audit() == []


def test_uids_whose_time_is_over_are_forgotten(queue, client):
    for n in range(300):
        added(queue, f"u{n}")
    queue.ack_many(queue.get_many(299))
    pass_time(client, queue.keys, 2 * HOUR)
    for _ in range(3):
        client.hdel(queue.keys["meta"], "kept")
        queue.recover()  # does the housekeeping
    assert set(remembered(queue, client)) == {"u299"}  # its item is still there
    assert remembered(queue, client)["u299"] > now(client)


def test_puts_keep_the_number_of_forgotten_uids_small(queue, client):
    for n in range(50):
        added(queue, f"u{n}")
        handle(queue)
    pass_time(client, queue.keys, 2 * HOUR)
    for n in range(50):
        added(queue, f"v{n}")
    assert len(remembered(queue, client)) == 50


def test_at_the_bound_those_whose_time_ends_first_are_forgotten(queue, client):
    most, moment = UNIQUES_MOST, now(client)
    for start in range(0, most, 10_000):
        client.zadd(queue.keys["uniques"], {f"old{n}": moment + 10**6 + n for n in range(start, start + 10_000)})
    assert added(queue)
    handle(queue)
    assert not added(queue)
    assert client.zcard(queue.keys["uniques"]) == most
    assert client.zscore(queue.keys["uniques"], "old0") is None
    assert client.zscore(queue.keys["uniques"], "old1")
    assert queue.audit() == []
    client.zadd(queue.keys["uniques"], {"one too many": now(client) + 10**9})
    assert queue.audit() == [f"{most + 1} uids are kept for unique_for, more than {most}"]
