"""MAX_IN_FLIGHT and RATE hold across all consumers, and no consumer is woken for nothing."""

from __future__ import annotations

import threading
import time

import pytest

from django_srq import ConfigurationError
from django_srq.consumer import InProcessConsumer, Subscription
from django_srq.queue.rate import Rate
from django_srq.queue.safe_redis_queue import LOOK
from django_srq.transport.slots import Slot
from tests.support.server_clock import now, pass_time
from tests.support.waiting import wait_for


def tokens(queue, client) -> int:
    return client.llen(queue.keys["wake"])


def meta(queue, client, field: str) -> float:
    return float(client.hget(queue.keys["meta"], field) or 0)


def ask(queue, consumer: str, n: int = 1):
    """Claim for this consumer; returns the reply."""
    slot = Slot(f"{consumer}-{time.monotonic_ns()}".encode(), 1)
    return queue.link.call(queue.claim(consumer, lease=600, n=n), queue=queue.alias, slot=slot)


def soon(queue, client, scenario):
    """The result of a scenario that ends before the rate allows the next item; repeated if the machine was too slow."""
    while True:
        due = now(client) + 1000 * LOOK - 1000
        client.hset(queue.keys["meta"], "next_due", due)
        client.hdel(queue.keys["meta"], "told")
        returned = scenario()
        if now(client) < due:
            return due, returned


# -- max_in_flight


def test_max_in_flight_bounds_the_items_in_flight(make_queue):
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
def test_consumers_are_woken_only_when_there_is_room(make_queue, client, settle):
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


def test_a_caller_without_the_limit_is_not_bound_by_it(make_queue):
    limited, free = make_queue(max_in_flight=1), make_queue()
    limited.put_many("ab")
    assert limited.get(-1)
    assert not limited.get(-1)
    assert free.get(-1).payload == b"b"


def test_an_acked_item_whose_holder_was_left_behind_makes_room(make_queue, client):
    """A late ack of saferedisqueue leaves the holder; the claim that finds no item under the uid removes it."""
    queue = make_queue(max_in_flight=2)
    uid = queue.put("ghost")
    queue.put_many("abc")
    assert queue.get(-1).uid == uid
    client.hdel(queue.keys["items"], uid)
    client.rpush(queue.keys["queue"], uid)
    client.delete(queue.keys["wake"])
    assert [item.payload for item in queue.get_many(5)] == [b"a"]
    assert tokens(queue, client) == 1
    assert queue.get(-1).payload == b"b"
    assert not queue.get(-1)


def test_move_ignores_the_limit_and_leaves_it_in_force(make_queue, client):
    queue, target = make_queue(max_in_flight=1), make_queue("2")
    queue.put_many("abc")
    assert queue.get(-1)
    assert queue.move(target) == 2
    queue.put("d")
    assert tokens(queue, client) == 0


# -- rate


def test_the_rate_spreads_items_over_time(make_queue, client):
    queue = make_queue(rate="20/s")
    queue.put_many(range(12))
    begun = now(client)
    got = [queue.get(60) for _ in range(12)]
    assert [item.payload for item in got] == [str(n).encode() for n in range(12)]
    # The first comes at once, and two more for the 0.1 s of unused time that may be caught up.
    assert now(client) - begun >= 9 * 50


def test_get_many_respects_the_rate(make_queue):
    queue = make_queue(rate="6/d")
    queue.put_many(range(5))
    assert len(queue.get_many(5)) == 1
    assert queue.get_many(5) == []
    assert len(queue) == 4


def test_a_put_wakes_nobody_while_a_consumer_has_an_appointment(make_queue, client):
    queue = make_queue(rate="13/m")
    queue.put_many("ab")
    assert queue.get(-1)
    assert not queue.get(-1)  # and gets an appointment in some seconds
    assert client.hexists(queue.keys["meta"], "told")
    client.hset(queue.keys["meta"], "told", now(client) + 3_600_000)  # far enough for a slow machine
    client.delete(queue.keys["wake"])
    queue.put("c")
    assert tokens(queue, client) == 0


