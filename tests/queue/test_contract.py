"""The promises of SafeRedisQueue, over RESP2 and RESP3, with and without decode_responses, in threads and in loops."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest

from django_srq import (
    ConfigurationError,
    DuplicateItem,
    InvalidArgument,
    Item,
    PayloadError,
    PayloadTooLarge,
    QueueFull,
    RetryLater,
    SafeRedisQueue,
    operations,
)
from django_srq.operations import DeliveryRef
from django_srq.queue import audit
from django_srq.queue.backoff import Backoff
from django_srq.queue.serializers import JSON
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from tests.support.async_queue import Asynchronous
from tests.support.waiting import PATIENT, wait_for

pytestmark = pytest.mark.versions

SHORT = 0.05  # seconds; for leases that end during the test
AHEAD = dt.timedelta(hours=1)


# Any two of the three choices meet once.
SIDES = [
    (2, False, SafeRedisQueue),
    (3, True, SafeRedisQueue),
    (2, True, Asynchronous),
    (3, False, Asynchronous),
]


@pytest.fixture(
    scope="module",
    params=SIDES,
    ids=lambda side: f"RESP{side[0]}-{'text' if side[1] else 'bytes'}{'-async' * (side[2] is Asynchronous)}",
)
def side(request):
    return request.param


@pytest.fixture(scope="module")
def link(side, server_url) -> Iterator[Link]:
    protocol, decode, _ = side
    link = Link(client_from_url(server_url, protocol=protocol, decode_responses=decode), timeout=PATIENT)
    yield link
    link.close()


@pytest.fixture
def queue_class(side):
    return side[2]


@pytest.fixture
def out(link) -> Callable[[str], str | bytes]:
    """Converts a text to the form in which its payload is returned."""
    decodes = link.pool.connection_kwargs["decode_responses"]
    return lambda text: text if decodes else text.encode()


@pytest.fixture(autouse=True)
def sound(queue) -> Iterator[None]:
    """Checks after each test that the queue is sound."""
    yield
    assert queue.audit() == []


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def drain(queue: SafeRedisQueue) -> list[str]:
    """Get all items; returns their uids in the order of delivery. The items stay in flight."""
    uids = []
    while item := queue.get(-1):
        uids.append(item.uid)
    return uids


def counts(**expected: int) -> dict[str, int]:
    return {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 0, **expected}


def dead(queue: SafeRedisQueue, payload: str = "x") -> str:
    """Put an item and make it dead."""
    queue.put(payload)
    item = queue.get(-1)
    call = operations.fail(queue.keys, DeliveryRef(item.uid, item.token), bury=True)
    assert queue.link.call(call, queue=queue.alias) == "dead"
    return item.uid


def claim_supervised(queue: SafeRedisQueue, lease: float = 60) -> DeliveryRef:
    """Take an item as a supervised consumer does."""
    call = operations.claim(queue.keys, consumer="c1", lease=lease, legacy_lease=60)
    (found,) = queue.link.call(call, queue=queue.alias).found
    return DeliveryRef(found.uid, found.delivery.token)


def crash(queue: SafeRedisQueue, held: DeliveryRef) -> str | None:
    """Report the death of the consumer that holds the item; returns the item's new state."""
    call = operations.crashed(
        queue.keys,
        [held],
        evidence=b'{"type":"Crashed","message":"signal 9"}',
        max_deliveries=queue.max_deliveries,
        max_crashes=queue.max_crashes,
    )
    return queue.link.call(call, queue=queue.alias).states[0]


# -- put and get


def test_put_returns_a_uuid_that_get_gives_back(queue, out):
    uid = queue.put("hello")
    assert uuid.UUID(uid).version == 7
    got, payload = queue.get(-1)
    assert (got, payload) == (uid, out("hello"))
    assert type(got) is str


@pytest.mark.parametrize("text", ["", "0", "naïve \r\n$1 \N{GRINNING FACE}", "x" * 100_000])
def test_payload_comes_out_as_it_went_in(queue, out, text):
    queue.put(text)
    item = queue.get(-1)
    assert item
    assert item.payload == out(text)


@pytest.mark.parametrize("payload", [{"order": 17}, [1, None], "", 0, False, None, []])
def test_serializer_gives_the_payload_back(make_queue, payload):
    queue = make_queue(serializer=JSON())
    uid = queue.put(payload)
    item = queue.get(-1)
    assert item
    assert item == (uid, payload)


def test_empty_queue_gives_a_falsy_pair_of_nones(queue):
    for timeout in (-1, 0.01):
        item = queue.get(timeout)
        assert isinstance(item, Item)
        assert item == (None, None)
        assert not item


