"""The registry: aliases, errors, override_settings, one link per process and target, put_on_commit."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import threading
import warnings
from contextlib import closing

import pytest
import redis
from django.db import transaction
from django.test import override_settings

import django_srq
from django_srq import (
    ConfigurationError,
    InvalidArgument,
    OutcomeUnknown,
    PayloadError,
    QueueUnavailable,
    UnknownQueue,
    default_queue,
    queues,
)
from tests.support.proxy import Proxy

pytestmark = pytest.mark.versions


@pytest.fixture
def configured(settings, server_url, prefix):
    settings.SRQ_DEFAULTS = {"URL": server_url, "PREFIX": prefix + ".{alias}"}
    settings.SRQ_QUEUES = {"default": {}, "orders": {"AUTOCLEAN_INTERVAL": 7}, "raw": {"SERIALIZER": "raw"}}
    return settings


def test_an_alias_gives_its_queue(configured, prefix):
    assert queues["orders"].autoclean_interval == 7
    assert str(queues["orders"].keys) == f"srq:{prefix}.orders"
    assert list(queues) == ["default", "orders", "raw"]
    assert "orders" in queues
    assert "nothing" not in queues


def test_default_queue_is_the_queue_named_default(configured):
    uid = default_queue.put({"a": 1})
    assert len(default_queue) == 1
    assert queues["default"].get(-1) == (uid, {"a": 1})
    assert default_queue  # true although the queue is empty
    assert repr(default_queue) == repr(queues["default"])


def test_an_unknown_queue_suggests_a_known_one(configured):
    with pytest.raises(
        UnknownQueue, match=r"Unknown queue 'ordres'\. Did you mean 'orders'\? Known: default, orders, raw"
    ):
        queues["ordres"]


def test_without_a_configured_queue(settings):
    settings.SRQ_QUEUES = {}
    with pytest.raises(UnknownQueue, match="Known: none"):
        queues["default"]


def test_a_misconfigured_queue_leaves_the_others_usable(configured):
    configured.SRQ_QUEUES = {"good": {}, "bad": {"AUTOCLEAN": 5}}
    assert queues["good"].put(1)
    with pytest.raises(ConfigurationError, match=r"SRQ_QUEUES\['bad'\] has the unknown option 'AUTOCLEAN'"):
        queues["bad"]


def test_override_settings_makes_new_queues(configured, server_url):
    before = queues["orders"]
    with override_settings(SRQ_QUEUES={"orders": {"AUTOCLEAN_INTERVAL": 9}}):
        assert queues["orders"].autoclean_interval == 9
        with pytest.raises(UnknownQueue):
            queues["raw"]
    assert queues["orders"].autoclean_interval == 7
    assert queues["orders"] is not before


def test_a_change_of_caches_moves_the_queue(configured, server_url):
    cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": server_url}
    with override_settings(CACHES={"queues": cache}, SRQ_QUEUES={"orders": {"CACHE": "queues", "PREFIX": "x"}}):
        first = queues["orders"].link.address
        with override_settings(CACHES={"queues": {**cache, "LOCATION": server_url[:-1] + "3"}}):
            assert queues["orders"].link.address == first[:-1] + "3"


@pytest.mark.parametrize("backend", ["django_redis.cache.RedisCache", "django.core.cache.backends.redis.RedisCache"])
def test_a_cache_alias_of_either_backend(configured, server_url, backend):
    with override_settings(
        CACHES={"default": {"BACKEND": backend, "LOCATION": server_url}},
        SRQ_QUEUES={"orders": {"CACHE": "default", "PREFIX": configured.SRQ_DEFAULTS["PREFIX"].format(alias="c")}},
    ):
        uid = queues["orders"].put({"order": 17})
        assert queues["orders"].get(-1) == (uid, {"order": 17})
        assert queues["orders"].ack(uid)


def test_the_url_or_cache_of_a_queue_overrides_the_defaults(configured, server_url):
    with override_settings(
        CACHES={"c": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": server_url[:-1] + "5"}},
        SRQ_QUEUES={"orders": {"CACHE": "c"}},
    ):
        assert queues["orders"].link.address.endswith("/5")


def test_the_default_serializer_is_json(configured, client):
    queues["orders"].put({"name": "Zoë"})
    (payload,) = client.hvals(queues["orders"].keys["items"])
    assert payload == '{"name":"Zoë"}'.encode()


def test_one_link_per_target_for_all_threads_tasks_and_aliases(configured):
    found = {queues["default"].link, queues["orders"].link}
    objects = [queues["orders"]]
    of_tasks = []

    def look() -> None:
        objects.append(queues["orders"])
        found.add(queues["orders"].link)

    threads = [threading.Thread(target=look) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def task() -> None:
        look()
        of_tasks.append(queues["raw"])

    async def tasks() -> None:
        await asyncio.gather(*(task() for _ in range(5)))

    asyncio.run(tasks())
    assert len(found) == 1
    assert len({id(queue) for queue in objects}) > 1  # each thread has its own queue object
    assert len({id(each) for each in of_tasks}) == 1  # all tasks of a thread share one


def test_another_time_limit_needs_another_link(configured):
    configured.SRQ_QUEUES = {"a": {}, "b": {"TIMEOUT": 1}}
    assert queues["a"].link is not queues["b"].link
    assert queues["b"].link.timeout == 1


def test_queues_work_after_their_connections_were_closed(configured, client):
    assert len(queues["orders"]) == 0
    idle = queues["orders"].link.connections.here().threads.idle
    assert idle
    queues.close_all()
    assert not idle
    assert len(queues["orders"]) == 0


def test_a_forked_child_uses_connections_of_its_own(configured, client):
    queue = queues["orders"]
    queue.put(1)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of other tests' threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, queues["orders"].put(2).encode())
            status = 0
        finally:
            os._exit(status)
    uids = {queue.put(3)}
    assert os.waitpid(child, 0)[1] == 0
    uids.add(os.read(reader, 100).decode())
    os.close(reader)
    os.close(writer)
    assert {uid for uid, _ in queue.get_many(3)} > uids


def test_importing_the_package_reads_no_settings():
    assert django_srq.queues is queues  # this module imported it without using a queue, and no setting was read


def test_an_error_about_an_unreachable_server_names_the_alias(configured, dead_port):
    configured.SRQ_QUEUES = {"far": {"URL": f"redis://user:secret@127.0.0.1:{dead_port}", "TIMEOUT": 0.2}}
    with pytest.raises(QueueUnavailable, match="queue 'far'") as raised:
        queues["far"].put(1)
    assert "secret" not in str(raised.value)
    assert isinstance(raised.value, redis.ConnectionError)


@pytest.mark.django_db(transaction=True)
class TestPutOnCommit:
    def test_puts_after_the_commit(self, configured):
        with transaction.atomic():
            uid = queues["orders"].put_on_commit({"order": 1})
            assert len(queues["orders"]) == 0
        assert queues["orders"].get(-1) == (uid, {"order": 1})

    def test_puts_nothing_after_a_rollback(self, configured):
        with pytest.raises(RuntimeError), transaction.atomic():
            queues["orders"].put_on_commit({"order": 1})
            raise RuntimeError
        assert len(queues["orders"]) == 0

    def test_puts_at_once_without_a_transaction(self, configured):
        queues["orders"].put_on_commit({"order": 1}, using="default")
        assert len(queues["orders"]) == 1

    def test_serialises_the_payload_at_the_call(self, configured):
        payload = {"order": 1}
        with transaction.atomic():
            queues["orders"].put_on_commit(payload)
            payload["order"] = 2
        assert queues["orders"].get(-1).payload == {"order": 1}

    def test_a_payload_that_cannot_be_serialised_raises_before_the_commit(self, configured):
        with transaction.atomic(), pytest.raises(PayloadError):
            queues["orders"].put_on_commit(object())

    def test_passes_the_options_of_put(self, configured):
        with transaction.atomic():
            queues["orders"].put_on_commit(1, uid="mine", delay=60, headers={"a": "b"})
        (item,) = queues["orders"].items("delayed")
        assert (item.uid, item.headers) == ("mine", {"a": "b"})

    def test_an_error_goes_to_the_caller_unless_robust(self, configured, caplog, dead_port):
        configured.SRQ_QUEUES = {"far": {"URL": f"redis://127.0.0.1:{dead_port}", "TIMEOUT": 0.2}}
        with pytest.raises(QueueUnavailable), transaction.atomic():
            queues["far"].put_on_commit(1)
        with transaction.atomic():
            queues["far"].put_on_commit(1, robust=True)
        assert "on_commit" in caplog.text

    def test_an_error_after_the_commit_says_so(self, configured, dead_port):
        configured.SRQ_QUEUES = {"far": {"URL": f"redis://127.0.0.1:{dead_port}", "TIMEOUT": 0.2}}
        with pytest.raises(QueueUnavailable, match="^queue 'far' ") as raised, transaction.atomic():
            uid = queues["far"].put_on_commit(1)
        again = f"put it again with queues['far'].put(…, uid='{uid}'), which adds nothing if it is there"
        assert str(raised.value).endswith(f"; the transaction is committed, but the item is not in the queue: {again}")
        with pytest.raises(QueueUnavailable) as raised:
            queues["far"].put_on_commit(1)
        assert "committed" not in str(raised.value)

    def test_an_unknown_outcome_after_the_commit_says_so(self, configured, server_url):
        with closing(Proxy(server_url)) as proxy:
            configured.SRQ_QUEUES = {"far": {"URL": proxy.url, "PUT_TIMEOUT": 60}}
            proxy.arm("lose reply", times=1000)
            with pytest.raises(OutcomeUnknown, match=r"within 0\.3 s") as raised, transaction.atomic():
                uid = queues["far"].put_on_commit(1, timeout=0.3)
            proxy.disarm()
            assert f"the item may be in the queue: put it again with queues['far'].put(…, uid='{uid}')" in str(
                raised.value
            )
            queues["far"].put(1, uid=uid)
            assert len(queues["far"]) == 1


@pytest.mark.parametrize(
    ("eta", "utc"),
    [
        (dt.datetime(2031, 1, 1, 12), "2031-01-01T11:00"),
        (dt.datetime(2031, 7, 1, 12), "2031-07-01T10:00"),
        (dt.datetime(2031, 10, 26, 2, 30), "2031-10-26T00:30"),  # the clock repeats this hour: its first pass
        (dt.datetime(2031, 10, 26, 2, 30, fold=1), "2031-10-26T01:30"),
        (dt.datetime(2031, 1, 1, 12, tzinfo=dt.UTC), "2031-01-01T12:00"),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_a_naive_eta_is_local_time_in_a_project_without_time_zones(settings, server_url, prefix, eta, utc):
    """So is a naive end of a pause. Where USE_TZ is on, both are errors, as for a queue without settings."""
    settings.SRQ_QUEUES = {"orders": {"URL": server_url, "PREFIX": prefix}}
    settings.TIME_ZONE = "Europe/Berlin"
    settings.USE_TZ = False
    queue = queues["orders"]
    due = dt.datetime.fromisoformat(f"{utc}+00:00")
    queue.put("x", eta=eta)
    queue.put_on_commit("x", eta=eta)
    assert [item.delivery.when for item in queue.items("delayed")] == [due, due]
    queue.pause(until=eta)
    paused = queue.snapshot().paused
    assert paused is not None
    assert paused["until"] == due.timestamp() * 1000
    queue.resume()
    queue.purge()
    settings.USE_TZ = True
    if eta.tzinfo is None:
        with pytest.raises(InvalidArgument, match="eta is an aware datetime"):
            queue.put("x", eta=eta)
        with pytest.raises(InvalidArgument, match="until is an aware datetime"):
            queue.pause(until=eta)
