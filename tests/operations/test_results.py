"""Results: what is kept of an item after its ack, and what ``results`` says of items in all states."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from django_srq import SafeRedisQueue, operations
from django_srq.exceptions import LayoutError
from django_srq.operations import DeliveryRef, Put, TaskView, kept
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from django_srq.transport.slots import Slot
from tests.support.server_clock import now, pass_time
from tests.support.waiting import PATIENT

pytestmark = pytest.mark.versions

PAYLOAD = '{"task": "shop.tasks.welcome", "args": ["ž", 1.0], "kwargs": {}}'.encode()
SUCCESS = {"s": "SUCCESSFUL", "r": {"ž": [1, None]}}
FAILURE = {"s": "FAILED", "e": {"type": "ValueError", "message": "no", "traceback": "line\n"}}
HOUR = 3600


def keep(outcome: Any = SUCCESS, *, ttl: float = HOUR, most: int = 1000) -> bytes:
    return kept(ttl, most, json.dumps(outcome, ensure_ascii=False).encode())


class Results:
    """Calls about one queue."""

    def __init__(self, queue: SafeRedisQueue, client: Any, consumer: str = "c1.1") -> None:
        self.queue, self.keys, self.client, self.consumer = queue, queue.keys, client, consumer

    def call(self, call: operations.Call) -> Any:
        return self.queue.link.call(call, queue=self.queue.alias)

    def put(self, *uids: str, payload: bytes = PAYLOAD, **options: Any) -> list[str]:
        """Put items with uids of the caller's own; the state of each, empty when it was added."""
        items = [Put(uid, payload, b"") for uid in uids]
        return list(self.call(operations.put(self.keys, items, own=True, **options)).states)

    def take(self, n: int = 1, **options: Any) -> list[DeliveryRef]:
        found = self.claim(n, **options).found
        return [item.ref for item in found]

    def claim(self, n: int, **options: Any) -> operations.ClaimReply:
        return self.call(
            operations.claim(self.keys, consumer=self.consumer, lease=600, legacy_lease=600, n=n, **options)
        )

    def ack(self, held: list[DeliveryRef], results: list[bytes]) -> list[bool]:
        return self.call(operations.ack(self.keys, held, results))

    def of(self, *uids: str) -> list[TaskView | None]:
        return self.call(operations.results(self.keys, uids))

    def one(self, uid: str) -> TaskView:
        (view,) = self.of(uid)
        assert view is not None
        return view

    def number(self) -> int:
        assert self.client.hlen(self.keys["results"]) == self.client.zcard(self.keys["finished"])
        return self.client.zcard(self.keys["finished"])


@pytest.fixture
def results(queue, client) -> Results:
    return Results(queue, client)


WAYS = ["ack", "claim", "any holder", "beside records"]


def settle(results: Results, held: list[DeliveryRef], kept: list[bytes], way: str) -> list[bool]:
    if way == "claim":
        return list(results.claim(0, acks=held, results=kept).acked)
    if way == "any holder":
        held = [DeliveryRef(ref.uid) for ref in held]
    elif way == "beside records":
        results.client.hset(results.keys["errors"], "nobody", '{"type":"E","message":"m"}')
    return results.ack(held, kept)


@pytest.mark.parametrize("way", WAYS)
def test_result_is_kept_with_the_ack(results, client, way):
    uids = results.queue.put_many([PAYLOAD, b"2"])
    began = now(client)
    held = results.take(2)
    assert settle(results, held, [keep(), b""], way) == [True, True]
    view, nothing = results.of(*uids)
    assert nothing is None
    assert (view.state, view.payload, view.token) == ("done", PAYLOAD, held[0].token)
    assert (view.deliveries, view.crashes, view.headers, view.errors) == (1, 0, {}, [])
    assert (view.result["outcome"], view.result["item"]) == (SUCCESS, json.loads(PAYLOAD))
    assert began <= view.at.timestamp() * 1000 <= now(client)
    assert results.number() == 1
    assert results.queue.counts() == dict.fromkeys(operations.STATES, 0)
    assert results.queue.audit() == []


