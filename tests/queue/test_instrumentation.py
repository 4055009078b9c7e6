"""What an integration learns of puts, of gets, and of the calls of handlers, and that its errors hurt none of them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from contextlib import contextmanager
from functools import partial

import pytest

from django_srq import Discard, RetryLater, exceptions, queues
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription, adapt
from django_srq.queue import instrumentation
from django_srq.queue.backoff import Backoff
from django_srq.queue.instrumentation import Integration
from django_srq.queue.serializers import JSON

request = contextvars.ContextVar("request", default="none")


class Recorder(Integration):
    """Notes what it learns, and gives each item the current request."""

    def __init__(self) -> None:
        self.puts, self.handled, self.settlements, self.receipts = [], [], [], []

    def put(self, puts):
        puts.headers["request"] = request.get()

        def end(error):
            self.puts.append((puts.step, list(puts.uids), puts.size, type(error).__name__))

        return end

    @contextmanager
    def handle(self, handling):
        token = request.set(handling.items[0].headers.get("request", "none"))
        handling.notes[self] = request.get()
        try:
            yield
        finally:
            self.handled.append((handling.queue, [item.uid for item in handling.items], handling.sizes, request.get()))
            request.reset(token)

    def received(self, queue, items, began):
        self.receipts.append((queue, [item.uid for item in items]))

    def settled(self, queue, ended, began, handling):
        note = handling.notes[self] if handling else "-"
        self.settlements += [(queue, end.item.uid, end.outcome, end.state, note) for end in ended]


@contextmanager
def watched(integration):
    instrumentation.install(integration)
    try:
        yield integration
    finally:
        instrumentation.uninstall(integration)


@pytest.fixture
def recorder():
    with watched(Recorder()) as recorder:
        yield recorder


def consume(queue, handler, *, max_items=None, batch=1, threads=1, concurrency=1, asynchronous=False, wait=1000):
    handle = adapt(handler, on_loop=True, batch=batch > 1)
    options = ConsumerOptions(burst=True, threads=threads, concurrency=concurrency, max_items=max_items)
    backoff = Backoff(base=wait, max=wait)
    subscription = Subscription(queue, handle, lease=600, batch=batch, asynchronous=asynchronous, backoff=backoff)
    InProcessConsumer([subscription], options=options).run()


def in_context(value, function):
    def run():
        request.set(value)
        return function()

    return contextvars.copy_context().run(run)


def test_each_put_adds_headers_from_the_context_of_its_caller(queue, recorder):
    uids = [
        in_context("sync", lambda: queue.put("a", headers={"mine": "1"})),
        in_context("async", lambda: asyncio.run(queue.aput("b"))),
        *in_context("many", lambda: queue.put_many(["c", "d"])),
        *in_context("amany", lambda: asyncio.run(queue.aput_many(["e"]))),
    ]
    items = list(queue.items())
    assert [(item.uid, item.headers["request"]) for item in items] == list(
        zip(uids, ["sync", "async", "many", "many", "amany"], strict=True)
    )
    assert items[0].headers["mine"] == "1"
    assert recorder.puts == [
        ("put", [uids[0]], 1, "NoneType"),
        ("put", [uids[1]], 1, "NoneType"),
        ("put", uids[2:4], None, "NoneType"),
        ("put", [uids[4]], None, "NoneType"),
    ]


@pytest.mark.django_db(transaction=True)
def test_a_put_on_commit_has_the_context_of_its_call(project, recorder):
    from django.db import transaction

    def put():
        with transaction.atomic():
            return in_context("call", lambda: queues["json"].put_on_commit([1]))

    uid = in_context("commit", put)
    (item,) = queues["json"].items()
    assert (item.uid, item.headers) == (uid, {"request": "call"})
    assert recorder.puts == [("prepare", [uid], 3, "NoneType"), ("send", [uid], 3, "NoneType")]


def test_the_error_of_a_put_is_told_and_raised(make_queue, recorder):
    queue = make_queue(max_length=1)
    queue.put("a")
    with pytest.raises(exceptions.QueueFull):
        queue.put("b")
    with pytest.raises(exceptions.InvalidArgument):
        queue.put("b", headers={"a": 1})
    assert [name for *_, name in recorder.puts] == ["NoneType", "QueueFull"]


@pytest.mark.parametrize("kind", ["sync", "async", "concurrent", "threads", "batch"])
def test_a_handler_runs_in_the_context_of_its_item_and_leaves_nothing_for_the_next_one(queue, recorder, kind):
    uids = [in_context(name, partial(queue.put, name)) for name in ("one", "two")]
    seen, together = [], threading.Barrier(2, timeout=30)

    def handle(payload):
        if kind == "threads":
            together.wait()
        seen.append((payload, request.get()))
        request.set("dirty")

    async def ahandle(payload):
        if kind == "concurrent":
            await asyncio.to_thread(together.wait)
        handle(payload)

    def handle_all(payloads):
        seen.extend((payload, request.get()) for payload in payloads)

    asynchronous = kind == "concurrent"
    handler = {"batch": handle_all, "async": ahandle, "concurrent": ahandle}.get(kind, handle)
    size = 2 if kind in ("threads", "concurrent") else 1
    consume(
        queue,
        handler,
        batch=2 if kind == "batch" else 1,
        threads=size,
        concurrency=size,
        asynchronous=asynchronous,
    )
    if kind == "batch":
        assert seen == [(b"one", "one"), (b"two", "one")]
        assert [uids_ for _, uids_, _, _ in recorder.handled] == [uids]
        return
    assert sorted(seen) == [(b"one", "one"), (b"two", "two")]
    assert sorted((*handled, sizes) for _, handled, sizes, _ in recorder.handled) == sorted((uid, [3]) for uid in uids)


class Reject(Exception):
    pass


def raising(error):
    def handle(payload):
        raise error

    return handle


@pytest.mark.parametrize(
    ("error", "deliveries", "expected"),
    [
        (None, 5, ("acked", None)),
        (Discard("no"), 5, ("discarded", None)),
        (ValueError(), 5, ("failed", "delayed")),
        (SystemExit(), 5, ("failed", "delayed")),
        (RetryLater(1000), 5, ("postponed", "delayed")),
        (ValueError(), 1, ("dead", "dead")),
        (RetryLater(1000), 1, ("dead", "dead")),
        (Reject(), 1, ("rejected", "dead")),
    ],
)
def test_integrations_learn_what_became_of_an_item(make_queue, recorder, monkeypatch, error, deliveries, expected):
    monkeypatch.setattr(exceptions, "Reject", Reject, raising=False)
    queue = make_queue(alias="orders", max_deliveries=deliveries)
    uid = in_context("mine", lambda: queue.put("a"))
    consume(queue, raising(error) if error else lambda payload: None, max_items=1)
    assert recorder.settlements == [("orders", uid, *expected, "mine")]


@pytest.mark.parametrize("error", [None, ValueError()])
def test_an_item_that_another_consumer_has_is_lost(queue, recorder, error):
    uid = queue.put("a")

    def handle(payload, item):
        queue.release(item)
        queue.drop(item.uid)
        if error:
            raise error

    consume(queue, handle, max_items=1)
    assert recorder.settlements == [
        (queue.alias, uid, "released", None, "-"),
        (queue.alias, uid, "lost", None, "none"),
    ]


def test_the_items_of_a_batch_are_told_apart(queue, recorder):
    uids = queue.put_many("ab")
    consume(queue, lambda payloads: {1: ValueError()}, batch=2, max_items=2)
    told = {uid: outcome for _, uid, outcome, _, _ in recorder.settlements}
    assert told == {uids[0]: "acked", uids[1]: "failed"}


def test_an_item_that_cannot_be_decoded_counts_as_handled_and_dead(make_queue, client, recorder):
    queue = make_queue(serializer=JSON())
    uid = queue.put("a")
    client.hset(queue.keys["items"], uid, b"{")
    consume(queue, lambda payload: None)
    assert [handled[1:3] for handled in recorder.handled] == [([uid], [1])]
    assert [settled[1:4] for settled in recorder.settlements] == [(uid, "dead", "dead")]


def test_gets_and_settlements_are_told(make_queue, recorder):
    queue = make_queue(max_deliveries=2)
    one, two, three = queue.put_many("abc")
    with queue.processing(timeout=-1):
        pass
    item, other = queue.get_many(2)
    assert queue.release(item)
    assert queue.fail(other, ValueError()) == "ready"
    assert [queue.fail(queue.get(-1)), queue.fail(queue.get(-1))] == ["ready", "dead"]
    assert asyncio.run(queue.aack(one)) is False
    assert queue.ack_many(queue.get_many(1)) == [True]
    assert recorder.receipts[:2] == [(queue.alias, [one]), (queue.alias, [two, three])]
    assert [(uid, outcome) for _, uid, outcome, _, _ in recorder.settlements] == [
        (one, "acked"),
        (two, "released"),
        (three, "failed"),
        (two, "failed"),
        (three, "dead"),
        (one, "lost"),
        (two, "acked"),
    ]


class Broken(Integration):
    """Raises wherever it can, and a SystemExit as well as other errors."""

    def put(self, puts):
        puts.headers["number"] = 1
        return self.end

    def end(self, error):
        raise SystemExit(1)

    def handle(self, handling):
        return self

    def __enter__(self):
        pass

    def __exit__(self, *error):
        raise LookupError("exit")

    def received(self, queue, items, began):
        raise LookupError("received")

    def settled(self, queue, ended, began, handling):
        raise LookupError("settled")


def test_errors_of_an_integration_are_logged_once_and_hurt_nothing(queue, recorder, caplog, monkeypatch):
    monkeypatch.setattr(instrumentation, "_logged", set())
    handled = []

    def handle(payload):
        handled.append(payload)
        if payload == b"b":
            raise ValueError(f"the payload is {payload!r}")

    with watched(Broken()):
        queue.put("a", headers={"mine": "1"})
        queue.put("b")
        assert asyncio.run(queue.aput("c"))
        consume(queue, handle, max_items=3)
        queue.put("d")
        assert queue.ack(queue.get(-1))
    assert handled == [b"a", b"b", b"c"]
    assert queue.counts() == {"ready": 0, "in_flight": 0, "delayed": 1, "dead": 0}
    records = [record for record in caplog.records if record.name == "django_srq.instrumentation"]
    told = [record.getMessage().split(" error=")[0] for record in records]
    assert told == [
        f"an integration failed integration=Broken hook={hook}" for hook in ("put", "handle", "settled", "received")
    ]
    assert all("File " in record.getMessage() for record in records)
    # The error of an integration may have that of the handler as its context.
    assert [record for record in records if record.exc_info or "payload is b" in record.getMessage()] == []
    assert sorted(outcome for _, _, outcome, _, _ in recorder.settlements) == ["acked", "acked", "acked", "failed"]


class NoLog(logging.Handler):
    def emit(self, record):
        raise LookupError("no log")


def test_errors_of_an_integration_hurt_nothing_where_the_log_raises_too(queue, recorder, monkeypatch, capsys):
    monkeypatch.setattr(instrumentation, "_logged", set())
    logger = logging.getLogger("django_srq.instrumentation")
    handler = NoLog()
    logger.addHandler(handler)
    try:
        with watched(Broken()):
            queue.put("a")
            consume(queue, print, max_items=1)
    finally:
        logger.removeHandler(handler)
    assert queue.counts()["ready"] == queue.counts()["dead"] == 0
    assert "no log" in capsys.readouterr().err


def test_the_error_of_a_handler_passes_an_integration_unchanged(queue, recorder):
    error = ValueError("mine")
    queue.put("a")
    consume(queue, raising(error), max_items=1)
    (item,) = queue.items("delayed")
    assert item.delivery.error["type"] == "ValueError"
    assert "instrumentation" not in str(error.__context__)


def test_headers_that_cannot_be_stored_are_left_out(queue, recorder, monkeypatch, caplog):
    monkeypatch.setattr(instrumentation, "_logged", set())
    with watched(Broken()):
        queue.put("a", headers={"mine": "1"})
    (item,) = queue.items()
    assert item.headers == {"mine": "1", "request": "none"}
