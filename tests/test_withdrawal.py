"""What waits in a child that cannot begin it is given back by the supervisor, and is begun once all the same."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

import pytest

from django_srq import operations
from django_srq.consumer import Plan, Source
from django_srq.consumer.claims import Answer
from django_srq.consumer.clock import lease_time
from django_srq.consumer.hands import HELD, RUNNING, Hands, Waiting
from django_srq.consumer.withdrawal import Withdrawal
from django_srq.consumer.worker import Worker
from django_srq.operations import Held
from django_srq.slots import Slot
from tests.test_supervisor import LONG, began, children, empty, told
from tests.waiting import wait_for

__all__ = ["told"]  # a fixture


# -- the memory that both share


def held(number: int) -> Hands:
    hands = Hands(number)
    for place in range(number):
        hands.hold(0, Held(str(place), "t"), until=lease_time() + LONG)
    return hands


def test_what_is_marked_is_not_begun():
    hands = held(2)
    first, second = sorted(hands.waiting())
    hands.mark(first)
    assert (hands.start(0), hands.start(1)) == (False, True)
    assert [hand.state for hand in hands] == [HELD, RUNNING]
    assert (hands.of(first).held.uid, hands.of(second)) == ("0", None)


def test_a_mark_is_gone_with_the_filling_that_it_was_about():
    hands = held(1)
    (one,) = hands.waiting()
    hands.mark(one)
    hands.let_go(0)
    hands.hold(0, Held("other", "t"), until=0)
    assert hands.of(one) is None
    assert hands.start(0)


def test_what_is_wanted_back_of_a_batch_goes_before_any_of_it_is_begun(queue):
    """To give it back may take as long as the server is away: nothing that is begun may wait for that."""
    queue.put_many("abc")
    hands, handled, states = Hands(3), [], []
    source = Source(queue, handled.extend, batch=3)
    worker = Worker([source], hands, consumer="c1", plan=Plan(), report=print)
    settling, answer = worker._settling, Answer()
    worker._claims.claim(source, 3, (), answer)
    hands.mark(Waiting(answer.jobs[1].filling, answer.jobs[1].record))
    release = settling.release
    settling.release = lambda *args: (states.extend(hand.state for hand in hands), release(*args))
    worker._handling.handle(answer.jobs)
    assert states == [HELD] * 3
    assert [item.payload for item in handled] == [b"a", b"c"]
    (back,) = queue.items("ready")
    assert (back.payload, back.deliveries) == (b"b", 0)
    worker._claims.close()


def test_of_a_claim_that_is_marked_nothing_may_be_begun():
    hands = Hands(1)
    for number, may in ((4, True), (5, False), (6, True)):
        hands.ask(0, number)
        if not may:
            hands.mark(Waiting(number, None))
        assert hands.waiting() == {Waiting(number, None)}
        assert hands.took(number) is may
    assert not hands.took(3)  # one before it that was put off
    assert hands.waiting() == set()


def test_a_child_that_hears_keeps_what_waits_there():
    hands = held(3)
    withdrawal = Withdrawal(hands, hands.hear)
    assert [withdrawal.look() for _ in range(10)] == [set()] * 10
    assert all(hands.start(index) for index in range(3))


def test_what_waits_in_one_that_does_not_is_given_back_once():
    hands, asked = held(3), []
    withdrawal = Withdrawal(hands, lambda: asked.append(1))
    assert [withdrawal.look() for _ in range(3)] == [set()] * 3
    hands._memory[1024] = RUNNING  # begun after all, before it saw the mark
    assert {one.record for one in withdrawal.look()} == {1, 2}
    assert [withdrawal.look() for _ in range(5)] == [set()] * 5
    assert len(asked) == 1


def test_one_that_hears_again_begins_with_what_is_not_given_back():
    hands = held(2)
    withdrawal = Withdrawal(hands, lambda: None)
    for _ in range(4):
        withdrawal.look()
    hands.hear()
    assert withdrawal.look() == set()
    assert not any(hands.start(index) for index in range(2))


def test_nothing_is_both_begun_and_given_back():
    """A child begins one after the other, while its supervisor wants back all that waits, at every moment."""
    for _ in range(5):
        hands = held(3000)
        pid = os.fork()
        if pid == 0:
            for index in range(3000):
                if hands.start(index):
                    hands.finish(index)
                if index % 100 == 0:
                    time.sleep(random.uniform(0, 0.002))
            os._exit(0)
        withdrawal, back = Withdrawal(hands, lambda: None), set()
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            back |= {one.record for one in withdrawal.look() if hands.of(one)}
            time.sleep(random.uniform(0.001, 0.005))  # a mark is seen much sooner
        begun = {hand.index for hand in hands if hand.state != HELD}
        assert not back & begun
        assert back | begun <= set(range(3000))


# -- the server


def test_what_a_claim_took_is_given_back_by_its_number(queue, client):
    queue.put_many("abcd")
    slot = Slot(b"c1", 5)
    first, second, third = queue.decoded(
        queue.link.call(queue.claim("c1+1", lease=LONG, n=3), queue="q", slot=slot).found
    )
    assert queue.ack(first)
    withdraw = lambda number: queue.link.call(operations.withdraw(queue.keys, b"c1", number), queue="q")  # noqa: E731
    assert [withdraw(4), withdraw(6)] == [0, 0]
    assert queue.release(second)
    other = queue.get(-1)
    assert other.uid == second.uid
    assert [withdraw(5), withdraw(5)] == [1, 0]
    assert [(item.payload, item.deliveries) for item in queue.items()] == [(b"c", 0), (b"d", 0)]
    assert not queue.extend(third)
    assert queue.audit() == []


# -- on real processes


def handled(project) -> list[tuple[str, int, int]]:
    """Name, delivery and process of each item that a handler got."""
    lines = [line.split() for line in project.lines() if "lost=" not in line]
    return [(words[0], int(words[1]), int(words[2])) for words in lines]


@pytest.mark.parametrize(("options", "place"), [(("--prefetch", "10"), 0), (("--prefetch", "10"), 8), ((), 50)])
def test_another_child_handles_what_waits_behind_a_handler_that_holds_the_lock(project, told, options, place):
    """At the ninth of ten the next ones are claimed, too; by default many are, as those before it were quick."""
    queue = told()
    fifo = project.folder / "fifo"
    os.mkfifo(fifo)
    items = [{"do": "nothing", "name": f"n{number}"} for number in range(100)]
    items[place] = {"do": "hold the GIL", "until": str(fifo), "name": "it"}
    queue.put_many(items)
    process = project.start("srq_consume", "--processes", "2", *options)
    counts = {"ready": 0, "in_flight": 1, "delayed": 0, "dead": 0}
    wait_for(lambda: queue.counts() == counts, "all others")
    pid = int(began(project, "it")[2])
    assert Counter(name for name, *_ in handled(project)) == Counter(item["name"] for item in items)
    assert {delivery for _, delivery, _ in handled(project)} == {1}
    fifo.write_text("go on")
    wait_for(lambda: empty(queue), "the ack of the last one")
    queue.put({"do": "nothing", "name": "last"})
    began(project, "last")
    assert pid in children(process)
    assert queue.audit() == []


@pytest.mark.parametrize("stop_at", [0, 8])
def test_a_child_that_was_stopped_begins_nothing_that_was_given_back(project, told, stop_at):
    queue = told()
    items = [{"do": "nothing", "name": f"n{number}"} for number in range(30)]
    items[stop_at] = {"do": "suspend", "name": "it"}
    queue.put_many(items)
    process = project.start("srq_consume", "--prefetch", "10")
    (child,) = wait_for(lambda: children(process), "a child")
    counts = {"ready": 29 - stop_at, "in_flight": 1, "delayed": 0, "dead": 0}
    wait_for(lambda: queue.counts() == counts, "what waited")
    taken = queue.get_many(12)
    os.kill(child, signal.SIGCONT)
    wait_for(lambda: queue.counts() == {**counts, "ready": 0, "in_flight": 12}, "the rest")
    names = [name for name, *_ in handled(project)] + [item.payload["name"] for item in taken]
    assert Counter(names) == Counter(item["name"] for item in items)
    assert {item.deliveries for item in taken} == {1}
    assert all(queue.ack_many(taken))
    assert queue.audit() == []


def test_children_that_hear_nothing_now_and_then_handle_each_item_once(project, told):
    """For about as long as it takes until the supervisor wants back what waits."""
    queue = told()
    often = random.Random(11)
    queue.put_many(
        {"do": "sleep with the GIL", "microseconds": often.randrange(100_000, 1_000_000), "name": f"n{number}"}
        if number % 12 == 0
        else {"do": "nothing", "name": f"n{number}"}
        for number in range(240)
    )
    project.start("srq_consume", "--prefetch", "10", "--processes", "3")
    wait_for(lambda: empty(queue), "all items", seconds=60)
    assert Counter(name for name, *_ in handled(project)) == {f"n{number}": 1 for number in range(240)}
    assert {delivery for _, delivery, _ in handled(project)} == {1}
    assert queue.snapshot().stats["released"] > 0
    assert queue.audit() == []