class Patient(Link):
    """A link that records the result of each wait: the wake list of a token, or None."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.waits = []

    def waiting(self, *args, **kwargs):
        self.waits.append((yield from super().waiting(*args, **kwargs)))
        return self.waits[-1]


def test_a_negative_timeout_never_waits(link, make_queue):
    patient = Patient(link.client, timeout=PATIENT)
    assert not make_queue(link=patient).get(-1)
    assert patient.waits == []
    patient.close()


def test_a_positive_timeout_waits_that_long(queue):
    start = time.monotonic()
    assert not queue.get(0.1)
    assert time.monotonic() - start >= 0.1


def test_fifo(queue):
    uids = [queue.put(n) for n in range(10)]
    assert drain(queue) == uids


def test_item_is_handed_out_once(queue):
    uid = queue.put("x")
    assert drain(queue) == [uid]
    assert queue.counts() == counts(in_flight=1)


def test_fresh_item_knows_its_delivery(queue):
    before = now()
    queue.put("x")
    item = queue.get(-1)
    assert item.deliveries == 1
    assert item.token
    assert item.headers == {}
    assert before - dt.timedelta(milliseconds=1) <= item.enqueued_at <= now()


# -- put: uid


def test_own_uid_is_put_once(queue, out):
    assert queue.put("first", uid="order-17") == "order-17"
    assert queue.put("second", uid="order-17") == "order-17"
    assert queue.get(-1) == ("order-17", out("first"))
    assert len(queue) == 0


def ready(queue):
    queue.put("x", uid="own")


def in_flight(queue):
    ready(queue)
    assert queue.get(-1)


def delayed(queue):
    queue.put("x", uid="own", delay=60)


def set_aside(queue):
    in_flight(queue)
    queue.link.call(operations.fail(queue.keys, DeliveryRef("own"), bury=True), queue=queue.alias)


STATES = [(ready, "ready"), (in_flight, "in_flight"), (delayed, "delayed"), (set_aside, "dead")]


@pytest.mark.parametrize(("bring", "state"), STATES)
def test_strict_put_names_the_state_of_a_duplicate(queue, bring, state):
    bring(queue)
    with pytest.raises(DuplicateItem, match="own") as caught:
        queue.put("again", uid="own", strict=True)
    assert (caught.value.uid, caught.value.state) == ("own", state)
    assert queue.counts() == counts(**{state: 1})


def test_strict_put_of_a_new_uid(queue):
    assert queue.put("x", uid="own", strict=True) == "own"
    assert len(queue) == 1


def test_own_uid_can_be_put_again_when_it_is_settled(queue, out):
    for text in ("first", "second"):
        queue.put(text, uid="own")
        item = queue.get(-1)
        assert (item.payload, item.deliveries) == (out(text), 1)
        assert queue.ack(item)


def test_late_ack_settles_only_the_put_that_it_was_delivered_from(queue):
    queue.put("first", uid="own")
    first = queue.get(-1)
    assert queue.ack(first)
    queue.put("second", uid="own")
    assert not queue.ack(first)
    assert drain(queue) == ["own"]
    assert not queue.ack(first)
    assert queue.counts() == counts(in_flight=1)


def test_own_uid_put_again_knows_nothing_of_the_item_before(queue):
    queue.put("first", uid="own", priority=3, headers={"a": "b"})
    queue.fail(queue.get(-1), "broken")
    assert queue.drop("own") == 1
    queue.put("second", uid="own")
    (item,) = queue.items()
    assert (item.deliveries, item.headers, item.delivery.priority, item.delivery.error) == (0, {}, 0, None)


@pytest.mark.parametrize("uid", ["!", "~" * 128, "a:b/c{d}"])
def test_any_visible_ascii_is_a_uid(queue, uid):
    queue.put("x", uid=uid)
    item = queue.get(-1)
    assert item.uid == uid
    assert queue.ack(uid)


# -- put: delay, priority, headers


@pytest.mark.parametrize(
    "when",
    [{"delay": SHORT}, {"delay": dt.timedelta(seconds=SHORT)}, {"eta": SHORT}],
    ids=["seconds", "timedelta", "moment"],
)
def test_delayed_item_is_served_when_it_is_due(queue, client, when):
    seconds, micros = client.time()
    start = seconds + micros / 1e6
    if "eta" in when:
        when = {"eta": dt.datetime.fromtimestamp(start + SHORT, dt.UTC)}
    uid = queue.put("x", **when)
    assert queue.get(30).uid == uid
    seconds, micros = client.time()
    assert seconds + micros / 1e6 - start >= SHORT - 0.001  # due times are in whole milliseconds


def test_delayed_item_is_not_ready_before(queue):
    queue.put("later", delay=3600)
    queue.put("later still", eta=now() + AHEAD)
    assert not queue.get(-1)
    assert queue.counts() == counts(delayed=2)


def test_eta_that_has_passed_is_ready_at_once(queue):
    uid = queue.put("x", eta=now() - AHEAD)
    assert drain(queue) == [uid]


def test_eta_distinguishes_the_two_hours_at_the_end_of_summer_time(queue):
    first = dt.datetime(now().year + 1, 10, 1, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")) + dt.timedelta(30)
    first -= dt.timedelta((first.weekday() + 1) % 7)  # the last Sunday in October
    both = [first, first.replace(fold=1)]
    uids = [queue.put("x", eta=eta) for eta in both]
    due = {item.uid: item.delivery.when for item in queue.items("delayed")}
    assert [due[uid] for uid in uids] == [eta.astimezone(dt.UTC) for eta in both]
    assert due[uids[1]] - due[uids[0]] == dt.timedelta(hours=1)


@pytest.mark.parametrize("zone", [dt.UTC, dt.timezone(dt.timedelta(hours=14)), ZoneInfo("Europe/Berlin")])
def test_the_earliest_possible_eta_is_ready_at_once(queue, zone):
    uid = queue.put("x", eta=dt.datetime.min.replace(tzinfo=zone))
    assert queue.get(-1).uid == uid


@pytest.mark.parametrize("score", [253402300800000, 1e18, "inf"])
def test_an_item_due_beyond_the_calendar_can_be_listed(queue, client, score):
    uid = queue.put("x", delay=60)
    client.zadd(queue.keys["delayed"], {uid: score})
    (item,) = queue.items("delayed")
    assert (item.uid, item.delivery.when.year) == (uid, 9999)
    assert queue.purge("delayed") == 1


def test_delayed_items_are_seen_in_the_order_in_which_they_are_due(queue):
    start = now()
    last, first = queue.put("x", delay=200), queue.put("x", delay=100)
    seen = list(queue.items("delayed"))
    assert [item.uid for item in seen] == [first, last]
    assert start + dt.timedelta(seconds=50) < seen[0].delivery.when < start + dt.timedelta(seconds=150)


def test_higher_priority_is_served_first_and_fifo_within(queue):
    priorities = [0, -1, 5, 100, 0, 5, -100, -1, 99]
    uids = {queue.put("x", priority=priority): priority for priority in priorities}
    assert drain(queue) == sorted(uids, key=lambda uid: -uids[uid])  # sorted is stable


def test_delayed_item_keeps_its_priority(queue):
    queue.put("due first", delay=SHORT)
    urgent = queue.put("urgent", delay=SHORT, priority=1)
    queue.pause()
    wait_for(lambda: not queue.get(-1) and len(queue) == 2, "both items to be due")
    queue.resume()
    assert queue.get(-1).uid == urgent


def test_headers_come_with_the_item(queue):
    headers = {"trace": "00-ab", "naïve \N{GRINNING FACE}": 'quoted "\r\n'}
    queue.put("x", headers=headers)
    queue.put_many(["y"], headers=headers)
    assert [queue.get(-1).headers for _ in range(2)] == [headers, headers]


def test_the_put_time_is_the_servers_where_it_is_recorded(queue, client):
    before = client.time()[0]
    queue.put("x", uid="own")
    assert before <= queue.get(-1).enqueued_at.timestamp() <= client.time()[0] + 1


@pytest.mark.once
@pytest.mark.parametrize(
    "wrong",
    [
        {"delay": -1},
        {"delay": float("nan")},
        {"delay": float("inf")},
        {"delay": "5"},
        {"delay": True},
        {"delay": dt.timedelta(seconds=-1)},
        {"eta": dt.datetime(2030, 1, 1)},
        {"eta": 1_900_000_000},
        {"eta": dt.datetime.max.replace(tzinfo=dt.UTC)},
        {"eta": dt.datetime.max.replace(tzinfo=ZoneInfo("America/New_York"))},
        {"eta": dt.datetime(2500, 1, 1, tzinfo=dt.UTC)},
        {"delay": 1, "eta": dt.datetime(2030, 1, 1, tzinfo=dt.UTC)},
        {"priority": 101},
        {"priority": -101},
        {"priority": 1.5},
        {"priority": "high"},
        {"priority": None},
        {"priority": True},
        {"priority": False},
        {"priority": 0.0},
        {"headers": {"a": 1}},
        {"headers": {1: "a"}},
        {"headers": ["a"]},
        {"headers": {"a": "\ud800"}},
        {"headers": {"\ud800": "a"}},
    ],
    ids=str,
)
def test_wrong_arguments_of_put_are_refused(queue, wrong):
    for put in (queue.put, lambda item, **options: queue.put_many([item], **options)):
        with pytest.raises(InvalidArgument, match=f"^queue '{queue.alias}': "):
            put("x", **wrong)
    assert queue.counts() == counts()


# -- ack


def test_ack_removes_the_item_and_all_its_records(queue, client):
    queue.put("x", uid="own", priority=3, headers={"a": "b"})
    queue.fail(queue.get(-1), ValueError("x"))
    assert queue.ack(queue.get(-1))
    left = {
        key: client.hexists(queue.keys[key], "own") for key in ("items", "headers", "deliveries", "errors", "holders")
    }
    assert not any(left.values())
    assert queue.counts() == counts()


def test_ack_returns_whether_it_removed_the_item(queue):
    queue.put("x")
    item = queue.get(-1)
    assert [queue.ack(item), queue.ack(item), queue.ack(item.uid)] == [True, False, False]


def test_a_late_ack_counts_while_the_item_is_ready_again(make_queue):
    queue = make_queue(autoclean_interval=SHORT)
    queue.put("x")
    late = queue.get(-1)
    wait_for(queue.recover, "the end of the lease")
    assert queue.ack(late)
    assert queue.counts() == counts()
    assert not queue.get(-1)


def test_a_late_ack_counts_while_another_caller_has_the_item(make_queue):
    queue = make_queue(autoclean_interval=SHORT)
    queue.put("x")
    late, holder = queue.get(-1), queue.get(30)
    assert late.uid == holder.uid
    assert queue.ack(late)
    assert not queue.ack(holder)
    assert queue.fail(holder) is None
    assert queue.counts() == counts()


@pytest.mark.parametrize("bring", [ready, delayed, set_aside])
def test_a_plain_uid_settles_only_an_item_in_flight(queue, bring):
    bring(queue)
    before = queue.counts()
    assert (queue.ack("own"), queue.fail("own"), queue.release("own"), queue.extend("own")) == (
        False,
        None,
        False,
        False,
    )
    assert queue.counts() == before


def test_a_plain_uid_settles_the_delivery_of_any_caller(queue):
    queue.put("x", uid="own")
    assert queue.get(-1)
    assert queue.extend("own")
    assert queue.release("own")
    assert queue.get(-1)
    assert queue.fail("own") == "ready"
    assert queue.get(-1)
    assert queue.ack(b"own")
    assert queue.counts() == counts()


# -- fail


def test_failed_item_is_ready_at_the_back(queue):
    first, second = queue.put(1), queue.put(2)
    assert queue.fail(queue.get(-1)) == "ready"
    assert drain(queue) == [second, first]


def test_failed_item_of_a_priority_goes_behind_those_of_its_priority(queue):
    first, second, plain = queue.put(1, priority=5), queue.put(2, priority=5), queue.put(3)
    assert queue.fail(queue.get(-1)) == "ready"
    assert drain(queue) == [second, first, plain]


def test_deliveries_are_counted(queue):
    queue.put("x")
    for delivery in (1, 2, 3):
        item = queue.get(-1)
        assert item.deliveries == delivery
        queue.fail(item)
    assert next(queue.items()).deliveries == 3


@pytest.mark.parametrize("delay", [60, dt.timedelta(minutes=1)])
def test_failed_item_can_wait(queue, delay):
    queue.put("x")
    assert queue.fail(queue.get(-1), delay=delay) == "delayed"
    assert not queue.get(-1)
    assert queue.counts() == counts(delayed=1)


def test_failed_item_comes_back_after_its_delay(queue):
    uid = queue.put("x")
    assert queue.fail(queue.get(-1), delay=SHORT) == "delayed"
    assert queue.get(30).uid == uid


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no stock"), "no stock"),
        ("no stock", "no stock"),
        (ValueError("\0 \N{GRINNING FACE} \ud83d"), "\0 \N{GRINNING FACE} \\ud83d"),
        ("\udfff", "\\udfff"),
    ],
)
def test_error_is_kept(queue, error, message):
    queue.put("x")
    start = now()
    queue.fail(queue.get(-1), error)
    (item,) = queue.items()
    kept = item.delivery.error
    assert (kept["message"], kept["delivery"]) == (message, 1)
    assert abs(kept["time"] / 1000 - start.timestamp()) < 60


def test_item_is_dead_when_its_deliveries_are_used_up(make_queue):
    queue = make_queue(max_deliveries=2)
    uid = queue.put("x")
    assert queue.fail(queue.get(-1), "first") == "ready"
    assert queue.fail(queue.get(-1), "second", delay=60) == "dead"
    assert not queue.get(-1)
    (item,) = queue.items("dead")
    assert (item.uid, item.deliveries, item.delivery.error["message"]) == (uid, 2, "second")
    assert item.delivery.when is not None


def test_without_a_limit_an_item_never_dies(queue):
    queue.put("x")
    assert {queue.fail(queue.get(-1)) for _ in range(50)} == {"ready"}


def test_fail_many_returns_the_state_of_each_item(make_queue):
    queue = make_queue(max_deliveries=2)
    queue.put_many("abc")
    queue.fail(queue.get(-1))  # one delivery of "a" is left
    items = queue.get_many(3)
    assert queue.ack(items.pop(1))
    assert queue.fail_many([*items, "nobody", items[0].uid], ValueError("boom"), delay=AHEAD) == [
        "delayed",
        "dead",
        None,
        None,
    ]
    assert [item.delivery.error["message"] for item in queue.items("dead")] == ["boom"]
    assert queue.counts() == counts(delayed=1, dead=1)


def test_fail_many_in_batches(queue):
    queue.put_many(range(1100))
    items = [*queue.get_many(1000), *queue.get_many(1000)]
    assert queue.fail_many(items) == ["ready"] * 1100
    again = [*queue.get_many(1000), *queue.get_many(1000)]
    assert [item.uid for item in again] == [item.uid for item in items]


def stale(queue: SafeRedisQueue) -> tuple[Item, Item]:
    """An old delivery of an item, and the one that followed."""
    queue.put("x")
    first = queue.get(-1)
    assert queue.release(first)
    return first, queue.get(-1)


def test_stale_delivery_cannot_touch_the_next_one(queue):
    first, second = stale(queue)
    assert queue.fail(first, "late") is None
    assert queue.release(first) is False
    assert queue.extend(first) is False
    assert queue.counts() == counts(in_flight=1)
    assert queue.fail(second) == "ready"


@pytest.mark.parametrize("verb", ["fail", "release", "extend"])
def test_nothing_can_be_settled_after_an_ack(queue, verb):
    queue.put("x")
    item = queue.get(-1)
    queue.ack(item)
    assert not getattr(queue, verb)(item)
    assert not getattr(queue, verb)(item.uid)
    assert not queue.get(-1)
    assert queue.counts() == counts()


@pytest.mark.parametrize("delay", [-1, float("nan"), "soon"])
def test_wrong_delay_of_fail_is_refused(queue, delay):
    queue.put("x")
    with pytest.raises(InvalidArgument):
        queue.fail(queue.get(-1), delay=delay)
    assert queue.counts() == counts(in_flight=1)


# -- release, extend, recover


def test_released_item_keeps_its_place_and_its_count(queue):
    first, second = queue.put(1), queue.put(2)
    assert queue.release(queue.get(-1))
    again = queue.get(-1)
    assert (again.uid, again.deliveries) == (first, 1)
    assert drain(queue) == [second]


def test_returned_items_are_served_in_the_order_of_their_first_claims(queue):
    uids = [queue.put(n) for n in range(4)]
    items = [queue.get(-1) for _ in range(3)]
    for n in (2, 0, 1):
        assert queue.release(items[n])
    assert drain(queue) == uids


def test_an_item_keeps_its_place_over_several_returns(queue):
    uids = [queue.put(n) for n in range(3)]
    for _ in range(3):
        for item in reversed(queue.get_many(2)):
            assert queue.release(item)
    assert drain(queue) == uids


def test_item_of_a_priority_returns_to_its_old_place(queue):
    uids = [queue.put("x", priority=priority) for priority in (5, 5, 0, -5, -5)]
    items = queue.get_many(4)
    for item in items:
        queue.release(item)
    assert drain(queue) == uids


def test_ended_lease_brings_the_item_back_to_its_place(make_queue):
    queue, hasty = make_queue(), make_queue(autoclean_interval=SHORT)
    first, second = queue.put(1), queue.put(2)
    lost = hasty.get(-1)
    wait_for(queue.recover, "the end of the lease")
    again = queue.get(-1)
    assert (again.uid, again.deliveries) == (first, 2)
    assert again.token != lost.token
    assert queue.get(-1).uid == second


def test_blocked_get_recovers_by_itself(make_queue):
    queue = make_queue(autoclean_interval=SHORT)
    uid = queue.put("x")
    assert queue.get(-1)
    assert queue.get(0).uid == uid


def test_extended_lease_lasts_longer(make_queue):
    queue = make_queue(autoclean_interval=SHORT)
    queue.put("x")
    item = queue.get(-1)
    assert queue.extend(item, 60)
    assert not queue.get(SHORT * 3)
    assert queue.counts() == counts(in_flight=1)


def test_an_extend_takes_a_lapsed_item_back_while_it_is_ready(make_queue):
    queue = make_queue(autoclean_interval=SHORT)
    queue.put("x")
    item = queue.get(-1)
    wait_for(queue.recover, "the end of the lease")
    assert queue.extend(item, 60)
    assert not queue.get(-1)
    assert queue.fail(item) == "ready"
    assert queue.get(-1).deliveries == 2


def test_an_extend_takes_a_lapsed_item_with_a_priority_back(make_queue):
    queue = make_queue(autoclean_interval=SHORT)
    queue.put("x", priority=5)
    item = queue.get(-1)
    wait_for(queue.recover, "the end of the lease")
    assert queue.extend(item, 60)
    assert queue.counts() == counts(in_flight=1)


def test_an_extend_cannot_take_a_failed_item_back(queue):
    queue.put("x")
    item = queue.get(-1)
    queue.fail(item)
    assert not queue.extend(item)
    assert queue.counts() == counts(ready=1)


@pytest.mark.once
@pytest.mark.parametrize("seconds", [0, -1, "5", True, float("nan"), float("inf")])
def test_wrong_lease_of_extend_is_refused(queue, seconds):
    queue.put("x")
    with pytest.raises(InvalidArgument, match="seconds is a number above 0"):
        queue.extend(queue.get(-1), seconds)


def test_recovery_ends_at_max_deliveries(make_queue):
    queue = make_queue(autoclean_interval=SHORT, max_deliveries=2)
    uid = queue.put("x")
    assert queue.get(-1).deliveries == 1
    assert queue.get(30).deliveries == 2
    wait_for(lambda: not queue.get(-1) and queue.counts() == counts(dead=1), "the item's death")
    assert [item.uid for item in queue.items("dead")] == [uid]


def test_without_autoclean_an_item_stays_until_it_is_recovered_by_hand(make_queue):
    queue, other = make_queue(autoclean_interval=None), make_queue(autoclean_interval=SHORT)
    queue.lease = SHORT  # seconds; a minute by default
    uid = queue.put("x")
    queue.get(-1)
    wait_for(lambda: queue.snapshot().ended, "the end of the lease")
    assert not queue.get(-1)
    assert not other.get(-1)
    assert queue.counts() == counts(in_flight=1)
    assert queue.recover() == 1
    assert queue.get(-1).uid == uid


def test_recover_leaves_running_leases_alone(queue):
    queue.put("x")
    queue.get(-1)
    assert queue.recover() == 0
    assert queue.counts() == counts(in_flight=1)


@pytest.mark.once
def test_recover_handles_any_number(make_queue):
    queue = make_queue(autoclean_interval=None)
    uids = queue.put_many(range(250))
    queue.lease = SHORT
    queue.get_many(250)
    wait_for(lambda: queue.snapshot().ended == 250, "the end of the leases")
    assert queue.recover() == 250
    assert drain(queue) == uids


# -- crashes


def test_crashed_item_is_ready_at_once_in_its_place(queue):
    first, second = queue.put(1), queue.put(2)
    assert crash(queue, claim_supervised(queue)) == "ready"
    assert drain(queue) == [first, second]


def test_crash_of_a_delivery_that_is_over_changes_nothing(queue):
    first, _ = stale(queue)
    assert crash(queue, DeliveryRef(first.uid, first.token)) is None
    assert queue.counts() == counts(in_flight=1)


def test_item_is_dead_when_its_crashes_are_used_up(make_queue):
    queue = make_queue(max_crashes=2)
    queue.put("x")
    assert [crash(queue, claim_supervised(queue)) for _ in range(2)] == ["ready", "dead"]
    (item,) = queue.items("dead")
    assert (item.delivery.crashes, item.delivery.error["message"]) == (2, "signal 9")


def test_a_lease_of_a_supervised_consumer_that_ended_counts_as_a_crash(make_queue):
    queue = make_queue(max_crashes=1)
    queue.put("x")
    claim_supervised(queue, lease=SHORT)
    wait_for(lambda: not queue.get(-1) and queue.counts()["dead"], "the item's death")
    (item,) = queue.items("dead")
    assert (item.delivery.crashes, item.delivery.error["type"]) == (1, "ConsumerLost")


def test_a_lease_of_a_plain_get_that_ended_is_no_crash(make_queue):
    queue = make_queue(autoclean_interval=SHORT, max_crashes=1)
    uid = queue.put("x")
    for _ in range(3):
        assert queue.get(30).uid == uid
    assert queue.snapshot().stats.get("crashed", 0) == 0


# -- many at once


def test_put_many_get_many_and_ack_many_keep_the_order(make_queue):
    queue = make_queue(serializer=JSON())
    uids = queue.put_many(range(2500))
    assert len(set(uids)) == 2500
    assert len(queue) == 2500
    items = [item for n in (1000, 1000, 1000) for item in queue.get_many(n)]
    assert items == list(zip(uids, range(2500), strict=True))
    assert queue.ack_many(items) == [True] * 2500
    assert queue.counts() == counts()


def test_the_methods_for_many_accept_no_items(queue):
    assert (queue.put_many([]), queue.get_many(5), queue.ack_many([])) == ([], [], [])


def test_get_many_takes_fewer_items_when_fewer_are_ready(queue):
    uids = queue.put_many("abc")
    assert [item.uid for item in queue.get_many(10)] == uids


def test_get_many_waits_for_the_first(queue):
    uid = queue.put("x", delay=SHORT)
    assert [item.uid for item in queue.get_many(10, timeout=30)] == [uid]


@pytest.mark.parametrize("n", [0, -1, 1001])
def test_get_many_takes_a_bounded_number(queue, n):
    queue.put("x")
    with pytest.raises(InvalidArgument, match="1 to 1000"):
        queue.get_many(n)
    assert queue.counts() == counts(ready=1)


def test_ack_many_tells_for_each(queue):
    queue.put_many("abc")
    first, second, third = queue.get_many(3)
    queue.ack(second)
    assert queue.ack_many([first, second, third.uid]) == [True, False, True]


def test_put_many_with_priority(queue):
    plain, urgent = queue.put_many("abc"), queue.put_many("abc", priority=9)
    assert drain(queue) == urgent + plain


def test_many_that_are_due_together_keep_their_order(queue):
    uids = queue.put_many(range(150), delay=SHORT)
    assert [item.uid for item in queue.items("delayed")] == uids
    assert [queue.get(30).uid for _ in uids] == uids


def test_put_many_serialises_all_before_it_sends_any(queue):
    with pytest.raises(PayloadError):
        queue.put_many(["good", object()])
    assert queue.counts() == counts()


# -- limits


def test_full_queue_refuses_puts(make_queue):
    queue = make_queue(max_length=2)
    queue.put(1)
    queue.put(2, delay=60)
    with pytest.raises(QueueFull, match=r"full: 2 items ready and delayed, the limit is 2"):
        queue.put(3)
    assert queue.counts() == counts(ready=1, delayed=1)


def test_the_limit_does_not_count_items_in_flight_or_dead_items(make_queue):
    queue = make_queue(max_length=1)
    dead(queue)
    queue.put(1)
    assert queue.get(-1)
    queue.put(2)
    assert queue.counts() == counts(ready=1, in_flight=1, dead=1)


def test_batch_that_does_not_fit_is_refused_as_a_whole(make_queue):
    queue = make_queue(max_length=3)
    queue.put("x")
    with pytest.raises(QueueFull):
        queue.put_many("abc")
    assert len(queue) == 1
    queue.put_many("ab")
    assert len(queue) == 3


def test_put_many_that_fails_midway_names_the_items_that_were_put(make_queue, monkeypatch):
    monkeypatch.setattr("django_srq.queue.puts.BATCH", 2)
    queue = make_queue(max_length=5)
    with pytest.raises(QueueFull, match=r"is full: 4 items .*; 4 of 6 items were put$") as caught:
        queue.put_many("abcdef")
    assert caught.value.put == [item.uid for item in queue.items()]
    assert (len(caught.value.put), caught.value.in_doubt) == (4, [])


def test_other_errors_name_no_put_items(make_queue):
    queue = make_queue(max_length=1)
    queue.put("x")
    for put in (queue.put, lambda item: queue.put_many([item])):
        with pytest.raises(QueueFull) as caught:
            put("y")
        assert (caught.value.put, caught.value.in_doubt) == ([], [])


def test_put_many_with_own_uids_can_be_repeated_as_a_whole(make_queue, out, monkeypatch):
    monkeypatch.setattr("django_srq.queue.puts.BATCH", 2)
    small, large = make_queue(max_length=2), make_queue()
    with pytest.raises(QueueFull):
        small.put_many("abc", uids=["one", "two", "three"])
    assert large.put_many("abc", uids=["one", "two", "three"]) == ["one", "two", "three"]
    assert list(large.items()) == [("one", out("a")), ("two", out("b")), ("three", out("c"))]


@pytest.mark.parametrize("uids", [["one"], ["one", "two", "three"], ["one", "with blank"], [1, 2], 5])
def test_wrong_uids_of_put_many_are_refused(queue, uids):
    with pytest.raises(InvalidArgument, match="uid"):
        queue.put_many("ab", uids=uids)
    assert queue.counts() == counts()


def test_returning_items_ignore_the_limit(make_queue):
    queue = make_queue(max_length=1)
    for verb in (queue.release, queue.fail, partial(queue.fail, delay=60)):
        queue.put("x")
        item = queue.get(-1)
        queue.put("y")
        assert verb(item)
        assert sum(queue.counts().values()) == 2
        queue.purge()


def test_a_duplicate_is_reported_rather_than_a_full_queue(make_queue):
    queue = make_queue(max_length=1)
    queue.put("x", uid="own")
    assert queue.put("x", uid="own") == "own"
    with pytest.raises(DuplicateItem):
        queue.put("x", uid="own", strict=True)
    with pytest.raises(QueueFull):
        queue.put("x", uid="other")


def test_ghosts_do_not_count_for_the_limit(make_queue):
    queue = make_queue(max_length=1, autoclean_interval=SHORT)
    queue.put("x")
    item = queue.get(-1)
    queue.fail(item)
    queue.drop(item.uid)  # its uid stays on the list
    queue.put("y")
    assert len(queue) == 1


def test_too_large_payload_is_refused(make_queue):
    queue = make_queue(max_payload_bytes=3)
    queue.put("abc")
    with pytest.raises(PayloadTooLarge):
        queue.put("abcd")
    assert len(queue) == 1


@pytest.mark.once
@pytest.mark.parametrize("option", ["max_deliveries", "max_crashes", "max_length", "max_payload_bytes"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "5"])
def test_wrong_limit_is_refused(make_queue, option, value):
    with pytest.raises(ConfigurationError, match=option):
        make_queue(**{option: value})


@pytest.mark.parametrize(
    "option",
    [
        {"autoclean_interval": 0},
        {"autoclean_interval": "60"},
        {"autoclean_interval": float("inf")},
        {"url": "x", "timeout": -1},
    ],
)
def test_wrong_duration_is_refused(make_queue, option):
    with pytest.raises(ConfigurationError, match=list(option)[-1]):
        make_queue(**option)


# -- looking


def test_len_and_counts(queue):
    dead(queue)
    queue.put_many("abc")
    queue.put("x", delay=60)
    queue.put("x", priority=1)
    queue.get(-1)
    queue.release(queue.get(-1))
    assert len(queue) == 3
    assert queue.counts() == counts(ready=3, in_flight=1, delayed=1, dead=1)


def test_queue_is_true_also_when_empty(queue):
    assert bool(queue)
    assert len(queue) == 0


def test_len_does_not_count_dropped_items(queue):
    uids = queue.put_many("abc")
    assert queue.drop(uids[1]) == 1
    assert len(queue) == 2
    assert drain(queue) == [uids[0], uids[2]]
    assert len(queue) == 0


def test_items_lists_ready_items_in_the_order_of_delivery(queue, out):
    returns = queue.get_many(2) if queue.put_many("12") else []
    low, plain, high = queue.put("l", priority=-1), queue.put("p"), queue.put("h", priority=1)
    for item in returns:
        queue.release(item)
    seen = list(queue.items())
    assert [item.uid for item in seen] == [high, *(item.uid for item in returns), plain, low]
    assert [item.payload for item in seen] == [out(text) for text in "h12pl"]
    assert queue.counts() == counts(ready=5)
    assert drain(queue) == [item.uid for item in seen]


def test_items_lists_items_in_flight(queue):
    queue.put("x", headers={"a": "b"})
    item = queue.get(-1)
    (seen,) = queue.items("in_flight")
    assert seen == item
    assert (seen.deliveries, seen.headers, seen.delivery.state) == (1, {"a": "b"}, "in_flight")
    assert seen.token == ""  # listing an item gives no right to it
    assert now() < seen.delivery.when < now() + dt.timedelta(minutes=2)


def test_items_pages_through_any_number(queue):
    uids = queue.put_many(range(250))
    assert [item.uid for item in queue.items()] == uids


def test_items_of_an_unknown_state_is_refused(queue):
    with pytest.raises(InvalidArgument, match="known: ready, in_flight, delayed, dead"):
        list(queue.items("pending"))


def test_snapshot_tells_the_age_of_the_oldest_ready_item(queue):
    start = now() - dt.timedelta(milliseconds=1)
    assert queue.snapshot().oldest is None
    queue.put("x")
    assert start <= queue.snapshot().oldest <= now()


def test_repr_names_queue_keys_and_address(queue):
    assert repr(queue) == f"<SafeRedisQueue {queue.name!r} srq:{queue.name} at {queue.link.address}>"


def test_keys_have_saferedisqueues_names(queue, client):
    uid = queue.put("x")
    assert client.hget(f"srq:{queue.name}:items", uid) == b"x"
    assert client.lrange(f"srq:{queue.name}:queue", 0, -1) == [uid.encode()]


def test_keys_share_a_slot_with_the_cluster_option(make_queue, client):
    queue = make_queue(cluster=True)
    queue.put("x")
    assert client.exists(f"srq:{{{queue.name}}}:items") == 1


# -- for people and tools


def test_requeued_item_is_ready_at_the_back_and_counted_anew(make_queue):
    queue = make_queue(max_deliveries=1)
    first = queue.put(1)
    queue.fail(queue.get(-1), "broken")
    second = queue.put(2)
    assert queue.requeue(first) == 1
    items = queue.get_many(2)
    assert [(item.uid, item.deliveries) for item in items] == [(second, 1), (first, 1)]
    assert queue.snapshot().dead == 0


def test_requeue_without_uids_takes_all(queue):
    uids = {dead(queue, str(n)) for n in range(3)}
    assert queue.requeue() == 3
    assert set(drain(queue)) == uids


def test_requeue_ignores_items_that_are_not_dead(queue):
    uid = queue.put("x")
    assert queue.requeue(uid, "unknown") == 0
    assert queue.counts() == counts(ready=1)


@pytest.mark.parametrize(
    "bring", [ready, delayed, set_aside, partial(SafeRedisQueue.put, item="x", uid="own", priority=1)]
)
def test_drop_deletes_items_that_nobody_holds(queue, bring):
    bring(queue)
    assert queue.drop("own") == 1
    assert queue.drop("own") == 0
    assert queue.counts() == counts()
    assert not queue.get(-1)


def test_drop_spares_items_in_flight(queue):
    in_flight(queue)
    assert queue.drop("own") == 0
    assert queue.ack("own")


def in_each_state(queue: SafeRedisQueue) -> None:
    dead(queue)
    queue.put_many("abc")
    queue.put("x", delay=60)
    queue.put("x", priority=1)
    queue.get(-1)
    queue.release(queue.get(-1))


@pytest.mark.parametrize(
    ("state", "gone", "left"),
    [
        (None, 5, counts(in_flight=1)),
        ("ready", 3, counts(in_flight=1, delayed=1, dead=1)),
        ("delayed", 1, counts(ready=3, in_flight=1, dead=1)),
        ("dead", 1, counts(ready=3, in_flight=1, delayed=1)),
    ],
)
def test_purge_of_a_state_spares_items_in_flight(queue, state, gone, left):
    in_each_state(queue)
    assert queue.purge(state) == gone
    assert queue.counts() == left
    assert (queue.snapshot().stats.get("purged", 0), queue.snapshot().stats.get("dropped", 0)) == (gone, 0)


def test_purge_of_any_number(queue):
    queue.put_many(range(2100))
    assert queue.purge() == 2100
    assert queue.counts() == counts()


def test_purge_spares_items_put_after_its_begin(queue, monkeypatch):
    monkeypatch.setattr("django_srq.operations.control.BATCH", 2)
    queue.put_many("abc")

    def step(start):
        return queue.link.call(operations.purge(queue.keys, marker="marker", start=start), queue=queue.alias)

    assert step(True) == (True, 2)
    uid = queue.put("late")
    assert step(False) == (False, 1)
    assert step(False) == (False, 0)
    assert drain(queue) == [uid]


@pytest.mark.parametrize("late", [{"delay": 60}, {"priority": 1}, {}], ids=["delayed", "priority", "plain"])
@pytest.mark.filterwarnings("ignore:.*blocks the event loop:RuntimeWarning")
def test_purge_spares_items_of_any_state_put_after_its_begin(queue, link, late):
    in_each_state(queue)
    other = SafeRedisQueue(name=queue.name, link=link)
    arrived: list[str] = []

    def put_late(gone: int) -> None:
        if not arrived:
            arrived.append(other.put("late", **late))

    assert queue.purge(on_batch=put_late) == 5
    assert sum(queue.counts().values()) == 2  # the item in flight and the late one


@pytest.mark.filterwarnings("ignore:.*blocks the event loop:RuntimeWarning")
def test_purge_spares_an_item_that_was_put_again_after_its_begin(queue, link):
    """The new item has the same uid as an item that was there at the beginning."""
    queue.put("old", uid="own", delay=60)
    queue.put("ready")
    other = SafeRedisQueue(name=queue.name, link=link)

    def put_anew(gone: int) -> None:
        if other.drop("own"):
            other.put("new", uid="own", delay=60)

    assert queue.purge(on_batch=put_anew) == 1
    assert queue.states("own") == ["delayed"]


@pytest.mark.parametrize("state", ["in_flight", "all"])
def test_purge_of_another_state_is_refused(queue, state):
    with pytest.raises(InvalidArgument, match="not '" + state):
        queue.purge(state)


def test_paused_queue_hands_out_nothing(queue):
    queue.put("first")
    holding = queue.get(-1)
    assert queue.pause("stock-taking", by="admin")
    uid = queue.put("x")
    assert not queue.get(-1)
    assert len(queue) == 1
    assert queue.ack(holding)
    paused = queue.snapshot().paused
    assert (paused["reason"], paused["by"]) == ("stock-taking", "admin")
    assert queue.resume()
    assert queue.get(-1).uid == uid


def test_pause_and_resume_return_whether_they_changed_anything(queue):
    assert [queue.pause(), queue.pause("again"), queue.resume(), queue.resume()] == [True, False, True, False]


def test_pause_ends_by_itself(queue):
    uid = queue.put("x")
    queue.pause(until=now() + dt.timedelta(seconds=SHORT))
    assert queue.get(30).uid == uid
    assert queue.snapshot().paused is None


def test_pause_until_the_end_of_the_calendar_is_refused(queue):
    with pytest.raises(InvalidArgument, match=r"until is less than 10,000,000,000 seconds ahead"):
        queue.pause(until=dt.datetime.max.replace(tzinfo=dt.UTC))
    assert not queue.resume()


def test_pause_until_needs_a_time_zone(queue):
    with pytest.raises(InvalidArgument, match="until is an aware datetime"):
        queue.pause(until=dt.datetime(2030, 1, 1))


@pytest.mark.parametrize("wrong", [{"reason": "\ud800"}, {"by": None}])
def test_reason_and_name_of_a_pause_are_text(queue, wrong):
    with pytest.raises(InvalidArgument, match=r"(reason|by) is text"):
        queue.pause(**wrong)
    assert queue.snapshot().paused is None


# -- consume, processing


def test_consume_ends_when_nothing_comes(queue):
    uids = queue.put_many("abc")
    assert [item.uid for item in queue.consume(-1) if queue.ack(item)] == uids
    assert queue.counts() == counts()


def test_processing_acks_on_success(queue, out):
    queue.put("x")
    with queue.processing(-1) as item:
        assert item.payload == out("x")
        assert queue.counts() == counts(in_flight=1)
    assert queue.counts() == counts()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_processing_fails_the_item_and_lets_the_error_out(make_queue, error):
    queue = make_queue(backoff=Backoff(base=60))
    queue.put("x")
    with pytest.raises(error, match="no stock"), queue.processing(-1):
        raise error("no stock")
    (item,) = queue.items("delayed")
    assert item.delivery.error["type"] == error.__name__
    assert item.delivery.when > now() + dt.timedelta(seconds=20)


def test_processing_runs_with_a_falsy_item_when_empty(queue):
    with queue.processing(-1) as item:
        assert not item
    with pytest.raises(ValueError, match="out"), queue.processing(-1):
        raise ValueError("out")
    assert queue.counts() == counts()


# -- audit


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (lambda client, keys: client.hset(keys["items"], "own", "x"), "is in no place"),
        (lambda client, keys: client.zadd(keys["delayed"], {"own": 1}), "is no item but has a place"),
        (
            lambda client, keys: client.zadd(keys["leases"], {"own": 1}) and client.hset(keys["items"], "own", 1),
            "in no place",
        ),
    ],
)
def test_audit_finds_damage(make_queue, client, damage, finding):
    queue = make_queue("-damaged")
    queue.put("x")
    damage(client, queue.keys)
    (found,) = queue.audit()
    assert found.startswith("own ")
    assert finding in found


def test_audit_finds_an_item_in_two_places(make_queue, client):
    queue = make_queue("-damaged")
    queue.put("x", uid="own", delay=60)
    client.zadd(queue.keys["dead"], {"own": 1})
    assert queue.audit() == ["own is in several places (dead, delayed, headers, items)"]


@pytest.mark.filterwarnings("ignore:.*blocks the event loop:RuntimeWarning")
def test_audit_accepts_items_that_are_put_while_it_reads(queue, link, monkeypatch):
    all_uids, late, other = audit._all_uids, [], SafeRedisQueue(name=queue.name, link=link)

    def read(*args: object) -> object:
        late.append(other.put("late"))  # audit has read the list already
        return all_uids(*args)

    queue.put_many("ab")
    monkeypatch.setattr(audit, "_all_uids", read)
    assert queue.audit() == []
    assert link.call(operations.find(queue.keys, late, deep=True), queue="q") == [{"items", "queue"}]


def test_audit_finds_a_holder_without_lease(make_queue, client):
    queue = make_queue("-damaged")
    in_flight(queue)
    client.delete(queue.keys["leases"])
    (found,) = queue.audit()
    assert "held without a lease" in found


# -- move


@pytest.fixture
def target(make_queue) -> SafeRedisQueue:
    return make_queue("-target")


def test_move_keeps_order_uids_and_headers(queue, target, out):
    uids = [queue.put(str(n), headers={"n": str(n)}) for n in range(3)]
    assert queue.move(target) == 3
    assert queue.counts() == counts()
    items = target.get_many(5)
    assert items == [(uid, out(str(n))) for n, uid in enumerate(uids)]
    assert [item.headers for item in items] == [{"n": str(n)} for n in range(3)]
    assert target.audit() == []


def test_move_keeps_the_priority(queue, target):
    queue.put("low", priority=-3)
    target.put("plain")
    urgent = queue.put("high", priority=3)
    assert queue.move(target) == 2
    assert target.get(-1).uid == urgent
    assert [item.delivery.priority for item in target.items()] == [0, -3]


def test_move_leaves_no_slots_in_the_target(queue, target, client, monkeypatch):
    monkeypatch.setattr("django_srq.queue.moves.BATCH", 2)
    queue.put_many("abcde")
    assert queue.move(target) == 5
    assert not [slot for slot in client.hkeys(target.keys["slots"]) if b"move" in slot]


def test_move_stops_at_its_limit(queue, target):
    uids = queue.put_many("abc")
    assert queue.move(target, limit=2) == 2
    assert drain(target) == uids[:2]
    assert drain(queue) == uids[2:]


def test_move_to_a_full_queue_leaves_the_rest(queue, make_queue):
    target = make_queue("-target", max_length=1)
    uids = queue.put_many("abc")
    with pytest.raises(QueueFull, match=queue.alias):
        queue.move(target)
    assert drain(target) == uids[:1]
    assert [(item.uid, item.deliveries) for item in queue.get_many(5)] == [(uids[1], 1), (uids[2], 1)]


def test_move_to_itself_is_refused(queue, make_queue, server_url):
    queue.put_many("abc")
    for same in (queue, make_queue(), make_queue(url=server_url)):
        with pytest.raises(InvalidArgument, match="another queue"):
            queue.move(same)
    assert queue.counts() == counts(ready=3)


def test_move_to_itself_by_another_name_of_the_server_loses_nothing(queue, make_queue, link):
    alias = Link(link.client, address="elsewhere", timeout=PATIENT)
    uids = queue.put_many("abc")
    with pytest.raises(DuplicateItem, match="in_flight"):
        queue.move(make_queue(link=alias))
    assert [(item.uid, item.deliveries) for item in queue.get_many(5)] == [(uid, 1) for uid in uids]


@pytest.mark.parametrize(("bring", "state"), STATES)
def test_an_item_that_the_target_has_already_is_not_moved(queue, target, bring, state):
    bring(target)
    queue.put("mine", uid="own")
    last = queue.put("next")
    with pytest.raises(DuplicateItem, match="own is there already") as caught:
        queue.move(target)
    assert (caught.value.uid, caught.value.state) == ("own", state)
    assert [item.uid for item in queue.items()] == ["own", last]
    assert target.states("own", last) == [state, None]


def test_an_item_is_moved_when_the_target_no_longer_has_its_uid(queue, target):
    target.put("theirs", uid="same")
    queue.put("mine", uid="same")
    with pytest.raises(DuplicateItem):
        queue.move(target)
    target.drop("same")
    assert queue.move(target) == 1
    assert (queue.states("same"), target.states("same")) == ([None], ["ready"])


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "x"])
def test_wrong_limit_of_move_is_refused(queue, target, limit):
    queue.put("a")
    with pytest.raises(InvalidArgument, match="limit"):
        queue.move(target, limit=limit)
    assert len(queue) == 1


@pytest.mark.parametrize("wrong", [None, "orders"])
def test_wrong_target_of_move_is_refused(queue, wrong):
    queue.put("a")
    with pytest.raises(InvalidArgument, match="another queue"):
        queue.move(wrong)
    assert len(queue) == 1


# -- saferedisqueue's names


def test_push_and_pop_are_deprecated_aliases(queue, out):
    with pytest.warns(DeprecationWarning, match="push is put now; the alias ends in"):
        uid = queue.push("x")
    with pytest.warns(DeprecationWarning, match="pop is get now; the alias ends in"):
        assert queue.pop(-1) == (uid, out("x"))


# -- waking


@pytest.fixture
def idle(server_url, prefix, client, queue_class, monkeypatch) -> Iterator[SimpleNamespace]:
    """A consumer whose gets look at the queue only when a token wakes them, or when something is due."""
    monkeypatch.setattr("django_srq.queue.gets.LOOK", 600)
    patient = Patient(client_from_url(server_url, client_name=prefix), timeout=PATIENT)
    queue = queue_class(name=prefix, link=patient, autoclean_interval=600)

    def blocked() -> int:
        return sum(c["name"] == prefix and "b" in c["flags"] for c in client.client_list())

    @contextmanager
    def getting(consumers: int = 1) -> Iterator[list]:
        """Run blocking gets beside the block; yields their futures."""
        with ThreadPoolExecutor(consumers) as pool:
            futures = [pool.submit(queue.get, 60) for _ in range(consumers)]
            try:
                # On a slow machine a get may have ended already.
                wait_for(lambda: blocked() == consumers or any(f.done() for f in futures), "all consumers to block")
                patient.waits.clear()
                yield futures
            except BaseException:
                queue.resume()
                queue.put_many("x" * consumers)  # or the pool would wait for the gets for ever
                raise

    yield SimpleNamespace(getting=getting, woken=lambda: queue.keys["wake"] in patient.waits)
    patient.close()


def held(queue: SafeRedisQueue) -> Item:
    queue.put("x")
    return queue.get(-1)


def put(queue):
    return partial(queue.put, "x")


def put_delayed(queue):
    return partial(queue.put, "x", delay=SHORT)


def released(queue):
    return partial(queue.release, held(queue))


def failed(queue):
    return partial(queue.fail, held(queue))


def failed_with_delay(queue):
    return partial(queue.fail, held(queue), delay=SHORT)


def requeued(queue):
    return partial(queue.requeue, dead(queue))


def resumed(queue):
    queue.put("x")
    queue.pause()
    return queue.resume


def pause_that_ends(queue):
    queue.put("x")
    queue.pause()
    return lambda: queue.pause(until=now() + dt.timedelta(seconds=SHORT))


def crashed(queue):
    queue.put("x")
    return partial(crash, queue, claim_supervised(queue))


def recovered_by_hand(queue):
    queue.put("x")
    queue.autoclean_interval, queue.lease = None, SHORT
    queue.get(-1)
    wait_for(lambda: queue.snapshot().ended, "the end of the lease")
    return queue.recover


@pytest.mark.parametrize(
    "prepare",
    [
        put,
        put_delayed,
        released,
        failed,
        failed_with_delay,
        requeued,
        resumed,
        pause_that_ends,
        crashed,
        recovered_by_hand,
    ],
)
def test_blocked_get_is_woken(queue, idle, prepare):
    happen = prepare(queue)
    with idle.getting() as (future,):
        happen()
        assert future.result(30)
    assert idle.woken()


def due(queue):
    queue.put("x", delay=0.2)


def lease_that_ends(queue):
    queue.autoclean_interval = queue.lease = 0.2
    held(queue)


@pytest.mark.parametrize("prepare", [due, lease_that_ends])
def test_a_blocked_get_looks_when_something_is_due(queue, idle, prepare):
    prepare(queue)
    with idle.getting() as (future,):
        assert future.result(30)


def test_a_batch_wakes_as_many_consumers_as_it_has_items(queue, idle):
    with idle.getting(4) as futures:
        uids = queue.put_many("abcd")
        assert {future.result(30).uid for future in futures} == set(uids)


def test_a_consumer_that_leaves_ready_items_wakes_the_next_consumer(queue, idle):
    """All items become ready by the same claim, whose caller takes one of them."""
    with idle.getting(3) as futures:
        uids = queue.put_many("abc", delay=SHORT)  # wakes a single consumer, which learns when to look
        assert {future.result(30).uid for future in futures} == set(uids)


@pytest.mark.once
def test_number_of_wake_tokens_is_bounded(queue, client):
    def tokens() -> int:
        return client.llen(queue.keys["wake"])

    queue.put_many(range(200))
    for _ in range(100):
        queue.put("x")
    assert 1 <= tokens() <= 64
    for n in range(100):
        queue.put("x", delay=1000 - n)
    for item in queue.get_many(100):
        queue.release(item)
    for _ in range(100):
        queue.pause(until=now() + AHEAD)
    queue.resume()
    assert 1 <= tokens() <= 64


def test_wake_tokens_are_removed_when_nothing_is_ready(queue, client):
    queue.put_many("abc")
    queue.ack_many(queue.get_many(3))
    assert client.exists(queue.keys["wake"]) == 0


def test_a_retry_without_a_delay_comes_at_once(queue):
    class Again(RetryLater):
        def __init__(self) -> None:
            pass

    queue.put("x")
    with queue.processing(-1):
        raise Again
    assert queue.counts()["ready"] == 1