@pytest.mark.parametrize("together", [1, 3, 9])
def test_the_fast_and_the_careful_path_keep_the_same(make_queue, client, together):
    """Beside items without results, and items in odd states."""
    stored, replies = [], []
    for name in ("-fast", "-careful"):
        results = Results(make_queue(name), client)
        results.claim(0)  # the housekeeping
        results.queue.put_many([b"%d" % n for n in range(9)])
        held = results.take(9)
        uids = {ref.uid: n for n, ref in enumerate(held)}
        client.hdel(results.keys["items"], held[3].uid)
        client.hdel(results.keys["holders"], held[6].uid)
        client.zrem(results.keys["leases"], held[6].uid)
        if name == "-careful":
            client.hset(results.keys["headers"], "nobody", '{"number":0}')
        wanted = [keep(n) if n not in (2, 7) else b"" for n in range(9)]
        replies.append([])
        for start in range(0, 9, together):
            replies[-1] += results.ack(held[start : start + together], wanted[start : start + together])
        found = client.hgetall(results.keys["results"])
        stored.append({uids[uid.decode()]: re.sub(rb"@?\d{13}", b"", value) for uid, value in found.items()})
        assert results.number() == 6
        assert client.hlen(results.keys["items"]) == 0
        stored.append(dict(results.queue.snapshot().stats))
    assert replies[0] == replies[1] == [n != 3 for n in range(9)]
    assert stored[:2] == stored[2:]


@pytest.mark.parametrize("way", WAYS)
def test_result_has_what_was_known_of_the_item(results, way):
    results.call(operations.put(results.keys, [Put("own", PAYLOAD, b'{"headers":{"trace":"1"}}')], own=True))
    for text in ("first", "second"):
        results.queue.fail(results.queue.get(-1), text)
    (held,) = results.take()
    running = results.one("own")
    assert settle(results, [held], [keep(FAILURE)], way) == [True]
    done = results.one("own")
    assert (done.result["outcome"], done.deliveries) == (FAILURE, 3)
    assert [error["message"] for error in done.errors] == ["second", "first"]
    assert (done.errors, done.headers, done.deliveries) == (running.errors, running.headers, running.deliveries)
    assert (done.headers["headers"], done.headers["number"]) == ({"trace": "1"}, 1)
    assert [results.client.exists(results.keys[key]) for key in ("headers", "deliveries", "items")] == [0, 0, 0]


@pytest.mark.parametrize("way", WAYS)
def test_ack_that_removes_nothing_keeps_nothing(results, way):
    results.put("own", "gone")
    held = results.take(2)
    results.client.hdel(results.keys["items"], "gone")
    other = held[0]._replace(number="99")  # the item was put anew
    held = [DeliveryRef("nobody", "c1/9@1"), held[1], other]
    if way == "any holder":
        held.pop()  # any holder's delivery is that of any put
    assert settle(results, held, [keep()] * len(held), way) == [False] * len(held)
    assert results.number() == 0
    assert results.one("own").state == "in_flight"


def test_the_holder_of_a_lost_lease_keeps_its_result_too(results):
    """The item is ready again, or in flight anew: the work is done."""
    results.put("ready", "again")
    held = results.take(2)
    for ref in held:
        results.queue.release(ref.uid)
    assert results.take(1)[0].uid == "ready"
    again, ready = held[0], held[1]
    assert results.ack([ready, again], [keep(), keep(FAILURE)]) == [True, True]
    views = results.of("again", "ready")
    assert [(view.result["outcome"], view.deliveries) for view in views] == [(SUCCESS, 1), (FAILURE, 1)]
    assert results.claim(2).found == []
    assert results.queue.audit() == []


