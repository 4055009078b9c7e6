"""What a child has in entry, as its supervisor sees it through shared memory."""

from __future__ import annotations

import os
import signal
import time

import pytest

from django_srq.consumer.clock import lease_time
from django_srq.consumer.ledger import DONE, FAILED, HELD, RUNNING, Ledger, Waiting
from django_srq.operations import DeliveryRef
from tests.support.waiting import wait_for

FAR = lease_time() + 1000


def test_an_item_on_its_way_through_an_entry():
    ledger = Ledger(2)
    held = DeliveryRef("uid", "c1.1/7/3", "12")
    index, generation = ledger.hold(4, held, until=FAR)
    (entry,) = ledger
    assert (entry.held, entry.subscription, entry.state, entry.started, entry.generation) == (
        held,
        4,
        HELD,
        0,
        generation,
    )
    ledger.start(index)
    (entry,) = ledger
    assert entry.state == RUNNING
    assert 0 < entry.started <= time.monotonic()
    ledger.finish(index)
    assert [entry.state for entry in ledger] == [DONE]
    ledger.fail(index)
    assert [entry.state for entry in ledger] == [FAILED]
    ledger.free(index)
    assert list(ledger) == []


def test_an_entry_is_read_as_it_was_at_one_moment(monkeypatch):
    ledger = Ledger(1)
    index, _ = ledger.hold(0, DeliveryRef("a", "t1"), until=FAR)
    ledger.start(index)

    def next_item(*fields: str) -> DeliveryRef:
        """The child goes on while its supervisor reads."""
        ledger.free(index)
        ledger.hold(1, DeliveryRef("b", "t2"), until=FAR)
        return DeliveryRef(*fields)

    monkeypatch.setattr("django_srq.consumer.ledger.DeliveryRef", next_item)
    (entry,) = ledger
    assert (entry.held.uid, entry.subscription, entry.state, entry.started > 0) == ("a", 0, RUNNING, True)


def test_the_parent_reads_what_its_child_writes():
    ledger = Ledger(2)
    pid = os.fork()
    if pid == 0:
        ledger.hold(0, DeliveryRef("é\0é", "t"), until=FAR)
        ledger.report("trouble", fatal=True)
        ledger.count_handled(5)
        ledger.beat()
        os._exit(0)
    os.waitpid(pid, 0)
    assert [entry.held.uid for entry in ledger] == ["é\0é"]
    assert (ledger.trouble, ledger.fatal, ledger.handled, ledger.ready) == ("trouble", True, 5, True)
    assert 0 < ledger.last_beat <= time.monotonic()


def test_a_claim_is_recorded_until_its_items_are_recorded():
    ledger = Ledger(1)
    assert ledger.claiming is None
    pid = os.fork()
    if pid == 0:
        ledger.report("w" * 2000)
        ledger.begin_claim(3, 7)
        os._exit(0)
    os.waitpid(pid, 0)
    assert (ledger.claiming, ledger.reading, ledger.trouble[:3], ledger.fatal, ledger.wants_successor) == (
        3,
        False,
        "www",
        False,
        False,
    )
    ledger.read_reply()
    assert (ledger.claiming, ledger.reading) == (3, True)
    assert ledger.end_claim(7)
    assert ledger.claiming is None
    ledger.begin_claim(0, 8)
    assert (ledger.claiming, ledger.reading, list(ledger)) == (0, False, [])


def test_an_owed_claim_is_recorded_beside_later_claims():
    ledger = Ledger(1, servers=2)
    ledger.hold(0, DeliveryRef("uid", "token"), until=FAR)
    for place, number in ((3, 7), (70_000, 8)):
        ledger.begin_claim(place, number)
        ledger.put_off(place, number)
    ledger.begin_claim(1, 9)
    claims = {Waiting(number, None) for number in (7, 8, 9)}
    assert (ledger.claiming, ledger.claims_put_off) == (1, [(3, 7), (70_000, 8)])
    assert {each for each in ledger.waiting() if each.record is None} == claims
    assert {ledger.subscription_of(waiting) for waiting in claims} == {3, 70_000, 1}
    ledger.want_back(Waiting(8, None))
    ledger.want_back(Waiting(7, None))  # this removes the other mark
    assert (ledger.end_claim(7), ledger.end_claim(8), ledger.claims_put_off, ledger.claiming) == (False, False, [], 1)
    assert ledger.subscription_of(Waiting(7, None)) is None
    assert ledger.end_claim(9)
    assert [entry.held.uid for entry in ledger] == ["uid"]
    ledger.put_off(5, 10)
    ledger.reset(b"c2", 2)
    assert ledger.claims_put_off == []


