"""An invalid argument is an error of this package at once, and nothing is sent."""

from __future__ import annotations

import argparse
import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal

import pytest
import redis

from django_srq import ConfigurationError, InvalidArgument, SafeRedisQueue, queues
from django_srq.exceptions import RetryLater, UnknownQueue, shown
from django_srq.management.arguments import number_in
from django_srq.queue.arguments import OPTIONS as OPTIONS_BY_NAME
from django_srq.queue.backoff import Backoff
from django_srq.testing import isolated_queues, run_all
from django_srq.values import COUNTS, COUNTS_FROM_0, DELAYS, PRIORITIES, SECONDS

NOW = dt.datetime.now(dt.UTC)


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


NO_NUMBERS = [10**400, -(10**400), 10**5000, float("nan"), True, None, "1", b"1", [], Decimal(1), NOW, Unspeakable()]
NO_WHOLE_NUMBERS = [*NO_NUMBERS, 1.5, float("inf"), 0, -1]
NO_TEXTS = [5, 10**5000, 1.5, True, b"x", ["x"], {"x": 1}, NOW, Unspeakable()]
NO_FUNCTIONS = [5, 10**5000, "x", ["x"], NOW, Unspeakable()]


def without(values: list[object], *types: type) -> list[object]:
    return [value for value in values if type(value) not in types]


TIMES = [*without(NO_NUMBERS, type(None)), 0, -1, float("inf")]
CALLS = {
    "get": (lambda queue, value: queue.get(value), NO_NUMBERS),
    "get_many": (lambda queue, value: queue.get_many(1, value), NO_NUMBERS),
    "get_many, n": (lambda queue, value: queue.get_many(value), NO_WHOLE_NUMBERS),
    "consume": (lambda queue, value: list(queue.consume(value)), NO_NUMBERS),
    "processing": (lambda queue, value: queue.processing(value).__enter__(), NO_NUMBERS),
    "put, uid": (lambda queue, value: queue.put("x", uid=value), [*NO_TEXTS, "", "\u00e9", "x" * 129, "x" * 10**6]),
    "put, delay": (lambda queue, value: queue.put("x", delay=value), [*NO_NUMBERS, -1, float("inf"), dt.timedelta.max]),
    "put, eta": (lambda queue, value: queue.put("x", eta=value), [dt.datetime(2031, 1, 1), 5, "x", NOW.date()]),
    "put, priority": (lambda queue, value: queue.put("x", priority=value), [*NO_NUMBERS, 1.0, 101, -101]),
    "put, headers": (lambda queue, value: queue.put("x", headers=value), [5, "x", ["x"], {"x": 1}, {1: "x"}]),
    "put_many": (lambda queue, value: queue.put_many(value), [5, None, 10**5000, NOW, Unspeakable()]),
    "put_many, uids": (lambda queue, value: queue.put_many(["x"], uids=value), [5, [5], [None], [b"x"], []]),
    "ack": (lambda queue, value: queue.ack(value), [*without(NO_TEXTS, bytes), None, "", "x" * 129]),
    "ack_many": (lambda queue, value: queue.ack_many(value), [5, None, [5], [None], [10**5000]]),
    "fail": (lambda queue, value: queue.fail(value), [*without(NO_TEXTS, bytes), None]),
    "fail, error": (lambda queue, value: queue.fail("uid", value), NO_TEXTS),
    "fail, delay": (lambda queue, value: queue.fail("uid", None, value), [*NO_NUMBERS, -1, float("inf")]),
    "extend": (lambda queue, value: queue.extend("uid", value), [*without(NO_NUMBERS, type(None)), 0, -1]),
    "release": (lambda queue, value: queue.release(value), [*without(NO_TEXTS, bytes), None]),
    "items": (lambda queue, value: list(queue.items(value)), [*NO_TEXTS, None, "gone"]),
    "page, offset": (lambda queue, value: queue.page("ready", value), [*without(NO_WHOLE_NUMBERS, int), -1, 2**53]),
    "states": (lambda queue, value: queue.states(value), [*NO_TEXTS, None]),
    "requeue": (lambda queue, value: queue.requeue(value), [*NO_TEXTS, None]),
    "requeue, error": (lambda queue, value: queue.requeue(error=value), NO_TEXTS),
    "requeue, older_than": (lambda queue, value: queue.requeue(older_than=value), [*NO_NUMBERS, -1, dt.timedelta(-1)]),
    "requeue, limit": (lambda queue, value: queue.requeue(limit=value), [1.5, "1", b"1", True, 0, -1, -(10**5000)]),
    "requeue, on_batch": (lambda queue, value: queue.requeue(on_batch=value), NO_FUNCTIONS),
    "requeue by uid, on_batch": (lambda queue, value: queue.requeue("uid", on_batch=value), NO_FUNCTIONS),
    "count_dead": (lambda queue, value: queue.count_dead(error=value), NO_TEXTS),
    "count_dead, older_than": (lambda queue, value: queue.count_dead(older_than=value), [*NO_NUMBERS, -1]),
    "drop": (lambda queue, value: queue.drop(value), [*NO_TEXTS, None]),
    "purge": (lambda queue, value: queue.purge(value), [*NO_TEXTS, "in_flight", "gone"]),
    "purge, error": (lambda queue, value: queue.purge("dead", error=value), NO_TEXTS),
    "purge, limit": (lambda queue, value: queue.purge("dead", limit=value), [1.5, "1", True, 0, -1]),
    "purge, on_batch": (lambda queue, value: queue.purge(on_batch=value), NO_FUNCTIONS),
    "recover": (lambda queue, value: queue.recover(on_batch=value), NO_FUNCTIONS),
    "pause": (lambda queue, value: queue.pause(value), [*NO_TEXTS, None, "\ud800"]),
    "pause, by": (lambda queue, value: queue.pause(by=value), [*NO_TEXTS, None]),
    "pause, until": (lambda queue, value: queue.pause(until=value), [dt.datetime(2031, 1, 1), 5, "x", NOW.date()]),
    "move": (lambda queue, value: queue.move(value), [*NO_TEXTS, None]),
    "put, timeout": (lambda queue, value: queue.put(1, timeout=value), TIMES),
    "put_many, timeout": (lambda queue, value: queue.put_many([1], timeout=value), TIMES),
    "RetryLater": (lambda queue, value: RetryLater(value), [*NO_NUMBERS, -1, float("inf")]),
}


