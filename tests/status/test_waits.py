"""An item waits from when it was ready: from its put, its due time, or its requeue, whichever came last."""

from __future__ import annotations

import datetime as dt
import re

import pytest

from django_srq import operations
from django_srq.operations import DeliveryRef, Put
from tests.support.server_clock import now, pass_time

MONTH = 30 * 24 * 3600
SOON = 16_384  # ms; a bucket of the histogram ends there


def put_long_ago(queue, client, n=0):
    """An item with the uid that was generated for it a month ago."""
    digits = f"{now(client) - MONTH * 1000:012x}"
    uid = f"{digits[:8]}-{digits[8:]}-7000-8000-{n:012x}"
    queue.link.call(operations.put(queue.keys, [Put(uid, b"x", b"")], own=False), queue="q")
    return uid


def waits(queue):
    """How many first deliveries came soon, and how many later."""
    counted = {int(name[4:]): n for name, n in queue.snapshot().buckets.items() if name.startswith("wait") and n}
    soon = sum(n for e, n in counted.items() if 2**e <= SOON)
    return soon, sum(counted.values()) - soon


def bury(queue, uid):
    queue.link.call(operations.fail(queue.keys, DeliveryRef(uid), bury=True), queue="q")


def seconds_since(queue, moment):
    return (queue.snapshot().at - moment).total_seconds()


def test_an_item_waits_from_its_put(queue, client):
    put_long_ago(queue, client)
    queue.get(-1)
    queue.put("x")
    queue.get(-1)
    assert waits(queue) == (1, 1)


REQUEUES = {
    "uid": lambda queue, uid: queue.requeue(uid),
    "all": lambda queue, uid: queue.requeue(),
}


@pytest.mark.parametrize("requeue", REQUEUES.values(), ids=REQUEUES)
def test_a_requeued_item_waits_from_then(queue, client, requeue):
    uid = put_long_ago(queue, client)
    queue.get(-1)
    bury(queue, uid)
    assert waits(queue) == (0, 1)
    assert requeue(queue, uid) == 1
    assert seconds_since(queue, queue.snapshot().oldest) < 60
    item = queue.get(-1)
    assert (item.uid, item.deliveries) == (uid, 1)
    assert waits(queue) == (1, 1)
    assert queue.ack(item)
    assert client.exists(queue.keys["waiting"]) == 0


def test_a_requeued_item_with_headers_waits_from_then(queue, client):
    uid = queue.put("x", uid="own", headers={"a": "b"})
    queue.get(-1)
    bury(queue, uid)
    headers = client.hget(queue.keys["headers"], uid).decode()
    earlier = re.sub(r'"time":\d+', f'"time":{now(client) - MONTH * 1000}', headers)
    client.hset(queue.keys["headers"], uid, earlier)
    queue.requeue()
    queue.get(-1)
    assert waits(queue) == (2, 0)


def test_a_delayed_item_waits_from_its_due_time(queue, client):
    queue.put("x", delay=MONTH)
    queue.put("x", eta=dt.datetime.now(dt.UTC) - dt.timedelta(days=30))
    queue.get(-1)
    queue.put("x", delay=0.001)
    assert queue.get(5)
    assert waits(queue) == (2, 0)


def test_a_moved_item_waits_from_its_move(make_queue, client):
    here, there = make_queue(), make_queue("-there")
    put_long_ago(here, client)
    assert here.move(there) == 1
    there.get(-1)
    assert waits(there) == (1, 0)


def test_a_pause_counts_as_waiting(queue, client):
    put_long_ago(queue, client)
    queue.pause()
    queue.resume()
    queue.get(-1)
    assert waits(queue) == (0, 1)


def test_an_item_that_failed_waits_from_when_it_is_ready_again(queue, client):
    """The status says since when the next item waits: it must not be late because it was put long ago."""
    uid = put_long_ago(queue, client)
    assert seconds_since(queue, queue.snapshot().oldest) > MONTH - 60
    assert queue.fail(queue.get(-1), "no") == "ready"
    assert seconds_since(queue, queue.snapshot().oldest) < 60
    assert queue.fail(queue.get(-1), "no", delay=100) == "delayed"
    pass_time(client, queue.keys, 400)
    queue.get_many(1)  # takes it
    queue.release(uid)
    assert 290 < seconds_since(queue, queue.snapshot().oldest) < 360
    assert waits(queue) == (0, 1)  # of its first delivery


def test_a_recovered_item_waits_from_its_recovery(queue, client):
    put_long_ago(queue, client)
    queue.get(-1)
    pass_time(client, queue.keys, queue.lease + 1)
    assert queue.recover() == 1
    assert seconds_since(queue, queue.snapshot().oldest) < 60


def test_what_an_older_version_leaves_behind_is_dropped(queue, client):
    """It deletes the records that it knows."""
    uid = put_long_ago(queue, client)
    queue.fail(queue.get(-1), "no")
    for key in ("items", "deliveries", "errors"):
        client.hdel(queue.keys[key], uid)
    client.delete(queue.keys["queue"])
    assert client.exists(queue.keys["waiting"]) == 1
    queue.put("y")
    queue.fail(queue.get(-1), "no")  # a record, so that the leftovers are looked for
    for _ in range(3):
        client.hdel(queue.keys["meta"], "kept")
        queue.recover()
    assert client.hkeys(queue.keys["waiting"]) == [queue.get(-1).uid.encode()]
    assert queue.audit() == []
