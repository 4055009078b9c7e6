"""OpenTelemetry's SDK beside the queue: the spans, and what they must not contain."""

from __future__ import annotations

import asyncio
import json
import runpy
import sys

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from django_srq import Discard, RetryLater, exceptions, queues
from django_srq.contrib.opentelemetry import DjangoSRQInstrumentor
from django_srq.queue.serializers import JSON
from tests.queue.test_instrumentation import consume, raising
from tests.support.project import ROOT

FILE = ROOT / "django_srq" / "contrib" / "opentelemetry.py"
SECRET = "hunter2"
COMMON = {"messaging.system": "django_srq", "messaging.destination.name": "orders"}


class Spans:
    """The spans that are ended, and a tracer for the code around the queue."""

    def __init__(self) -> None:
        self._memory = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self.tracer = self.provider.get_tracer("project")

    @property
    def all(self):
        return self._memory.get_finished_spans()

    def named(self, name):
        return [span for span in self.all if span.name == name]

    def one(self, name):
        (span,) = self.named(name)
        return span


@pytest.fixture
def spans():
    made = Spans()
    instrumentor = DjangoSRQInstrumentor()
    instrumentor.instrument(tracer_provider=made.provider)
    yield made
    instrumentor.uninstrument()


@pytest.fixture
def orders(make_queue):
    return make_queue(alias="orders", serializer=JSON(), max_deliveries=2)


def messaging(span):
    return {name: value for name, value in span.attributes.items() if name.startswith("messaging.")}


def operation(name, kind, **attributes):
    return {**COMMON, "messaging.operation.name": name, "messaging.operation.type": kind, **attributes}


def links(span):
    return [link.context.span_id for link in span.links]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_spans_of_an_item(spans, orders, asynchronous):
    with spans.tracer.start_as_current_span("request") as request:
        uid = asyncio.run(orders.aput({"a": 1})) if asynchronous else orders.put({"a": 1})

    def handle(payload):
        with spans.tracer.start_as_current_span("inner"):
            pass

    async def ahandle(payload):
        await asyncio.sleep(0)
        handle(payload)

    consume(orders, ahandle if asynchronous else handle, asynchronous=asynchronous)
    send, inner, process, ack = (spans.one(name) for name in ("send orders", "inner", "process orders", "ack orders"))
    message = {"messaging.message.id": uid}
    assert messaging(send) == operation("send", "send", **message, **{"messaging.message.body.size": 7})
    assert messaging(process) == operation(
        "process",
        "process",
        **message,
        **{"messaging.message.body.size": 7, "messaging.django_srq.deliveries": 1},
    )
    assert messaging(ack) == operation("ack", "settle", **message, **{"messaging.django_srq.outcome": "acked"})
    assert (send.kind, process.kind, ack.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.CLIENT)
    assert send.parent.span_id == request.get_span_context().span_id
    assert process.parent.span_id == send.context.span_id
    assert process.parent.is_remote
    assert inner.parent.span_id == process.context.span_id
    assert ack.parent.span_id == process.context.span_id
    assert links(process) == links(ack) == [send.context.span_id]
    assert len({span.context.trace_id for span in spans.all}) == 1
    assert ack.end_time >= ack.start_time >= process.start_time
    assert send.status.status_code is process.status.status_code is StatusCode.UNSET


def test_baggage_reaches_the_handler(spans, orders):
    token = context.attach(baggage.set_baggage("tenant", "17"))
    try:
        orders.put(1, headers={"baggage": "other=2"})
    finally:
        context.detach(token)
    seen = []
    consume(orders, lambda payload: seen.append(dict(baggage.get_all())))
    assert seen == [{"other": "2", "tenant": "17"}]
    assert baggage.get_all() == {}


def test_the_context_that_the_caller_chose_stays(spans, orders):
    chosen = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    orders.put(1, headers={"traceparent": chosen})
    (item,) = orders.items()
    assert item.headers == {"traceparent": chosen}
    consume(orders, lambda payload: None)
    assert f"{spans.one('process orders').parent.span_id:016x}" == "b7ad6b7169203331"