@pytest.mark.parametrize("place", [254, 255, 256, 70_000])
def test_any_number_of_subscriptions(place):
    ledger = Ledger(1)
    ledger.report("trouble")
    ledger.begin_claim(place, 7)
    ledger.hold(place, DeliveryRef("uid", "token"), until=FAR)
    assert (ledger.claiming, ledger.reading, ledger.trouble, ledger.ready) == (place, False, "trouble", False)
    assert [entry.subscription for entry in ledger] == [place]
    assert ledger.end_claim(7)
    assert ledger.claiming is None


@pytest.mark.parametrize(
    "held", [DeliveryRef("u" * 128, "t" * 72), DeliveryRef("u" * 500, "t" * 500), DeliveryRef("é" * 100, "é" * 100)]
)
def test_texts_that_are_too_long_for_an_entry_leave_the_next_entry_intact(held):
    ledger = Ledger(2)
    for name in (held, DeliveryRef("next", "token")):
        ledger.hold(0, name, until=FAR)
    first, second = ledger
    assert held.uid.startswith(first.held.uid[:64])
    assert len(first.held.token.encode()) <= 72 + 2  # half a character is read as three bytes
    assert second.held == DeliveryRef("next", "token")


def test_entries_are_used_again_and_generations_tell_them_apart():
    ledger = Ledger(1)
    index, first = ledger.hold(0, DeliveryRef("a", "t1"), until=FAR)
    (old,) = ledger
    ledger.free(index)
    again, second = ledger.hold(0, DeliveryRef("b", "t2"), until=FAR)
    assert (again, second > first) == (index, True)
    ledger.renew(old, 0)  # the reply about the former item comes late
    assert not ledger.lapsed(again, second)


def test_a_lease_has_lapsed_when_it_was_refused_or_not_renewed():
    ledger = Ledger(1)
    index, generation = ledger.hold(0, DeliveryRef("a", "t"), until=0)
    assert ledger.lapsed(index, generation)
    (entry,) = ledger
    ledger.renew(entry, FAR)
    assert not ledger.lapsed(index, generation)
    ledger.renew(entry, 0)
    assert ledger.lapsed(index, generation)


def test_a_lease_lasts_at_every_moment_of_its_renewals():
    """Another process renews it, while this one looks."""
    ledger = Ledger(1)
    index, generation = ledger.hold(0, DeliveryRef("a", "t"), until=0)
    (entry,) = ledger
    ledger.renew(entry, FAR)
    pid = os.fork()
    if pid == 0:
        while True:
            ledger.renew(entry, FAR + 1)
    try:
        wait_for(lambda: next(iter(ledger)).until > FAR, "the first renewal")
        assert sum(ledger.lapsed(index, generation) for _ in range(200_000)) == 0
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_leases_end_while_the_machine_is_suspended(monkeypatch):
    """The monotonic clock of Linux stands still meanwhile."""
    ledger = Ledger(1)
    index, generation = ledger.hold(0, DeliveryRef("a", "t"), until=lease_time() + 1000)
    assert not ledger.lapsed(index, generation)
    clock_gettime, suspended = time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: clock_gettime(clock) + 3600 * (clock == suspended))
    assert ledger.lapsed(index, generation)


def test_a_uid_that_is_too_long_overwrites_nothing():
    ledger = Ledger(2)
    ledger.hold(0, DeliveryRef("x" * 1000, "token"), until=FAR)
    ledger.hold(1, DeliveryRef("b", "t"), until=FAR)
    assert [(entry.held.uid[:3], entry.held.token, entry.subscription) for entry in ledger] == [
        ("xxx", "token", 0),
        ("b", "t", 1),
    ]


def test_a_long_trouble_is_cut():
    ledger = Ledger(1)
    ledger.report("ä" * 2000)
    assert ledger.trouble.startswith("ä" * 400)
    assert list(ledger) == []
    ledger.report("")
    assert (ledger.trouble, ledger.fatal) == ("", False)
