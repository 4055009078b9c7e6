"""MAX_IN_FLIGHT and RATE: across all consumers, and nobody is woken in vain."""

from __future__ import annotations

import threading

import pytest

from django_srq import ConfigurationError
from django_srq.consumer import Consumer, Source
from django_srq.rate import Rate
from tests.clock import now
from tests.waiting import wait_for


def tokens(queue, client) -> int:
    return client.llen(queue.keys["wake"])


# -- max_in_flight


def test_no_more_are_handed_out_than_may_be_in_flight(make_queue):
    queue = make_queue(max_in_flight=3)
    queue.put_many("abcdef")
    assert len(queue.get_many(2)) == 2
    items = queue.get_many(5)
    assert len(items) == 1
    assert not queue.get(-1)
    queue.ack(items[0])
    assert queue.get(-1).payload == b"d"
    assert queue.audit() == []


def settle_by_ack(queue, item):
    assert queue.ack(item)


def settle_by_fail(queue, item):
    assert queue.fail(item, delay=600) == "delayed"


def settle_by_release(queue, item):
    assert queue.release(item)


@pytest.mark.parametrize("settle", [settle_by_ack, settle_by_fail, settle_by_release])
def test_nobody_is_woken_before_there_is_room(make_queue, client, settle):
    queue = make_queue(max_in_flight=1)
    queue.put("a")
    item = queue.get(-1)
    queue.put_many("bcd")
    assert tokens(queue, client) == 0
    settle(queue, item)
    assert tokens(queue, client) == 1
    assert queue.get(-1)
    assert not queue.get(-1)


def test_a_blocked_get_is_served_when_there_is_room(make_queue):
    queue = make_queue(max_in_flight=1)
    queue.put_many("ab")
    first, got = queue.get(-1), []
    thread = threading.Thread(target=lambda: got.append(queue.get(60)))
    thread.start()
    assert queue.ack(first)
    thread.join(60)
    assert got[0].payload == b"b"


def test_the_end_of_a_lease_makes_room(make_queue):
    queue = make_queue(max_in_flight=1, autoclean_interval=0.2)
    queue.put_many("ab")
    assert queue.get(-1).payload == b"a"
    again = queue.get(60)
    assert (again.payload, again.deliveries) == (b"a", 2)


def test_a_limit_that_is_given_up_holds_no_more(make_queue):
    limited, free = make_queue(max_in_flight=1), make_queue()
    limited.put_many("ab")
    assert limited.get(-1)
    assert not limited.get(-1)
    assert free.get(-1).payload == b"b"


def test_moving_is_not_limited_and_keeps_the_limit(make_queue, client):
    queue, target = make_queue(max_in_flight=1), make_queue("2")
    queue.put_many("abc")
    assert queue.get(-1)
    assert queue.move(target) == 2
    queue.put("d")
    assert tokens(queue, client) == 0


# -- rate


def test_items_are_spread_over_the_time(make_queue, client):
    queue = make_queue(rate="20/s")
    queue.put_many(range(12))
    begun = now(client)
    got = [queue.get(60) for _ in range(12)]
    assert [item.payload for item in got] == [str(n).encode() for n in range(12)]
    # The first and, within 0.1 s of the rate, another one may come at once.
    assert now(client) - begun >= 10 * 50


def test_many_at_once_are_no_way_around_it(make_queue):
    queue = make_queue(rate="6/d")
    queue.put_many(range(5))
    assert len(queue.get_many(5)) == 1
    assert queue.get_many(5) == []
    assert len(queue) == 4


def test_nobody_is_woken_while_somebody_is_to_come(make_queue, client):
    queue = make_queue(rate="13/m")
    queue.put_many("ab")
    assert queue.get(-1)
    assert not queue.get(-1)  # and is told to come in some seconds
    assert client.hexists(queue.keys["meta"], "told")
    client.hset(queue.keys["meta"], "told", now(client) + 3_600_000)  # however slow this machine is
    client.delete(queue.keys["wake"])
    queue.put("c")
    assert tokens(queue, client) == 0


def test_whoever_comes_before_the_rate_allows_it_wakes_nobody(make_queue, client):
    queue = make_queue(rate="6/d")  # so slow that nobody is told when to come
    queue.put_many("ab")
    assert queue.get(-1)
    client.delete(queue.keys["wake"])
    assert not queue.get(-1)
    assert tokens(queue, client) == 0


def test_a_slower_rate_of_before_holds_nothing_up(make_queue):
    slow, quick = make_queue(rate="1/d"), make_queue(rate="100/s")
    slow.put_many("ab")
    assert slow.get(-1)
    assert not slow.get(-1)
    assert quick.get(60).payload == b"b"


def test_an_appointment_by_a_clock_that_was_ahead_keeps_nobody_asleep(make_queue, client):
    queue = make_queue(rate="100/s")
    queue.put("a")
    assert queue.get(-1)
    client.hset(queue.keys["meta"], "told", now(client) + 3_600_000)
    assert not queue.get(-1)
    queue.put("b")
    assert tokens(queue, client) == 1


def test_a_burst_waits_for_the_rate(make_queue):
    queue = make_queue(rate="20/s")
    queue.put_many(range(8))
    assert Consumer([Source(queue, lambda item: None)], burst=True).run() == 8


def test_a_burst_ends_when_the_queue_is_paused(make_queue):
    queue = make_queue(rate="20/s")
    queue.put_many(range(8))
    queue.pause()
    assert Consumer([Source(queue, lambda item: None)], burst=True).run() == 0


def test_consumers_of_one_queue_share_the_rate(make_queue, client):
    queue = make_queue(rate="20/s")
    begun = now(client)
    consumers = [Consumer([Source(queue, lambda item: None)]) for _ in range(3)]
    threads = [threading.Thread(target=consumer.run) for consumer in consumers]
    for thread in threads:
        thread.start()
    queue.put_many(range(12))
    wait_for(lambda: queue.snapshot().stats.get("acked") == 12, "the last ack")
    assert now(client) - begun >= 10 * 50
    for consumer in consumers:
        consumer.stop()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("written", "per_second"), [("10/s", 10), ("90/m", 1.5), ("7200/h", 2), ("86400/d", 1), ("3/10s", 0.3)]
)
def test_a_rate_is_written_as_count_per_time(written, per_second):
    assert Rate.parse(written).per_second == pytest.approx(per_second)


@pytest.mark.parametrize("written", ["", "10", "0/s", "1/0s", "1/w", "-1/s", "1.5/s", " 1/s", "1/s ", "9999999/s"])
def test_what_is_no_rate_is_refused(make_queue, written):
    with pytest.raises(ConfigurationError, match="is no rate such as '10/s'"):
        make_queue(rate=written)