def test_a_batch_is_one_span_of_each_kind_with_a_link_for_each_item(spans, orders):
    orders.put(0)
    orders.put_many([1, 2])
    consume(orders, lambda payloads: {2: ValueError()}, batch=3, max_items=3)
    sends, process = spans.named("send orders"), spans.one("process orders")
    assert messaging(sends[1]) == operation("send", "send", **{"messaging.batch.message_count": 2})
    assert messaging(process) == operation("process", "process", **{"messaging.batch.message_count": 3})
    assert links(process) == [sends[0].context.span_id] + [sends[1].context.span_id] * 2
    assert process.parent is None
    assert [len(spans.named(f"{name} orders")) for name in ("ack", "fail")] == [2, 1]


@pytest.mark.django_db(transaction=True)
def test_a_put_on_commit_is_created_at_its_call_and_sent_at_the_commit(spans, project):
    from django.db import transaction

    with transaction.atomic():
        with spans.tracer.start_as_current_span("call") as call:
            uid = queues["json"].put_on_commit(1)
        assert [span.name for span in spans.all] == ["create json", "call"]
    create, send = spans.one("create json"), spans.one("send json")
    (item,) = queues["json"].items()
    assert create.parent.span_id == call.get_span_context().span_id
    assert f"{create.context.span_id:016x}" in item.headers["traceparent"]
    assert (create.kind, send.kind) == (SpanKind.PRODUCER, SpanKind.CLIENT)
    assert create.attributes["messaging.message.id"] == send.attributes["messaging.message.id"] == uid


def test_gets_and_their_settlements(spans, orders):
    one, two = orders.put_many([1, 2])
    assert not orders.get_many(1, timeout=-1)[0].lease_lost
    (item,) = orders.get_many(1)
    with spans.tracer.start_as_current_span("work") as work:
        assert orders.fail(item, ValueError()) == "ready"
        assert orders.ack(one)
        assert orders.release(orders.get(-1))
    assert orders.get(-1).uid == two
    assert not orders.get(-1)
    receives = spans.named("receive orders")
    assert len(receives) == 4
    assert messaging(receives[0]) == operation("receive", "receive", **{"messaging.message.id": one})
    assert receives[0].kind is SpanKind.CLIENT
    assert links(receives[0]) == [spans.one("send orders").context.span_id]
    settled = [spans.one(f"{name} orders") for name in ("fail", "ack", "release")]
    assert [span.attributes["messaging.django_srq.outcome"] for span in settled] == ["failed", "acked", "released"]
    assert {span.parent.span_id for span in settled} == {work.get_span_context().span_id}
    assert [span.attributes["messaging.operation.type"] for span in settled] == ["settle"] * 3
    assert receives[0].end_time >= receives[0].start_time


@pytest.mark.parametrize(
    ("error", "outcome", "name", "failed"),
    [
        (LookupError("x"), "failed", "fail", True),
        (RetryLater(1000), "postponed", "fail", False),
        (Discard("no"), "discarded", "ack", False),
        (SystemExit(), "failed", "fail", True),
    ],
)
def test_a_handler_that_raises(spans, orders, error, outcome, name, failed):
    orders.put(1)
    consume(orders, raising(error), max_items=1)
    process = spans.one("process orders")
    assert spans.one(f"{name} orders").attributes["messaging.django_srq.outcome"] == outcome
    assert process.status.status_code is (StatusCode.ERROR if failed else StatusCode.UNSET)
    assert process.attributes.get("error.type") == (type(error).__name__ if failed else None)
    assert [event.name for event in process.events] == (["exception"] if failed else [])


def test_a_put_that_fails(spans, make_queue):
    queue = make_queue(alias="orders", max_length=1)
    queue.put("a")
    with pytest.raises(exceptions.QueueFull):
        queue.put("b")
    _, refused = spans.named("send orders")
    assert refused.status.status_code is StatusCode.ERROR
    assert refused.attributes["error.type"] == "django_srq.exceptions.QueueFull"


