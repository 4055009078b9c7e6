from __future__ import annotations

import datetime as dt
import io
import json
import os
import re
import shlex
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import redis
from django.core.management import call_command

from django_srq import queues, status
from django_srq.operations import Keys
from django_srq.status import QueueReport, Snapshot, verdicts
from tests.support.server_clock import now, pass_time
from tests.support.waiting import wait_for

pytestmark = pytest.mark.versions

MINUTE = 60.0
Configure = Callable[..., None]


@pytest.fixture
def configure(settings, server_url, prefix) -> Configure:
    """Configures queues with these aliases and options on the server under test."""

    def configure(*aliases: str, **options: object) -> None:
        settings.SRQ_QUEUES = {
            alias: {
                "URL": server_url,
                "PREFIX": f"{prefix}:{number}",
                "HANDLER": "tests.support.handlers.print",
                **options,
            }
            for number, alias in enumerate(aliases)
        }

    return configure


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The URL of a server that accepts connections and never answers."""
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(100)
        yield f"redis://127.0.0.1:{hole.getsockname()[1]}"


def keys(alias: str) -> Keys:
    return queues[alias].keys


def report(alias: str) -> QueueReport:
    (found,) = status.snapshot([alias]).queues
    return found


def text(snapshot: Snapshot, kind: str) -> str:
    """The text of the only finding of that kind."""
    (found,) = [str(finding) for finding in snapshot.findings if finding.kind == kind]
    return found


def see_consumer(client: redis.Redis, alias: str, seconds: float, **about: object) -> None:
    """Register a consumer that was last seen so many seconds ago."""
    entry = {"host": "worker-1", "pid": 4711, **about, "seen": now(client) - seconds * 1000}
    client.hset(keys(alias)["consumers"], "c-1", json.dumps(entry))


def claimed(client: redis.Redis, alias: str, seconds: float) -> None:
    """Store a last claim of so many seconds ago."""
    client.hset(keys(alias)["meta"], "kept", round(now(client) - seconds * 1000))


# -- numbers


def test_numbers_of_a_queue(configure):
    configure("orders", MAX_DELIVERIES=1, SERIALIZER="json")
    queue = queues["orders"]
    queue.put_many(range(6))
    queue.put("later", delay=100)
    queue.ack(queue.get(-1))
    queue.fail(queue.get(-1))
    queue.get(-1)
    found = report("orders")
    assert (found.ready, found.in_flight, found.delayed, found.dead) == (3, 1, 1, 1)
    assert found.totals == {"put": 7, "delivered": 3, "acked": 1, "failed": 1, "dead": 1}
    assert 0 <= found.oldest_wait < 60
    assert found.consumers == 0


def test_a_queue_with_nothing_ready_has_no_wait(configure):
    configure("orders")
    assert report("orders").oldest_wait is None


def test_oldest_wait_is_never_negative(configure, client):
    configure("orders")
    ahead = time.time_ns() // 1_000_000 + 3_600_000  # the clock of a producer is an hour ahead
    uid = f"{ahead:012x}7000800{0:013}"
    client.hset(keys("orders")["items"], uid, "1")
    client.lpush(keys("orders")["queue"], uid)
    assert report("orders").oldest_wait == 0


def test_a_healthy_queue(configure):
    configure("orders", "mail")
    snapshot = status.snapshot()
    assert snapshot.sentence == "All 2 queues are healthy."
    assert snapshot.level == "ok"
    assert [queue.state for queue in snapshot.queues] == ["ok", "ok"]
    assert status.snapshot(["mail"]).sentence == "The queue mail is healthy."


def test_no_queues(settings):
    settings.SRQ_QUEUES = {}
    assert "SRQ_QUEUES" in status.snapshot().sentence


# -- stuck


def test_stuck_because_no_consumer_was_ever_seen(configure):
    configure("orders")
    queues["orders"].put_many(range(3))
    snapshot = status.snapshot()
    assert snapshot.sentence == (
        "orders is stuck: 3 ready, and no consumer was ever seen. Start one: manage.py srq_consume orders"
    )
    assert (snapshot.level, snapshot.queues[0].state) == ("error", "stuck")


def test_stuck_because_no_consumer_was_seen_for_a_while(configure, client):
    configure("orders")
    queues["orders"].put_many(range(137))
    claimed(client, "orders", 13 * MINUTE)
    assert "orders is stuck: 137 ready, no live consumer for 13 min. Start one:" in status.snapshot().sentence


def test_a_lost_consumer_is_named(configure, client):
    configure("orders")
    queues["orders"].put(1)
    see_consumer(client, "orders", 3 * 3600, host="worker\x1b[31m")
    assert "no live consumer for 3 h (the last one: worker\N{REPLACEMENT CHARACTER}[31m, pid 4711)" in str(
        status.snapshot().findings[0]
    )


def test_the_advice_for_a_queue_without_handler(configure):
    configure("raw orders", HANDLER=None)
    queues["raw orders"].put(1)
    said = text(status.snapshot(), "stuck")
    assert "has no HANDLER" in said
    assert said.endswith("manage.py srq_consume 'raw orders'")


@pytest.mark.parametrize(
    ("lease", "seconds", "state"), [(15, 40, "ok"), (15, 50, "stuck"), (1, 10, "ok"), (1, 40, "stuck"), (30, 80, "ok")]
)
def test_a_consumer_counts_as_live_for_three_leases_after_it_was_seen(configure, client, lease, seconds, state):
    configure("orders", LEASE=lease)
    queues["orders"].put(1)
    see_consumer(client, "orders", seconds)
    found = report("orders")
    assert (found.state, found.consumers) == (state, int(state == "ok"))


@pytest.mark.parametrize(("seconds", "state"), [(20, "ok"), (40, "stuck")])
def test_callers_of_get_count_as_live_while_they_claim(configure, client, seconds, state):
    configure("orders")
    queues["orders"].put_many(range(2))
    queues["orders"].get(-1)
    claimed(client, "orders", seconds)
    assert report("orders").state == state


def test_get_stores_the_time_of_its_claim(configure):
    configure("orders")
    queues["orders"].get(-1)
    queues["orders"].put(1)
    assert report("orders").state == "ok"


def test_a_consumer_that_is_busy_with_another_queue_is_live(configure, client):
    configure("orders", "mail")
    queues["orders"].put(1)
    see_consumer(client, "orders", 10 * MINUTE)
    assert report("orders").state == "stuck"
    see_consumer(client, "mail", 1)
    assert status.snapshot().level == "ok"


@pytest.mark.parametrize("what", ["delayed", "in flight"])
def test_due_items_that_nobody_claims_make_a_queue_stuck(configure, client, what):
    configure("orders")
    queues["orders"].put(1, delay=100 if what == "delayed" else 0)
    queues["orders"].get(-1)
    claimed(client, "orders", MINUTE)
    assert report("orders").state == "ok"
    pass_time(client, keys("orders"), 101)
    assert "orders is stuck: 1 ready or due" in status.snapshot().sentence


# -- other findings about queues


def test_a_late_queue(configure, client):
    configure("orders", MAX_AGE=0.001)
    queues["orders"].put_many(range(2))
    see_consumer(client, "orders", 0)
    wait_for(lambda: report("orders").state == "late", "the item to be late")
    snapshot = status.snapshot()
    assert re.search(r"orders is late: the oldest of 2 ready items has waited for \d+ s", snapshot.sentence)
    assert "It has 1 live consumer." in snapshot.sentence
    assert "RATE" not in snapshot.sentence
    assert snapshot.level == "warning"


def test_a_queue_that_is_late_because_of_its_rate(configure, client):
    configure("orders", MAX_AGE=0.001, RATE="3/10s")
    queues["orders"].put_many(range(2))
    see_consumer(client, "orders", 0)
    wait_for(lambda: report("orders").state == "late", "the item to be late")
    assert "RATE allows at most 3 in 10 s." in status.snapshot().sentence


def test_a_failing_queue(configure):
    configure("orders", MAX_DELIVERIES=1)
    queues["orders"].put(1)
    queues["orders"].fail(queues["orders"].get(-1), ValueError())
    snapshot = status.snapshot()
    assert snapshot.sentence.startswith("orders has 1 dead item, which no consumer will take again. To see them:")
    assert snapshot.findings[0].command == "manage.py srq_show orders --state dead"
    assert snapshot.queues[0].state == "failing"


def test_ended_leases_that_nobody_recovers(configure, client):
    configure("orders", AUTOCLEAN_INTERVAL=None)
    queues["orders"].put(1)
    queues["orders"].get(-1)
    assert report("orders").state == "ok"
    pass_time(client, keys("orders"), 100)
    snapshot = status.snapshot()
    assert snapshot.queues[0].state == "abandoned"
    assert "AUTOCLEAN_INTERVAL is None" in snapshot.sentence
    program, *command = shlex.split(snapshot.findings[0].command)
    assert (program, command) == ("manage.py", ["srq_recover", "orders"])
    call_command(*command, "--no-input", stdout=io.StringIO())
    assert report("orders").in_flight == 0


def test_a_paused_queue(configure):
    configure("orders")
    queues["orders"].put(1)
    until = dt.datetime(2099, 12, 31, tzinfo=dt.UTC)
    queues["orders"].pause("deploy\n\x07", by="anna", until=until)
    snapshot = status.snapshot()
    # The queue is not stuck, although no consumer lives.
    assert [finding.kind for finding in snapshot.findings if finding.level != "note"] == ["paused"]
    assert re.search(r"orders is paused \(by anna, for \d+ s, until Dec\. 3", snapshot.sentence)
    assert "reason: deploy\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}): 1 ready." in snapshot.sentence
    paused = snapshot.queues[0].paused
    assert (paused.by, paused.until) == ("anna", until)


@pytest.mark.parametrize("until", [253_402_297_200_000, 10**18])
def test_a_pause_without_a_sensible_end(configure, settings, client, until):
    """``pause`` refuses such a time, but another program may have written it."""
    settings.TIME_ZONE = "Asia/Tokyo"
    configure("orders")
    queues["orders"].pause()
    client.set(keys("orders")["paused"], json.dumps({"since": now(client), "until": until}))
    assert "until Dec. 30, 9999" in text(status.snapshot(), "paused")


def test_a_pause_that_has_ended(configure, client):
    configure("orders")
    queues["orders"].pause(until=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
    client.set(keys("orders")["paused"], json.dumps({"since": 1, "until": now(client) - 1000}))
    assert (report("orders").state, report("orders").paused) == ("ok", None)


def test_the_worst_finding_comes_first(configure, client):
    configure("orders", "mail", MAX_DELIVERIES=1)
    for alias in ("orders", "mail"):
        queues[alias].put_many(range(2))
        queues[alias].fail(queues[alias].get(-1))
        claimed(client, alias, 2 * MINUTE)
    see_consumer(client, "orders", 0)
    snapshot = status.snapshot()
    assert [(finding.kind, finding.queue) for finding in snapshot.findings if finding.level != "note"] == [
        ("stuck", "mail"),
        ("failing", "orders"),
        ("failing", "mail"),
    ]
    assert snapshot.sentence.endswith("srq_consume mail (2 more)")
    assert [queue.state for queue in snapshot.queues] == ["failing", "stuck"]


def test_a_newer_layout_is_reported(configure, client):
    configure("orders")
    client.hset(keys("orders")["meta"], "layout", 99)
    assert "Upgrade django-srq" in text(status.snapshot(), "layout")


@pytest.mark.parametrize(("key", "value"), [("stats", "?"), ("paused", "no JSON"), ("queue", "?")])
def test_malformed_keys_of_one_queue_do_not_affect_others(configure, client, key, value):
    configure("orders", "mail")
    client.set(keys("mail")[key], value)
    snapshot = status.snapshot()
    assert "queue 'mail'" in text(snapshot, "layout")
    assert [queue.state for queue in snapshot.queues] == ["ok", "layout"]


@pytest.mark.parametrize("about", ["[]", '{"seen": "?"}', "{}", f'{{"seen": 1{"0" * 400}}}'])
def test_malformed_entries_of_consumers(configure, client, about):
    configure("orders")
    client.hset(keys("orders")["consumers"], "c-1", about)
    client.hset(keys("orders")["meta"], "kept", "?")
    assert report("orders").state == "ok"


# -- settings


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "neither URL nor CACHE"),
        ({"URL": "http://:secret@nowhere"}, "not a URL of a queue's server"),
        ({"URL": "redis://localhost", "PREFX": "x"}, "Did you mean 'PREFIX'?"),
        (17, "must be a dict of options"),
    ],
)
def test_a_misconfigured_queue_is_a_row(configure, settings, options, said):
    configure("orders")
    settings.SRQ_QUEUES = {"wrong": options, **settings.SRQ_QUEUES}
    snapshot = status.snapshot()
    assert said in text(snapshot, "misconfigured")
    assert [(queue.alias, queue.state) for queue in snapshot.queues] == [("wrong", "misconfigured"), ("orders", "ok")]
    assert "secret" not in json.dumps(snapshot.to_dict())


def test_settings_that_make_no_queue_usable(configure, settings):
    configure("orders", "mail")
    settings.SRQ_ADMIN = {"TIMEOUT": "soon"}
    snapshot = status.snapshot()
    assert "SRQ_ADMIN" in text(snapshot, "misconfigured")
    assert {queue.state for queue in snapshot.queues} == {"misconfigured"}


def test_a_setting_that_is_not_a_dict(settings):
    settings.SRQ_QUEUES = ["orders"]
    assert "SRQ_QUEUES must be a dict" in status.snapshot().sentence


def test_an_embedded_server_that_cannot_start(settings):
    settings.SRQ_QUEUES = {"orders": {"URL": "embedded:///proc/1/nowhere"}}
    snapshot = status.snapshot()
    assert snapshot.level == "error"
    assert "orders" in snapshot.sentence


# -- servers that do not answer


def test_a_server_goes_down_and_comes_back(settings, serve):
    server = serve()
    settings.SRQ_QUEUES = {"orders": {"URL": server.url}, "mail": {"URL": server.url}}
    assert status.snapshot().level == "ok"
    server.kill()
    first = status.snapshot()
    said = text(first, "down")
    assert f"The server 127.0.0.1:{server.port}/0 is down, noticed just now: " in said
    assert "Connection refused. Queues: orders, mail. Consumers wait, and continue when the server is back" in said
    assert "put() raises QueueUnavailable" in said
    assert [(queue.state, queue.ready) for queue in first.queues] == [("down", None), ("down", None)]
    later = status.snapshot()
    assert later.servers[0].down_since == first.servers[0].down_since
    server.start()
    assert status.snapshot().level == "ok"
    server.kill()
    assert status.snapshot().servers[0].down_since > first.servers[0].down_since


def test_a_restarted_server_does_not_count_as_down(settings, serve):
    server = serve()
    settings.SRQ_QUEUES = {"orders": {"URL": server.url}}
    assert status.snapshot().level == "ok"
    server.kill()
    server.start()
    assert status.snapshot().level == "ok"  # its connection is from before the restart, so it is dead


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "just now"), (3, "3 s ago"), (200, "3 min ago")])
def test_how_long_ago_the_status_was_read(seconds, said):
    finding = verdicts.unreachable("there", ["orders"], ConnectionError("gone"), seconds)
    assert f"there is down, noticed {said}: gone." in finding.text


def test_several_dead_servers_cost_the_time_of_one(settings, black_hole):
    settings.SRQ_ADMIN = {"TIMEOUT": 1}
    settings.SRQ_QUEUES = {f"queue{n}": {"URL": f"{black_hole}/{n}"} for n in range(30)}
    started = time.monotonic()
    snapshot = status.snapshot()
    assert time.monotonic() - started < 20  # one after the other, they would take 30 s
    assert {queue.state for queue in snapshot.queues} == {"down"}
    assert len(snapshot.servers) == 30
    # The threads that read the servers must end as well.
    wait_for(lambda: not any(thread.name == "srq-status" for thread in threading.enumerate()), "the end of the threads")


def test_a_dead_server_does_not_hide_the_others(settings, serve, server_url, prefix):
    servers = [serve(), serve()]
    settings.SRQ_QUEUES = {
        "orders": {"URL": servers[0].url},
        "mail": {"URL": servers[1].url},
        "bills": {"URL": servers[0].url, "TIMEOUT": 1},
    }
    snapshot = status.snapshot()
    assert [queue.server for queue in snapshot.queues] == [f"127.0.0.1:{servers[n].port}/0" for n in (0, 1, 0)]
    assert [server.address for server in snapshot.servers] == [f"127.0.0.1:{server.port}/0" for server in servers]
    servers[0].kill()
    assert [queue.state for queue in status.snapshot().queues] == ["down", "ok", "down"]
    assert status.snapshot(["mail"]).level == "ok"


def test_a_wrong_password_is_reported(settings, serve):
    server = serve()
    with server.client() as client:
        client.config_set("requirepass", "right")
    settings.SRQ_QUEUES = {"orders": {"URL": f"redis://:secret@127.0.0.1:{server.port}"}}
    snapshot = status.snapshot()
    assert "refuses the user or password" in text(snapshot, "refused")
    assert snapshot.queues[0].state == "refused"
    assert "secret" not in json.dumps(snapshot.to_dict())


def test_a_user_without_the_necessary_rights_is_reported(settings, serve):
    server = serve()
    settings.SRQ_QUEUES = {"orders": {"URL": f"redis://eve:pass@127.0.0.1:{server.port}"}}
    with server.client() as client:
        client.acl_setuser(
            "eve", enabled=True, passwords=["+pass"], keys=["*"], categories=["+@all"], commands=["-info"]
        )
        without_info = status.snapshot()
        client.acl_setuser("eve", commands=["-evalsha", "-eval", "-evalsha_ro", "-eval_ro"])
        without_scripts = status.snapshot()
    assert (without_info.level, without_info.servers[0].version) == ("warning", "")
    assert "does not answer INFO" in text(without_info, "no_info")
    assert [queue.state for queue in without_info.queues] == ["ok"]
    assert "access rules forbid it" in text(without_scripts, "refused")
    assert without_scripts.unreachable == ["orders"]


def test_a_server_that_is_loading_its_data(settings, serve):
    server = serve()
    settings.SRQ_QUEUES = {"orders": {"URL": server.url}}
    with server.client() as client:
        client.mset({f"key{n}": os.urandom(200) for n in range(500)})
        client.save()
    server.stop()
    # Each key takes some milliseconds to load; all together take longer than one look.
    server.options = ("--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024")
    server.start(wait=False)
    snapshot = wait_for(
        lambda: next((s for s in [status.snapshot()] if s.queues[0].state != "down"), None), "an answer"
    )
    assert "still loading its data" in text(snapshot, "loading")


# -- servers that answer


def test_the_facts_about_a_server(configure, client, server_url):
    configure("orders")
    snapshot = status.snapshot()
    (server,) = snapshot.servers
    info = client.info()
    assert server.type == info.get("server_name", "redis")
    assert server.version == info.get("valkey_version", info["redis_version"])
    assert server.memory > 100_000
    assert server.memory_limit is None
    assert 0 < server.latency < 60


@pytest.mark.parametrize(
    ("option", "kind", "level", "said"),
    [
        (("--replicaof", "127.0.0.1 1"), "read_only", "error", "is a read-only replica"),
        (("--maxmemory", "1", "--maxmemory-policy", "noeviction"), "out_of_memory", "error", "is out of memory"),
        (("--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"), "eviction", "warning", "may evict items"),
    ],
)
def test_troubles_of_a_server(settings, serve, option, kind, level, said):
    server = serve(*option)
    settings.SRQ_QUEUES = {"orders": {"URL": server.url}, "mail": {"URL": server.url}}
    snapshot = status.snapshot()
    assert said in text(snapshot, kind)
    assert snapshot.level == level
    assert {queue.state for queue in snapshot.queues} == {kind if level == "error" else "ok"}
    assert snapshot.unreachable == []


def test_memory_that_is_nearly_full(settings, serve):
    server = serve("--maxmemory-policy", "noeviction")
    settings.SRQ_QUEUES = {"orders": {"URL": server.url}}
    assert status.snapshot().level == "ok"
    with server.client() as client:
        client.set("much", bytes(20_000_000))  # so much that the memory of connections hardly matters
        client.config_set("maxmemory", int(client.info()["used_memory"] * 1.06))
        assert "is nearly full" in text(status.snapshot(), "memory")
        client.config_set("maxmemory", int(client.info()["used_memory"] * 0.9))
        assert "is out of memory" in text(status.snapshot(), "out_of_memory")
        client.config_set("maxmemory", int(client.info()["used_memory"] * 2))
    assert status.snapshot().level == "ok"


def test_a_disk_that_cannot_be_written(settings, serve):
    server = serve()
    settings.SRQ_QUEUES = {"orders": {"URL": server.url}}
    queues["orders"].put(1)
    queues["orders"].get(-1)
    shutil.rmtree(server.directory)
    with server.client() as client:
        client.bgsave()
        wait_for(lambda: client.info()["rdb_last_bgsave_status"] == "err", "the save to fail")
    assert "cannot write its data to disk" in text(status.snapshot(), "disk")


def test_a_server_without_append_only_file_is_noted_from_the_first_look_on(settings, serve):
    server = serve()
    settings.SRQ_QUEUES = {"orders": {"URL": server.url}}
    snapshot = status.snapshot()
    assert "has no append-only file: if it stops, it loses all items put since" in text(snapshot, "no_aof")
    assert (snapshot.level, snapshot.sentence) == ("ok", "The queue orders is healthy.")
    with server.client() as client:
        client.config_set("appendonly", "yes")
    assert status.snapshot().findings == []


def test_a_server_that_has_not_saved_for_hours_is_noted(serve):
    server = serve()
    with server.client() as client:
        client.set("some", "change")
        info = {name: str(value) for name, value in client.info().items()}
    later = [dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours) for hours in (1, 3)]
    young, old = ([finding.kind for finding in verdicts.of_server("there", info, at)] for at in later)
    assert (young, old) == (["no_aof"], ["unsaved"])
    assert verdicts.LEVELS["unsaved"] == "note"
    assert list(verdicts.of_server("there", {**info, "aof_enabled": "1"}, later[1])) == []


def test_a_server_on_which_scripts_may_not_ask_for_info(settings, serve):
    """Some services forbid it; for a script, a user without the right looks the same."""
    server = serve("--appendonly", "yes")
    settings.SRQ_QUEUES = {alias: {"URL": server.url} for alias in ("orders", "mail")}
    queues["mail"].put(1)
    queues["mail"].ack(queues["mail"].get(-1))
    assert status.snapshot().findings == []
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-info")
        queues["orders"].put(1)
        queues["orders"].ack(queues["orders"].get(-1))
        client.execute_command("ACL", "SETUSER", "default", "+info")
        snapshot = status.snapshot()
        assert "refuses INFO to scripts" in text(snapshot, "no_run")
        assert "Queue: orders." in text(snapshot, "no_run")
        assert (snapshot.level, snapshot.queues[0].state) == ("warning", "ok")
        client.hincrby(keys("orders")["meta"], "no_run", -2 * 3_600_000)
    assert status.snapshot().findings == []


# -- the cost of a look


def test_a_look_takes_one_round_trip_and_writes_nothing(settings, serve):
    server = serve()
    settings.SRQ_QUEUES = {alias: {"URL": server.url, "TIMEOUT": n} for n, alias in enumerate(["a", "b", "c"], 1)}
    for alias in ("a", "b"):  # nobody ever used the queue c
        queues[alias].put_many(range(10))
        queues[alias].get(-1)
    queues["a"].put(1, delay=0.001)
    queues["a"].pause()
    with server.client() as client:

        def seen() -> tuple[int, int, int]:
            info = client.info()
            return info["total_reads_processed"], info["rdb_changes_since_last_save"], client.dbsize()

        status.snapshot()
        reads, changes, size = zip(*(seen() for _ in range(10) if status.snapshot()), strict=True)
        assert (len(set(changes)), len(set(size))) == (1, 1)
        # Beside the look, dbsize and the second info count; the end of an older connection counts as a read as well.
        assert min(after - before for before, after in pairwise(reads)) == 3


def test_scripts_unknown_to_the_server_cost_one_more_round_trip(settings, serve):
    server = serve()
    settings.SRQ_QUEUES = {alias: {"URL": server.url} for alias in ("a", "b", "c")}
    with server.client() as client:
        for _ in range(2):
            client.script_flush()
            client.config_resetstat()
            assert status.snapshot().level == "ok"
            calls = client.info("commandstats")
            assert (calls["cmdstat_evalsha_ro"]["calls"], calls["cmdstat_eval_ro"]["calls"]) == (3, 3)


# -- plain data


def test_the_json_keeps_its_shape(configure, settings, dead_port):
    configure("orders", "mail")
    settings.SRQ_QUEUES = {**settings.SRQ_QUEUES, "bills": {"URL": f"redis://127.0.0.1:{dead_port}"}}
    queues["orders"].put(1)
    queues["mail"].pause("deploy", by="anna")
    data = json.loads(json.dumps(status.snapshot().to_dict()))
    assert list(data) == ["at", "level", "sentence", "findings", "queues", "servers"]
    assert dt.datetime.fromisoformat(data["at"]).utcoffset() == dt.timedelta(0)
    assert data["at"].endswith("Z")
    assert {tuple(finding) for finding in data["findings"]} == {
        ("kind", "level", "queue", "server", "text", "advice", "command")
    }
    assert [finding["kind"] for finding in data["findings"] if finding["level"] != "note"] == [
        "down",
        "stuck",
        "paused",
    ]
    orders, mail, bills = data["queues"]
    server = orders["server"]
    assert 0 <= orders.pop("oldest_wait") < 60
    rates = orders.pop("rates")
    assert orders.pop("failure_ratio") is None
    assert 1 / 6 <= rates["in"] <= 1 / 5
    assert rates["out"] == 0
    assert orders == {
        "queue": "orders", "server": server, "state": "stuck", "level": "error", "ready": 1, "in_flight": 0,
        "delayed": 0, "retrying": 0, "dead": 0, "consumers": 0, "paused": None, "totals": {"put": 1},
        "tasks": False, "done": None,
    }  # fmt: skip
    assert list(mail["paused"]) == ["by", "reason", "since", "until"]
    assert mail["paused"]["since"].endswith("Z")
    assert (bills["state"], bills["ready"], bills["totals"]) == ("down", None, {})
    up, down = data["servers"]
    names = ["server", "up", "down_since", "type", "version", "memory", "memory_limit", "latency"]
    assert list(up) == list(down) == names
    assert (up["up"], up["down_since"], down["up"]) == (True, None, False)
    assert down["down_since"].endswith("Z")


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.9, "59 s"), (60, "1 min"), (7199, "1 h"), (86400 * 3, "3 d")]
)
def test_span(seconds, said):
    assert verdicts.span(seconds) == said


def test_every_kind_of_finding_has_a_state():
    blocking = {kind for kind, level in verdicts.LEVELS.items() if level == "error"}
    assert blocking | {"ok", "erring", "paused", "late", "abandoned", "failing"} == set(verdicts.QUEUE_STATES)


def test_long_texts_are_cut():
    assert len(verdicts.readable("x" * 10_000)) == verdicts.LONGEST_TEXT
