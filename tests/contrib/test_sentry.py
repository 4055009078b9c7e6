"""Sentry's SDK beside the queue: the events and transactions of the integration, and what they must not contain."""

from __future__ import annotations

import asyncio
import json
import runpy
import sys
import threading

import pytest
import sentry_sdk
from sentry_sdk import integrations, scope
from sentry_sdk.transport import Transport

from django_srq import Discard, RetryLater, exceptions, queues
from django_srq.contrib.sentry import SRQIntegration
from django_srq.queue import instrumentation
from django_srq.queue.serializers import JSON
from django_srq.signals import consumer_stopped
from django_srq.status import redaction
from tests.queue.test_instrumentation import consume, raising
from tests.support.project import ROOT

SECRET, CARD = "hunter2", "4111"  # events have lines of the source, so these stand only here
FILE = ROOT / "django_srq" / "contrib" / "sentry.py"
INIT = """
import sentry_sdk
from sentry_sdk.integrations.atexit import AtexitIntegration
from django_srq.contrib.sentry import SRQIntegration
from tests.support.sentry_handlers import ToFile
sentry_sdk.init(dsn="http://key@localhost/1", transport=ToFile, traces_sample_rate=1.0, send_default_pii=True, {})
"""
# Without the SDK's own exit function: only the integration flushes.
WITH_INTEGRATION = "integrations=[SRQIntegration()], disabled_integrations=[AtexitIntegration()]"