@pytest.mark.parametrize(("call", "values"), CALLS.values(), ids=CALLS.keys())
def test_an_invalid_argument_of_a_method_is_refused(queue, call, values):
    for value in values:
        with pytest.raises(InvalidArgument) as raised:
            call(queue, value)
        assert len(str(raised.value)) < 500
    assert queue.snapshot().layout is None  # nothing was sent that changes the queue


OPTIONS = {
    "name": ["\ud800", 10**5000, Unspeakable()],
    "autoclean_interval": [*without(NO_NUMBERS, type(None)), 0, -1, float("inf")],
    "timeout": [*without(NO_NUMBERS, type(None)), 0, -1, float("inf")],
    "put_timeout": [*without(NO_NUMBERS, type(None)), 0, -1, float("inf")],
    "serializer": [5, "", "yaml", "JSON", b"json", object(), ["json"], Unspeakable()],
    "max_deliveries": without(NO_WHOLE_NUMBERS, type(None)),
    "max_crashes": without(NO_WHOLE_NUMBERS, type(None)),
    "max_length": without(NO_WHOLE_NUMBERS, type(None)),
    "max_payload_bytes": without(NO_WHOLE_NUMBERS, type(None)),
    "max_in_flight": without(NO_WHOLE_NUMBERS, type(None)),
    "rate": [5, 10**5000, "10", b"10/s", ["10/s"], Unspeakable()],
    "backoff": [5, None, "x", {"base": 1}, Unspeakable()],
}


@pytest.mark.parametrize(("name", "values"), OPTIONS.items(), ids=OPTIONS.keys())
def test_an_invalid_option_of_a_queue_is_a_configuration_error(name, values):
    for value in values:
        with pytest.raises(ConfigurationError, match=name):
            SafeRedisQueue(**{name: value})