def test_results_say_where_an_item_is_and_what_is_known_of_it(make_queue, client):
    results = Results(make_queue(max_deliveries=1), client)
    assert results.of("a", "b", "c", "d") == [None] * 4
    results.put("dead")
    results.call(operations.fail(results.keys, results.take()[0], error=b'{"type":"E","message":"m"}', bury=True))
    results.put("held")
    (held,) = results.take()
    results.put("late", due=HOUR)
    results.put("ready", payload=b"5")
    ready, late, dead, flying, unknown = results.of("ready", "late", "dead", "held", "unknown")
    assert unknown is None
    assert [view.state for view in (ready, late, dead, flying)] == ["ready", "delayed", "dead", "in_flight"]
    assert [view.payload for view in (ready, late, dead, flying)] == [b"5", PAYLOAD, PAYLOAD, PAYLOAD]
    assert [view.deliveries for view in (ready, late, dead, flying)] == [0, 0, 1, 1]
    assert [view.token for view in (ready, late, dead, flying)] == ["", "", "", held.token]
    assert (late.at.timestamp() * 1000, late.headers["due"]) == (
        late.headers["due"],
        late.headers["time"] + HOUR * 1000,
    )
    assert (ready.at, flying.at) == (None, None)
    assert dead.errors[0]["time"] == dead.at.timestamp() * 1000
    assert [view.result for view in (ready, late, dead, flying)] == [None] * 4


def test_a_reply_that_would_be_too_large_ends_before_the_last_uid(results):
    large = b'"' + b"x" * operations.MOST_BYTES + b'"'
    results.put("large", payload=large)
    results.put("other", payload=large)
    results.put("small")
    assert [view.uid for view in results.of("large", "small", "other")] == ["large", "small"]
    assert [view.uid for view in results.of("other")] == ["other"]


def test_payload_comes_back_as_it_was_put(results):
    payloads = [PAYLOAD, b'{"a" : [1.50, "\\u00e9", "}\\""]}', b'"text"', b"null", b" [1] "]
    for payload in payloads:
        results.put("own", payload=payload)
        results.ack(results.take(), [keep()])
        assert results.one("own").payload == payload.strip()


@pytest.mark.parametrize("payload", [b"\x80\x04pickled", b"{", b""])
def test_payload_that_is_no_json_does_not_spoil_the_others(results, payload):
    results.put("odd", payload=payload)
    results.put("good")
    results.ack(results.take(2), [keep(), keep()])
    odd, good = results.of("odd", "good")
    assert (odd.state, odd.payload, odd.result) == ("done", None, {})
    assert good.payload == PAYLOAD


# -- how long, and how many


def test_result_is_forgotten_after_its_time(results, client):
    results.put("short", "long")
    results.ack(results.take(2), [keep(ttl=60), keep()])
    pass_time(results.client, results.keys, 61)
    assert [view and view.uid for view in results.of("short", "long")] == [None, "long"]
    client.hdel(results.keys["meta"], "kept")  # so that the next claim keeps house
    results.claim(0)
    assert client.hkeys(results.keys["results"]) == [b"long"]


def test_result_that_is_kept_for_a_shorter_time_does_not_go_before_older_ones(results):
    """Otherwise it would go at once, while a queue has as many results as it may have."""
    for n in range(10):
        results.put(f"{n}")
        results.ack(results.take(), [keep(most=10)])
    results.put("short", "other")
    results.ack(results.take(2), [keep(ttl=60, most=10), keep(most=10)])
    assert [view and view.uid for view in results.of("0", "1", "2", "short", "other")] == [
        None,
        None,
        "2",
        "short",
        "other",
    ]


def test_result_whose_time_is_over_behind_one_that_is_kept_longer(results, client):
    """It is not told any more, counts for the limit, and goes when the older one goes."""
    for uid, ttl in (("long", 2 * HOUR), ("short", 60)):
        results.put(uid)
        results.ack(results.take(), [keep(ttl=ttl)])
    for passed, told, number in ((61, ["long"], 2), (2 * HOUR, [], 0)):
        pass_time(client, results.keys, passed)
        client.hdel(results.keys["meta"], "kept")
        results.claim(0)
        (page,) = pages(results, 10)
        assert [view.uid for view in page.items] == told
        assert [view.uid for view in results.of("long", "short") if view] == told
        assert (results.number(), page.total) == (number, number)


def test_housekeeping_forgets_results_of_a_queue_that_went_quiet(results, client):
    uids = results.queue.put_many([b"1"] * 1500)
    for start in (0, 1000):
        held = results.take(1000)
        results.ack(held, [keep(ttl=60, most=2000)] * len(held))
        assert results.number() == min(len(uids), start + 1000)
    pass_time(results.client, results.keys, 61)
    numbers = []
    for _ in range(3):
        client.hdel(results.keys["meta"], "kept")  # so that the next claim keeps house
        results.claim(0)
        numbers.append(results.number())
    assert numbers == [500, 0, 0]


