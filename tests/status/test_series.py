"""The time series that the scripts write: each event is counted in its minute and hour, and the series stay bounded."""

from __future__ import annotations

import random

import pytest

from django_srq import operations, status
from django_srq.operations import DeliveryRef
from django_srq.status import series
from tests.support.server_clock import now, pass_minutes, pass_time
from tests.support.waiting import wait_for

ALL = {"minutes": operations.MINUTES, "hours": operations.HOURS}


@pytest.fixture(autouse=True)
def early(client) -> None:
    """Each test starts in the first 50 seconds of a minute, so that no minute ends meanwhile."""
    wait_for(lambda: now(client) % 60_000 < 50_000, "the next minute")


def read(queue):
    counts = queue.link.call(operations.counts(queue.keys, **ALL), queue=queue.alias)
    return series.series_of(counts, **ALL)


def handle(queue, n=1):
    for _ in range(n):
        queue.ack(queue.get(-1))


def test_events_are_counted_in_the_current_minute(queue):
    for n in range(4):
        queue.put(n)
    handle(queue, 2)
    queue.fail(queue.get(-1))
    found = read(queue)
    last = found.minutes[-1]
    assert (last.put, last.acked, last.failed, last.recovered, last.dead) == (4, 2, 1, 0, 0)
    assert found.hours[-1].put == 4
    assert last.wait_p50 is not None
    assert last.run_p95 is not None
    assert (len(found.minutes), len(found.hours)) == (180, 336)
    assert all(period.put == 0 and period.wait_p50 is None for period in (*found.minutes[:-1], *found.hours[:-1]))


def test_a_past_minute_keeps_its_counts(queue, client):
    queue.put(1)
    handle(queue)
    pass_minutes(client, queue.keys, 1)
    assert [period.put for period in read(queue).minutes[-3:]] == [0, 1, 0]  # nothing was counted since
    queue.put(2)
    queue.put(3)
    found = read(queue)
    assert [(period.put, period.acked) for period in found.minutes[-3:]] == [(0, 0), (1, 1), (2, 0)]
    assert found.minutes[-2].run_p50 is not None
    assert found.minutes[-1].run_p50 is None
    pass_minutes(client, queue.keys, 3)
    handle(queue, 2)
    assert [(period.put, period.acked) for period in read(queue).minutes[-6:]] == [
        (0, 0),
        (1, 1),
        (2, 0),
        (0, 0),
        (0, 0),
        (0, 2),
    ]


def test_a_past_hour_keeps_its_counts(queue, client):
    queue.put(1)
    pass_minutes(client, queue.keys, 60)
    queue.put(2)
    queue.put(3)
    pass_minutes(client, queue.keys, 120)
    handle(queue, 3)
    assert [(period.put, period.acked) for period in read(queue).hours[-4:]] == [(1, 0), (2, 0), (0, 0), (0, 3)]


def test_old_minutes_and_hours_are_dropped(queue, client):
    queue.put(1)
    pass_minutes(client, queue.keys, 180)
    queue.put(2)
    assert sum(period.put for period in read(queue).minutes) == 1
    assert sum(period.put for period in read(queue).hours) == 2
    pass_minutes(client, queue.keys, 336 * 60)
    queue.put(3)
    assert sum(period.put for period in read(queue).hours) == 1
    assert queue.snapshot().stats["put"] == 3


def test_wait_and_run_times_are_measured(queue, client):
    queue.put(1)
    item = queue.get(-1)
    (token,) = client.hvals(queue.keys["holders"])
    before = now(client) - 10_000
    client.hset(queue.keys["holders"], item.uid, token.decode().partition("@")[0] + f"@{before}")
    queue.ack(item.uid)  # called with a plain uid, ack takes the holder's token
    counted = read(queue).minutes[-1]
    assert 8 <= counted.run_p50 <= 17
    assert 0 <= counted.wait_p50 < 8


def test_the_wait_of_a_delayed_item_begins_when_it_is_due(queue, client):
    uid = queue.put(1, delay=3600)
    client.zadd(queue.keys["delayed"], {uid: now(client)})
    headers = client.hget(queue.keys["headers"], uid).decode()
    due = now(client) - 40_000
    client.hset(queue.keys["headers"], uid, headers.partition(',"due"')[0] + f',"due":{due}}}')
    assert queue.get(-1).uid == uid
    assert 32 <= read(queue).minutes[-1].wait_p50 <= 66


