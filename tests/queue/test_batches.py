"""Handlers that take lists of items, and can fail single items of a list."""

from __future__ import annotations

import os
import signal

import pytest

from django_srq import Discard, RetryLater, queues
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription, adapt
from django_srq.queue.serializers import JSON
from django_srq.testing import run_all
from tests.support.project import Project
from tests.support.waiting import wait_for

LONG = 600  # seconds; the tests count calls, so no renewal must come between


def consume(queue, handler, *, batch=10, **plan):
    handle = adapt(handler, batch=True)
    return InProcessConsumer(
        [Subscription(queue, handle, batch=batch, lease=LONG)], options=ConsumerOptions(burst=True, **plan)
    ).run()


def numbers(payloads):
    return [int(payload) for payload in payloads]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_handler_gets_lists_of_payloads(queue, threads):
    queue.put_many(range(25))
    seen: list[list[int]] = []
    assert consume(queue, lambda payloads: seen.append(numbers(payloads)), threads=threads) == 25
    assert max(map(len, seen)) == 10
    assert sorted(number for numbers in seen for number in numbers) == list(range(25))
    assert threads > 1 or [len(numbers) for numbers in seen] == [10, 10, 5]
    assert sum(queue.counts().values()) == 0
    assert queue.snapshot().stats["acked"] == 25


def test_a_batch_is_acked_with_the_next_claim(queue, client):
    queue.put_many(range(10))
    consume(queue, lambda payloads: None)  # loads the scripts into the server
    queue.put_many(range(30))
    before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    consume(queue, lambda payloads: None)
    # Three claims, and one that finds nothing; the consumer also registers and removes its entry.
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before <= 4 + 3


def test_a_handler_can_take_the_items_as_well(queue):
    queue.put_many(range(3))
    seen = []

    def handler(payloads, items):
        seen.extend(zip(payloads, items, strict=True))

    consume(queue, handler)
    assert [(payload, item.payload, item.deliveries) for payload, item in seen] == [
        (b"0", b"0", 1), (b"1", b"1", 1), (b"2", b"2", 1),
    ]  # fmt: skip


def test_a_handler_can_fail_single_items(queue):
    queue.put_many(range(4))
    outcomes = {1: ValueError("no"), 2: Discard("not wanted"), 3: RetryLater(60)}
    assert consume(queue, lambda payloads: outcomes) == 4
    assert {int(item.payload): item.delivery.error["type"] for item in queue.items("delayed")} == {
        1: "ValueError", 3: "django_srq.exceptions.RetryLater",
    }  # fmt: skip
    assert queue.snapshot().stats["acked"] == 2
    assert queue.audit() == []


def test_an_exception_fails_all_items_of_the_batch(queue, client):
    queue.put_many(range(5))
    consume(queue, lambda payloads: 1 / 0)
    assert [item.delivery.error["type"] for item in queue.items("delayed")] == ["ZeroDivisionError"] * 5


@pytest.mark.parametrize("outcome", [5, [ValueError()], {9: ValueError()}, {0: "text"}, {"0": ValueError()}])
def test_an_invalid_outcome_fails_all_items_and_says_why(queue, outcome):
    queue.put_many(range(2))
    consume(queue, lambda payloads: outcome)
    errors = [item.delivery.error for item in queue.items("delayed")]
    assert [error["type"] for error in errors] == ["TypeError"] * 2
    assert "by its place in the list (0 to 1 here)" in errors[0]["message"]


def test_an_async_handler(queue):
    queue.put_many(range(4))

    async def handler(payloads):
        return {0: ValueError("no")}

    consume(queue, handler)
    assert [int(item.payload) for item in queue.items("delayed")] == [0]
    assert sum(queue.counts().values()) == 1


def test_items_that_were_delivered_before_come_in_batches_of_one(queue):
    """So an item that fails its whole batch is found."""
    queue.put_many(range(6))
    queue.fail_many(queue.get_many(6, timeout=-1))
    queue.put_many([6, 7])
    seen: list[list[int]] = []
    consume(queue, lambda payloads: seen.append(numbers(payloads)))
    assert seen == [[0], [1], [2], [3], [4], [5], [6, 7]]


def test_an_item_that_cannot_be_decoded_is_set_aside(make_queue):
    queue = make_queue(serializer=JSON())
    plain = make_queue()
    plain.put_many([b"1", b"{", b"2"])
    seen: list[list[int]] = []
    assert consume(queue, lambda payloads: seen.append(payloads)) == 3
    assert seen == [[1, 2]]
    assert queue.counts()["dead"] == 1


def test_batches_respect_max_items(queue):
    queue.put_many(range(25))
    seen: list[list[int]] = []
    consume(queue, lambda payloads: seen.append(numbers(payloads)), max_items=12)
    assert [len(numbers) for numbers in seen] == [10, 2]
    assert len(queue) == 13


def test_a_claim_asks_for_at_most_1000_items(queue):
    """This holds for any number of threads and any number of items left to handle."""
    queue.put_many(range(3000))
    seen: list[int] = []
    subscription = Subscription(queue, adapt(lambda payloads: seen.append(len(payloads)), batch=True), batch=1000)
    claims: list[int] = []
    claim = queue.claim
    queue.claim = lambda *args, n, **named: (claims.append(n), claim(*args, n=n, **named))[1]
    InProcessConsumer([subscription], options=ConsumerOptions(burst=True, threads=3, max_items=2500)).run()
    assert sum(seen) == 2500
    assert max(claims) == 1000


# -- in a project


def test_after_a_crash_the_items_of_a_batch_come_one_by_one(project: Project, server_url, prefix):
    """So the item that kills the process takes no other with it."""
    project.configure(
        {"batch": {"HANDLER": "tests.support.handlers.batch", "HANDLER_BATCH": 10, "MAX_CRASHES": 2}},
        {"URL": server_url, "PREFIX": prefix + ".{alias}"},
    )
    queue = queues["batch"]
    queue.put_many(["a", "b", "die", "c"])
    process = project.start("srq_consume")
    wait_for(lambda: queue.counts()["dead"] == 1 and sum(queue.counts().values()) == 1, "the end of all but one")
    os.kill(process.pid, signal.SIGTERM)
    process.wait(60)
    assert [item.payload for item in queue.items("dead")] == ["die"]
    assert project.lines() == ["a b die c", "a", "b", "die", "c"]


def test_handler_batch_is_an_option_of_the_queue(settings, server_url, prefix, tmp_path, monkeypatch):
    monkeypatch.setenv("SRQ_TEST_LOG", str(tmp_path / "log"))
    settings.SRQ_QUEUES = {"batch": {
        "URL": server_url, "PREFIX": prefix, "HANDLER": "tests.support.handlers.batch", "HANDLER_BATCH": 3,
    }}  # fmt: skip
    queues["batch"].put_many(["a", "b", "bad"])
    with pytest.raises(ValueError, match="bad"):
        run_all("batch")
    assert (tmp_path / "log").read_text() == "a\nb\nbad\n"  # run_all passes lists of one
