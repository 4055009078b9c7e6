"""The defects of saferedisqueue 3.0.0 are gone, and its processes can work on the same queue at the same time."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

import pytest
import redis

from django_srq import SafeRedisQueue
from django_srq.operations import Keys
from django_srq.queue.item import Item
from tests.support.server_clock import pass_time
from tests.support.waiting import wait_for

pytestmark = pytest.mark.versions

INTERVAL = 60  # seconds; of saferedisqueue and of this package
SOON = 0.05  # seconds


class Legacy:
    """A process with saferedisqueue 3.0.0: it sends the same commands for the same keys."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.client = client
        self.queue, self.items, self.ackbuf = keys["queue"], keys["items"], keys["ackbuf"]
        self.backup, self.lock = keys["backup"], keys["backuplock"]

    def put(self, payload: str) -> bytes:
        uid = str(uuid.uuid4())
        self.client.pipeline().hset(self.items, uid, payload).lpush(self.queue, uid).execute()
        return uid.encode()

    def get(self) -> tuple[bytes, bytes | None]:
        uid = self.client.rpoplpush(self.queue, self.ackbuf)
        assert uid is not None
        return uid, self.client.hget(self.items, uid)

    def ack(self, uid: bytes) -> None:
        self.client.pipeline().lrem(self.ackbuf, 0, uid).lrem(self.backup, 0, uid).hdel(self.items, uid).execute()

    def fail(self, uid: bytes) -> None:
        self.client.pipeline().lrem(self.ackbuf, 0, uid).lrem(self.backup, 0, uid).lpush(self.queue, uid).execute()

    def autoclean(self, *, crash_after: int | None = None) -> None:
        """Like the original, with an EXISTS that works as it expects; crash_after: items to put back before it dies."""
        if self.client.exists(self.lock):
            return
        if self.client.exists(self.backup):
            if self.client.setnx(self.lock, 1):
                put_back = 0
                while crash_after != put_back and self.client.rpoplpush(self.backup, self.queue):
                    put_back += 1
                if crash_after is None:
                    self.age(self.client.rename)
                    self.client.expire(self.lock, INTERVAL)
        else:
            self.age(self.client.renamenx)
            self.client.set(self.lock, 1, ex=INTERVAL)

    def age(self, rename: Callable[[str, str], object]) -> None:
        if self.client.exists(self.ackbuf):
            rename(self.ackbuf, self.backup)

    def pass_interval(self) -> None:
        self.client.delete(self.lock)


