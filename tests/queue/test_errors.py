"""An item keeps its last five errors, and the tracebacks of the last two; or as many as its errors ask for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from django_srq import SafeRedisQueue, operations
from django_srq.operations import Call, DeliveryRef, ItemView
from django_srq.queue.failure import MESSAGE_MOST, TRACEBACK_MOST
from django_srq.transport.slots import Slot
from tests.support.server_clock import now, pass_time

KEPT = 5  # errors of an item


def fail(queue: SafeRedisQueue, *errors: BaseException | str) -> None:
    for error in errors:
        queue.fail(queue.get(-1), error)


def raised(text: str) -> Exception:
    """An error with a traceback."""
    with pytest.raises(ValueError) as caught:
        raise ValueError(text)
    return caught.value


def messages(item: Any) -> list[str]:
    return [error["message"] for error in item.errors]


def only(queue: SafeRedisQueue, state: str = "ready", **options: Any) -> ItemView:
    (item,) = queue.link.call(operations.list_items(queue.keys, state, **options), queue="q").items
    return item


def test_the_last_errors_are_kept_newest_first(queue, client):
    began = now(client)
    queue.put("x")
    fail(queue, *map(raised, "abcdefg"))
    (item,) = queue.items()
    assert messages(item) == ["g", "f", "e", "d", "c"]
    assert [error["delivery"] for error in item.errors] == [7, 6, 5, 4, 3]
    assert all(error["type"] == "ValueError" and began <= error["time"] <= now(client) for error in item.errors)
    assert ["in raised" in error.get("traceback", "") for error in item.errors] == [True, True, False, False, False]
    assert item.error == item.errors[0]
    assert "earlier" not in item.error


def test_an_error_says_which_consumer_had_the_item(queue):
    uid = queue.put("x")
    for n in range(3):
        claim = operations.claim(queue.keys, consumer=f"c{n}", lease=60, legacy_lease=60)
        (found,) = queue.link.call(claim, queue="q").found
        error = json.dumps({"type": "E", "message": str(n), "consumer": f"c{n}", "fingerprint": "E"}).encode()
        queue.link.call(operations.fail(queue.keys, found.ref, error=error), queue="q")
    shown = queue.link.call(operations.show(queue.keys, uid, largest=10), queue="q")
    assert [(error["message"], error["consumer"]) for error in shown.errors] == [("2", "c2"), ("1", "c1"), ("0", "c0")]


def test_what_else_ends_a_delivery_is_kept_with_the_errors(make_queue, client):
    """A crash, a lost consumer and the last failure, after a failure."""
    queue = make_queue(max_deliveries=4)
    queue.put("x")
    fail(queue, "failed")

    def claim() -> DeliveryRef:
        call = operations.claim(queue.keys, consumer="c1", lease=60, legacy_lease=60)
        return queue.link.call(call, queue="q").found[0].ref

    evidence = b'{"type":"Crashed","message":"killed","fingerprint":"Crashed: killed","run_time":1.5,"memory":7}'
    queue.link.call(operations.crashed(queue.keys, [claim()], evidence=evidence), queue="q")
    assert only(queue).error["memory"] == 7
    claim()
    pass_time(client, queue.keys, 100)
    assert queue.recover() == 1
    fail(queue, "dead now")
    (item,) = queue.items("dead")
    kinds = [(error["type"], error["delivery"]) for error in item.errors]
    assert kinds == [("Failed", 4), ("ConsumerLost", 3), ("Crashed", 2), ("Failed", 1)]
    assert item.delivery.group == item.error["group"] == "Failed: dead now"


def test_a_requeued_item_keeps_its_errors(make_queue):
    queue = make_queue(max_deliveries=1)
    uid = queue.put("x")
    fail(queue, "first")
    assert queue.requeue(uid) == 1
    assert messages(only(queue)) == ["first"]
    fail(queue, "second")
    (item,) = queue.items("dead")
    assert [(error["message"], error["delivery"]) for error in item.errors] == [("second", 1), ("first", 1)]


def test_an_error_of_an_older_version_becomes_the_one_before(queue, client):
    uid = queue.put("x")
    fail(queue, "a", "b")
    client.hset(
        queue.keys["errors"], uid, '{"type":"Old","message":"old","time":1700000000000,"delivery":2,"group":"g"}'
    )
    fail(queue, "c")
    newest, old = only(queue).errors
    assert (newest["message"], old) == ("c", {"type": "Old", "message": "old", "time": 1700000000000, "delivery": 2})


@pytest.mark.parametrize(
    "text", ['x,"earlier":[{"message":"y"}]', '"},"earlier":[', "\\", "ž\N{GRINNING FACE}\0\n", ""]
)
def test_any_text_comes_back_as_it_was(queue, text):
    queue.put("x")
    fail(queue, text, "other", text)
    assert messages(only(queue)) == [text, "other", text]
    assert only(queue, detail="last").error["message"] == text


def raw(call: Call) -> bytes:
    """The whole reply to a call."""
    parts: list[bytes] = []

    def keep(reply: Any) -> None:
        for part in reply:
            parts.append(b"%d" % part if isinstance(part, int) else part)

    return Call(call.script, call.keys, call.args, lambda reply: (keep(reply), b" ".join(parts))[1])


@pytest.mark.parametrize(
    ("detail", "last", "earlier"), [("all", 1, 1), ("last", 1, 0), ("headers", 0, 0), ("none", 0, 0)]
)
def test_a_page_has_the_errors_that_it_was_asked_for(queue, detail, last, earlier):
    """What a page does not show is not sent."""
    queue.put("x")
    fail(queue, "first", "second")
    reply = queue.link.call(raw(operations.list_items(queue.keys, "ready", detail=detail)), queue="q")
    assert (reply.count(b'"second"'), reply.count(b'"first"')) == (last, earlier)
    item = only(queue, detail=detail)
    assert (item.error is not None, len(item.errors)) == (last, last + earlier if earlier else 0)


@pytest.mark.parametrize("state", ["dead", "delayed"])
def test_the_example_of_a_group_is_sent_without_earlier_errors(make_queue, state):
    queue = make_queue(max_deliveries=2 if state == "dead" else None)
    queue.put("x")
    fail(queue, raised("first"))
    queue.fail(queue.get(-1), raised("second"), delay=60)
    groups = operations.dead_groups if state == "dead" else operations.retry_groups
    for tracebacks in (0, 1):
        assert b"first" not in queue.link.call(raw(groups(queue.keys, tracebacks=tracebacks)), queue="q")
        (group,) = queue.link.call(groups(queue.keys, tracebacks=tracebacks), queue="q")
        assert (group.error["message"], "traceback" in group.error) == ("second", bool(tracebacks))


def test_the_errors_of_an_item_are_bounded(queue, client):
    uid = queue.put("x")
    for _ in range(3 * KEPT):
        large = {
            "type": "E" * 200,
            "message": "m" * MESSAGE_MOST,
            "traceback": "t" * TRACEBACK_MOST,
            "fingerprint": "f",
        }
        held = DeliveryRef(queue.get(-1).uid)
        queue.link.call(operations.fail(queue.keys, held, error=json.dumps(large).encode()), queue="q")
    size = client.hstrlen(queue.keys["errors"], uid)
    assert 2 * TRACEBACK_MOST < size < 2 * TRACEBACK_MOST + KEPT * (MESSAGE_MOST + 500)
    assert client.hstrlen(queue.keys["errors"], uid) == size


# -- errors that ask for a longer history

TRACES = 2000  # bytes of the tracebacks before the last one


def claimed(queue: SafeRedisQueue, consumer: str = "c1") -> DeliveryRef:
    call = operations.claim(queue.keys, consumer=consumer, lease=60, legacy_lease=60)
    return queue.link.call(call, queue="q").found[0].ref


def fail_with(queue: SafeRedisQueue, text: str, *, keep: int | None = None, **fields: Any) -> DeliveryRef:
    """Fail the next item with an error like that of a task; returns the delivery."""
    held = claimed(queue, "c" + text)
    error = {"type": "E", "message": text, "fingerprint": "E", **fields, **({"keep": keep} if keep else {})}
    call = operations.fail(queue.keys, held, error=json.dumps(error, ensure_ascii=False).encode())
    queue.link.call(call, queue="q")
    return held


def started(held: DeliveryRef) -> int:
    return int(held.token.partition("@")[2].partition("+")[0].partition("/")[0])


def test_an_error_may_ask_for_a_longer_history(queue):
    queue.put("x")
    held = [fail_with(queue, f"{n}", keep=9, traceback=f"trace {n}") for n in range(14)]
    (item,) = queue.items()
    assert messages(item) == [f"{n}" for n in range(13, 3, -1)]
    assert [error["traceback"] for error in item.errors] == [f"trace {n}" for n in range(13, 3, -1)]
    assert [error["consumer"] for error in item.errors] == [f"c{n}" for n in range(13, 3, -1)]
    assert [error["delivery"] for error in item.errors] == list(range(14, 4, -1))
    assert [error["started"] for error in item.errors] == [started(one) for one in held[:3:-1]]
    assert all(error["started"] <= error["time"] for error in item.errors)


def test_tracebacks_before_the_last_one_are_cut_at_a_character(queue):
    queue.put("x")
    for text in ("a" * 5000, "ž" * 3000 + "b", "\N{GRINNING FACE}" * 1000 + "ž", "c" * TRACES, "d" * TRACEBACK_MOST):
        fail_with(queue, "no", keep=9, traceback=text)
    last, *earlier = (error["traceback"] for error in only(queue).errors)
    assert last == "d" * TRACEBACK_MOST
    assert earlier == ["c" * TRACES, "\N{GRINNING FACE}" * 499 + "ž", "ž" * 999 + "b", "a" * TRACES]


def test_what_else_ends_a_delivery_follows_the_errors_before(make_queue, client):
    """A crash, a lost consumer, a reply that could not be read, and a death without an error of its own."""
    queue = make_queue(max_crashes=6)
    queue.put("x")
    held = [fail_with(queue, "0", keep=9, traceback="trace")]
    evidence = b'{"type":"Crashed","message":"killed","fingerprint":"Crashed: killed"}'
    held.append(claimed(queue))
    queue.link.call(operations.crashed(queue.keys, [held[-1]], evidence=evidence), queue="q")
    held.append(claimed(queue))
    pass_time(client, queue.keys, 100)
    assert queue.recover() == 1
    slot = Slot(b"test", 7)
    for n in (1, operations.UNREAD):  # the second call repeats the first one
        call = operations.claim(queue.keys, consumer="c4", lease=60, legacy_lease=60, n=n)
        for found in queue.link.call(call, queue="q", slot=slot).found:
            held.append(found.ref)
    held.append(claimed(queue))
    queue.link.call(operations.fail(queue.keys, held[-1], bury=True), queue="q")
    (item,) = queue.items("dead")
    kinds = ["Failed", "ReplyUnread", "ConsumerLost", "Crashed", "E"]
    assert [error["type"] for error in item.errors] == kinds
    assert item.error["keep"] == 9
    assert [error["started"] for error in item.errors] == [started(one) for one in held[::-1]]
    assert all(error["consumer"] for error in item.errors)
    assert item.errors[-1]["traceback"] == "trace"


def test_a_delivery_that_was_cut_counts_as_an_attempt_where_its_error_asks_for_it(queue):
    """Of other items, it is no error: the consumer was made to stop."""
    queue.put("x")
    for keep, kinds in ((b"", []), (b',"keep":9', ["Cut"])):
        evidence = b'{"type":"Cut","message":"the consumer was stopped","fingerprint":"Cut"%b}' % keep
        call = operations.crashed(queue.keys, [claimed(queue)], evidence=evidence, how="cut")
        assert queue.link.call(call, queue="q").states == ["ready"]
        assert [error["type"] for error in only(queue).errors] == kinds


def test_errors_of_other_queues_are_stored_as_before(queue, client):
    """Without "keep" nothing is added."""
    uid = queue.put("x")
    for n in range(7):
        fail_with(queue, f"{n}", consumer="c9", traceback=f"trace {n}")
    stored = json.loads(client.hget(queue.keys["errors"], uid))
    earlier = stored.pop("earlier")
    assert stored.keys() == {"type", "message", "fingerprint", "consumer", "traceback", "time", "delivery"}
    assert [error["message"] for error in earlier] == ["5", "4", "3", "2"]
    assert [error.keys() ^ {"type", "message", "consumer", "time", "delivery"} for error in earlier] == [
        {"traceback"},
        set(),
        set(),
        set(),
    ]


def test_a_long_history_is_bounded(queue, client):
    uid = queue.put("x")
    for _ in range(25):
        fail_with(queue, "m" * MESSAGE_MOST, keep=9, traceback="t" * TRACEBACK_MOST)
    size = client.hstrlen(queue.keys["errors"], uid)
    assert size < TRACEBACK_MOST + 10 * (MESSAGE_MOST + 500) + 9 * (TRACES + MESSAGE_MOST)
