"""How long a request may wait for a put: PUT_TIMEOUT, apart from TIMEOUT."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing

import pytest

from django_srq import OutcomeUnknown, QueueUnavailable, SafeRedisQueue, queues
from django_srq.queue import links
from django_srq.transport import link as link_module
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from tests.support.proxy import Proxy
from tests.support.waiting import PATIENT


@pytest.fixture
def slow(server_url):
    """A proxy that passes on no reply, and a link over it."""
    with closing(Proxy(server_url)) as proxy, closing(Link(client_from_url(proxy.url), timeout=PATIENT)) as link:
        proxy.arm("lose reply", times=1000)
        yield link


def test_the_default_is_two_seconds_or_the_timeout_if_that_is_less(monkeypatch):
    monkeypatch.setattr(links, "PUT_TIMEOUT", link_module.PUT_TIMEOUT)

    def seconds(**options):
        queue = SafeRedisQueue(url="redis://localhost", **options)
        return links.put_timeout_of(queue.link, queue.put_timeout)

    assert (seconds(), seconds(timeout=30), seconds(timeout=0.5)) == (2, 2, 0.5)
    assert (seconds(put_timeout=7), seconds(put_timeout=10_000), seconds(put_timeout=7, timeout=0.5)) == (7, 900, 7)


def test_the_settings_keep_one_link_for_queues_that_differ_in_it_alone(settings, server_url, prefix):
    settings.SRQ_DEFAULTS = {"URL": server_url, "PREFIX": prefix + "{alias}"}
    settings.SRQ_QUEUES = {"a": {"PUT_TIMEOUT": 3}, "b": {"PUT_TIMEOUT": 0.5}, "c": {}}
    assert [queues[alias].put_timeout for alias in "ab"] == [3, 0.5]
    assert queues["a"].link is queues["b"].link is queues["c"].link


PUTS = {
    "put": lambda queue, **options: queue.put(1, **options),
    "put_many": lambda queue, **options: queue.put_many([1, 2], **options),
    "aput": lambda queue, **options: asyncio.run(queue.aput(1, **options)),
    "aput_many": lambda queue, **options: asyncio.run(queue.aput_many([1], **options)),
}


@pytest.mark.parametrize("put", PUTS.values(), ids=PUTS)
def test_a_put_gives_up_after_its_own_time(slow, prefix, put):
    """The other calls of the link have longer: with their time, this test would end late, and name it."""
    queue = SafeRedisQueue(name=prefix, link=slow, put_timeout=0.2)
    with pytest.raises(OutcomeUnknown, match=r"no reply to put within 0\.2 s"):
        put(queue)
    with pytest.raises(OutcomeUnknown, match=r"no reply to put within 0\.3 s"):
        put(queue, timeout=0.3)


def test_the_start_of_an_embedded_server_does_not_count(server_url, prefix):
    started = []

    def prepare():
        if not started:
            time.sleep(0.6)  # the time that a server needs to start
        started.append(True)

    def put(queue, call):
        started.clear()
        call(queue)
        assert started

    link = Link(client_from_url(server_url), timeout=PATIENT, prepare=prepare)
    queue = SafeRedisQueue(name=prefix, link=link, put_timeout=0.5)
    put(queue, PUTS["put"])
    put(queue, PUTS["aput"])
    assert len(queue) == 2
    link.close()


def test_a_server_that_does_not_start_is_tried_once(prefix, server_url):
    tried = []

    def prepare():
        tried.append(True)
        time.sleep(0.3)
        raise ConnectionRefusedError

    link = Link(client_from_url(server_url), timeout=PATIENT, prepare=prepare)
    queue = SafeRedisQueue(name=prefix, link=link, put_timeout=0.2)
    for put in (PUTS["put"], PUTS["aput"]):
        tried.clear()
        with pytest.raises(QueueUnavailable):
            put(queue)
        assert len(tried) == 1


@pytest.mark.parametrize("name", ["json", "pickle", "raw"])
def test_a_serializer_may_be_given_by_its_name(make_queue, name):
    queue = make_queue(serializer=name)
    queue.put(b"x" if name == "raw" else ["x"])
    assert queue.get(-1).payload == (b"x" if name == "raw" else ["x"])