def test_a_claim_that_comes_too_early_wakes_nobody(make_queue, client):
    queue = make_queue(rate="6/d")  # the next item is allowed only in four hours
    queue.put_many("ab")
    assert queue.get(-1)
    client.delete(queue.keys["wake"])
    assert not queue.get(-1)
    assert tokens(queue, client) == 0
    assert meta(queue, client, "told") <= now(client) + 1000 * LOOK  # an idle consumer looks at least that often


def test_a_single_early_consumer_gets_the_appointment(make_queue, client):
    queue = make_queue(rate="1/h")
    queue.put_many("ab")

    def scenario():
        first = ask(queue, "c1")
        left = [tokens(queue, client)]
        client.rpush(queue.keys["wake"], "1")
        other = ask(queue, "c2")
        left.append(tokens(queue, client))
        return [first, ask(queue, "c1", n=5), other], left

    due, (replies, left) = soon(queue, client, scenario)
    assert meta(queue, client, "told") == due
    for reply in replies[:2]:  # the same consumer keeps its appointment
        assert 0 < reply.wait <= LOOK - 1
    assert replies[2].wait is None
    assert [reply.held_up for reply in replies] == [2, 2, 2]
    assert left == [0, 0]  # further tokens would wake consumers for nothing


def test_a_second_early_consumer_comes_later_in_case_the_first_does_not_come(make_queue, client):
    queue = make_queue(rate="1/h")
    queue.put_many("ab")
    due = 0.0
    while now(client) >= due:  # repeated if the machine was too slow
        due = now(client) + 1000
        client.hset(queue.keys["meta"], "next_due", due)
        client.hdel(queue.keys["meta"], "told")
        first, other = ask(queue, "c1"), ask(queue, "c2")
    assert first.wait <= 1
    assert 2 < other.wait <= 3


@pytest.mark.parametrize("n", [1, 5])
def test_a_consumer_that_takes_the_last_allowed_item_wakes_another_for_the_appointment(make_queue, client, n):
    """The first is busy with its item and may come too late for the next one."""
    queue = make_queue(rate="6/d")
    queue.put_many("abc")
    assert len(ask(queue, "c1", n).found) == 1
    assert tokens(queue, client) == 1
    assert not client.hexists(queue.keys["meta"], "told")
    assert not ask(queue, "c2").found
    assert tokens(queue, client) == 0
    assert client.hget(queue.keys["meta"], "told_to") == b"c2"


def test_items_that_become_ready_beyond_the_rate_wake_a_single_consumer(make_queue, client):
    queue = make_queue(rate="6/d")
    queue.put_many("abc", delay=600)
    pass_time(client, queue.keys, 601)
    reply = ask(queue, "c1")
    assert (len(reply.found), reply.held_up) == (1, 2)
    assert tokens(queue, client) == 1  # for the consumer that gets the appointment


def test_a_consumer_with_the_appointment_takes_an_item_and_wakes_another(make_queue, client):
    queue = make_queue(rate="1/h")
    queue.put_many("abc")
    soon(queue, client, lambda: ask(queue, "c1"))
    client.hset(queue.keys["meta"], mapping={"told": now(client), "next_due": now(client)})
    assert len(ask(queue, "c1").found) == 1
    assert tokens(queue, client) == 1


def test_a_consumer_with_the_appointment_but_no_room_wakes_another(make_queue, client):
    queue = make_queue(rate="1/h")
    queue.put_many("ab")

    def scenario():
        ask(queue, "c1")
        ask(queue, "c2", n=0)
        kept = tokens(queue, client)
        ask(queue, "c1", n=0)
        return kept, tokens(queue, client), client.hexists(queue.keys["meta"], "told")

    _, returned = soon(queue, client, scenario)
    assert returned == (0, 1, False)