def test_only_the_first_delivery_of_an_item_counts_as_a_wait(queue):
    queue.put(1)
    queue.fail(queue.get(-1))
    queue.get(-1)
    stats = queue.snapshot()
    assert (stats.stats["delivered"], sum(stats.buckets.values())) == (2, 1)


def test_a_repeated_call_counts_once(queue):
    queue.put(1)
    call = operations.claim(queue.keys, consumer="g1", lease=60, legacy_lease=60)
    slot = operations_slot()
    for _ in range(2):
        queue.link.call(call, queue=queue.alias, slot=slot)
    assert queue.snapshot().stats["delivered"] == 1


def operations_slot():
    from django_srq.transport.slots import Slot

    return Slot(b"series-test", 1)


def test_a_running_minute_is_as_it_will_be_stored(queue, client):
    generator = random.Random(1)
    for name in ("wait", "run"):
        for e in range(operations.BUCKETS):
            client.hset(queue.keys["stats"], f"{name}{e}", 0)
    queue.put(1)
    for name in ("wait", "run"):
        for e in range(operations.BUCKETS - 1):
            client.hset(queue.keys["stats"], f"{name}{e}", generator.choice([0, 0, 1, 7, 100]))
    running = read(queue).minutes[-1]
    pass_minutes(client, queue.keys, 1)
    queue.put(2)
    closed = read(queue).minutes[-2]
    for name in ("wait_p50", "wait_p95", "run_p50", "run_p95"):
        assert getattr(closed, name) == getattr(running, name) > 0
    assert closed.acked == running.acked > 0


def test_the_series_stay_bounded(queue, client):
    """Fill all rings with large numbers, as in a busy queue after two weeks."""
    queue.put(1)
    pass_minutes(client, queue.keys, 1)
    queue.put(1)
    large = "1234567 1234567 1234567 1234567 1234567 12345678 123456789 12345678 123456789"
    rings = {f"m{i}": f"29926128 {large}" for i in range(180)} | {f"h{i}": f"498768 {large}" for i in range(336)}
    rings |= {f"pm{i}": "29926128 1234567" for i in range(180)} | {f"ph{i}": "498768 12345678" for i in range(336)}
    counters = {f"{kind}{e}": 10**9 for kind in ("wait", "run") for e in range(operations.BUCKETS)}
    client.hset(queue.keys["stats"], mapping={**rings, **counters})
    pass_minutes(client, queue.keys, 61)
    queue.put(2)
    client.hset(queue.keys["stats"], mapping={**rings, **counters})
    fields = client.hlen(queue.keys["stats"])
    for _ in range(3):
        client.hincrby(queue.keys["meta"], "minute", -61)
        queue.put(2)
    assert client.hlen(queue.keys["stats"]) == fields
    assert client.memory_usage(queue.keys["stats"], samples=0) < 150_000


def test_series_survive_a_server_clock_that_is_set_back(queue, client):
    queue.put(1)
    pass_minutes(client, queue.keys, -5)
    queue.put(2)
    assert read(queue).minutes[-1].put == 1
    assert queue.snapshot().stats["put"] == 2


def its_lease_ends(queue, client):
    queue.get(-1)
    pass_time(client, queue.keys, 61)
    queue.get(-1)


def its_consumer_dies(queue, client):
    (found,) = queue.link.call(queue.claim("c1.1", lease=60, n=1), queue="q").found
    held = [DeliveryRef(found.uid, found.delivery.token)]
    queue.link.call(operations.crashed(queue.keys, held, evidence=b'{"type":"Killed","message":"m"}'), queue="q")


@pytest.mark.parametrize("comes_back", [its_lease_ends, its_consumer_dies])
def test_recovered_items_are_reported(queue, client, settings, server_url, comes_back):
    settings.SRQ_QUEUES = {"orders": {"URL": server_url, "PREFIX": queue.name}}
    queue.put(1)
    assert "recovered" not in [finding.kind for finding in status.snapshot().findings]
    comes_back(queue, client)
    snapshot = status.snapshot()
    (finding,) = (found for found in snapshot.findings if found.kind == "recovered")
    assert finding.text.startswith("orders recovered 1 item in the last hour")
    assert (snapshot.level, snapshot.queues[0].state) == ("ok", "ok")
    pass_minutes(client, queue.keys, 61)
    assert "recovered" not in [finding.kind for finding in status.snapshot().findings]


def test_the_rates_of_a_series():
    minutes = [series.Period(None, put=60, acked=30)] * 10
    rates = series.Series(minutes, elapsed=30).rates
    assert rates == (pytest.approx(360 / 5.5), pytest.approx(180 / 5.5))
    assert series.Series().rates == (0, 0)
