"""The signals that the queue sends; tests/consumer has those of the consumer."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

import pytest

from django_srq import SafeRedisQueue, signals
from django_srq.exceptions import QueueFull

pytestmark = pytest.mark.versions


@contextmanager
def connected(signal, receive):
    signal.connect(receive, sender=SafeRedisQueue)
    try:
        yield
    finally:
        signal.disconnect(receive, sender=SafeRedisQueue)


@contextmanager
def heard(signal):
    received: list[dict[str, object]] = []

    def receive(sender: type, **about: object) -> None:
        received.append({name: value for name, value in about.items() if name != "signal"})

    with connected(signal, receive):
        yield received


def test_every_put_item_is_announced(make_queue):
    queue = make_queue(alias="orders")
    with heard(signals.item_put) as received:
        uids = [queue.put("a"), *queue.put_many(["b", "c"]), asyncio.run(queue.aput("d"))]
    assert received == [{"queue": "orders", "uid": uid} for uid in uids]


def test_an_item_that_was_not_added_is_not_announced(make_queue):
    queue = make_queue(max_length=1)
    queue.put("a", uid="mine")
    with heard(signals.item_put) as received:
        queue.put("a", uid="mine")
        with pytest.raises(QueueFull):
            queue.put("b")
    assert received == []


def test_a_pause_is_announced(make_queue):
    queue = make_queue(alias="orders")
    with heard(signals.queue_paused) as received:
        queue.pause("stock-taking", by="anna")
    assert received == [{"queue": "orders", "by": "anna", "reason": "stock-taking", "until": None}]


def test_a_receiver_that_raises_stops_nothing(queue, caplog):
    def fail(sender: type, **about: object) -> None:
        raise ValueError

    signals.item_put.connect(fail)
    try:
        queue.put("a")
    finally:
        signals.item_put.disconnect(fail)
    assert len(queue) == 1


@contextmanager
def heard_by_coroutine(signal):
    received: list[object] = []

    async def receive(sender: type, **about: object) -> None:
        await asyncio.sleep(0)
        received.append(about.get("uid") or about["reason"])

    with connected(signal, receive):
        yield received


def test_async_receivers_of_async_calls(queue):
    async def calls() -> list[str]:
        return [await queue.aput("a"), *await queue.aput_many(["b", "c"])]

    with heard_by_coroutine(signals.item_put) as received:
        uids = asyncio.run(calls())
    assert received == uids
    with heard_by_coroutine(signals.queue_paused) as received:
        assert asyncio.run(queue.apause("stock-taking"))
    assert received == ["stock-taking"]


def test_async_receivers_of_calls_in_a_thread(queue):
    with heard_by_coroutine(signals.item_put) as received:
        uid = queue.put("a")
    assert received == [uid]


@pytest.mark.filterwarnings("ignore:.*blocks the event loop:RuntimeWarning")
def test_an_async_receiver_that_cannot_run_stops_nothing(queue, caplog):
    """A blocking call in an event loop: Django cannot run a coroutine there."""

    async def call() -> None:
        assert queue.put("a")
        assert queue.pause("stock-taking")

    with heard_by_coroutine(signals.item_put) as received, heard_by_coroutine(signals.queue_paused):
        asyncio.run(call())
    assert (received, len(queue), queue.snapshot().paused["reason"]) == ([], 1, "stock-taking")
    assert [record.getMessage() for record in caplog.records if record.name == "django_srq.signals"] == [
        f"a signal's receivers could not be called queue={queue.alias}"
    ] * 2
