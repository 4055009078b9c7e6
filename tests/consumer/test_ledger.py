"""The ledger: the items in hand of a child process, which its supervisor reads in shared memory."""

from __future__ import annotations

import os
import time

import pytest

from django_srq.consumer.clock import lease_time
from django_srq.consumer.ledger import DONE, FAILED, HELD, RUNNING, Ledger, Waiting
from django_srq.operations import DeliveryRef

FAR = lease_time() + 1000


def test_the_states_of_an_entry():
    ledger = Ledger(2)
    held = DeliveryRef("uid", "c1.1/7/3", "12")
    index, generation = ledger.hold(4, held, until=FAR)
    (hand,) = ledger
    assert (hand.held, hand.subscription, hand.state, hand.started, hand.generation) == (held, 4, HELD, 0, generation)
    ledger.start(index)
    (hand,) = ledger
    assert hand.state == RUNNING
    assert 0 < hand.started <= time.monotonic()
    ledger.finish(index)
    assert [hand.state for hand in ledger] == [DONE]
    ledger.fail(index)
    assert [hand.state for hand in ledger] == [FAILED]
    ledger.let_go(index)
    assert list(ledger) == []


def test_the_parent_reads_what_its_child_writes():
    ledger = Ledger(2)
    pid = os.fork()
    if pid == 0:
        ledger.hold(0, DeliveryRef("é" * 3, "t"), until=FAR)
        ledger.say("trouble", fatal=True)
        ledger.count_handled(5)
        ledger.live()
        os._exit(0)
    os.waitpid(pid, 0)
    assert [hand.held.uid for hand in ledger] == ["é" * 3]
    assert (ledger.words, ledger.fatal, ledger.handled, ledger.ready) == ("trouble", True, 5, True)
    assert 0 < ledger.beat <= time.monotonic()


def test_a_claim_is_recorded_until_its_items_are_recorded():
    ledger = Ledger(1)
    assert ledger.asked is None
    pid = os.fork()
    if pid == 0:
        ledger.say("w" * 2000)
        ledger.ask(3, 7)
        os._exit(0)
    os.waitpid(pid, 0)
    assert (ledger.asked, ledger.reading, ledger.words[:3], ledger.fatal, ledger.full) == (
        3,
        False,
        "www",
        False,
        False,
    )
    ledger.read()
    assert (ledger.asked, ledger.reading) == (3, True)
    assert ledger.took(7)
    assert ledger.asked is None
    ledger.ask(0, 8)
    assert (ledger.asked, ledger.reading, list(ledger)) == (0, False, [])


def test_an_owed_claim_is_recorded_beside_later_claims():
    ledger = Ledger(1, servers=2)
    ledger.hold(0, DeliveryRef("uid", "token"), until=FAR)
    for place, number in ((3, 7), (70_000, 8)):
        ledger.ask(place, number)
        ledger.owe(place, number)
    ledger.ask(1, 9)
    claims = {Waiting(number, None) for number in (7, 8, 9)}
    assert (ledger.asked, ledger.owed) == (1, [(3, 7), (70_000, 8)])
    assert {one for one in ledger.waiting() if one.record is None} == claims
    assert {ledger.source_of(one) for one in claims} == {3, 70_000, 1}
    ledger.mark(Waiting(8, None))
    ledger.mark(Waiting(7, None))  # this removes the other mark
    assert (ledger.took(7), ledger.took(8), ledger.owed, ledger.asked) == (False, False, [], 1)
    assert ledger.source_of(Waiting(7, None)) is None
    assert ledger.took(9)
    assert [hand.held.uid for hand in ledger] == ["uid"]
    ledger.owe(5, 10)
    ledger.empty(b"c2", 2)
    assert ledger.owed == []


@pytest.mark.parametrize("place", [254, 255, 256, 70_000])
def test_any_number_of_subscriptions(place):
    ledger = Ledger(1)
    ledger.say("trouble")
    ledger.ask(place, 7)
    ledger.hold(place, DeliveryRef("uid", "token"), until=FAR)
    assert (ledger.asked, ledger.reading, ledger.words, ledger.ready) == (place, False, "trouble", False)
    assert [hand.subscription for hand in ledger] == [place]
    assert ledger.took(7)
    assert ledger.asked is None


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


def test_entries_are_reused_and_their_generations_differ():
    ledger = Ledger(1)
    index, first = ledger.hold(0, DeliveryRef("a", "t1"), until=FAR)
    (old,) = ledger
    ledger.let_go(index)
    again, second = ledger.hold(0, DeliveryRef("b", "t2"), until=FAR)
    assert (again, second > first) == (index, True)
    ledger.renewed(old, 0)  # the reply about the former item comes late
    assert not ledger.lapsed(again, second)


def test_a_lease_has_lapsed_when_it_was_refused_or_not_renewed():
    ledger = Ledger(1)
    index, generation = ledger.hold(0, DeliveryRef("a", "t"), until=0)
    assert ledger.lapsed(index, generation)
    (hand,) = ledger
    ledger.renewed(hand, FAR)
    assert not ledger.lapsed(index, generation)
    ledger.renewed(hand, 0)
    assert ledger.lapsed(index, generation)


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
    assert [(hand.held.uid[:3], hand.held.token, hand.subscription) for hand in ledger] == [
        ("xxx", "token", 0),
        ("b", "t", 1),
    ]


def test_a_message_that_is_too_long_is_cut():
    ledger = Ledger(1)
    ledger.say("ä" * 2000)
    assert ledger.words.startswith("ä" * 400)
    assert list(ledger) == []
    ledger.say("")
    assert (ledger.words, ledger.fatal) == ("", False)
