"""A project's test that freezes the clock, as with freezegun, must not freeze the waits of this package."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from django.core.management import call_command
from freezegun import freeze_time

from django_srq import QueueUnavailable, SafeRedisQueue, queues
from django_srq.testing import isolated_queues, run_all

NOON = "2031-05-06 12:00"


@pytest.mark.timeout(60)
def test_a_timed_wait_ends_under_a_frozen_clock(queue):
    with freeze_time(NOON):
        assert not queue.get(0.2)
        assert not queue.get_many(3, 0.2)
        with queue.processing(0.2) as item:
            assert not item
        assert list(queue.consume(0.2)) == []


@pytest.mark.timeout(60)
def test_a_timed_wait_in_an_event_loop_ends_under_a_frozen_clock(queue):
    with freeze_time(NOON):
        assert not asyncio.run(queue.aget(0.2))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", [{}, {"tick": True}, {"auto_tick_seconds": 60}, {"real_asyncio": True}], ids=str)
def test_a_call_to_an_unreachable_server_ends_under_a_frozen_clock(dead_port, how):
    queue = SafeRedisQueue(url=f"redis://127.0.0.1:{dead_port}", timeout=0.3)
    with freeze_time(NOON, **how), pytest.raises(QueueUnavailable):
        queue.put("x")


@pytest.mark.timeout(60)
def test_a_call_in_an_event_loop_to_an_unreachable_server_ends_under_a_frozen_clock(dead_port):
    queue = SafeRedisQueue(url=f"redis://127.0.0.1:{dead_port}", timeout=0.3)
    with freeze_time(NOON, real_asyncio=True), pytest.raises(QueueUnavailable):
        asyncio.run(queue.aput("x"))


@pytest.fixture
def log(settings, server_url, prefix, tmp_path, monkeypatch):
    settings.SRQ_DEFAULTS = {"URL": server_url, "PREFIX": prefix + ".{alias}"}
    settings.SRQ_QUEUES = {
        "timed": {"HANDLER": "tests.support.handlers.timed"},
        "async": {"HANDLER": "tests.support.handlers.asynchronous"},
    }
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("SRQ_TEST_LOG", str(path))
    return path


@pytest.mark.timeout(60)
def test_a_handler_sees_the_frozen_clock(log):
    with freeze_time(NOON), isolated_queues():
        queues["timed"].put("a")
        queues["timed"].put("b", delay=dt.timedelta(hours=1))
        assert len(run_all("timed")) == 1
    assert log.read_text().splitlines() == ["2031-05-06 12:00:00"]


@pytest.mark.timeout(60)
@pytest.mark.django_db(transaction=True)  # the consumer also closes connections that earlier tests left open
@pytest.mark.parametrize("options", [[], ["--threads", "3"], ["--concurrency", "3"]], ids=" ".join)
def test_a_consumer_in_the_process_of_the_test_ends_under_a_frozen_clock(log, options):
    with freeze_time(NOON):
        for _ in range(20):
            queues["timed"].put("a")
            queues["async"].put("b")
        call_command("srq_consume", "--burst", "--processes", "0", *options)
    assert len(log.read_text().splitlines()) == 40
