"""Durations, sizes and rates have one notation in settings, arguments of queues and options of commands."""

from __future__ import annotations

import argparse
import re

import pytest
from django.test import override_settings

from django_srq import ConfigurationError, SafeRedisQueue, conf
from django_srq.management.arguments import memory, number_in
from django_srq.management.commands import srq_consume, srq_put, srq_status
from django_srq.notation import bytes_in, rate_in, seconds_in
from django_srq.values import DELAYS, SECONDS
from tests.test_conf import URL, problems_of

DURATIONS = {
    "90s": 90, "5m": 300, "2h": 7200, "7d": 604_800, "1w": 604_800, "1h30m": 5400, "1.5h": 5400, "0s": 0, "5min": 300,
    "2hour": 7200, "0.5sec": 0.5,
}  # fmt: skip
SIZES = {
    "512KB": 512 << 10, "200MB": 200 << 20, "1GB": 1 << 30, "200M": 200 << 20, "1G": 1 << 30, "3MiB": 3 << 20,
    "64k": 64 << 10, "100B": 100,
}  # fmt: skip
RATES = {
    "10/s": (10, 1), "10/m": (10, 60), "10/min": (10, 60), "10/minute": (10, 60), "10/h": (10, 3600),
    "10/hour": (10, 3600), "10/d": (10, 86400), "10/day": (10, 86400), "3/10s": (3, 10), "3/10min": (3, 600),
}  # fmt: skip


def test_durations_sizes_and_rates():
    assert {text: seconds_in(text) for text in DURATIONS} == DURATIONS
    assert {text: bytes_in(text) for text in SIZES} == SIZES
    assert {text: rate_in(text) for text in RATES} == RATES


@pytest.mark.parametrize(
    ("read", "texts", "says"),
    [
        (seconds_in, ["", "5", "m", "-5m", "5 m", "5M", "5mi", "1h 30m", "1e3s", "\N{ARABIC-INDIC DIGIT TWO}h"],
         "is no duration such as '90s', '5m', '2h' or '7d'"),
        (bytes_in, ["", "5", "MB", "0MB", "-5MB", "5 MB", "5TB", "1.5GB", "5MBit"],
         "is no size such as '512KB', '200MB' or '1GB'"),
        (rate_in, ["", "10", "10/", "0/s", "10/w", "10/month", "10 / s", "1.5/s", "10/mi"],
         "is no rate such as '10/s', '10/min', '10/hour' or '3/10s'"),
    ],
)  # fmt: skip
def test_a_wrong_text_gets_a_sentence_with_examples(read, texts, says):
    for text in texts:
        with pytest.raises(ValueError, match=f"^{re.escape(repr(text))} {re.escape(says)}$"):
            read(text)


def test_all_durations_and_sizes_of_the_settings_may_be_texts():
    durations = {"AUTOCLEAN_INTERVAL": "2m", "LEASE": "10s", "MAX_AGE": "1h", "TIMEOUT": "0.5s", "TIME_LIMIT": "5m"}
    options = {
        **durations, "MAX_PAYLOAD_BYTES": "2MB", "RATE": "10/hour", "BACKOFF": {"base": "2s", "factor": 3, "max": "1d"}
    }  # fmt: skip
    with override_settings(SRQ_QUEUES={"orders": {"URL": URL, **options}}, SRQ_ADMIN={"TIMEOUT": "2s"}):
        config, admin = conf.queue_config("orders"), conf.load().admin
    assert (config.autoclean_interval, config.lease, config.max_age, config.target.timeout) == (120, 10, 3600, 0.5)
    assert (config.time_limit, config.max_payload_bytes, admin.timeout) == (300, 2 << 20, 2)
    assert (config.backoff.base, config.backoff.factor, config.backoff.max) == (2, 3, 86400)
    assert config.rate is not None
    assert (config.rate.count, config.rate.seconds) == (10, 3600)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("LEASE", "5 minutes", "a number of seconds above 0 or a duration such as '90s', '5m', '2h' or '7d', not '5 m"),
        ("LEASE", "0s", "a number of seconds above 0 or a duration such as '90s', '5m', '2h' or '7d', not '0s'"),
        ("AUTOCLEAN_INTERVAL", "x", "or a duration such as '90s', '5m', '2h' or '7d', or None, not 'x'"),
        ("MAX_PAYLOAD_BYTES", "2", "a whole number of bytes above 0 or a size such as '512KB', '200MB' or '1GB', or N"),
        ("RATE", "10/month", "a rate such as '10/s', '10/min', '10/hour' or '3/10s', or None, not '10/month'"),
        ("BACKOFF", {"max": "1 day"}, "a dict whose max is a number of seconds above 0 or a duration such as"),
        ("BACKOFF", {"factor": "2s"}, "a dict whose factor is at least 1"),
        ("MAX_LENGTH", "1KB", "a whole number above 0, or None, not '1KB'"),
    ],
)
def test_a_wrong_text_in_the_settings(option, value, says):
    (found,) = problems_of({"URL": URL, option: value})
    assert f"django_srq.E003 SRQ_QUEUES['orders'][{option!r}] must be " in found
    assert says in found


def test_the_options_of_a_queue_made_by_hand():
    queue = SafeRedisQueue(port=1, autoclean_interval="2m", timeout="500s", max_payload_bytes="1KB", rate="6/min")
    assert (queue.autoclean_interval, queue.lease, queue.link.timeout, queue.max_payload_bytes) == (120, 120, 500, 1024)
    assert queue.rate is not None
    assert queue.rate.per_second == 0.1
    says = "^timeout is a number of seconds above 0 or a duration such as '90s', '5m', '2h' or '7d', or None; not 'x'$"
    with pytest.raises(ConfigurationError, match=says):
        SafeRedisQueue(port=1, timeout="x")


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("0.5", 0.5), ("90s", 90), ("5m", 300), ("1h30m", 5400)])
def test_durations_on_the_command_line(text, seconds):
    """Where a number of seconds is taken, it may have a unit."""
    assert number_in(SECONDS)(text) == number_in(DELAYS)(text) == seconds
    for command, option, needed in ((srq_consume, "--time-limit", []), (srq_consume, "--grace", []),
                                    (srq_put, "--delay", ["q"]), (srq_status, "--watch", [])):  # fmt: skip
        parser = command.Command().create_parser("manage.py", command.__name__.rpartition(".")[2])
        name = option.strip("-").replace("-", "_")
        assert getattr(parser.parse_args([*needed, option, text]), name) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("200", 200 << 20), ("200M", 200 << 20), ("200mb", 200 << 20), ("1GB", 1 << 30), ("9K", 9216)]
)
def test_the_memory_of_a_process(text, size):
    assert memory(text) == size


def test_a_wrong_size_on_the_command_line():
    for text in ("lots", "0", "-1", "1T"):
        with pytest.raises(argparse.ArgumentTypeError, match=rf"such as 200M or 1G \(a bare .* MiB\), not '{text}'"):
            memory(text)