class Memory(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[dict] = []
        self.flushed = 0

    def capture_envelope(self, envelope):
        self.sent += [json.loads(item.payload.get_bytes()) for item in envelope.items]

    def flush(self, timeout, callback=None):
        self.flushed += 1

    @property
    def events(self):
        return [event for event in self.sent if "exception" in event or "logentry" in event]

    @property
    def transactions(self):
        return [event for event in self.sent if event.get("type") == "transaction"]


# Newer versions call it deprecated; it is here as projects have it, and as it would let payloads through.
pytestmark = pytest.mark.filterwarnings("ignore:The send_default_pii option:DeprecationWarning")


@pytest.fixture
def sentry(monkeypatch):
    """Starts the SDK in this process, with nothing but our integration; afterwards it is as before."""
    monkeypatch.setattr(instrumentation, "installed", ())
    monkeypatch.setattr(scope, "global_event_processors", [])
    monkeypatch.setattr(integrations, "_processed_integrations", set())
    monkeypatch.setattr(integrations, "_installed_integrations", set())

    def init(options=(), **of_integration):
        memory = Memory()
        sentry_sdk.init(
            dsn="http://key@localhost/1",
            transport=memory,
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[SRQIntegration(**of_integration)],
            **{"traces_sample_rate": 1.0, "send_default_pii": True, **dict(options)},
        )
        return memory

    with sentry_sdk.isolation_scope():
        # The scopes are copies, also of the trace of an earlier test.
        for inherited in (sentry_sdk.get_isolation_scope(), sentry_sdk.get_current_scope()):
            inherited.clear()
            inherited.set_new_propagation_context()
        yield init
    sentry_sdk.get_global_scope().set_client(None)
    consumer_stopped.disconnect(dispatch_uid="django_srq.contrib.sentry")


@pytest.fixture
def orders(make_queue):
    return make_queue(alias="orders", serializer=JSON(), max_deliveries=2)


def failing(payload):
    password = payload["password"]
    raise LookupError(f"no such order: password={password}")


def functions(event):
    return [frame["function"] for frame in event["exception"]["values"][-1]["stacktrace"]["frames"]]


def test_one_event_when_an_item_is_dead(sentry, orders):
    memory = sentry()
    uid = orders.put({"password": SECRET})
    consume(orders, failing, max_items=1, wait=0)
    assert memory.events == []
    consume(orders, failing, max_items=1, wait=0)
    (event,) = memory.events
    assert (event["level"], event["transaction"]) == ("error", "orders")
    assert event["tags"] == {"queue": "orders", "uid": uid, "outcome": "dead"}
    assert event["contexts"]["item"] == {
        "queue": "orders",
        "uid": uid,
        "deliveries": 2,
        "outcome": "dead",
        "state": "dead",
    }
    assert functions(event) == ["failing"]
    (value,) = event["exception"]["values"]
    assert (value["type"], value["value"]) == ("LookupError", "no such order: password=[…]")
    assert value["mechanism"] == {"type": "django_srq", "handled": False}


def test_an_event_for_each_failed_delivery_if_asked_for(sentry, orders):
    memory = sentry(every_failure=True)
    orders.put({"password": SECRET})
    consume(orders, failing, max_items=1, wait=0)
    consume(orders, raising(RetryLater(0)), max_items=1)
    assert [(event["level"], event["tags"]["outcome"]) for event in memory.events] == [
        ("warning", "failed"),
        ("error", "dead"),
    ]
    orders.put({})
    consume(orders, raising(RetryLater(1000)), max_items=1)
    orders.put({})
    consume(orders, raising(Discard("no")), max_items=1)
    assert len(memory.events) == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "ok"),
        (Discard("no"), "ok"),
        (RetryLater(1000), "aborted"),
        (ValueError(), "internal_error"),
        (SystemExit(), "internal_error"),
    ],
)
def test_a_transaction_for_each_handler(sentry, orders, error, status):
    memory = sentry()
    uid = orders.put({"a": 1})
    consume(orders, raising(error) if error else lambda payload: None, max_items=1)
    (transaction,) = memory.transactions
    context = transaction["contexts"]["trace"]
    assert (transaction["transaction"], transaction["transaction_info"]) == ("orders", {"source": "task"})
    assert (context["op"], context["status"], context["origin"]) == (
        "queue.process",
        status,
        "auto.queue.django_srq",
    )
    data = {name: value for name, value in context["data"].items() if name.startswith("messaging.")}
    assert data.pop("messaging.message.receive.latency") >= 0
    assert data == {
        "messaging.system": "django_srq",
        "messaging.destination.name": "orders",
        "messaging.message.id": uid,
        "messaging.message.retry.count": 0,
        "messaging.message.body.size": len('{"a":1}'),
    }
    assert memory.flushed > 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_trace_goes_on_from_the_put_to_the_handler(sentry, orders, asynchronous):
    memory = sentry()
    with sentry_sdk.start_transaction(name="request") as request:
        uid = asyncio.run(orders.aput(1)) if asynchronous else orders.put(1)
        many = orders.put_many([2, 3])
    (item, *_) = orders.items()
    consume(orders, lambda payload: None)
    sent, one, *others = memory.transactions
    assert sent["contexts"]["trace"]["trace_id"] == request.trace_id
    first, second = sent["spans"]
    assert {span["op"] for span in sent["spans"]} == {"queue.publish"}
    assert {span["description"] for span in sent["spans"]} == {"orders"}
    assert "ok" in (first.get("status"), first.get("tags", {}).get("status"))  # by the version of the SDK
    expected = {"messaging.destination.name": "orders", "messaging.message.id": uid, "messaging.message.body.size": 1}
    assert {name: first["data"][name] for name in expected} == expected
    assert second["data"]["messaging.batch.message_count"] == 2
    assert item.headers["sentry-trace"].startswith(f"{request.trace_id}-{first['span_id']}")
    assert f"sentry-trace_id={request.trace_id}" in item.headers["baggage"]
    assert {each["contexts"]["trace"]["trace_id"] for each in (one, *others)} == {request.trace_id}
    assert one["contexts"]["trace"]["parent_span_id"] == first["span_id"]
    assert {each["contexts"]["trace"]["parent_span_id"] for each in others} == {second["span_id"]}
    assert [each["tags"]["uid"] for each in others] == many


@pytest.mark.django_db(transaction=True)
def test_a_put_on_commit_has_the_trace_of_its_call(sentry, project):
    from django.db import transaction

    sentry()
    with transaction.atomic(), sentry_sdk.start_transaction(name="request") as request:
        queues["json"].put_on_commit(1)
    (item,) = queues["json"].items()
    assert item.headers["sentry-trace"].startswith(request.trace_id)


