"""put, claim and ack have a fast path for the common case, and a careful path for the rest: both do the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from django_srq import operations
from django_srq.operations import DeliveryRef, Put
from django_srq.queue.rate import Rate
from django_srq.transport.slots import Slot
from tests.support.server_clock import now

pytestmark = pytest.mark.versions

NUMEROUS = 10**6
UIDS = [f"0190{n:04x}-0000-7000-8000-{n:012x}" for n in range(40)]  # like generated ones


class Way:
    """A queue whose calls take the fast path whenever they can, or never."""

    def __init__(self, queue, client, *, careful: bool) -> None:
        self.queue, self.client, self.careful = queue, client, careful
        self.keys, self.slot = queue.keys, Slot(b"test")
        self.limit = NUMEROUS if careful else None  # limits that are never reached
        self.rate = Rate(NUMEROUS, 1) if careful else None
        self.claim(0)  # the first claim does the housekeeping
        if careful:
            client.hset(self.keys["headers"], "nobody", '{"number":0}')  # then any item may have records

    def call(self, call: operations.Call) -> Any:
        self.client.hset(self.keys["meta"], "kept", now(self.client))  # so that no housekeeping is due
        self.slot.seq += 1
        return self.queue.link.call(call, queue=self.queue.alias, slot=self.slot)

    def put(self, uids: list[str]) -> Any:
        items = [Put(uid, uid.encode(), b"") for uid in uids]
        return self.call(operations.put(self.keys, items, own=False, max_length=self.limit))

    def claim(self, n: int, acks: list[DeliveryRef] | None = None) -> list[str]:
        """The reply without its times."""
        reply = self.call(
            operations.claim(
                self.keys,
                consumer="c1",
                lease=600,
                legacy_lease=600,
                n=n,
                interval=self.rate.interval if self.rate else 0,
                acks=acks or [],
            )
        )
        self.found = reply.found
        return [re.sub(r"@\d+", "", str(part)) for part in (reply.acked, reply.wait, reply.held_up, reply.found)]

    def ack(self, held: list[DeliveryRef]) -> Any:
        return self.call(operations.ack(self.keys, held))

    def held(self) -> list[DeliveryRef]:
        return [DeliveryRef(found.uid, found.delivery.token) for found in self.found]

    def contents(self) -> dict[str, Any]:
        """The contents of all keys of the queue, without times and without the fields that make the calls careful."""
        counts = self.queue.snapshot()
        hashes = {
            key: {
                field: re.sub(rb"@\d+", b"", value)
                for field, value in self.client.hgetall(self.keys[key]).items()
                if field != b"nobody"
            }
            for key in ("items", "holders", "deliveries", "crashes", "errors", "headers")
        }
        outcome = self.client.hget(self.keys["slots"], self.slot.name)
        leases = self.client.zrange(self.keys["leases"], 0, -1, withscores=True)
        return {
            **hashes,
            "outcome": re.sub(rb"@\d+|(?<= )\d{13}(?= )", b"", outcome),
            "leases": sorted((uid, score % 1) for uid, score in leases),
            "queue": self.client.lrange(self.keys["queue"], 0, -1),
            "wake": self.client.lrange(self.keys["wake"], 0, -1),
            "zsets": [self.client.zrange(self.keys[key], 0, -1) for key in ("returned", "priority", "delayed", "dead")],
            "order": [counts.meta.get(field) for field in ("order", "puts", "ghosts")],
            "stats": {name: n for name, n in counts.stats.items() if n},
        }


@pytest.fixture
def both(make_queue, client) -> Callable[[Callable[[Way], Any]], None]:
    """Runs a scenario on both paths, and compares the results and the keys."""

    def compare(scenario: Callable[[Way], Any]) -> None:
        ways = [Way(make_queue(f"-{careful}"), client, careful=careful) for careful in (False, True)]
        replies = [scenario(way) for way in ways]
        assert replies[0] == replies[1]
        assert ways[0].contents() == ways[1].contents()

    return compare


def work(way: Way, n: int) -> list[Any]:
    replies = [way.put(UIDS[i : i + n]) for i in range(0, len(UIDS), n)]
    replies.append(way.claim(n))
    replies.append(way.contents()["leases"])
    for _ in range(3):
        replies.append(way.claim(n, way.held()))
    replies.append(way.ack(way.held()))
    return replies


@pytest.mark.parametrize("n", [1, 3, 20, 100])
def test_the_life_of_items_on_both_paths(both, n):
    both(lambda way: work(way, n))


def test_the_two_queues_take_different_paths(make_queue, client):
    """Otherwise these tests compare a path with itself. A fast claim takes by LTRIM; a limit makes put count."""

    def commands(careful: bool) -> set[str]:
        before = client.info("commandstats")
        work(Way(make_queue(f"-{careful}"), client, careful=careful), 1)
        after = client.info("commandstats")
        return {name for name in after if after[name]["calls"] > before.get(name, {"calls": 0})["calls"]}

    careful = commands(careful=True)
    assert "cmdstat_ltrim" not in careful
    assert {"cmdstat_rpop", "cmdstat_hsetnx", "cmdstat_zcard"} <= careful
    assert "cmdstat_ltrim" in commands(careful=False)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_claims_wake_consumers_for_what_they_leave(both, n):
    def scenario(way: Way) -> Any:
        way.put(UIDS[:3])
        way.client.delete(way.keys["wake"])  # all tokens were taken
        way.claim(n)
        tokens = way.client.llen(way.keys["wake"])
        assert tokens == (1 if n < 3 else 0)
        return tokens

    both(scenario)


def odd(way: Way) -> list[DeliveryRef]:
    """Six deliveries: the second was given back, the third lacks a payload, the fourth a holder, the last is twice."""
    way.put(UIDS[:6])
    way.claim(6)
    held = way.held()
    way.queue.release(held[1].uid)
    way.client.hdel(way.keys["items"], held[2].uid)
    way.client.hdel(way.keys["holders"], held[3].uid)
    way.client.zrem(way.keys["leases"], held[3].uid)
    return [*held, held[5], DeliveryRef("nobody-has-it", "c1/99@1")]


@pytest.mark.parametrize("fused", [False, True])
def test_the_records_of_an_item_are_deleted_with_it(make_queue, client, fused):
    way = Way(make_queue(), client, careful=False)
    way.put(UIDS[:1])
    way.claim(1)
    way.queue.fail(UIDS[0], "error")
    way.claim(1)
    if fused:
        way.claim(0, way.held())
    else:
        way.ack(way.held())
    assert [client.exists(way.keys[key]) for key in ("items", "deliveries", "errors")] == [0, 0, 0]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_acks_of_deliveries_in_odd_states(both, fused, together):
    def scenario(way: Way) -> Any:
        calls = [odd(way)]
        if not together:
            calls = [[held] for held in calls[0]]
        replies = [way.claim(0, held) if fused else way.ack(held) for held in calls]
        return [way.contents()["items"], replies]

    both(scenario)


def test_acks_return_which_items_were_there(make_queue, client):
    for careful in (False, True):
        way = Way(make_queue(f"-{careful}"), client, careful=careful)
        assert way.ack(odd(way)) == [True, True, False, True, True, True, False, False]
        assert client.hkeys(way.keys["items"]) == []


def spoil(way: Way, how: str) -> None:
    """Make the third of five uids on the list one without a ready item."""
    way.put(UIDS[:5])
    third = UIDS[2]
    if how == "settled":
        way.client.hdel(way.keys["items"], third)
    elif how == "held":
        way.client.hset(way.keys["holders"], third, "c9/99@1")
    elif how == "failed by saferedisqueue":
        way.client.hset(way.keys["holders"], third, "legacy/99")
    elif how == "twice":
        way.client.linsert(way.keys["queue"], "before", third, third)
    else:
        way.client.zadd(way.keys[how], {third: 7 if how == "returned" else now(way.client) + NUMEROUS})


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("how", ["settled", "held", "failed by saferedisqueue", "twice", "dead", "delayed", "returned"])
def test_claims_of_uids_in_odd_states(both, how, n):
    def scenario(way: Way) -> Any:
        spoil(way, how)
        replies = [way.claim(n) for _ in range(6)]
        return replies, way.queue.audit() if how == "settled" else None

    both(scenario)


@pytest.mark.parametrize("how", ["settled", "held", "dead", "delayed"])
def test_ghost_is_not_handed_out(make_queue, client, how):
    for careful in (False, True):
        way = Way(make_queue(f"-{careful}"), client, careful=careful)
        spoil(way, how)
        way.claim(5)
        assert [found.uid for found in way.found] == [UIDS[i] for i in (0, 1, 3, 4)]


def test_items_beside_dead_and_delayed_ones(both):
    """The fast path is taken although some items are set aside; only due items have to be made ready first."""

    def scenario(way: Way) -> Any:
        way.client.zadd(way.keys["dead"], {"somebody": 1})
        way.client.hset(way.keys["items"], "somebody", "x")
        way.client.hset(way.keys["errors"], "somebody", '{"type":"E","message":"m"}')
        way.client.zadd(way.keys["delayed"], {"later": now(way.client) + NUMEROUS})
        way.client.hset(way.keys["items"], "later", "x")
        return work(way, 3)

    both(scenario)


def test_a_due_item_is_found_after_a_fast_claim(make_queue, client):
    way = Way(make_queue(), client, careful=False)
    way.put(UIDS[:1])
    client.zadd(way.keys["delayed"], {UIDS[5]: now(client) - 1})
    client.hset(way.keys["items"], UIDS[5], "x")
    way.claim(2)
    assert [found.uid for found in way.found] == [UIDS[0], UIDS[5]]


def test_an_item_whose_lease_ended_comes_back_at_once(make_queue, client):
    way = Way(make_queue(), client, careful=False)
    way.put(UIDS[:2])
    way.claim(1)
    client.zadd(way.keys["leases"], {UIDS[0]: now(client) - 1})
    way.claim(1)
    assert [found.uid for found in way.found] == [UIDS[0]]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_headers_of_one_item_in_a_batch_are_kept(link, queue, place):
    extra = operations.encode_headers({"trace": "1"})
    items = [operations.Put(f"uid{i}", b"x", extra if i == place else b"") for i in range(3)]
    link.call(operations.put(queue.keys, items, own=False), queue="q")
    assert [item.headers for item in queue.get_many(3)] == [{"trace": "1"} if i == place else {} for i in range(3)]
