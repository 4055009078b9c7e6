"""Compares the queue on a real server with a plain model: no item is lost or handed out twice, and the order is kept.

``HYPOTHESIS_PROFILE=long`` searches longer. Sequences that once failed are tests of their own at the end.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from django_srq import SafeRedisQueue, operations
from django_srq.exceptions import DuplicateItem, RetryLater
from django_srq.operations import DeliveryRef
from django_srq.queue.item import Item
from django_srq.transport.link import Link
from tests.support.decoding import decoded
from tests.support.server_clock import pass_time

COMMON = settings(deadline=None, suppress_health_check=list(HealthCheck))
PROFILES = {
    "normal": settings(COMMON, max_examples=60, stateful_step_count=40),
    "long": settings(COMMON, max_examples=3000, stateful_step_count=80),
}

# Time passes in thousands of seconds; leases and delays end at other times, so the test itself may take some seconds.
PASSES = (1000, 3000, 10_000)
LEASE_PLAIN, LEASE_SUPERVISED, LEASE_EXTENDED = 4500, 1600, 2500
DELAYS = (500, 5500)
LEASE_NEVER = 60  # seconds; of the queue that never recovers by itself
MAX_DELIVERIES, MAX_CRASHES = 3, 2
ERRORS_KEPT = 5  # of an item
WIDTH = 2  # items that the supervised consumer can have begun at the same time


@dataclass(eq=False)
class Taken:
    """One delivery of an item."""

    item: Item  # as the queue returned it
    put: Entry
    claim: int  # its number
    first: int  # the number of the first claim since which the item has kept its place
    consumer: str
    queue: SafeRedisQueue

    @property
    def supervised(self) -> bool:
        return self.consumer == "c"

    def held(self) -> DeliveryRef:
        return DeliveryRef(str(self.item.uid), self.item.token, self.item.delivery.number)


@dataclass(eq=False)
class Entry:
    """One put of an item, until it is settled."""

    uid: str
    payload: bytes
    priority: int
    place: str = "list"  # list, returned, priority, delayed, held, dead
    order: int = 0  # within a priority
    back: int | None = None  # the number of the first claim, while the item is ready in its old place
    due: float = 0
    deliveries: int = 0  # the ended ones
    crashes: int = 0
    holder: Taken | None = None
    deadline: float = 0
    never: bool = False  # only ``recover`` ends the lease
    lapsed: Taken | None = None  # the last delivery, if only its lease ended
    group: str = ""  # of its error, while the item is retrying
    errors: list[str] = field(default_factory=list)  # the types of all its errors, newest first


@dataclass
class Model:
    now: float = 0
    items: dict[str, Entry] = field(default_factory=dict)
    list: list[str] = field(default_factory=list)  # the next uid first; the uid of an item that went elsewhere stays
    puts: int = 0
    claims: int = 0
    lost: tuple[float, int] | None = None  # the end of a lease of the supervised consumer, and the last claim begun
    apart: tuple[float, Taken] | None = None  # when that consumer last got a suspect, and that delivery

    def put(self, entry: Entry, delay: float) -> str:
        """Add the item; returns the state in which its uid already is, else ''."""
        if entry.uid in self.items:
            return self.state(entry.uid)
        self.items[entry.uid] = entry
        self.to_the_back(entry, delay)
        return ""

    def state(self, uid: str) -> str:
        place = self.items[uid].place
        return {"held": "in_flight", "delayed": "delayed", "dead": "dead"}.get(place, "ready")

    def to_the_back(self, entry: Entry, delay: float = 0) -> None:
        entry.holder = entry.lapsed = entry.back = None
        entry.group = ""
        if delay:
            entry.place, entry.due = "delayed", self.now + delay
        elif entry.priority:
            self.puts += 1
            entry.place, entry.order = "priority", self.puts
        else:
            entry.place = "list"
            self.list.append(entry.uid)

    def to_its_place(self, entry: Entry) -> None:
        assert entry.holder is not None
        entry.back, entry.holder, entry.lapsed = entry.holder.first, None, None
        entry.place = "priority" if entry.priority else "returned"

    def keep_house(self) -> None:
        for entry in sorted(self.at("delayed"), key=lambda entry: entry.due):
            if entry.due <= self.now:
                self.to_the_back(entry)
        self.recover(by_hand=False)

    def recover(self, *, by_hand: bool) -> int:
        ended = [entry for entry in self.at("held") if entry.deadline <= self.now and (by_hand or not entry.never)]
        return sum(self.recover_one(entry) == "ready" for entry in ended)

    def recover_one(self, entry: Entry) -> str:
        assert entry.holder is not None
        if entry.holder.supervised and entry.holder.claim > self.last_begun():
            self.to_its_place(entry)
            return "ready"
        lost = entry.holder.supervised
        return self.end(entry, "ConsumerLost" if lost else "LeaseEnded", crashed=lost)

    def last_begun(self) -> int:
        if self.lost is None or self.now - self.lost[0] > 2 * LEASE_SUPERVISED:
            claims = sorted(entry.holder.claim for entry in self.at("held") if entry.holder.supervised)
            self.lost = self.now, claims[:WIDTH][-1]
        return self.lost[1]

    def end(self, entry: Entry, error: str, *, crashed: bool) -> str:
        taken = entry.holder
        entry.deliveries += 1
        entry.crashes += crashed
        if entry.deliveries >= MAX_DELIVERIES or (crashed and entry.crashes >= MAX_CRASHES):
            entry.place, entry.holder = "dead", None
            entry.errors.insert(0, error)
            return "dead"
        if crashed:
            entry.errors.insert(0, error)
        self.to_its_place(entry)
        entry.lapsed = taken
        return "ready"

    def crash(self, entry: Entry) -> str:
        """The death was seen, so an extend cannot take this delivery back."""
        state = self.end(entry, "Crashed", crashed=True)
        entry.lapsed = None
        return state

    def at(self, place: str) -> list[Entry]:
        return [entry for entry in self.items.values() if entry.place == place]

    def ready(self) -> list[str]:
        by_priority = sorted(self.at("priority"), key=lambda entry: (-entry.priority, entry.order))
        returned = sorted(self.at("returned"), key=lambda entry: entry.back)
        listed = [uid for uid in dict.fromkeys(self.list) if uid in self.items and self.items[uid].place == "list"]
        return [
            *(entry.uid for entry in by_priority if entry.priority > 0),
            *(entry.uid for entry in returned),
            *listed,
            *(entry.uid for entry in by_priority if entry.priority < 0),
        ]

    def is_suspect(self, uid: str) -> bool:
        return uid in self.items and self.items[uid].crashes > 0

    def next_behind_suspects(self) -> Entry | None:
        """The next item that is not a suspect; suspects keep their places, and so do their uids without an item."""
        others = [self.items[uid] for uid in self.ready() if not self.is_suspect(uid)]
        entry = next((entry for entry in others if entry.place != "list"), None)
        return entry if entry and entry.priority >= 0 else self.next_on_list() or entry

    def next_on_list(self) -> Entry | None:
        for uid in [uid for uid in self.list if not self.is_suspect(uid)]:
            self.list.remove(uid)
            if uid in self.items and self.items[uid].place == "list":
                return self.items[uid]
        return None

    def next(self) -> Entry | None:
        """The next ready item; drops the uids without an item that come before it on the list."""
        ready = self.ready()
        if not ready or self.items[ready[0]].priority < 0:
            self.list.clear()
        if not ready:
            return None
        entry = self.items[ready[0]]
        if entry.place == "list":
            del self.list[: self.list.index(entry.uid) + 1]
        return entry

    def claim(self, n: int, *, supervised: bool = False) -> list[Entry]:
        """The items of a claim; the caller records their holder."""
        self.keep_house()
        found: list[Entry] = []
        next_ = self.next_behind_suspects if supervised and self.has_suspect() else self.next
        while len(found) < n and (entry := next_()):
            assert entry.holder is None
            if entry.crashes and found:
                if entry.place == "list":
                    self.list.insert(0, entry.uid)
                break
            entry.place = "held"
            found.append(entry)
            if entry.crashes:
                break
        return found

    def has_suspect(self) -> bool:
        return self.apart is not None and self.apart[0] == self.now and self.holds(self.apart[1])

    def hold(self, entry: Entry, taken: Taken, lease: float, *, never: bool) -> None:
        if taken.supervised and entry.crashes:
            self.apart = self.now, taken
        entry.place, entry.holder, entry.lapsed, entry.back = "held", taken, None, None
        entry.deadline, entry.never = self.now + lease, never

    def holds(self, taken: Taken) -> bool:
        entry = self.items.get(str(taken.item.uid))
        return entry is not None and entry.holder is taken

    def is_held(self, uid: str) -> bool:
        return uid in self.items and self.items[uid].holder is not None

    def ack(self, taken: Taken) -> bool:
        uid = str(taken.item.uid)
        if self.items.get(uid) is not taken.put:
            return False
        del self.items[uid]
        return True

    def fail(self, entry: Entry, delay: float, error: str | RetryLater | None = None) -> str:
        entry.deliveries += 1
        if entry.deliveries >= MAX_DELIVERIES:
            entry.place, entry.holder = "dead", None
        else:
            self.to_the_back(entry, delay)
            if delay and not isinstance(error, RetryLater):
                entry.group = f"Failed: {error}" if error else "Failed"
        if error or entry.place in {"dead", "delayed"}:
            entry.errors.insert(0, "RetryLater" if isinstance(error, RetryLater) else "Failed")
        return self.state(entry.uid)

    def run_now(self, entries: list[Entry]) -> int:
        for entry in sorted(entries, key=lambda entry: entry.due):
            self.to_the_back(entry)
        return len(entries)

    def retrying(self, group: str = "") -> list[Entry]:
        return [entry for entry in self.at("delayed") if entry.group and group in ("", entry.group)]

    def extend(self, taken: Taken) -> bool:
        entry = taken.put
        if self.items.get(entry.uid) is not entry:
            return False
        if entry.lapsed is taken and entry.place in {"returned", "priority"}:
            entry.deliveries -= 1
            entry.crashes -= taken.supervised
            self.hold(entry, taken, LEASE_EXTENDED, never=taken.queue.autoclean_interval is None)
        elif entry.holder is taken:
            entry.deadline = self.now + LEASE_EXTENDED
        else:
            return False
        return True

    def purge(self, states: set[str]) -> int:
        gone = [uid for uid in self.items if self.state(uid) in states]
        for uid in gone:
            del self.items[uid]
        if "ready" in states:
            self.list.clear()
        return len(gone)


indexes = st.integers(0, 6)
priorities = st.sampled_from([0, 0, 0, 5, 50, -5])
delays = st.sampled_from([0, 0, *DELAYS])


class Machine(RuleBasedStateMachine):
    """Carries out each step on the queue and on the model."""

    def __init__(self, link: Link, client: redis.Redis, name: str) -> None:
        super().__init__()
        limits = {"link": link, "name": name, "max_deliveries": MAX_DELIVERIES, "max_crashes": MAX_CRASHES}
        self.queue = SafeRedisQueue(autoclean_interval=LEASE_PLAIN, **limits)
        self.careless = SafeRedisQueue(autoclean_interval=None, **limits)
        self.client, self.keys, self.link = client, self.queue.keys, link
        self.model = Model()
        self.uids: list[str] = []
        self.deliveries: list[Taken] = []
        self.numbers = 0

    def teardown(self) -> None:
        self.client.delete(*(self.keys[key] for key in operations.key_types()))

    # -- the rules choose the latest ones first; old ones, settled or stale, come as well

    def delivery(self, index: int) -> Taken:
        return self.deliveries[-1 - index % len(self.deliveries)]

    def uid(self, index: int) -> str:
        return self.uids[-1 - index % len(self.uids)]

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def different(self, delay: float) -> float:
        """Makes all delays different, so that no two items are due in the same millisecond."""
        return delay and delay + self.number() / 100

    # -- put

    @rule(priority=priorities, delay=delays)
    def put(self, priority: int, delay: float) -> None:
        payload, delay = b"%d" % self.number(), self.different(delay)
        uid = self.queue.put(payload, priority=priority, delay=delay)
        self.uids.append(uid)
        assert self.model.put(Entry(uid, payload, priority), delay) == ""

    @rule(uid=st.sampled_from(["own-1", "own-2", "own-3"]), priority=priorities, delay=delays)
    def put_own_uid(self, uid: str, priority: int, delay: float) -> None:
        payload, delay = b"%d" % self.number(), self.different(delay)
        there = self.model.put(Entry(uid, payload, priority), delay)
        found = ""
        try:
            assert self.queue.put(payload, uid=uid, priority=priority, delay=delay, strict=True) == uid
        except DuplicateItem as error:
            found = error.state
        assert found == there
        self.uids.append(uid)

    @rule(n=st.integers(0, 4), priority=priorities)
    def put_many(self, n: int, priority: int) -> None:
        payloads = [b"%d" % self.number() for _ in range(n)]
        for uid, payload in zip(self.queue.put_many(payloads, priority=priority), payloads, strict=True):
            self.uids.append(uid)
            assert self.model.put(Entry(uid, payload, priority), 0) == ""

    # -- claim

    @rule()
    def get(self) -> None:
        expected = self.model.claim(1)
        item = self.queue.get(-1)
        assert bool(item) is bool(expected)
        self.handed_out([item] if item else [], expected, self.queue, "g", LEASE_PLAIN)

    @rule(n=st.integers(1, 3))
    def get_many_that_are_never_recovered(self, n: int) -> None:
        self.handed_out(self.careless.get_many(n), self.model.claim(n), self.careless, "g", LEASE_NEVER)

    @rule(n=st.integers(0, 3), indexes=st.lists(indexes, max_size=2))
    def settle_and_claim(self, n: int, indexes: list[int]) -> None:
        finished = [self.delivery(index) for index in indexes if self.deliveries]
        call = operations.claim(
            self.keys,
            consumer=f"c1+{WIDTH}",
            lease=LEASE_SUPERVISED,
            legacy_lease=LEASE_PLAIN,
            n=n,
            max_deliveries=MAX_DELIVERIES,
            max_crashes=MAX_CRASHES,
            acks=[taken.held() for taken in finished],
        )
        reply = self.link.call(call, queue="model")
        assert reply.acked == [self.model.ack(taken) for taken in finished]
        found = decoded(self.queue, reply.found)
        self.handed_out(found, self.model.claim(n, supervised=True), self.queue, "c", LEASE_SUPERVISED)

    def handed_out(
        self, items: list[Item], expected: list[Entry], queue: SafeRedisQueue, consumer: str, lease: float
    ) -> None:
        assert [tuple(item) for item in items] == [(entry.uid, entry.payload) for entry in expected]
        for item, entry in zip(items, expected, strict=True):
            self.model.claims += 1
            first = entry.back or self.model.claims
            width = f"+{WIDTH}" if consumer == "c" else ""
            kept = width + (f"/{first}" if entry.back else "")
            assert item.token.startswith(consumer)
            assert re.sub(r"@\d{13}", "", item.token.partition("/")[2]) == f"{self.model.claims}{kept}"
            assert (item.deliveries, item.delivery.priority) == (entry.deliveries + 1, entry.priority)
            assert item.delivery.crashes == entry.crashes
            taken = Taken(item, entry, self.model.claims, first, consumer, queue)
            self.model.hold(entry, taken, lease, never=queue.autoclean_interval is None)
            self.deliveries.append(taken)

    # -- settle

    @precondition(lambda self: self.deliveries)
    @rule(indexes=st.lists(indexes, min_size=1, max_size=3))
    def ack(self, indexes: list[int]) -> None:
        finished = [self.delivery(index) for index in indexes]
        acked = self.queue.ack_many([taken.item for taken in finished])
        assert acked == [self.model.ack(taken) for taken in finished]

    @precondition(lambda self: self.uids)
    @rule(index=indexes)
    def ack_by_uid(self, index: int) -> None:
        uid = self.uid(index)
        held = self.model.is_held(uid)
        assert self.queue.ack(uid) is held
        if held:
            del self.model.items[uid]

    @precondition(lambda self: self.deliveries)
    @rule(index=indexes, delay=delays, error=st.sampled_from([None, "boom", "bang", RetryLater(1)]))
    def fail(self, index: int, delay: float, error: str | RetryLater | None) -> None:
        taken, delay = self.delivery(index), self.different(delay)
        expected = self.model.fail(taken.put, delay, error) if self.model.holds(taken) else None
        assert self.queue.fail(taken.item, error, delay=delay) == expected

    @precondition(lambda self: self.uids)
    @rule(index=indexes)
    def fail_by_uid(self, index: int) -> None:
        uid = self.uid(index)
        expected = self.model.fail(self.model.items[uid], 0) if self.model.is_held(uid) else None
        assert self.queue.fail(uid) == expected

    @precondition(lambda self: self.deliveries)
    @rule(index=indexes)
    def extend(self, index: int) -> None:
        taken = self.delivery(index)
        assert taken.queue.extend(taken.item, LEASE_EXTENDED) is self.model.extend(taken)

    @precondition(lambda self: self.uids)
    @rule(index=indexes)
    def extend_by_uid(self, index: int) -> None:
        uid = self.uid(index)
        assert self.queue.extend(uid, LEASE_EXTENDED) is self.model.is_held(uid)
        if self.model.is_held(uid):
            self.model.items[uid].deadline = self.model.now + LEASE_EXTENDED

    @precondition(lambda self: self.deliveries)
    @rule(index=indexes)
    def release(self, index: int) -> None:
        taken = self.delivery(index)
        assert self.queue.release(taken.item) is self.model.holds(taken)
        if self.model.holds(taken):
            self.model.to_its_place(taken.put)

    @precondition(lambda self: any(taken.supervised for taken in self.deliveries))
    @rule(index=indexes)
    def crashed(self, index: int) -> None:
        supervised = [taken for taken in self.deliveries if taken.supervised]
        taken = supervised[-1 - index % len(supervised)]
        call = operations.crashed(
            self.keys,
            [taken.held()],
            evidence=b'{"type":"Crashed","message":"killed"}',
            max_deliveries=MAX_DELIVERIES,
            max_crashes=MAX_CRASHES,
        )
        expected = self.model.crash(taken.put) if self.model.holds(taken) else None
        assert self.link.call(call, queue="model").states == [expected]

    # -- operations of people and tools

    @precondition(lambda self: self.uids)
    @rule(index=indexes)
    def requeue(self, index: int) -> None:
        dead = self.model.at("dead")
        uid = dead[0].uid if dead else self.uid(index)
        assert self.queue.requeue(uid) == bool(dead)
        if dead:
            dead[0].deliveries = dead[0].crashes = 0
            self.model.to_the_back(dead[0])

    @precondition(lambda self: self.uids)
    @rule(index=indexes)
    def drop(self, index: int) -> None:
        uid = self.uid(index)
        there = uid in self.model.items and not self.model.is_held(uid)
        assert self.queue.drop(uid) == there
        if there:
            del self.model.items[uid]

    @precondition(lambda self: self.uids)
    @rule(index=indexes)
    def run_now(self, index: int) -> None:
        delayed = self.model.at("delayed")
        uid = delayed[0].uid if delayed else self.uid(index)
        assert self.queue.run_now(uid) == self.model.run_now(delayed[:1])

    @rule(error=st.sampled_from(["", "Failed: boom"]))
    def run_all_that_are_retrying(self, error: str) -> None:
        assert self.queue.run_now(error=error) == self.model.run_now(self.model.retrying(error))

    @rule()
    def purge_what_is_retrying(self) -> None:
        gone = self.model.retrying("Failed: boom")
        assert self.queue.purge("delayed", error="Failed: boom") == len(gone)
        for entry in gone:
            del self.model.items[entry.uid]

    @rule(state=st.sampled_from([None, "ready", "delayed", "dead"]))
    def purge(self, state: str | None) -> None:
        states = {state} if state else {"ready", "delayed", "dead"}
        assert self.queue.purge(state) == self.model.purge(states)

    @rule()
    def pause_and_resume(self) -> None:
        assert self.queue.pause()
        self.model.claim(0)  # due items become ready
        assert not self.queue.get(-1)
        assert self.queue.resume()

    @rule()
    def recover(self) -> None:
        assert self.queue.recover() == self.model.recover(by_hand=True)

    @rule(seconds=st.sampled_from(PASSES))
    def time_passes(self, seconds: float) -> None:
        pass_time(self.client, self.keys, seconds)
        self.model.now += seconds

    # -- invariants

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        states = [self.model.state(uid) for uid in self.model.items]
        snapshot = self.queue.snapshot()
        for state in ("ready", "in_flight", "delayed", "dead"):
            assert getattr(snapshot, state) == states.count(state), state
        held = self.model.at("held")
        assert snapshot.ended == sum(entry.never and entry.deadline <= self.model.now for entry in held)

    @invariant()
    def retrying_items_are_those_of_the_model(self) -> None:
        groups = Counter(entry.group for entry in self.model.retrying())
        found = self.link.call(operations.retry_groups(self.keys), queue="model")
        assert {group.name: group.count for group in found} == groups
        assert self.queue.snapshot().retrying == groups.total()

    @invariant()
    def errors_are_those_of_the_model(self) -> None:
        kept = {uid.decode(): json.loads(error) for uid, error in self.client.hgetall(self.keys["errors"]).items()}
        for uid, entry in self.model.items.items():
            last = [kept[uid]] if uid in kept else []
            errors = [*last, *(last[0].get("earlier", []) if last else [])]
            assert [error["type"].rpartition(".")[2] for error in errors] == entry.errors[:ERRORS_KEPT]

    @invariant()
    def nothing_is_lost(self) -> None:
        payloads = {uid.decode(): payload for uid, payload in self.client.hgetall(self.keys["items"]).items()}
        assert payloads == {uid: entry.payload for uid, entry in self.model.items.items()}

    @invariant()
    def order_is_that_of_the_model(self) -> None:
        seen: dict[Any, None] = dict.fromkeys(item.uid for item in self.queue.items("ready"))
        assert list(seen) == self.model.ready()

    @invariant()
    def every_item_is_in_one_place(self) -> None:
        assert self.queue.audit() == []


def test_the_queue_does_the_same_as_the_model(link: Link, client: redis.Redis, prefix: str) -> None:
    profile = PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "normal")]
    run_state_machine_as_test(lambda: Machine(link, client, prefix), settings=profile)


Step = tuple[str, dict[str, Any]]


def put(**options: Any) -> Step:
    return "put", {"priority": 0, "delay": 0, **options}


def extend(index: int = 0) -> Step:
    return "extend", {"index": index}


def passes(seconds: float) -> Step:
    return "time_passes", {"seconds": seconds}


PUT_OWN: Step = ("put_own_uid", {"uid": "own-1", "priority": 0, "delay": 0})
GET: Step = ("get", {})
GET_NEVER: Step = ("get_many_that_are_never_recovered", {"n": 1})
CLAIM: Step = ("settle_and_claim", {"n": 1, "indexes": []})
PUT_MANY: Step = ("put_many", {"n": 4, "priority": 0})
CLAIM_MANY: Step = ("settle_and_claim", {"n": 3, "indexes": []})
ACK: Step = ("ack", {"indexes": [0]})
FAIL: Step = ("fail", {"index": 0, "delay": 0, "error": "boom"})
FAIL_OLDER: Step = ("fail", {"index": 1, "delay": 0, "error": "boom"})
RELEASE: Step = ("release", {"index": 0})
RELEASE_OLDER: Step = ("release", {"index": 1})
DROP: Step = ("drop", {"index": 0})
CRASH: Step = ("crashed", {"index": 0})
RECOVER: Step = ("recover", {})
REQUEUE: Step = ("requeue", {"index": 0})
PURGE: Step = ("purge", {"state": None})
DIE = [GET, FAIL] * MAX_DELIVERIES
LAPSE = [passes(10_000), RECOVER]

FOUND: dict[str, list[Step]] = {
    "failed item with a priority is not extended back": [put(priority=5), GET, FAIL, extend()],
    "priority keeps the number of the first claim": [put(priority=5), GET, RELEASE, GET, *LAPSE, GET],
    "lapsed item with a priority is taken back": [put(priority=5), GET, *LAPSE, extend(), FAIL, GET],
    "purge reads items with a priority": [put(priority=5), put(), PURGE],
    "lease for ever stays one when it is taken back": [put(), GET_NEVER, *LAPSE, extend(), passes(3000), GET],
    "lapsed lease is taken back with its crash": [put(), CLAIM, *LAPSE, extend(), *LAPSE, GET, FAIL],
    "older delivery takes nothing back": [put(), GET, *LAPSE, GET, *LAPSE, extend(1), extend(0)],
    "older delivery cannot touch the next one": [put(), GET, *LAPSE, GET, FAIL_OLDER, RELEASE_OLDER, extend(1), FAIL],
    "held item is not handed out by what is left of an older put": [PUT_OWN, DROP, PUT_OWN, GET, GET, put(), GET],
    "delivery before a requeue takes nothing back": [put(), *DIE, REQUEUE, GET, *LAPSE, extend(MAX_DELIVERIES)],
    "requeued item starts anew": [put(), *DIE, REQUEUE, GET, FAIL, GET],
    "requeued item's crashes start anew": [put(), CLAIM, CRASH, CLAIM, CRASH, REQUEUE, CLAIM, CRASH, CLAIM],
    "what a lost consumer had not begun is not blamed": [
        PUT_MANY,
        CLAIM_MANY,
        *LAPSE,
        CLAIM_MANY,
        ACK,
        CLAIM_MANY,
        GET,
    ],
    "a suspect on the list waits for a claim of its own": [PUT_MANY, CLAIM, CRASH, GET, FAIL, CLAIM_MANY, CLAIM_MANY],
    "a consumer gets one suspect at a time": [PUT_MANY, CLAIM_MANY, *LAPSE, CLAIM, CLAIM_MANY, ACK, CLAIM, GET, CLAIM],
    "suspects are passed over in their old place and on the list": [
        PUT_MANY,
        CLAIM_MANY,
        *LAPSE,
        GET,
        FAIL,
        CLAIM,
        PUT_MANY,
        put(priority=-5),
        *[CLAIM_MANY] * 3,
        GET,
    ],
    "a delivery whose crash was seen takes nothing back": [put(), CLAIM, CRASH, extend(), CLAIM],
    "a lease that is taken back leaves no suspect": [PUT_MANY, CLAIM, *LAPSE, extend(), RELEASE, CLAIM_MANY],
    "late ack of an older put": [PUT_OWN, GET, ACK, PUT_OWN, ACK, GET],
}


@pytest.mark.parametrize("steps", FOUND.values(), ids=FOUND)
def test_a_sequence_that_once_failed(link: Link, client: redis.Redis, prefix: str, steps: list[Step]) -> None:
    machine = Machine(link, client, prefix)
    for name, arguments in steps:
        getattr(machine, name)(**arguments)
        machine.counts_are_those_of_the_model()
        machine.nothing_is_lost()
        machine.order_is_that_of_the_model()
        machine.every_item_is_in_one_place()
        machine.retrying_items_are_those_of_the_model()
        machine.errors_are_those_of_the_model()
    machine.teardown()


def test_a_released_delivery_cannot_take_back_a_later_lapsed_one(queue, client):
    queue.put("payload")
    released = queue.get(-1)
    queue.release(released)
    assert queue.get(-1)
    pass_time(client, queue.keys, queue.lease + 1)
    assert queue.recover() == 1
    assert not queue.extend(released)


def test_a_lapsed_delivery_cannot_take_back_a_later_released_one(queue, client):
    queue.put("payload")
    lapsed = queue.get(-1)
    pass_time(client, queue.keys, queue.lease + 1)
    queue.release(queue.get(-1))
    assert not queue.extend(lapsed)