def test_the_oldest_results_go_when_there_are_too_many(results):
    for n in range(20):
        results.put(f"{n}")
        results.ack(results.take(), [keep(most=7)])
    assert [view and view.uid for view in results.of(*map(str, range(20)))] == [None] * 13 + [
        str(n) for n in range(13, 20)
    ]
    assert results.number() == 7


def test_results_for_a_short_time_are_not_the_first_to_go(results):
    def finish(uid, ttl):
        results.put(uid)
        results.ack(results.take(), [keep(ttl=ttl, most=7)])

    for n in range(7):
        finish(f"day {n}", 24 * HOUR)
    finish("short", 60)
    assert [view is None for view in results.of("short", "day 0", "day 1")] == [False, True, False]
    for n in range(9):
        finish(f"short {n}", 60)
    gone = [view is None for view in results.of("day 6", "short", "short 0", "short 2", "short 8")]
    assert (results.number(), gone) == (7, [True, True, True, False, False])


def test_a_smaller_limit_is_reached_by_and_by(results):
    results.queue.put_many([b"1"] * 500)
    held = results.take(500)
    results.ack(held, [keep()] * 500)
    numbers = []
    for n in range(6):
        results.put(f"{n}")
        results.ack(results.take(), [keep(most=10)])
        numbers.append(results.number())
    assert numbers == [400, 300, 200, 100, 10, 10]
    assert all(results.of(*map(str, range(6))))


@pytest.mark.parametrize(("ttl", "most"), [(0, 100), (60, 0), (-1, 100)])
def test_no_result_is_kept_without_time_or_room(results, ttl, most):
    assert kept(ttl, most, b"1") == b""
    results.put("own")
    assert results.ack(results.take(), [keep(ttl=ttl, most=most)]) == [True]
    assert results.of("own") == [None]


def test_as_many_results_as_deliveries(results):
    with pytest.raises(ValueError, match="shorter"):
        operations.ack(results.keys, [DeliveryRef("a"), DeliveryRef("b")], [keep()])


def test_a_result_needs_few_bytes(make_queue, client):
    """420 bytes at most, with a payload of 100 bytes; on Redis 7.0, which needs more for a hash, 470."""
    results = Results(make_queue(), client, consumer="ccd06fb7117.12+4")
    payload = json.dumps({"task": "shop.tasks.welcome", "args": ["x" * 42], "kwargs": {}}).encode()
    assert len(payload) == 100
    number = 5000
    for _ in range(5):
        results.queue.put_many([payload] * 1000)
        results.ack(results.take(1000), [keep({"s": "SUCCESSFUL", "r": None}, most=number)] * 1000)
    assert results.number() == number
    size = sum(client.memory_usage(results.keys[key], samples=0) for key in ("results", "finished"))
    assert size / number <= (420 if "valkey_version" in client.info("server") else 470)


# -- uids that are used again


def test_an_item_that_is_put_again_replaces_the_result(results):
    results.put("own")
    results.ack(results.take(), [keep(FAILURE)])
    assert results.put("own") == [""]
    assert results.one("own").state == "ready"
    assert results.number() == 0
    results.ack(results.take(), [b""])
    assert results.of("own") == [None]


def test_result_of_the_last_run_counts(results):
    """A process of an older version puts without deleting the result."""
    results.put("own")
    (held,) = results.take()
    results.ack([held], [keep(FAILURE)])
    results.client.hset(results.keys["items"], "own", PAYLOAD)
    results.client.lpush(results.keys["queue"], "own")
    assert results.one("own").state == "ready"
    results.ack(results.take(), [keep()])
    assert results.one("own").result["outcome"] == SUCCESS
    assert results.number() == 1


def buried(results: Results, *uids: str) -> None:
    results.put(*uids)
    for held in results.take(len(uids)):
        results.call(operations.fail(results.keys, held, error=b'{"type":"E","message":"m"}', bury=True))