def test_an_appointment_ends_when_its_consumer_finds_nothing(make_queue, client):
    queue = make_queue(rate="1/h")

    def scenario():
        queue.put("a")
        ask(queue, "c1")
        queue.purge("ready")
        ask(queue, "c1")  # and gets no appointment
        queue.put("b")
        return tokens(queue, client)

    _, returned = soon(queue, client, scenario)
    assert returned == 1


@pytest.mark.parametrize(("rate", "found"), [("4/s", 1), ("10/s", 2), ("20/s", 3), ("100/s", 11)])
def test_a_claim_may_catch_up_a_tenth_of_a_second_of_unused_time(make_queue, client, rate, found):
    queue = make_queue(rate=rate)
    queue.put_many(range(20))
    client.hset(queue.keys["meta"], "next_due", now(client) - 3_600_000)
    assert len(ask(queue, "c1", n=20).found) == found


@pytest.mark.parametrize("late", [60, 3_600_000])
def test_a_late_claim_shifts_the_schedule_by_all_but_a_tenth_of_a_second(make_queue, client, late):
    queue = make_queue(rate="1/h")
    queue.put_many("ab")
    begun = now(client)
    due = begun - late
    client.hset(queue.keys["meta"], "next_due", due)
    assert ask(queue, "c1").found
    schedule = meta(queue, client, "next_due") - 3_600_000
    assert max(due, begun - 100) <= schedule <= max(due, now(client) - 100)


def test_a_consumer_claims_twice_for_each_item(make_queue, monkeypatch):
    """The first claim is too early, the second in time."""
    queue = make_queue(rate="20/s")
    asked, claim = [], queue.claim
    monkeypatch.setattr(queue, "claim", lambda *args, **terms: asked.append(terms) or claim(*args, **terms))
    queue.put_many(range(20))
    consumer = InProcessConsumer([Subscription(queue, lambda item: item.payload == b"19" and consumer.stop())])
    consumer.run()
    assert consumer.handled == 20
    assert len(asked) <= 2 * 20 + 2  # two more at the end


def test_no_appointment_is_made_while_too_many_items_are_in_flight(make_queue, client):
    """The next ack wakes a consumer."""
    queue = make_queue(max_in_flight=1, rate="1/h")
    queue.put_many("ab")
    assert ask(queue, "c1").found
    assert ask(queue, "c2").held_up == 1
    assert not client.hexists(queue.keys["meta"], "told")


def test_a_former_slower_rate_delays_nothing(make_queue):
    slow, quick = make_queue(rate="1/d"), make_queue(rate="100/s")
    slow.put_many("ab")
    assert slow.get(-1)
    assert not slow.get(-1)
    assert quick.get(60).payload == b"b"


def test_an_appointment_by_a_clock_that_was_ahead_delays_nobody(make_queue, client):
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
    assert InProcessConsumer([Subscription(queue, lambda item: None)], burst=True).run() == 8


def test_a_burst_ends_when_the_queue_is_paused(make_queue):
    queue = make_queue(rate="20/s")
    queue.put_many(range(8))
    queue.pause()
    assert InProcessConsumer([Subscription(queue, lambda item: None)], burst=True).run() == 0


def test_consumers_of_one_queue_share_the_rate(make_queue, client):
    queue = make_queue(rate="20/s")
    begun = now(client)
    consumers = [InProcessConsumer([Subscription(queue, lambda item: None)]) for _ in range(3)]
    threads = [threading.Thread(target=consumer.run) for consumer in consumers]
    for thread in threads:
        thread.start()
    queue.put_many(range(12))
    wait_for(lambda: queue.snapshot().stats.get("acked") == 12, "the last ack")
    assert now(client) - begun >= 9 * 50
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


@pytest.mark.parametrize(
    "written", ["", "10", "0/s", "1/0s", "1/w", "-1/s", "1.5/s", " 1/s", "1/s ", "9999999/s", 10, b"10/s"]
)
def test_an_invalid_rate_is_refused(make_queue, written):
    with pytest.raises(ConfigurationError, match="is no rate such as '10/s'"):
        make_queue(rate=written)