def test_events_belong_to_the_trace_of_the_put_also_without_tracing(sentry, orders):
    memory = sentry({"traces_sample_rate": None})
    orders.put({"password": SECRET})
    (item,) = orders.items()
    consume(orders, raising(exceptions.InvalidArgument("x")), max_items=2, wait=0)
    (event,) = memory.events
    assert memory.transactions == []
    assert event["contexts"]["trace"]["trace_id"] == item.headers["sentry-trace"].split("-")[0]


def test_headers_of_the_caller_stay(sentry, orders):
    sentry()
    orders.put(1, headers={"sentry-trace": "mine", "baggage": "a=1"})
    orders.put(1, headers={"baggage": "a=1"})
    own, merged = (item.headers for item in orders.items())
    assert own == {"sentry-trace": "mine", "baggage": "a=1"}
    assert merged["baggage"].startswith("a=1,sentry-")


def test_headers_can_be_left_alone(sentry, orders):
    sentry(propagate_traces=False)
    orders.put(1)
    assert [item.headers for item in orders.items()] == [{}]


@pytest.mark.parametrize("kind", ["one by one", "threads", "concurrent"])
def test_nothing_of_an_item_is_in_the_event_of_another_one(sentry, make_queue, kind):
    memory = sentry()
    queue = make_queue(alias="orders", serializer=JSON(), max_deliveries=1)
    queue.put_many(["a", "b"])
    barrier = threading.Barrier(2, timeout=30)

    def mark(payload):
        sentry_sdk.set_tag(payload, "tagged")
        sentry_sdk.set_user({"id": payload})
        sentry_sdk.add_breadcrumb(message=f"crumb of {payload}")

    def handle(payload):
        mark(payload)
        if kind == "threads":
            barrier.wait()
        raise LookupError(payload)

    async def ahandle(payload):
        mark(payload)
        await asyncio.to_thread(barrier.wait)
        raise LookupError(payload)

    sentry_sdk.add_breadcrumb(message="older than both")
    size = 1 if kind == "one by one" else 2
    handler = ahandle if kind == "concurrent" else handle
    consume(queue, handler, threads=size, concurrency=size, asynchronous=kind == "concurrent")
    assert len(memory.events) == 2
    for event in memory.events:
        name = event["exception"]["values"][-1]["value"]
        assert event["tags"].keys() == {"queue", "uid", "outcome", name}
        assert event["user"]["id"] == name
        assert [crumb["message"] for crumb in event["breadcrumbs"]["values"]] == [f"crumb of {name}"]
        assert functions(event) == ["ahandle" if kind == "concurrent" else "handle"]
    assert sentry_sdk.get_isolation_scope()._tags == {}


def test_neither_payloads_nor_secrets_are_in_an_event(sentry, make_queue):
    """Whoever makes the event: the integration, or the handler itself."""
    memory = sentry({"include_local_variables": True})
    queue = make_queue(alias="orders", serializer=JSON(), max_deliveries=1)
    queue.put({"card": CARD, "password": SECRET})

    def handle(payload):
        sentry_sdk.add_breadcrumb(message=f"got password={payload['password']}", data={"password": payload["password"]})
        sentry_sdk.capture_message(f"has password={payload['password']}")
        try:
            raise ValueError(f"token: {payload['password']}")
        except ValueError as error:
            sentry_sdk.capture_exception(error)
            raise LookupError(f"password={payload['password']}") from error

    consume(queue, handle)
    assert len(memory.sent) == 4
    assert SECRET not in json.dumps(memory.sent)
    assert CARD not in json.dumps(memory.sent)


def test_no_event_has_local_variables_of_our_own_frames(sentry, make_queue):
    memory = sentry({"include_local_variables": True})
    queue = make_queue(alias="orders", serializer=JSON(), max_length=1)
    queue.put("full")
    try:
        queue.put(SECRET)
    except exceptions.QueueFull:
        sentry_sdk.capture_exception()
    (event,) = memory.events
    assert SECRET not in json.dumps(event)
    assert functions(event)[0] == "test_no_event_has_local_variables_of_our_own_frames"
    assert "vars" in event["exception"]["values"][0]["stacktrace"]["frames"][0]