def test_errors_are_redacted_and_without_our_frames(spans, orders):
    orders.put({"password": SECRET})

    def handle(payload):
        raise LookupError(f"password={payload['password']}")

    consume(orders, handle, max_items=1)
    process = spans.one("process orders")
    (event,) = process.events
    assert event.attributes["exception.message"] == process.status.description == "password=[…]"
    assert event.attributes["exception.type"] == "LookupError"
    assert "in handle" in event.attributes["exception.stacktrace"]
    assert "django_srq/" not in event.attributes["exception.stacktrace"]
    assert SECRET not in "".join(span.to_json() for span in spans.all)


def test_an_item_that_cannot_be_decoded(spans, orders, client):
    uid = orders.put(1)
    client.hset(orders.keys["items"], uid, b"{")
    consume(orders, lambda payload: None)
    process, settle = spans.one("process orders"), spans.one("fail orders")
    assert process.attributes["error.type"] == "django_srq.exceptions.PayloadError"
    assert settle.attributes["messaging.django_srq.outcome"] == "dead"
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_nothing_is_traced_before_and_after(spans, orders):
    DjangoSRQInstrumentor().instrument(tracer_provider=spans.provider)  # twice changes nothing
    orders.put(1)
    assert len(spans.all) == 1
    assert DjangoSRQInstrumentor().is_instrumented_by_opentelemetry
    DjangoSRQInstrumentor().uninstrument()
    assert not DjangoSRQInstrumentor().is_instrumented_by_opentelemetry
    orders.put(1)
    consume(orders, lambda payload: None)
    assert len(spans.all) == 1


def test_without_a_provider_nothing_is_added(orders):
    DjangoSRQInstrumentor().instrument()
    try:
        orders.put(1)
        (item,) = orders.items()
        consume(orders, lambda payload: None)
    finally:
        DjangoSRQInstrumentor().uninstrument()
    assert item.headers == {}


def test_without_the_api_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ImportError, match=r"needs OpenTelemetry's API: pip install 'django-srq\[opentelemetry\]'"):
        runpy.run_path(str(FILE))


# -- in processes

INSTRUMENT = """
import sys
del sys.modules["opentelemetry"]  # the settings of the tests' commands keep it from being imported
from django_srq.contrib.opentelemetry import DjangoSRQInstrumentor
DjangoSRQInstrumentor().instrument()
"""
IN_EACH_PROCESS = """
from django_srq.signals import consumer_started
from tests.support.tracing import begin
consumer_started.connect(begin)
"""
BEFORE_THE_FORK = """
from tests.support.tracing import begin
begin()
"""


@pytest.mark.parametrize(
    ("code", "options"),
    [(IN_EACH_PROCESS, []), (IN_EACH_PROCESS, ["--processes", "0"]), (BEFORE_THE_FORK, [])],
    ids=["in each process", "without children", "before the fork"],
)
def test_the_spans_of_processes_are_exported_at_their_end(
    spans, project, server_url, prefix, monkeypatch, code, options
):
    written = project.folder / "spans"
    monkeypatch.setenv("SRQ_TEST_SPANS", str(written))
    project.configure(
        {"orders": {"HANDLER": "tests.support.tracing.handle"}}, {"URL": server_url, "PREFIX": prefix + ".{alias}"}
    )
    project.add_to_settings(INSTRUMENT + code)
    with spans.tracer.start_as_current_span("request") as request:
        uids = [queues["orders"].put("work"), queues["orders"].put("fail")]
    status, _, err = project.run("srq_consume", "--burst", *options)
    assert status == 0, err
    read = [json.loads(line) for line in written.read_text().splitlines()]
    by_name = {}
    for span in read:
        by_name.setdefault(span["name"], []).append(span)
    assert {name: len(found) for name, found in by_name.items()} == {
        "inner": 2,
        "process orders": 2,
        "ack orders": 1,
        "fail orders": 1,
    }
    assert {span["context"]["trace_id"] for span in read} == {f"0x{request.get_span_context().trace_id:032x}"}
    processed = {
        span["attributes"]["messaging.message.id"]: span["status"]["status_code"] for span in by_name["process orders"]
    }
    assert processed == dict(zip(uids, ["UNSET", "ERROR"], strict=True))
    assert "OtelBatchSpanRecordProcessor" in by_name["inner"][0]["attributes"]["threads"]
