"""Delayed items that wait after an error (they are retrying) are told apart from those that are scheduled."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from django_srq import InvalidArgument, SafeRedisQueue, operations
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from django_srq.exceptions import RetryLater
from django_srq.operations import DeliveryRef
from django_srq.status import series
from tests.support.async_queue import Asynchronous
from tests.support.server_clock import now, pass_minutes, pass_time
from tests.support.waiting import wait_for

GROUPS = 200  # of retrying items
LOOKED_AT = 250  # delayed items that one call of a walk looks at


@pytest.fixture(params=[SafeRedisQueue, Asynchronous], ids=["sync", "async"])
def queue_class(request) -> type[SafeRedisQueue]:
    return request.param


@pytest.fixture
def orders(make_queue) -> Iterator[SafeRedisQueue]:
    """A queue that must still be sound afterwards."""
    queue = make_queue()
    yield queue
    assert queue.audit() == []


class Declined(Exception):
    """An error whose type is stored as tests.queue.test_retrying.Declined."""


def fail(queue: SafeRedisQueue, *errors: Any, delay: float = 60) -> list[str]:
    """Let items fail with these errors, in this order; each is due a second after the one before."""
    uids, quick = [], beside(queue)
    for n, error in enumerate(errors):
        uids.append(quick.put("x"))
        assert quick.fail(quick.get(-1), error, delay=delay + n) == "delayed"
    return uids


def beside(queue: SafeRedisQueue) -> SafeRedisQueue:
    """The same queue, also for calls within an event loop; quicker than one that makes a loop for each call."""
    return SafeRedisQueue(name=queue.name, link=queue.link, max_deliveries=queue.max_deliveries)


def groups(queue: SafeRedisQueue) -> dict[str, int]:
    return {group.name: group.count for group in queue.link.call(operations.retry_groups(queue.keys), queue="q")}


def retrying(queue: SafeRedisQueue) -> tuple[int, dict[str, int]]:
    """How many items are retrying, and how many in each group."""
    return queue.snapshot().retrying, groups(queue)


def uids_of(queue: SafeRedisQueue, state: str) -> list[str]:
    return [item.uid for item in queue.items(state)]


def test_items_that_failed_are_retrying_and_others_are_scheduled(orders):
    fail(orders, "no stock", "no stock", ValueError("bad"), None)
    orders.put("later", delay=60)
    orders.put("at", eta=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
    orders.put("waits for its partner")
    assert orders.fail(orders.get(-1), RetryLater(60), delay=60) == "delayed"
    assert orders.snapshot().delayed == 7
    assert retrying(orders) == (4, {"Failed: no stock": 2, "ValueError": 1, "Failed": 1})
    assert orders.count_retrying() == groups(orders)


def test_each_delayed_item_tells_its_error_and_group(orders):
    uids = fail(orders, "no stock", None)
    late = orders.put("later", delay=600)
    found = {item.uid: item for item in orders.items("delayed")}
    first, second, scheduled = (found[uid] for uid in (*uids, late))
    assert (first.error["message"], first.delivery.group, first.delivery.retrying) == (
        "no stock",
        "Failed: no stock",
        True,
    )
    assert (second.error["message"], second.delivery.group) == ("failed without an error", "Failed")
    assert (scheduled.error, scheduled.delivery.group, scheduled.delivery.retrying) == (None, "", False)
    shown = orders.link.call(operations.show(orders.keys, uids[0], largest=10), queue="q")
    assert (shown.error["message"], shown.delivery.group, shown.delivery.retrying) == (
        "no stock",
        "Failed: no stock",
        True,
    )


def test_a_group_has_its_times_and_an_example(orders, client):
    began = now(client)
    *_, last = fail(orders, Declined("1"), Declined("2"))
    (group,) = orders.link.call(operations.retry_groups(orders.keys), queue="q")
    assert (group.count, group.example, group.error["message"]) == (2, last, "2")
    assert began <= group.first.timestamp() * 1000 <= group.last.timestamp() * 1000 <= now(client)


def due(queue: SafeRedisQueue, client) -> None:
    pass_time(client, queue.keys, 100)
    assert queue.get(-1)


def dropped(queue: SafeRedisQueue, client) -> None:
    assert queue.drop(*uids_of(queue, "delayed")) == 2


def purged(queue: SafeRedisQueue, client) -> None:
    assert queue.purge("delayed") == 2


def purged_by_error(queue: SafeRedisQueue, client) -> None:
    assert queue.purge("delayed", error="Failed") == 2


def ran(queue: SafeRedisQueue, client) -> None:
    assert queue.run_now(*uids_of(queue, "delayed")) == 2


def ran_by_error(queue: SafeRedisQueue, client) -> None:
    assert queue.run_now(error="Failed") == 2


def payloads_deleted_by_another_program(queue: SafeRedisQueue, client) -> None:
    client.delete(queue.keys["items"])
    pass_time(client, queue.keys, 100)
    assert not queue.get(-1)


def put_again_after_the_payloads_were_deleted(queue: SafeRedisQueue, client) -> None:
    uids = uids_of(queue, "delayed")
    client.delete(queue.keys["items"])
    assert queue.put_many("xy", uids=uids) == uids


def acked_by_a_late_consumer(queue: SafeRedisQueue, client) -> None:
    """An ack by Item removes the item wherever it is."""
    for uid in uids_of(queue, "delayed"):
        assert queue.link.call(operations.ack(queue.keys, [DeliveryRef(uid, "c1/1@1")]), queue="q") == [True]


LEAVINGS = [
    due,
    dropped,
    purged,
    purged_by_error,
    ran,
    ran_by_error,
    payloads_deleted_by_another_program,
    put_again_after_the_payloads_were_deleted,
    acked_by_a_late_consumer,
]


@pytest.mark.parametrize("leave", LEAVINGS, ids=[leave.__name__ for leave in LEAVINGS])
def test_an_item_that_leaves_delayed_is_not_retrying_any_more(orders, client, leave):
    fail(orders, "a", "b")
    leave(orders, client)
    assert retrying(orders) == (0, {})
    assert client.exists(orders.keys["retrying"], orders.keys["retrygroups"]) == 0


def test_groups_are_bounded(orders):
    fail(orders, *(f"error {n}" for n in range(GROUPS + 5)))
    assert (len(groups(orders)), groups(orders)["other"]) == (GROUPS + 1, 5)
    assert orders.count_retrying()["other"] == 5
    assert orders.run_now() == GROUPS + 5
    assert groups(orders) == {}


# -- run_now


def test_run_now_by_uid_makes_any_delayed_items_ready_and_keeps_their_deliveries(orders, client):
    failed, _ = fail(orders, "a", "b")
    scheduled = orders.put("later", delay=600)
    urgent = orders.put("urgent", delay=600, priority=5)
    ready = orders.put("ready")
    client.delete(orders.keys["wake"])
    assert orders.run_now(failed, scheduled, urgent, ready, "unknown") == 3
    assert client.llen(orders.keys["wake"]) == 3
    assert uids_of(orders, "ready") == [urgent, ready, failed, scheduled]
    assert {item.uid: item.deliveries for item in orders.get_many(4)} == {urgent: 1, ready: 1, failed: 2, scheduled: 1}
    assert retrying(orders) == (1, {"Failed: b": 1})
    assert orders.snapshot().stats["run_now"] == 3
    assert orders.run_now(failed) == 0  # it is in flight


def test_run_now_without_uids_takes_the_retrying_items_and_spares_the_scheduled_ones(orders):
    orders.put("later", delay=30)
    uids = fail(orders, "a", Declined("b"), "a", delay=20)
    assert orders.run_now(error="Declined") == 1
    assert orders.run_now(error="tests.queue.test_retrying.Declined") == 0
    assert orders.run_now(error="Failed: a", limit=1) == 1
    assert orders.run_now() == 1
    assert uids_of(orders, "ready") == [uids[1], uids[0], uids[2]]
    assert orders.counts()["delayed"] == 1


@pytest.mark.parametrize("name", ["Failed:", "fail", "F.*", "%a+", "other", "null"])
def test_an_error_is_matched_only_by_its_whole_name(orders, name):
    fail(orders, "broken")
    assert orders.count_retrying(error=name) == {}
    assert orders.run_now(error=name) == orders.purge("delayed", error=name) == 0
    assert orders.counts()["delayed"] == 1


def test_items_are_chosen_by_the_time_since_their_failure(orders, client):
    """That time is in the error, and the due time says nothing about it."""
    old, _ = fail(orders, "a", "b")
    error = client.hget(orders.keys["errors"], old)
    moment = str(now(client) - 20_000).encode()
    client.hset(orders.keys["errors"], old, error.replace(error[error.index(b'"time":') + 7 :][:13], moment))
    assert orders.count_retrying(older_than=10) == {"Failed: a": 1}
    assert orders.run_now(older_than=dt.timedelta(seconds=10)) == 1
    assert uids_of(orders, "ready") == [old]


def test_any_number_of_items_in_batches_behind_scheduled_ones(orders):
    """Neither the scheduled items before them nor the size of a batch hides any of them."""
    orders.put_many(range(300), delay=30)
    orders.put_many(range(600))
    orders.fail_many(orders.get_many(600), "boom", delay=60)
    batches: list[int] = []
    assert orders.count_retrying() == {"Failed: boom": 600}
    assert orders.run_now(limit=400, on_batch=batches.append) == sum(batches) == 400
    assert max(batches) <= LOOKED_AT
    assert orders.purge("delayed", error="Failed: boom") == 200
    assert orders.counts() == {"ready": 400, "in_flight": 0, "delayed": 300, "dead": 0}


@pytest.mark.filterwarnings("ignore:.*blocks the event loop:RuntimeWarning")
def test_items_that_fail_again_meanwhile_stay_delayed(orders, client):
    fail(orders, *["x"] * 300)
    began = now(client)
    batches: list[int] = []

    def handle_and_fail(number: int) -> None:
        batches.append(number)
        wait_for(lambda: now(client) > began + 1, "a later moment")
        consumer.fail_many(consumer.get_many(1000), "x", delay=600)

    consumer = beside(orders)
    wait_for(lambda: now(client) > began, "a later moment")
    began = now(client)
    assert orders.run_now(on_batch=handle_and_fail) == sum(batches) == 300
    assert orders.counts()["delayed"] == 300


@pytest.mark.parametrize(
    "wrong",
    [
        lambda queue: queue.run_now("uid", error="x"),
        lambda queue: queue.run_now("uid", limit=1),
        lambda queue: queue.run_now("uid", older_than=1),
        lambda queue: queue.run_now(limit=0),
        lambda queue: queue.run_now(older_than=-1),
        lambda queue: queue.run_now("no uid"),
        lambda queue: queue.run_now(on_batch=1),
        lambda queue: queue.count_retrying(older_than="1"),
        lambda queue: queue.purge("delayed", limit=1),
        lambda queue: queue.purge("delayed", older_than=1),
    ],
)
def test_invalid_arguments_change_nothing(orders, wrong):
    fail(orders, "x")
    with pytest.raises(InvalidArgument, match=f"queue '{orders.name}'"):
        wrong(orders)
    assert retrying(orders) == (1, {"Failed: x": 1})


def test_purge_of_one_error_leaves_nothing_of_its_items(orders, client):
    fail(orders, "a", "b", "a")
    orders.put("later", delay=60)
    assert orders.purge("delayed", error="Failed: a", older_than=0, limit=5) == 2
    left = {key: client.hlen(orders.keys[key]) for key in ("items", "deliveries", "errors", "retrying", "retrygroups")}
    assert left == {"items": 2, "deliveries": 1, "errors": 1, "retrying": 1, "retrygroups": 1}
    assert orders.snapshot().stats["purged"] == 2


def test_a_scheduled_item_waits_only_from_the_moment_at_which_it_was_made_ready(orders, client):
    """The due time of its put lies ahead; the time that it waits is counted from when it was ready."""
    orders.put("later", delay=600)
    orders.run_now(*uids_of(orders, "delayed"))
    assert abs(orders.snapshot().oldest.timestamp() * 1000 - now(client)) < 60_000


def test_a_page_of_one_group(orders):
    uids = fail(orders, "a", "b", "a")
    page = orders.link.call(operations.list_items(orders.keys, "delayed", group="Failed: a"), queue="q")
    assert [item.uid for item in page.items] == [uids[0], uids[2]]


# -- RetryLater


def handled(queue: SafeRedisQueue, errors: Sequence[BaseException]) -> None:
    """Let a consumer handle an item for each error, which its handler raises."""
    left = list(errors)

    def handler(payload: Any) -> None:
        raise left.pop(0)

    queue.put_many([b"x"] * len(errors))
    subscription = Subscription(queue, handler, lease=60, backoff=queue.backoff)
    InProcessConsumer([subscription], options=ConsumerOptions(burst=True)).run()


def test_deliveries_that_ended_with_retry_later_are_counted(orders, client):
    handled(orders, [RetryLater(60), ValueError("x"), RetryLater(60)])
    counts = orders.link.call(operations.counts(orders.keys, minutes=3, hours=3), queue="q")
    assert (counts.stats["failed"], counts.stats["postponed"], counts.retrying, counts.delayed) == (3, 2, 1, 3)
    assert sum(int(period.split()[6]) for period in counts.minutes) == 2
    assert sum(int(period.split()[6]) for period in counts.hours) == 2
    assert sorted(bool(item.error.get("postponed")) for item in orders.items("delayed")) == [False, True, True]


@pytest.mark.parametrize("delay", [0, 60])
def test_a_last_delivery_is_not_postponed(make_queue, delay):
    """Its item is dead, and nobody will try it again: it counts for the rate of failures."""
    queue = make_queue(max_deliveries=1)
    queue.put("x")
    assert queue.fail(queue.get(-1), RetryLater(delay), delay=delay) == "dead"
    stats = queue.snapshot().stats
    assert (stats["failed"], stats.get("postponed", 0), stats["dead"]) == (1, 0, 1)


class Later(RetryLater):
    """An error of a project, whose description fails in part."""

    def __str__(self) -> str:
        raise RuntimeError


def test_a_subclass_of_retry_later_schedules_its_item(orders):
    orders.put("x")
    orders.fail(orders.get(-1), Later(60), delay=60)
    assert retrying(orders) == (0, {})


def test_periods_that_are_over_keep_their_postponed_deliveries(orders, client):
    orders.put("x")
    orders.fail(orders.get(-1), RetryLater(1))
    pass_minutes(client, orders.keys, 61)
    orders.put_many("xy")
    orders.fail_many(orders.get_many(2), RetryLater(1))
    counts = orders.link.call(operations.counts(orders.keys, minutes=180, hours=2), queue="q")
    periods = [
        series.series_of(counts, minutes=62, hours=2).minutes,
        series.series_of(counts, minutes=0, hours=2).hours,
    ]
    assert [period.postponed for period in periods[1]] == [1, 2]
    assert {n: period.postponed for n, period in enumerate(periods[0]) if period.postponed} == {0: 1, 61: 2}
    assert sum(period.failed for period in periods[0]) == 3


# -- beside a process of an older version, which knows neither retrying nor retrygroups


def made_ready_by_an_older_process(queue: SafeRedisQueue, client, *uids: str) -> None:
    client.zrem(queue.keys["delayed"], *uids)
    client.lpush(queue.keys["queue"], *uids)


def keep_house(queue: SafeRedisQueue, client) -> None:
    """Let a claim do the chores that are done once a second."""
    client.hset(queue.keys["meta"], "kept", now(client) - 2000)
    queue.link.call(operations.claim(queue.keys, consumer="c1", lease=60, legacy_lease=60, n=0), queue="q")


def test_housekeeping_finds_items_that_left_delayed(make_queue, client):
    queue = make_queue()
    queue.put_many(range(350))
    items = queue.get_many(350)
    queue.fail_many(items, "x", delay=600)
    made_ready_by_an_older_process(queue, client, *(item.uid for item in items[:300]))
    assert queue.snapshot().retrying == 50  # never more than the delayed ones
    assert len(queue.audit()) == 300
    for _ in range(10):
        keep_house(queue, client)
    assert retrying(queue) == (50, {"Failed: x": 50})
    assert queue.audit() == []


def test_housekeeping_walks_through_each_hash_by_itself(make_queue, client):
    """A walk through a small hash ends at once, and must not send that through a large one back to its beginning."""
    queue = make_queue()
    fail(queue, "x")
    client.hset(queue.keys["waiting"], mapping={f"gone-{n}": 1 for n in range(600)})  # larger than a listpack
    for _ in range(60):
        keep_house(queue, client)
    assert client.hlen(queue.keys["waiting"]) == 0
    assert retrying(queue) == (1, {"Failed: x": 1})


@pytest.mark.parametrize("end", ["ack", "fail", "fail with delay", "retry later", "drop"])
def test_an_item_that_left_delayed_is_not_retrying_after_its_next_delivery(orders, client, end):
    (uid,) = fail(orders, "x")
    made_ready_by_an_older_process(orders, client, uid)
    if end == "drop":
        orders.drop(uid)
    elif end == "ack":
        orders.ack(orders.get(-1))
    else:
        error = RetryLater(60) if end == "retry later" else "y"
        orders.fail(orders.get(-1), error, delay=0 if end == "fail" else 60)
    assert retrying(orders) == ((1, {"Failed: y": 1}) if end == "fail with delay" else (0, {}))


def test_an_item_that_an_older_process_acked_is_forgotten(orders, client):
    (uid,) = fail(orders, "x")
    client.zrem(orders.keys["delayed"], uid)
    for key in ("items", "deliveries", "errors"):
        client.hdel(orders.keys[key], uid)
    assert len(orders.audit()) == 1
    keep_house(orders, client)
    assert client.exists(orders.keys["retrying"], orders.keys["retrygroups"]) == 0


def test_groups_without_items_are_deleted(orders, client):
    client.hset(orders.keys["retrygroups"], "ValueError", "3 1 2 uid")
    assert orders.audit() == ["3 retrying items are counted in the group 'ValueError', and there are 0"]
    keep_house(orders, client)
    assert groups(orders) == {}


def test_the_audit_compares_the_counts(make_queue, client):
    queue = make_queue()
    fail(queue, "a", "a", "b")
    client.hset(queue.keys["retrygroups"], "Failed: a", "1 1 2 uid")
    client.hdel(queue.keys["retrygroups"], "Failed: b")
    assert sorted(queue.audit()) == [
        "0 retrying items are counted in the group 'Failed: b', and there are 1",
        "1 retrying items are counted in the group 'Failed: a', and there are 2",
    ]


def test_the_audit_compares_the_total_of_many(make_queue, client):
    """More items than one call may look at."""
    queue = make_queue()
    for _ in range(2):
        queue.put_many(range(600))
        queue.fail_many(queue.get_many(600), "a", delay=600)
    assert queue.audit() == []
    client.hset(queue.keys["retrygroups"], "Failed: a", "1 1 2 uid")
    assert queue.audit() == ["1 retrying items are counted in all groups together, and there are 1200"]


def test_an_entry_of_the_ring_s_lap_before_does_not_count(orders, client):
    """Three hours ago deliveries were postponed; in this minute none was."""
    orders.put("x")
    orders.fail(orders.get(-1), RetryLater(1))
    minute = int(client.hget(orders.keys["meta"], "minute"))
    client.hset(orders.keys["stats"], f"pm{minute % 180}", f"{minute - 180} 7")
    counts = orders.link.call(operations.counts(orders.keys, minutes=180), queue="q")
    assert all(period.split()[6] == "0" for period in counts.minutes)