def test_payloads_and_variables_are_redacted_if_asked_for(sentry, make_queue, settings):
    settings.SRQ_ADMIN = {**settings.SRQ_ADMIN, "REDACT": ["card"]}
    memory = sentry(payloads=True)
    queue = make_queue(alias="orders", serializer=JSON(), max_deliveries=1)
    queue.put({"card": CARD, "order": 17, "password": "shown"})

    def handle(payload):
        card = payload["card"]
        raise LookupError(f"card={card}")

    consume(queue, handle)
    (event,) = memory.events
    assert CARD not in json.dumps(event)
    assert event["contexts"]["item"]["payload"] == '{"card": "[…]", "order": 17, "password": "shown"}'
    (frame,) = event["exception"]["values"][0]["stacktrace"]["frames"]
    assert frame["vars"]["card"] == "[…]"
    assert frame["vars"]["payload"]["order"] == "17"


def test_an_event_that_cannot_be_redacted_has_no_texts(sentry, make_queue, monkeypatch):
    def broken(text):
        raise LookupError

    monkeypatch.setattr(redaction, "redacted_text", broken)
    memory = sentry(payloads=True)
    queue = make_queue(alias="orders", serializer=JSON(), max_deliveries=1)
    queue.put({"password": SECRET})
    consume(queue, failing)
    (event,) = memory.events
    assert event["exception"]["values"][0]["value"] == "[…]"
    assert SECRET not in json.dumps(memory.sent)


def test_the_items_of_a_batch_are_reported_one_by_one(sentry, make_queue):
    memory = sentry()
    queue = make_queue(alias="orders", max_deliveries=1)
    _, bad, _ = queue.put_many("abc")
    consume(queue, lambda payloads: {1: LookupError("bad")}, batch=3, max_items=3)
    (event,) = memory.events
    assert (event["tags"]["uid"], event["exception"]["values"][0]["value"]) == (bad, "bad")
    (transaction,) = memory.transactions
    assert transaction["contexts"]["trace"]["data"]["messaging.batch.message_count"] == 3
    assert transaction["tags"] == {"queue": "orders"}


def test_an_item_that_cannot_be_decoded_is_reported(sentry, orders, client):
    memory = sentry()
    uid = orders.put(1)
    client.hset(orders.keys["items"], uid, b"{")
    consume(orders, failing)
    (event,) = memory.events
    assert (event["tags"]["uid"], event["exception"]["values"][-1]["type"]) == (uid, "PayloadError")


def test_an_item_that_cannot_be_decoded_is_reported_without_the_message_of_its_serializer(sentry, make_queue):
    class Strict(JSON):
        def loads(self, data):
            raise ValueError(f"bad {data!r}")

    memory = sentry()
    queue = make_queue(serializer=Strict())
    queue.put({"card": CARD})
    consume(queue, failing)
    (event,) = memory.events
    assert [value["type"] for value in event["exception"]["values"]] == ["ValueError", "PayloadError"]
    assert CARD not in json.dumps(event)


def test_without_a_client_that_has_the_integration_nothing_is_sent(sentry, orders):
    memory = sentry()
    sentry_sdk.get_global_scope().set_client(None)
    orders.put(1)
    consume(orders, raising(ValueError()), max_items=2)
    assert (memory.sent, memory.flushed) == ([], 0)


def test_without_the_sdk_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with pytest.raises(ImportError, match=r"needs Sentry's SDK: pip install 'django-srq\[sentry\]'"):
        runpy.run_path(str(FILE))


# -- in processes


@pytest.fixture
def shop(project, server_url, prefix, monkeypatch):
    """A project whose processes write their events to a file."""
    handlers = {
        alias: f"tests.support.sentry_handlers.{alias}" for alias in ("failing", "asynchronous", "ended", "killed")
    }
    settings = {"URL": server_url, "PREFIX": prefix + ".{alias}", "MAX_DELIVERIES": 1}
    project.configure({alias: {"HANDLER": path} for alias, path in handlers.items()}, settings)
    monkeypatch.setenv("SRQ_TEST_EVENTS", str(project.folder / "events"))
    return project