class Legacy4(Legacy):
    """A process with saferedisqueue 4.0b0, which has a zset in place of the backup list and its lock."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        super().__init__(client, keys)
        self.aging = keys["ackbuf_aging"]

    def ack(self, uid: bytes) -> None:
        self.client.pipeline().lrem(self.ackbuf, 0, uid).zrem(self.aging, uid).hdel(self.items, uid).execute()

    def fail(self, uid: bytes) -> None:
        self.client.pipeline().lrem(self.ackbuf, 0, uid).zrem(self.aging, uid).lpush(self.queue, uid).execute()

    def autoclean(self, *, crash_after: int | None = None) -> None:
        microseconds = int(time.time() * 10**6)
        while uid := self.client.rpop(self.ackbuf):
            self.client.zadd(self.aging, {uid: microseconds})
        for uid in self.client.zrangebyscore(self.aging, "-inf", microseconds - INTERVAL * 10**6):
            self.client.pipeline().lpush(self.queue, uid).zrem(self.aging, uid).execute()

    def pass_interval(self) -> None:
        for uid in self.client.zrange(self.aging, 0, -1):
            self.client.zincrby(self.aging, -INTERVAL * 10**6, uid)


@pytest.fixture(params=[Legacy, Legacy4], ids=["3.0.0", "4.0b0"])
def legacy(request, client, queue) -> Legacy:
    return request.param(client, queue.keys)


@pytest.fixture
def legacy3(client, queue) -> Legacy:
    return Legacy(client, queue.keys)


@pytest.fixture
def queue(make_queue) -> SafeRedisQueue:
    return make_queue(autoclean_interval=INTERVAL)


def keep_house(queue: SafeRedisQueue) -> None:
    """Do what any call does once a second: look at the items that legacy consumers hold."""
    queue.link.client.hdel(queue.keys["meta"], "kept")
    queue.recover()


def end_leases(queue: SafeRedisQueue) -> None:
    pass_time(queue.link.client, queue.keys, INTERVAL + 1)


def is_clean(queue: SafeRedisQueue) -> bool:
    """Whether no record of any item is left."""
    client, kept = queue.link.client, {"slots", "meta", "stats", "wake", "backuplock"}
    left = {key.decode().rpartition(":")[2] for key in client.scan_iter(f"{queue.keys}:*")}
    return left <= kept and queue.counts() == dict.fromkeys(("ready", "in_flight", "delayed", "dead"), 0)


# -- the defects of saferedisqueue


@pytest.mark.parametrize("put_back", [0, 1])
def test_a_lock_without_expiry_does_not_stop_recovery(queue, legacy3, client, put_back):
    uids = [legacy3.put(payload) for payload in "abc"]
    legacy3.get(), legacy3.get()
    legacy3.autoclean()
    legacy3.get()
    legacy3.pass_interval()
    legacy3.autoclean(crash_after=put_back)
    assert client.ttl(legacy3.lock) == -1
    keep_house(queue)
    assert 0 < client.ttl(legacy3.lock) <= INTERVAL
    end_leases(queue)
    assert sorted(item.uid.encode() for item in queue.get_many(5)) == sorted(uids)


def test_a_blocked_get_recovers_items(make_queue):
    queue = make_queue(autoclean_interval=SOON * 4)
    got: list[Item] = []
    uid = queue.put("payload")
    assert queue.get(-1)
    blocked = threading.Thread(target=lambda: got.append(queue.get(0)), daemon=True)
    blocked.start()
    blocked.join(30)
    assert [item.uid for item in got] == [uid]


def test_a_fail_after_an_ack_creates_no_ghost(queue):
    queue.put("payload")
    item = queue.get(-1)
    assert queue.ack(item)
    assert queue.fail(item) is None
    assert queue.fail(item.uid) is None
    assert is_clean(queue)
    assert queue.get(-1) == (None, None)


def test_a_late_ack_leaves_no_ghost(queue):
    queue.put("payload")
    item = queue.get(-1)
    end_leases(queue)
    queue.recover()
    assert queue.ack(item)
    assert queue.get(-1) == (None, None)
    assert is_clean(queue)


def test_a_late_ack_of_a_failed_item_leaves_no_ghost(queue):
    queue.put("payload")
    item = queue.get(-1)
    queue.fail(item)
    assert queue.ack(item)
    assert len(queue) == 0
    assert queue.get(-1) == (None, None)
    assert is_clean(queue)


@pytest.mark.parametrize("timeout", [-1, 0.01])
def test_get_on_an_empty_queue_returns_a_pair_of_nones(queue, timeout):
    assert queue.get(timeout) == (None, None)


def test_recovery_works_with_current_versions_of_redis_py(queue):
    uid = queue.put("payload")
    assert queue.get(-1)
    assert not queue.get(-1)
    end_leases(queue)
    assert queue.get(-1) == (uid, b"payload")


# -- beside processes of saferedisqueue


def test_legacy_and_this_package_take_items_of_each_other(queue, legacy):
    theirs, ours = legacy.put("theirs"), queue.put("ours").encode()
    item = queue.get(-1)
    assert item == (theirs.decode(), b"theirs")
    assert legacy.get() == (ours, b"ours")
    legacy.ack(ours)
    assert queue.ack(item)
    assert is_clean(queue)


def test_an_item_of_a_legacy_producer_is_found_without_a_wake_token(make_queue, client):
    queue = make_queue(autoclean_interval=SOON)
    got: list[Item] = []
    waiter = threading.Thread(target=lambda: got.append(queue.get(60)), daemon=True)
    waiter.start()
    wait_for(lambda: client.exists(queue.keys["slots"]), "the first claim")
    uid = Legacy(client, queue.keys).put("payload")
    waiter.join(30)
    assert got == [(uid.decode(), b"payload")]


def in_ackbuf(legacy: Legacy) -> None:
    legacy.get()


def in_backup(legacy: Legacy) -> None:
    legacy.get()
    legacy.autoclean()


@pytest.mark.parametrize("take", [in_ackbuf, in_backup])
def test_an_item_of_a_dead_legacy_consumer_comes_back_after_the_interval(queue, legacy, client, take):
    uid = legacy.put("payload").decode()
    take(legacy)
    assert queue.counts() == {"ready": 0, "in_flight": 1, "delayed": 0, "dead": 0}
    keep_house(queue)
    assert client.hget(queue.keys["holders"], uid).startswith(b"legacy/")
    assert queue.counts() == {"ready": 0, "in_flight": 1, "delayed": 0, "dead": 0}
    assert queue.audit() == []
    assert not queue.get(-1)
    end_leases(queue)
    assert queue.get(-1) == (uid, b"payload")
    assert queue.audit() == []


def test_many_items_of_a_legacy_consumer_are_taken_over_in_batches(queue, legacy3, client):
    uids = queue.put_many(range(250))
    for _ in uids:
        legacy3.get()
    for _ in range(3):
        keep_house(queue)
    assert client.llen(legacy3.ackbuf) == 0
    end_leases(queue)
    assert [item.uid for item in queue.get_many(1000) + queue.get_many(1000) + queue.get_many(1000)] == uids


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize("take", [in_ackbuf, in_backup])
def test_legacy_ack_settles_its_item(queue, legacy, take, adopted):
    uid = legacy.put("payload")
    take(legacy)
    if adopted:
        keep_house(queue)
    legacy.ack(uid)
    end_leases(queue)
    assert not queue.get(-1)
    assert is_clean(queue)


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize("take", [in_ackbuf, in_backup])
def test_legacy_fail_makes_its_item_ready(queue, legacy, take, adopted):
    uid = legacy.put("payload")
    take(legacy)
    if adopted:
        keep_house(queue)
    legacy.fail(uid)
    item = queue.get(-1)
    assert item == (uid.decode(), b"payload")
    assert item.deliveries == 1 + adopted
    assert not queue.get(-1)
    assert queue.audit() == []


def test_a_legacy_fail_of_an_item_that_we_hold_changes_nothing(queue, legacy):
    uid = queue.put("payload").encode()
    legacy.get()
    keep_house(queue)
    end_leases(queue)
    item = queue.get(-1)
    legacy.fail(uid)
    assert not queue.get(-1)
    assert queue.counts() == {"ready": 0, "in_flight": 1, "delayed": 0, "dead": 0}
    assert queue.audit() == []
    assert queue.ack(item)
    assert is_clean(queue)


def test_a_late_legacy_ack_of_an_item_that_we_hold(queue, legacy):
    uid = legacy.put("payload")
    legacy.get()
    keep_house(queue)
    end_leases(queue)
    item = queue.get(-1)
    legacy.ack(uid)
    assert queue.ack(item) is False
    assert is_clean(queue)


def ready_again(queue: SafeRedisQueue) -> None:
    queue.get(-1)
    end_leases(queue)
    queue.recover()


def ready_at_the_back(queue: SafeRedisQueue) -> None:
    queue.fail(queue.get(-1), "boom")


def in_flight(queue: SafeRedisQueue) -> None:
    queue.get(-1)
    end_leases(queue)


def waiting(queue: SafeRedisQueue) -> None:
    queue.fail(queue.get(-1), "boom", delay=INTERVAL)
    end_leases(queue)


@pytest.mark.parametrize("state", [ready_again, ready_at_the_back, in_flight, waiting])
def test_records_of_an_item_that_a_legacy_consumer_acked_are_deleted_with_its_uid(queue, legacy, state):
    legacy.put("payload")
    uid, _ = legacy.get()
    keep_house(queue)
    end_leases(queue)
    state(queue)
    legacy.ack(uid)
    assert not queue.get(-1)
    assert is_clean(queue)


def test_records_of_items_that_a_legacy_consumer_acked_are_deleted_in_time(queue, legacy, client):
    uids = queue.put_many(range(300), headers={"a": "b"})
    queue.fail_many(queue.get_many(300), "no")
    for _ in range(299):
        legacy.ack(legacy.get()[0])
    (left,) = {*uids} - {uid for uid, state in zip(uids, queue.states(*uids), strict=True) if state is None}
    records = [queue.keys[key] for key in ("deliveries", "errors", "headers")]
    assert [client.hlen(key) for key in records] == [300] * 3
    wait_for(lambda: (keep_house(queue), {client.hlen(key) for key in records} == {1})[1], "the end of the others")
    assert [client.hkeys(key) for key in records] == [[left.encode()]] * 3
    assert queue.ack(queue.get(-1))
    assert client.exists(*records) == 0


def test_a_put_deletes_the_records_that_a_legacy_ack_left_for_its_uid(queue, legacy):
    queue.put("first", uid="own")
    queue.fail(queue.get(-1), "boom")
    uid, _ = legacy.get()
    legacy.ack(uid)
    queue.put("second", uid="own")
    item = queue.get(-1)
    assert (item.payload, item.deliveries) == (b"second", 1)


def test_a_legacy_autoclean_between_our_calls(queue, legacy):
    """Their interval works as a lease: items that they put back come again, items that we took over do not."""
    theirs, ours, third = legacy.put("theirs"), legacy.put("ours"), legacy.put("third")
    assert legacy.get()[0] == theirs
    legacy.autoclean()
    item = queue.get(-1)
    assert item.uid == ours.decode()
    keep_house(queue)  # this takes "theirs" over
    assert legacy.get()[0] == third
    legacy.pass_interval()
    legacy.autoclean()
    legacy.pass_interval()
    legacy.autoclean()
    again = queue.get(-1)
    assert (again.uid, queue.get(-1)) == (third.decode(), (None, None))
    assert queue.audit() == []
    legacy.ack(theirs)
    assert [queue.ack(item), queue.ack(again)] == [True, True]
    end_leases(queue)
    assert not queue.get(-1)
    assert is_clean(queue)


def test_an_item_of_the_backup_that_legacy_put_back_is_served_once(queue, legacy3):
    uid = legacy3.put("payload")
    in_backup(legacy3)
    legacy3.pass_interval()
    keep_house(queue)
    legacy3.autoclean()
    assert not queue.get(-1)
    legacy3.fail(uid)
    assert queue.get(-1) == (uid.decode(), b"payload")
    assert not queue.get(-1)
    assert queue.audit() == []


def test_this_package_makes_no_backup_and_takes_no_lock(queue, legacy3, client):
    uid = legacy3.put("payload")
    legacy3.get()
    keep_house(queue)
    end_leases(queue)
    queue.fail(queue.get(-1))
    assert queue.get(-1).uid == uid.decode()
    assert client.exists(legacy3.backup, legacy3.lock) == 0


def test_running_lock_keeps_its_expiry(queue, legacy3, client):
    client.set(legacy3.lock, 1, ex=7)
    keep_house(queue)
    assert 0 < client.ttl(legacy3.lock) <= 7


@pytest.mark.parametrize("take_over", [lambda queue: queue.get(-1), SafeRedisQueue.recover], ids=["get", "recover"])
def test_without_an_interval_items_of_a_legacy_consumer_are_not_recovered_automatically(make_queue, client, take_over):
    queue = make_queue(autoclean_interval=None)
    legacy = Legacy(client, queue.keys)
    uid = legacy.put("payload")
    legacy.get()
    take_over(queue)
    pass_time(client, queue.keys, 10 * INTERVAL)
    assert not queue.get(-1)
    assert queue.snapshot().ended == 1
    assert queue.recover() == 1
    assert queue.get(-1).uid == uid.decode()