def test_put_replaces_a_dead_item(results):
    buried(results, "a", "b")
    assert results.put("a", "b", "c") == ["dead", "dead", ""]
    assert results.put("a", "c", "d", payload=b"2", replaces_dead=True) == ["", "ready", ""]
    assert results.queue.counts() == {"ready": 3, "in_flight": 0, "delayed": 0, "dead": 1}
    view = results.one("a")
    assert (view.state, view.payload, view.errors, view.deliveries) == ("ready", b"2", [], 0)
    assert results.queue.count_dead() == {"E": 1}
    assert results.queue.snapshot().stats["dropped"] == 1
    assert sorted(ref.uid for ref in results.take(9)) == ["a", "c", "d"]
    assert results.queue.audit() == []


@pytest.mark.parametrize("state", ["ready", "delayed", "in_flight"])
def test_put_replaces_no_item_that_will_be_handled(results, state):
    results.put("own", due=HOUR if state == "delayed" else 0)
    if state == "in_flight":
        results.take()
    assert results.put("own", payload=b"2", replaces_dead=True) == [state]
    assert results.one("own").payload == PAYLOAD


def test_put_into_a_full_queue_leaves_the_dead_item(results):
    buried(results, "own")
    results.put("other")
    assert results.put("own", replaces_dead=True, max_length=1) == []
    assert results.one("own").state == "dead"


def test_generated_uids_replace_nothing(results):
    """Without own uids the terms are the usual ones."""
    items = [Put("a", b"1", b"")]
    assert operations.put(results.keys, items, own=False, replaces_dead=True) == operations.put(
        results.keys, items, own=False
    )


# -- cancelling, and deleting results


@pytest.mark.parametrize("due", [0, HOUR])
def test_cancelled_item_is_deleted_and_leaves_a_result(results, due):
    results.put("own", due=due, unique_for=HOUR)
    assert results.call(operations.cancel(results.keys, "own", keep(FAILURE))) is True
    view = results.one("own")
    assert (view.state, view.payload, view.result["outcome"], view.token) == ("done", PAYLOAD, FAILURE, "")
    assert (view.deliveries, view.errors) == (0, [])
    assert results.queue.counts() == dict.fromkeys(operations.STATES, 0)
    assert results.queue.snapshot().stats["dropped"] == 1
    assert results.call(operations.cancel(results.keys, "own", keep())) is False
    assert results.one("own").result["outcome"] == FAILURE
    assert results.put("own", unique_for=HOUR) == [""]
    assert [ref.uid for ref in results.take(2)] == ["own"]
    assert results.queue.audit() == []


def test_cancelled_item_that_waits_after_an_error(results):
    results.put("own")
    results.queue.fail(results.queue.get(-1), "no", delay=HOUR)
    assert results.call(operations.cancel(results.keys, "own", keep(FAILURE))) is True
    assert [error["message"] for error in results.one("own").errors] == ["no"]
    assert results.queue.count_retrying() == {}
    assert results.queue.audit() == []


@pytest.mark.parametrize("state", ["in_flight", "dead", "done", None])
def test_cancel_leaves_what_is_neither_ready_nor_delayed(results, state):
    if state == "dead":
        buried(results, "own")
    elif state:
        results.put("own")
        held = results.take()
        if state == "done":
            results.ack(held, [keep()])
    before = results.of("own")
    assert results.call(operations.cancel(results.keys, "own", keep(FAILURE))) is False
    assert results.of("own") == before


def test_cancel_without_a_result(results):
    results.put("own")
    assert results.call(operations.cancel(results.keys, "own")) is True
    assert results.of("own") == [None]


@pytest.mark.parametrize("payload", [b"\x80\x04pickled", b"{"])
def test_cancelled_item_whose_payload_is_no_json(results, payload):
    results.put("own", payload=payload)
    assert results.call(operations.cancel(results.keys, "own", keep(FAILURE))) is True
    assert results.one("own").result["outcome"] == FAILURE


def test_drop_deletes_a_result(results):
    results.put("own", "other")
    results.ack(results.take(2), [keep(), keep()])
    results.queue.drop("own")
    assert [view and view.uid for view in results.of("own", "other")] == [None, "other"]
    assert results.number() == 1


# -- pages of results


def finish(results: Results, number: int, *, together: int = 1, **terms: Any) -> list[str]:
    """Finish so many items; their uids, in the order of their acks."""
    uids = []
    for _ in range(0, number, together):
        results.queue.put_many([PAYLOAD] * together)
        held = results.take(together)
        results.ack(held, [keep(**terms)] * together)
        uids += [ref.uid for ref in held]
    return uids