def written(project, kind=None):
    lines = (project.folder / "events").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event.get("type") == kind]


def test_a_process_with_all_integrations_of_the_sdk_makes_one_event_for_an_item(sentry, shop):
    """The log record of the failure makes none, and the trace goes on from the process of the put."""
    sentry()
    shop.add_to_settings(INIT.format(WITH_INTEGRATION))
    with sentry_sdk.start_transaction(name="request") as request:
        uid = queues["failing"].put({"password": SECRET})
        auid = queues["asynchronous"].put(SECRET)
    code, _, err = shop.run("srq_consume", "failing", "asynchronous", "--burst", "--concurrency", "2")
    assert code == 0, err
    events = {event["tags"]["uid"]: event for event in written(shop)}
    assert len(written(shop)) == 2
    assert functions(events[uid]) == ["failing"]
    assert functions(events[auid]) == ["asynchronous", "failing"]
    assert {event["contexts"]["trace"]["trace_id"] for event in events.values()} == {request.trace_id}
    assert [crumb["category"] for crumb in events[uid]["breadcrumbs"]["values"]] == ["shop"]
    assert len(written(shop, "transaction")) == 2
    assert SECRET not in (shop.folder / "events").read_text()


@pytest.mark.parametrize(
    ("options", "alias", "items"),
    [
        (["--max-items", "1"], "failing", 1),
        (["--max-memory", "1M", "--burst"], "failing", 2),
        ([], "ended", 1),
        (["--processes", "0", "--burst"], "failing", 1),
    ],
    ids=["max-items", "max-memory", "SIGTERM", "without children"],
)
def test_events_are_flushed_at_the_end_of_a_process(shop, options, alias, items):
    shop.add_to_settings(INIT.format(WITH_INTEGRATION))
    queues[alias].put_many([{"password": SECRET}] * items)
    code, _, err = shop.run("srq_consume", alias, *options)
    assert code == 0, err
    assert len(written(shop)) == items


def test_an_item_that_is_dead_because_its_process_was_killed_is_reported(shop):
    shop.add_to_settings(INIT.format(WITH_INTEGRATION))
    uid = queues["killed"].put({"password": SECRET})
    code, _, err = shop.run("srq_consume", "killed", "--burst")
    assert code == 0, err
    (event,) = [event for event in written(shop) if event["extra"].get("uid") == uid]
    assert (event["extra"]["queue"], event["extra"]["state"], event["level"]) == ("killed", "dead", "error")
    assert SECRET not in (shop.folder / "events").read_text()


# -- without the integration: what the SDK makes of the log

PLAIN = "disabled_integrations=[]"


def test_the_sdk_alone_makes_one_event_with_the_exception_and_a_breadcrumb_for_a_retry(shop, server_url, prefix):
    path = "tests.support.sentry_handlers.failing"
    again = {"BACKOFF": {"base": 0.1, "max": 0.1}, "MAX_DELIVERIES": 2}
    shop.configure({"failing": {"HANDLER": path, **again}}, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
    shop.add_to_settings(INIT.format(PLAIN))
    queues["failing"].put({"password": SECRET})
    code, _, err = shop.run("srq_consume", "failing", "--max-items", "2")
    assert code == 0, err
    (event,) = written(shop)
    assert (event["level"], event["logger"]) == ("error", "django_srq.consumer")
    assert event["exception"]["values"][-1]["type"] == "LookupError"
    assert functions(event) == ["failing"]
    crumbs = [crumb for crumb in event["breadcrumbs"]["values"] if crumb["category"] == "django_srq.consumer"]
    assert [crumb["level"] for crumb in crumbs if crumb.get("data", {}).get("outcome") == "failed"] == ["warning"]


def test_an_item_that_cannot_be_decoded_makes_one_event(shop, client):
    shop.add_to_settings(INIT.format(WITH_INTEGRATION))
    queue = queues["failing"]
    client.hset(queue.keys["items"], queue.put(1), b"{")
    code, _, err = shop.run("srq_consume", "failing", "--burst")
    assert code == 0, err
    assert [event["exception"]["values"][-1]["type"] for event in written(shop)] == ["PayloadError"]
