"""Requeueing and purging dead items by error and age, in batches, and the counts that people look at before."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

import pytest

from django_srq import InvalidArgument, SafeRedisQueue
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from tests.support.server_clock import now, pass_time
from tests.support.waiting import PATIENT, wait_for


@pytest.fixture(scope="module", params=[(2, False), (3, True)], ids=["RESP2-bytes", "RESP3-text"])
def link(request, server_url) -> Iterator[Link]:
    protocol, decode = request.param
    link = Link(client_from_url(server_url, protocol=protocol, decode_responses=decode), timeout=PATIENT)
    yield link
    link.close()


@pytest.fixture
def mortal(make_queue) -> Iterator[SafeRedisQueue]:
    """A queue whose items die at their first failure; afterwards it must still be sound."""
    queue = make_queue(max_deliveries=1)
    yield queue
    assert queue.audit() == []


def counts(**expected: int) -> dict[str, int]:
    return {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 0, **expected}


def uids_of(queue: SafeRedisQueue, state: str) -> list[str]:
    return [item.uid for item in queue.items(state)]


def die(queue: SafeRedisQueue, errors: Sequence[object], *, client=None, at: Sequence[int] = ()) -> list[str]:
    """Let items die of these errors, in this order; at: the times of death (ms)."""
    uids = []
    for error in errors:
        uids.append(queue.put("x"))
        assert queue.fail(queue.get(-1), error) == "dead"
    if at:
        client.zadd(queue.keys["dead"], dict(zip(uids, at, strict=True)))
    return uids


class Declined(Exception):
    """An error whose type is stored as tests.queue.test_dead_letters.Declined."""


def raised(error: Exception) -> Exception:
    """The error with a traceback; its group is then not just its type."""
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        "tests.queue.test_dead_letters.Declined",
        "Declined",
        "tests.queue.test_dead_letters.Declined test_dead_letters.py:raised",
    ],
)
@pytest.mark.parametrize("operation", ["requeue", "purge"])
def test_dead_items_of_one_error_by_its_type_class_or_group(mortal, operation, name):
    uids = die(mortal, [raised(Declined(1)), raised(LookupError(2)), raised(Declined(3))])
    options = {"state": "dead"} if operation == "purge" else {}
    assert getattr(mortal, operation)(error=name, **options) == 2
    assert uids_of(mortal, "dead") == [uids[1]]
    assert uids_of(mortal, "ready") == ([uids[0], uids[2]] if operation == "requeue" else [])


def test_dead_items_by_the_group_of_their_error(mortal):
    uids = die(mortal, ["disk is full", "disk is gone", "disk is full"])
    assert mortal.count_dead() == {"Failed: disk is full": 2, "Failed: disk is gone": 1}
    assert mortal.requeue(error="Failed: disk is full") == 2
    assert mortal.count_dead() == {"Failed: disk is gone": 1}
    assert uids_of(mortal, "ready") == [uids[0], uids[2]]


@pytest.mark.parametrize("name", ["Failed:", "fail", "F.*", "%a+", "other", "null"])
def test_an_error_is_matched_only_by_its_whole_name(mortal, name):
    die(mortal, ["broken"])
    assert mortal.count_dead(error=name) == {}
    assert mortal.requeue(error=name) == mortal.purge("dead", error=name) == 0
    assert mortal.counts() == counts(dead=1)


def test_requeue_by_age_and_limit(mortal, client):
    moment = now(client)
    uids = die(mortal, "abcd", client=client, at=[moment - 1000 * seconds for seconds in (30, 50, 40, 10)])
    assert mortal.count_dead(older_than=20) == {"Failed: a": 1, "Failed: b": 1, "Failed: c": 1}
    assert mortal.requeue(older_than=dt.timedelta(seconds=20), limit=2) == 2
    assert uids_of(mortal, "ready") == [uids[1], uids[2]]
    assert mortal.requeue(older_than=20) == 1
    assert uids_of(mortal, "dead") == [uids[3]]


def test_any_number_of_items_that_died_at_the_same_time(mortal, client):
    """There are more than one call looks at: the rest must be neither looked at again and again nor skipped."""
    errors = ["ab"[n % 2] for n in range(700)]
    uids = die(mortal, errors, client=client, at=[now(client) - 5000] * len(errors))
    batches: list[int] = []
    assert mortal.count_dead() == {"Failed: a": 350, "Failed: b": 350}
    assert mortal.requeue(error="Failed: a", on_batch=batches.append) == sum(batches) == 350
    assert len(batches) == 3
    assert sorted(uids_of(mortal, "dead")) == sorted(uids[1::2])
    assert mortal.purge("dead") == 350
    assert mortal.counts() == counts(ready=350)


def test_an_item_that_dies_again_meanwhile_is_requeued_once(mortal, client):
    die(mortal, ["x"] * 300)
    began = now(client)
    batches: list[int] = []

    def handle_and_fail(number: int) -> None:
        batches.append(number)
        wait_for(lambda: now(client) > began + 1, "a later moment")
        while item := mortal.get(-1):
            mortal.fail(item, "x")

    wait_for(lambda: now(client) > began, "a later moment")
    began = now(client)
    assert mortal.requeue(on_batch=handle_and_fail) == 300
    assert batches == [250, 50]
    assert mortal.counts() == counts(dead=300)


def test_purged_items_leave_nothing_behind(mortal, client):
    die(mortal, ["a", "b", "a"])
    mortal.purge("dead", error="Failed: a")
    keys = mortal.keys
    left = {key: client.hlen(keys[key]) for key in ("items", "deliveries", "errors", "deadgroups")}
    assert left == {"items": 1, "deliveries": 1, "errors": 1, "deadgroups": 1}
    mortal.purge("dead")
    assert client.exists(*(keys[key] for key in left), keys["dead"]) == 0
    assert mortal.snapshot().stats["purged"] == 3


def test_requeued_items_start_anew_and_wake_consumers(mortal, client):
    die(mortal, ["a", "b"])
    client.delete(mortal.keys["wake"])
    mortal.requeue()
    assert client.llen(mortal.keys["wake"]) == 2
    assert client.exists(mortal.keys["deadgroups"]) == 0
    assert [item.deliveries for item in mortal.get_many(2)] == [1, 1]
    assert mortal.snapshot().stats["requeued"] == 2


def test_the_limit_of_requeue_counts_over_all_batches(mortal):
    die(mortal, ["x"] * 300)
    assert mortal.requeue(limit=260) == 260
    assert mortal.counts() == counts(ready=260, dead=40)


class Enough(Exception):
    pass


def enough(*numbers: int) -> None:
    raise Enough


def test_an_exception_from_on_batch_ends_the_operation(mortal, client):
    die(mortal, ["x"] * 300)
    with pytest.raises(Enough):
        mortal.requeue(on_batch=enough)
    assert mortal.counts() == counts(ready=250, dead=50)
    with pytest.raises(Enough):
        mortal.purge("dead", on_batch=enough)
    assert mortal.counts() == counts(ready=250)
    mortal.put_many(range(1000))
    with pytest.raises(Enough):
        mortal.purge(on_batch=enough)
    assert mortal.counts() == counts(ready=250)
    mortal.get_many(250)
    pass_time(client, mortal.keys, 100)
    assert mortal.ended_leases() == 250
    with pytest.raises(Enough):
        mortal.recover(on_batch=enough)
    assert mortal.ended_leases() == 150


@pytest.mark.parametrize(
    "wrong",
    [
        lambda queue: queue.requeue("uid", error="x"),
        lambda queue: queue.requeue("uid", limit=1),
        lambda queue: queue.requeue("uid", older_than=1),
        lambda queue: queue.requeue(limit=0),
        lambda queue: queue.requeue(limit=True),
        lambda queue: queue.requeue(older_than=-1),
        lambda queue: queue.count_dead(older_than="1"),
        lambda queue: queue.purge(error="x"),
        lambda queue: queue.purge("ready", limit=1),
        lambda queue: queue.purge("dead", limit=-1),
    ],
)
def test_dead_items_cannot_be_selected_by_invalid_arguments(mortal, wrong):
    die(mortal, ["x"])
    with pytest.raises(InvalidArgument, match=f"queue '{mortal.name}'"):
        wrong(mortal)
    assert mortal.counts() == counts(dead=1)


def test_states(mortal):
    dead_uid = die(mortal, ["x"])[0]
    held_uid = mortal.put(1)
    mortal.get(-1)
    uids = [dead_uid, mortal.put(2), "unknown", mortal.put(3, delay=60), mortal.put(4, priority=1), held_uid]
    assert mortal.states(*uids) == ["dead", "ready", None, "delayed", "ready", "in_flight"]
    assert mortal.states() == []


def test_ended_leases_are_counted_with_and_without_automatic_recovery(make_queue, client):
    queue, careful = make_queue(), make_queue(autoclean_interval=None)
    queue.put_many("abc")
    queue.get(-1)
    careful.get(-1)
    assert queue.ended_leases() == 0
    pass_time(client, queue.keys, 100)
    assert queue.ended_leases() == 2
    assert careful.recover() == 2
    assert queue.ended_leases() == 0
