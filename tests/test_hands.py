"""What a child has in hand, as its supervisor sees it through shared memory."""

from __future__ import annotations

import os
import time

import pytest

from django_srq.consumer.clock import lease_time
from django_srq.consumer.ledger import DONE, FAILED, HELD, RUNNING, Hands, Waiting
from django_srq.operations import Held

FAR = lease_time() + 1000


def test_an_item_on_its_way_through_a_hand():
    hands = Hands(2)
    held = Held("uid", "c1.1/7/3", "12")
    index, filling = hands.hold(4, held, until=FAR)
    (hand,) = hands
    assert (hand.held, hand.source, hand.state, hand.started, hand.filling) == (held, 4, HELD, 0, filling)
    hands.start(index)
    (hand,) = hands
    assert hand.state == RUNNING
    assert 0 < hand.started <= time.monotonic()
    hands.finish(index)
    assert [hand.state for hand in hands] == [DONE]
    hands.fail(index)
    assert [hand.state for hand in hands] == [FAILED]
    hands.let_go(index)
    assert list(hands) == []


def test_a_child_fills_what_its_parent_reads():
    hands = Hands(2)
    pid = os.fork()
    if pid == 0:
        hands.hold(0, Held("é" * 3, "t"), until=FAR)
        hands.say("trouble", fatal=True)
        hands.count_handled(5)
        hands.live()
        os._exit(0)
    os.waitpid(pid, 0)
    assert [hand.held.uid for hand in hands] == ["é" * 3]
    assert (hands.words, hands.fatal, hands.handled, hands.ready) == ("trouble", True, 5, True)
    assert 0 < hands.beat <= time.monotonic()


def test_a_claim_is_held_until_what_it_brought_is_written_down():
    hands = Hands(1)
    assert hands.asked is None
    pid = os.fork()
    if pid == 0:
        hands.say("w" * 2000)
        hands.ask(3, 7)
        os._exit(0)
    os.waitpid(pid, 0)
    assert (hands.asked, hands.reading, hands.words[:3], hands.fatal, hands.full) == (3, False, "www", False, False)
    hands.read()
    assert (hands.asked, hands.reading) == (3, True)
    assert hands.took(7)
    assert hands.asked is None
    hands.ask(0, 8)
    assert (hands.asked, hands.reading, list(hands)) == (0, False, [])


def test_a_claim_that_is_owed_is_held_beside_the_next_ones():
    hands = Hands(1, servers=2)
    hands.hold(0, Held("uid", "token"), until=FAR)
    for place, number in ((3, 7), (70_000, 8)):
        hands.ask(place, number)
        hands.owe(place, number)
    hands.ask(1, 9)
    claims = {Waiting(number, None) for number in (7, 8, 9)}
    assert (hands.asked, hands.owed) == (1, [(3, 7), (70_000, 8)])
    assert {one for one in hands.waiting() if one.record is None} == claims
    assert {hands.source_of(one) for one in claims} == {3, 70_000, 1}
    hands.mark(Waiting(8, None))
    hands.mark(Waiting(7, None))  # which takes the mark from nothing
    assert (hands.took(7), hands.took(8), hands.owed, hands.asked) == (False, False, [], 1)
    assert hands.source_of(Waiting(7, None)) is None
    assert hands.took(9)
    assert [hand.held.uid for hand in hands] == ["uid"]
    hands.owe(5, 10)
    hands.empty(b"c2", 2)
    assert hands.owed == []


@pytest.mark.parametrize("place", [254, 255, 256, 70_000])
def test_any_number_of_sources(place):
    hands = Hands(1)
    hands.say("trouble")
    hands.ask(place, 7)
    hands.hold(place, Held("uid", "token"), until=FAR)
    assert (hands.asked, hands.reading, hands.words, hands.ready) == (place, False, "trouble", False)
    assert [hand.source for hand in hands] == [place]
    assert hands.took(7)
    assert hands.asked is None


@pytest.mark.parametrize("held", [Held("u" * 128, "t" * 72), Held("u" * 500, "t" * 500), Held("é" * 100, "é" * 100)])
def test_what_is_too_long_for_a_record_leaves_the_next_one_alone(held):
    hands = Hands(2)
    for name in (held, Held("next", "token")):
        hands.hold(0, name, until=FAR)
    first, second = hands
    assert held.uid.startswith(first.held.uid[:64])
    assert len(first.held.token.encode()) <= 72 + 2  # half a character reads as three bytes
    assert second.held == Held("next", "token")


def test_hands_are_used_again_and_fillings_tell_them_apart():
    hands = Hands(1)
    index, first = hands.hold(0, Held("a", "t1"), until=FAR)
    (old,) = hands
    hands.let_go(index)
    again, second = hands.hold(0, Held("b", "t2"), until=FAR)
    assert (again, second > first) == (index, True)
    hands.renewed(old, 0)  # the answer about the one before comes late
    assert not hands.lapsed(again, second)


def test_a_lease_has_lapsed_when_it_was_refused_or_not_renewed():
    hands = Hands(1)
    index, filling = hands.hold(0, Held("a", "t"), until=0)
    assert hands.lapsed(index, filling)
    (hand,) = hands
    hands.renewed(hand, FAR)
    assert not hands.lapsed(index, filling)
    hands.renewed(hand, 0)
    assert hands.lapsed(index, filling)


def test_leases_end_while_the_machine_is_suspended(monkeypatch):
    """Then the monotonic clock stands still on Linux."""
    hands = Hands(1)
    index, filling = hands.hold(0, Held("a", "t"), until=lease_time() + 1000)
    assert not hands.lapsed(index, filling)
    clock_gettime, suspended = time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: clock_gettime(clock) + 3600 * (clock == suspended))
    assert hands.lapsed(index, filling)


def test_a_uid_that_is_too_long_spills_into_nothing():
    hands = Hands(2)
    hands.hold(0, Held("x" * 1000, "token"), until=FAR)
    hands.hold(1, Held("b", "t"), until=FAR)
    assert [(hand.held.uid[:3], hand.held.token, hand.source) for hand in hands] == [("xxx", "token", 0), ("b", "t", 1)]


def test_long_words_are_cut():
    hands = Hands(1)
    hands.say("ä" * 2000)
    assert hands.words.startswith("ä" * 400)
    assert list(hands) == []
    hands.say("")
    assert (hands.words, hands.fatal) == ("", False)