def refusal(call: Callable[..., object], *args: object, **options: object) -> str:
    """What is said of a value that is wrong; empty when it is right."""
    try:
        call(*args, **options)
    except (ConfigurationError, argparse.ArgumentTypeError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", OPTIONS_BY_NAME)
def test_constructor_settings_and_command_line_agree_about_a_value(settings, name):
    numbers = OPTIONS_BY_NAME[name]
    for value in [-1, 0, 0.5, 1, 10**9, 10**9 + 1, 10**299, 10**300, float("inf"), float("nan")]:
        settings.SRQ_QUEUES = {"orders": {"URL": "redis://localhost", name.upper(): value}}
        said = [
            refusal(SafeRedisQueue, **{name: value}),
            refusal(queues.__getitem__, "orders"),
            refusal(number_in(numbers), str(value)),
        ]
        assert all(numbers.name in words for words in said) or not any(said), (value, said)


@pytest.mark.parametrize("numbers", [SECONDS, DELAYS, COUNTS, COUNTS_FROM_0, PRIORITIES], ids=lambda one: one.name)
@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1e11", "1" * 5000, "-101", "0x1"])
def test_the_command_line_says_which_numbers_are_right(numbers, text):
    says = f"^must be {re.escape(numbers.described)}, not '{text}'; see below$"
    with pytest.raises(argparse.ArgumentTypeError, match=says):
        number_in(numbers, "; see below")(text)


# The sources of a queue's connections, and the arguments that have no effect beside each.
IN_VAIN = {
    "link": {"client": redis.Redis(), "url": "redis://localhost", "timeout": 3, "password": "x", "max_delivery": None},
    "client": {"url": "redis://localhost", "password": "x", "max_delivery": 3},
}


@pytest.mark.parametrize(("given", "name"), [(given, name) for given, names in IN_VAIN.items() for name in names])
def test_an_argument_without_effect_is_a_configuration_error(link, client, given, name):
    existing = {"link": link, "client": client}[given]
    with pytest.raises(ConfigurationError, match=f"a queue with {given}= takes no {name}: it would have no effect"):
        SafeRedisQueue(**{given: existing, name: IN_VAIN[given][name]})


@pytest.mark.parametrize("given", ["link", "client", "url"])
def test_a_positional_argument_without_effect_is_a_configuration_error(link, client, server_url, given):
    existing = {"link": link, "client": client, "url": server_url}[given]
    with pytest.raises(ConfigurationError, match=f"a queue with {given}= takes no positional arguments"):
        SafeRedisQueue("localhost", **{given: existing})


def test_a_queue_with_a_client_may_have_a_time_limit(client):
    assert SafeRedisQueue(client=client, timeout=3).link.timeout == 3


@pytest.mark.parametrize("name", ["base", "factor", "max"])
def test_an_invalid_backoff_is_a_configuration_error(name):
    for value in [*NO_NUMBERS, -1, float("inf")]:
        with pytest.raises(ConfigurationError, match=name):
            Backoff(**{name: value})


def test_limits_may_exceed_the_integers_of_the_server(make_queue):
    queue = make_queue(max_length=10**299, max_deliveries=10**299, max_in_flight=10**299)
    queue.put("x")
    assert queue.fail(queue.get(-1), "error") == "ready"


@pytest.mark.parametrize("timeout", [float("inf"), 10**299, 1e299])
def test_the_timeout_of_a_get_may_be_infinite(queue, timeout):
    queue.put("x")
    assert queue.get(timeout)


@pytest.mark.parametrize(
    "alias", [None, 5, 10**5000, b"x", ["x"], {}, Unspeakable()], ids=lambda alias: type(alias).__name__
)
def test_an_invalid_alias_is_an_unknown_queue(settings, alias):
    settings.SRQ_QUEUES = {"orders": {"URL": "redis://localhost"}}
    with pytest.raises(UnknownQueue, match="orders"):
        queues[alias]


@pytest.mark.parametrize(
    "value", [10**5000, -(10**5000), "x" * 10**6, b"x"], ids=["large", "negative", "long", "bytes"]
)
def test_an_error_shows_an_invalid_option_of_the_settings(settings, value):
    settings.SRQ_QUEUES = {"orders": {"URL": "redis://localhost", "MAX_LENGTH": value}}
    with pytest.raises(ConfigurationError, match="MAX_LENGTH") as raised:
        queues["orders"]
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("limit", [-1, 1.5, "1", True, float("nan"), Unspeakable()])
def test_run_all_refuses_an_invalid_limit(settings, server_url, prefix, limit):
    settings.SRQ_QUEUES = {"note": {"URL": server_url, "PREFIX": prefix, "HANDLER": "tests.support.handlers.note"}}
    with isolated_queues(), pytest.raises(InvalidArgument, match="run_all"):
        run_all("note", limit=limit)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "options",
    [{"uid": 5}, {"delay": 10**400}, {"priority": 10**400}, {"headers": 5}],
    ids=["uid", "delay", "priority", "headers"],
)
def test_put_on_commit_refuses_invalid_arguments_before_the_commit(settings, server_url, prefix, options):
    settings.SRQ_QUEUES = {"orders": {"URL": server_url, "PREFIX": prefix}}
    with pytest.raises(InvalidArgument):
        queues["orders"].put_on_commit({}, **options)


def test_an_error_shows_a_value_as_far_as_possible():
    assert shown("x") == "'x'"
    assert shown("x" * 1000).endswith("x…")
    assert shown(10**5000) == "this int"
