"""``raise Reject("reason")``: the item is dead at once, kept with the reason."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager

import pytest

from django_srq import Reject, RetryLater, SafeRedisQueue, queues, signals
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription, adapt
from django_srq.queue.failure import MESSAGE_MOST, describe
from django_srq.testing import run_all

REASON = "no such customer"


class Unknown(Reject):
    """A project's own."""


def refuse(payload):
    raise Reject(REASON)


def refuse_all(payloads):
    return {place: Reject(REASON) for place in range(len(payloads))}


async def refuse_later(payload):
    await asyncio.sleep(0)
    raise Reject(REASON)


def consume(queue, handler, *, batch=1):
    handle = adapt(handler, batch=batch > 1)
    subscription = Subscription(queue, handle, batch=batch, lease=600)
    return InProcessConsumer([subscription], options=ConsumerOptions(burst=True)).run()


@contextmanager
def heard(signal):
    received: list[dict[str, object]] = []

    def receive(sender, **about):
        received.append(about)

    signal.connect(receive, sender=SafeRedisQueue)
    try:
        yield received
    finally:
        signal.disconnect(receive, sender=SafeRedisQueue)


def rejected(queue):
    """The only item of the queue, which is dead with the reason."""
    (item,) = queue.items("dead")
    assert queue.counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 1}
    error = item.delivery.error
    assert (error["type"], error["message"]) == ("Reject", REASON)
    assert "traceback" not in error
    assert (item.deliveries, queue.snapshot().stats["failed"], queue.snapshot().stats["dead"]) == (1, 1, 1)
    assert queue.audit() == []
    return item


@pytest.mark.parametrize("handler", [refuse, refuse_later])
def test_a_rejected_item_is_dead_at_once(queue, handler):
    uid = queue.put("x")
    with heard(signals.item_failed) as failed, heard(signals.item_dead) as dead:
        assert consume(queue, handler) == 1
    assert rejected(queue).uid == uid
    assert [(about["state"], str(about["error"])) for about in failed] == [("dead", REASON)]
    assert [(about["uid"], about["evidence"]) for about in dead] == [(uid, {"type": "Reject", "message": REASON})]


def test_a_batch_may_reject_single_items(queue):
    queue.put_many(range(4))
    outcomes = {1: Reject(REASON), 2: ValueError("no"), 3: Unknown("gone")}
    assert consume(queue, lambda payloads: outcomes, batch=10) == 4
    assert {int(item.payload): item.delivery.error["message"] for item in queue.items("dead")} == {1: REASON, 3: "gone"}
    assert [int(item.payload) for item in queue.items("delayed")] == [2]


def test_a_block_may_reject_its_item(queue):
    queue.put("x")
    with queue.processing(-1):
        raise Reject(REASON)
    rejected(queue)


def test_an_asynchronous_block_may_reject_its_item(queue):
    async def main():
        await queue.aput("x")
        async with queue.aprocessing(-1):
            raise Reject(REASON)

    asyncio.run(main())
    rejected(queue)


def test_a_rejected_item_can_be_failed_by_hand(queue):
    queue.put("x")
    assert queue.fail(queue.get(-1), Reject(REASON), delay=60) == "dead"
    rejected(queue)


def test_a_rejection_after_a_retry_counts_both_deliveries(queue):
    queue.put("x")
    with queue.processing(-1):
        raise RetryLater(0)
    with queue.processing(-1):
        raise Reject(REASON)
    (item,) = queue.items("dead")
    assert item.deliveries == 2


def test_a_rejected_item_can_be_requeued_and_handled(queue):
    uid = queue.put("x")
    consume(queue, refuse)
    assert queue.requeue(error="Reject") == 1
    item = queue.get(-1)
    assert (item.uid, item.deliveries) == (uid, 1)


def test_rejections_are_grouped_by_the_place_that_raised_them():
    def raised(reason):
        try:
            raise Unknown(reason)
        except Unknown as error:
            return json.loads(describe(error))

    assert raised("customer 17")["fingerprint"] == raised("customer 18")["fingerprint"]
    assert raised("customer 17")["type"] == "Reject"
    assert json.loads(describe(Reject("no stock")))["fingerprint"] == "Reject no stock"


def test_a_long_reason_is_cut():
    assert json.loads(describe(Reject("x" * 10_000)))["message"] == "x" * MESSAGE_MOST


def test_a_reason_that_cannot_be_had_is_said_so(queue):
    class Odd(Reject):
        def __str__(self):
            raise SystemExit

    queue.put("x")
    assert queue.fail(queue.get(-1), Odd()) == "dead"
    (item,) = queue.items("dead")
    assert item.delivery.error["message"] == "<its text cannot be had: SystemExit>"


@pytest.mark.parametrize("batch", [1, 10])
def test_run_all_goes_on_after_a_rejected_item(settings, server_url, prefix, batch):
    handler = "refuse" if batch == 1 else "refuse_all"
    settings.SRQ_QUEUES = {
        "orders": {"URL": server_url, "PREFIX": prefix, "HANDLER": f"{__name__}.{handler}", "HANDLER_BATCH": batch}
    }
    queue = queues["orders"]
    queue.put_many(["a", "b"])
    assert run_all("orders") == []
    assert [item.delivery.error["message"] for item in queue.items("dead")] == [REASON] * 2