def pages(results: Results, n: int, **more: Any) -> Iterator[operations.FinishedPage]:
    before = None
    while True:
        page = results.call(operations.finished(results.keys, before=before, n=n))
        yield page
        before = page.before
        if before is None:
            return


@pytest.mark.parametrize("together", [1, 60])
@pytest.mark.parametrize("n", [1, 7, 60, 1000])
def test_pages_of_results(results, n, together):
    """Many end in the same millisecond, and none is on two pages or on none."""
    uids = finish(results, 60, together=together)
    found = list(pages(results, n))
    assert [view.uid for page in found for view in page.items] == uids[::-1]
    assert {page.total for page in found} == {60}
    assert [len(page.items) for page in found] == [n] * (60 // n) + ([60 % n] if 60 % n else [])
    assert found[0].items[0] == results.one(uids[-1])


def test_pages_while_results_come_and_go(results):
    uids = finish(results, 30)
    iterator = pages(results, 10)
    seen = [view.uid for view in next(iterator).items]
    finish(results, 5)
    results.queue.drop(*uids[18:22])  # the end of the first page, and the beginning of the next
    seen += [view.uid for page in iterator for view in page.items]
    assert seen == [*uids[:19:-1], *uids[17::-1]]


def test_page_has_a_bounded_number_of_bytes(results):
    large = b'"' + b"x" * (operations.MOST_BYTES * 2 // 5) + b'"'
    results.queue.put_many([large] * 7)
    for _ in range(7):
        results.ack(results.take(), [keep()])
    found = list(pages(results, 100))
    assert [len(page.items) for page in found] == [3, 3, 1]
    assert len({view.uid for page in found for view in page.items}) == 7


def test_forgotten_results_are_on_no_page(results):
    old = finish(results, 3)
    pass_time(results.client, results.keys, HOUR + 1)
    new = finish(results, 1)
    (page,) = pages(results, 10)
    assert [view.uid for view in page.items] == new
    assert results.of(*old) == [None] * 3


def test_page_looks_at_a_bounded_number_of_results(results):
    first = finish(results, 1)
    finish(results, 2000, together=500, ttl=60, most=5000)
    pass_time(results.client, results.keys, 61)
    found = list(pages(results, 10))
    assert [[view.uid for view in page.items] for page in found] == [[], [], first]


def test_counts_tell_the_number_of_results(results):
    assert results.queue.snapshot().results == 0
    finish(results, 3)
    assert results.queue.snapshot().results == 3


# -- purging


def test_results_are_purged_in_batches(results):
    finish(results, 2500, together=500, most=5000)
    batches: list[int] = []
    assert results.queue.purge_results(on_batch=batches.append) == 2500
    assert batches == [1000, 1000, 500]
    assert results.number() == 0
    assert results.queue.purge_results() == 0


def test_results_that_come_meanwhile_do_not_prolong_a_purge(results):
    finish(results, 1500, together=500, most=5000)

    def go_on(number: int) -> None:
        finish(results, 1000, together=1000, most=5000)

    assert results.queue.purge_results(on_batch=go_on) == 1500
    assert results.number() == 2000


def test_large_results_are_purged_in_small_batches(results):
    large = kept(HOUR, 1000, b'"' + b"x" * (8 * operations.MOST_BYTES) + b'"')
    results.queue.put_many([PAYLOAD] * 20)
    for held in results.take(20):
        results.ack([held], [large])
    assert results.call(operations.purge_results(results.keys)) == (8, 12)


def test_purge_of_all_items_deletes_the_results_too(results):
    finish(results, 3)
    results.put("own")
    assert results.queue.purge("ready") == 1
    assert results.number() == 3
    results.put("own")
    assert results.queue.purge() == 1
    assert results.number() == 0
    assert results.queue.audit() == []


# -- the audit


def test_audit_finds_results_that_are_never_forgotten(results):
    uids = finish(results, 600, together=600)
    assert results.queue.audit() == []
    results.client.zrem(results.keys["finished"], uids[1])
    results.client.hdel(results.keys["results"], uids[2])
    assert set(results.queue.audit()) == {
        f"{uids[1]} has a result that is never forgotten (results)",
        f"{uids[2]} has no result that could be forgotten (finished)",
    }
    results.queue.drop(uids[1])
    results.client.zrem(results.keys["finished"], uids[2])
    assert results.queue.audit() == []


@pytest.mark.parametrize("key", ["results", "finished"])
def test_key_that_belongs_to_something_else(results, client, key):
    """The item is not acked without its result."""
    results.put("own")
    (held,) = results.take()
    client.set(results.keys[key], "other")
    client.hdel(results.keys["meta"], "typed")
    with pytest.raises(LayoutError, match=f":{key} holds a string"):
        results.ack([held], [keep()])
    client.hset(results.keys["meta"], "typed", now(client))  # a call looked a moment ago
    with pytest.raises(LayoutError, match="holds"):
        results.ack([held], [keep()])
    assert client.hexists(results.keys["items"], "own")
    client.delete(results.keys[key])
    assert results.ack([held], [keep()]) == [True]
    assert results.one("own").result["outcome"] == SUCCESS
    assert results.queue.audit() == []


# -- lost replies, and older versions


@pytest.mark.parametrize("way", ["ack", "claim"])
def test_ack_whose_reply_was_lost_keeps_one_result(results, way):
    results.put("own")
    (held,) = results.take()
    slot = Slot(b"test", 7)
    if way == "ack":
        call: operations.Call = operations.ack(results.keys, [held], [keep()])
    else:
        call = operations.claim(
            results.keys, consumer="c1", lease=60, legacy_lease=60, n=0, acks=[held], results=[keep()]
        )
    first = results.queue.link.call(call, queue="q", slot=slot)
    before = results.one("own")
    again = results.queue.link.call(call, queue="q", slot=slot)
    assert first == again
    assert (results.one("own"), results.number()) == (before, 1)
    results.put("own")  # the next run began
    results.queue.link.call(call, queue="q", slot=slot)
    assert results.one("own").state == "ready"


def test_cancel_whose_reply_was_lost_says_true_again(results):
    results.put("own")
    call, slot = operations.cancel(results.keys, "own", keep(FAILURE)), Slot(b"test", 7)
    assert [results.queue.link.call(call, queue="q", slot=slot) for _ in range(2)] == [True, True]
    results.put("own")
    assert results.queue.link.call(call, queue="q", slot=slot) is True
    assert results.one("own").state == "ready"


def test_moving_from_items_to_results_is_one_step(make_queue, client, server_url):
    """Whoever looks while acks go on finds each item in one of both places."""
    results = Results(make_queue(), client)
    uids = results.queue.put_many([PAYLOAD] * 300)
    seen: list[list[str]] = []
    over = threading.Event()

    def look() -> None:
        with closing(Link(client_from_url(server_url), timeout=PATIENT)) as link:
            while not over.is_set() or not seen:
                views = link.call(operations.results(results.keys, uids), queue="q")
                seen.append(["lost" if view is None else view.state for view in views])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for held in results.take(300):
            results.ack([held], [keep()])
    finally:
        over.set()
        thread.join(PATIENT)
    assert {state for states in seen for state in states} <= {"ready", "in_flight", "done"}
    assert [view.state for view in results.of(*uids)] == ["done"] * 300


# -- a server that is full


def test_full_server_keeps_results_and_leaves_out_tracebacks(serve, at):
    server = serve("--maxmemory-policy", "noeviction")
    error = json.dumps({"type": "E", "message": "m", "keep": 9, "traceback": "trace"}).encode()
    with server.client() as client:
        results = Results(at(server.url), client)
        results.put("own")
        for _ in range(3):
            results.call(operations.fail(results.keys, results.take()[0], error=error))
        assert ["traceback" in error for error in results.one("own").errors] == [True] * 3
        client.config_set("maxmemory", 1)
        results.call(operations.fail(results.keys, results.take()[0], error=error))
        assert ["traceback" in error for error in results.one("own").errors] == [False] * 4
        assert results.ack(results.take(), [keep()]) == [True]
        assert results.one("own").result["outcome"] == SUCCESS
        assert results.queue.purge_results() == 1
