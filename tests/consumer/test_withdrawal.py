"""Items that wait in a child that cannot begin them are given back by the supervisor, and are still begun only once."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from collections import Counter
from contextlib import contextmanager, suppress

import pytest

from django_srq import operations
from django_srq.consumer import ConsumerOptions, Subscription
from django_srq.consumer.clock import lease_time
from django_srq.consumer.ledger import HELD, RUNNING, Ledger, Waiting
from django_srq.consumer.processes.child_handle import ChildHandle
from django_srq.consumer.processes.supervisor import Supervisor
from django_srq.consumer.processes.withdrawal import Withdrawal
from django_srq.consumer.worker.claim import Answer
from django_srq.consumer.worker.worker import Worker
from django_srq.operations import DeliveryRef
from django_srq.transport.slots import Slot
from tests.consumer.test_supervisor import LONG, PATIENT_WAITS, began, children, empty, reported, told
from tests.support.decoding import decoded
from tests.support.waiting import count_parked, parked, wait_for

__all__ = ["told"]  # a fixture


# -- the ledger that both processes share


def held(number: int) -> Ledger:
    ledger = Ledger(number)
    for place in range(number):
        ledger.hold(0, DeliveryRef(str(place), "t"), until=lease_time() + LONG)
    return ledger


def test_an_item_that_is_marked_for_withdrawal_is_not_begun():
    ledger = held(2)
    first, second = sorted(ledger.waiting())
    ledger.want_back(first)
    assert (ledger.start(0), ledger.start(1)) == (False, True)
    assert [entry.state for entry in ledger] == [HELD, RUNNING]
    assert (ledger.entry_of(first).held.uid, ledger.entry_of(second)) == ("0", None)


def test_a_mark_is_gone_with_the_generation_that_it_was_about():
    ledger = held(1)
    (one,) = ledger.waiting()
    ledger.want_back(one)
    ledger.free(0)
    ledger.hold(0, DeliveryRef("other", "t"), until=0)
    assert ledger.entry_of(one) is None
    assert ledger.start(0)


def test_marked_items_of_a_batch_are_given_back_before_the_others_are_begun(queue):
    """Giving them back may take as long as the server is away, and no item that was begun may wait for that."""
    queue.put_many("abc")
    ledger, handled, states = Ledger(3), [], []
    subscription = Subscription(queue, handled.extend, batch=3)
    worker = Worker([subscription], ledger, consumer="c1", options=ConsumerOptions(), report=print)
    settler, answer = worker._settler, Answer()
    worker._roles._claims.claim(subscription, 3, (), answer)
    ledger.want_back(Waiting(answer.jobs[1].generation, answer.jobs[1].record))
    release = settler.release
    settler.release = lambda *args: (states.extend(hand.state for hand in ledger), release(*args))
    worker._handle(answer.jobs)
    assert states == [HELD] * 3
    assert [item.payload for item in handled] == [b"a", b"c"]
    (back,) = queue.items("ready")
    assert (back.payload, back.deliveries) == (b"b", 0)
    worker._roles.close()


def test_no_item_of_a_marked_claim_is_begun():
    ledger = Ledger(1)
    for number, may in ((4, True), (5, False), (6, True)):
        ledger.begin_claim(0, number)
        if not may:
            ledger.want_back(Waiting(number, None))
        assert ledger.waiting() == {Waiting(number, None)}
        assert ledger.end_claim(number) is may
    assert not ledger.end_claim(3)  # an earlier claim, which was put off
    assert ledger.waiting() == set()


def test_no_item_of_a_marked_claim_behind_a_wait_is_begun():
    ledger = Ledger(1)
    ledger.begin_claim(0, 1)
    for number, may in ((4, True), (5, False), (6, True)):
        ledger.park(number, LONG)
        if not may:
            ledger.want_back(Waiting(number, None, parked=True))
        assert (ledger.parked.number, ledger.parked.until > time.monotonic()) == (number, True)
        assert ledger.end_parked(number) is may
        assert (ledger.parked, ledger.arriving) == (None, False)
    assert ledger.end_claim(1)  # an ordinary claim has numbers of its own


def test_nothing_is_withdrawn_from_a_child_that_may_just_be_idle():
    ledger, asked, stopped = Ledger(1), [], []
    withdrawal = Withdrawal(ledger, lambda: asked.append(1), lambda: bool(stopped))
    ledger.park(1, LONG)
    assert [withdrawal.look() for _ in range(10)] == [set()] * 10
    assert asked == []
    stopped.append(1)
    assert [withdrawal.look() for _ in range(5)] == [set()] * 3 + [{Waiting(1, None, parked=True)}] + [set()]


def test_a_claim_is_withdrawn_from_an_idle_child_whose_wait_is_over():
    ledger, asked = Ledger(1), []
    withdrawal = Withdrawal(ledger, lambda: asked.append(1))
    ledger.park(1, -1)
    assert [withdrawal.look() for _ in range(5)] == [set()] * 3 + [{Waiting(1, None, parked=True)}] + [set()]
    assert len(asked) == 1
    ledger.park(2, -1)
    withdrawal = Withdrawal(ledger, ledger.answer)
    assert [withdrawal.look() for _ in range(10)] == [set()] * 10


def test_a_claim_that_the_server_had_not_carried_out_is_withdrawn_again():
    ledger = Ledger(1)
    withdrawal, claim = Withdrawal(ledger, lambda: None, lambda: True), Waiting(1, None, parked=True)
    ledger.park(1, LONG)
    for _ in range(3):
        wait_for(lambda: withdrawal.look() == {claim}, "the claim")
        assert withdrawal.look() == set()
        withdrawal.withdraw_again(claim)
    assert not ledger.end_parked(1)
    assert [withdrawal.look() for _ in range(5)] == [set()] * 5


def test_no_claim_behind_a_wait_is_both_begun_and_withdrawn():
    """A child takes one reply after the other, while its supervisor always tries to withdraw all of them."""
    for _ in range(5):
        ledger, begun = Ledger(1), mmap.mmap(-1, 1001)
        pid = os.fork()
        if pid == 0:
            for number in range(1, 1001):
                ledger.park(number, LONG)
                if number % 30 == 0:
                    time.sleep(random.uniform(0, 0.02))
                begun[number] = ledger.end_parked(number)
            os._exit(0)
        withdrawal, back = Withdrawal(ledger, lambda: None, lambda: True), set()
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            back |= {waiting.number for waiting in withdrawal.look()}
            time.sleep(random.uniform(0.001, 0.005))  # the child sees a mark much sooner
        assert [number for number in back if begun[number]] == []


def test_a_child_that_reacts_keeps_its_waiting_items():
    ledger = held(3)
    withdrawal = Withdrawal(ledger, ledger.answer)
    assert [withdrawal.look() for _ in range(10)] == [set()] * 10
    assert all(ledger.start(index) for index in range(3))


def test_waiting_items_of_a_child_that_does_not_react_are_withdrawn_once():
    ledger, asked = held(3), []
    withdrawal = Withdrawal(ledger, lambda: asked.append(1))
    assert [withdrawal.look() for _ in range(3)] == [set()] * 3
    ledger._records[0].state = RUNNING  # the child began this item after all, before it saw the mark
    assert {waiting.record for waiting in withdrawal.look()} == {1, 2}
    assert [withdrawal.look() for _ in range(5)] == [set()] * 5
    assert len(asked) == 1


def test_a_child_that_reacts_again_does_not_begin_withdrawn_items():
    ledger = held(2)
    withdrawal = Withdrawal(ledger, lambda: None)
    for _ in range(4):
        withdrawal.look()
    ledger.answer()
    assert withdrawal.look() == set()
    assert not any(ledger.start(index) for index in range(2))


def test_no_item_is_both_begun_and_withdrawn():
    """A child begins one item after the other, while its supervisor always tries to withdraw all waiting items."""
    for _ in range(5):
        ledger = held(3000)
        pid = os.fork()
        if pid == 0:
            for index in range(3000):
                if ledger.start(index):
                    ledger.finish(index)
                if index % 100 == 0:
                    time.sleep(random.uniform(0, 0.002))
            os._exit(0)
        withdrawal, back = Withdrawal(ledger, lambda: None), set()
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            back |= {waiting.record for waiting in withdrawal.look() if ledger.entry_of(waiting)}
            time.sleep(random.uniform(0.001, 0.005))  # the child sees a mark much sooner
        begun = {entry.index for entry in ledger if entry.state != HELD}
        assert not back & begun
        assert back | begun <= set(range(3000))


# -- the server


def test_the_items_of_a_claim_are_given_back_by_its_number(queue, client):
    queue.put_many("abcd")
    slot = Slot(b"c1", 5)
    first, second, third = decoded(
        queue, queue.link.call(queue.claim("c1+1", lease=LONG, n=3), queue="q", slot=slot).found
    )
    assert queue.ack(first)
    withdraw = lambda number: queue.link.call(operations.withdraw(queue.keys, b"c1", number), queue="q")  # noqa: E731
    assert [withdraw(4), withdraw(6)] == [0, None]
    assert queue.release(second)
    other = queue.get(-1)
    assert other.uid == second.uid
    assert [withdraw(5), withdraw(5)] == [1, 0]
    assert [(item.payload, item.deliveries) for item in queue.items()] == [(b"c", 0), (b"d", 0)]
    assert not queue.extend(third)
    assert queue.audit() == []


@pytest.mark.parametrize("is_parked", [False, True])
def test_items_that_a_claim_takes_after_its_withdrawal_are_given_back_too(queue, is_parked):
    """The claim was on its way to the server for long, or waited there."""
    queue.put_many("ab")
    supervisor, ledger, (heard, line) = (
        Supervisor([Subscription(queue, print)], ConsumerOptions()),
        Ledger(1, slot=b"c1.1"),
        os.pipe(),
    )
    seat = next(iter(supervisor._seats))
    child = seat.child = ChildHandle("c1.1", os.getpid(), ledger, line)
    if is_parked:
        ledger.park(1, -1)
    else:
        ledger.begin_claim(0, 1)
    slot, answers = Slot(b"c1.1.w" if is_parked else b"c1.1", 1), []

    def look() -> None:
        supervisor._watch.look_for_waiting_items()
        reported(supervisor)

    again = child.withdrawal.withdraw_again
    child.withdrawal.withdraw_again = lambda claim: (answers.append(claim), again(claim))
    wait_for(lambda: look() or answers, "a withdrawal")
    found = queue.link.call(queue.claim("c1.1", lease=LONG, n=2), queue="q", slot=slot).found
    assert [stored.uid for stored in found] == [item.uid for item in queue.items("in_flight")]
    wait_for(lambda: look() or queue.counts()["ready"] == 2, "what it took")
    assert [(item.payload, item.deliveries) for item in queue.items()] == [(b"a", 0), (b"b", 0)]
    assert not (ledger.end_parked if is_parked else ledger.end_claim)(1)
    assert not supervisor._reports
    for end in (heard, line):
        os.close(end)


# -- with real processes


def handled(project) -> list[tuple[str, int, int]]:
    """The name, the delivery and the process of each item that a handler got."""
    lines = [line.split() for line in project.lines() if "lost=" not in line]
    return [(words[0], int(words[1]), int(words[2])) for words in lines]


@pytest.mark.parametrize(("options", "place"), [(("--prefetch", "10"), 0), (("--prefetch", "10"), 8), ((), 50)])
def test_another_child_handles_items_behind_a_handler_that_holds_the_interpreters_lock(project, told, options, place):
    """At the ninth of ten items, the next ones are claimed already; by default many are, as the items are short."""
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
def test_a_child_that_was_stopped_begins_no_item_that_was_given_back(project, told, stop_at):
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


def test_children_that_pause_now_and_then_handle_each_item_once(project, told):
    """The pauses last about as long as the supervisor waits before it withdraws items."""
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


def an_idle_child(project, client, prefix, *options: str) -> int:
    process = project.start("srq_consume", *options)
    wait_for(lambda: parked(client, prefix), "an idle child")
    (child,) = children(process)
    return child


def withdrawn_before_it_was_carried_out(queue, client):
    return wait_for(lambda: any(known.endswith(b" -1") for known in client.hvals(queue.keys["slots"])), "a withdrawal")


def test_items_that_the_claim_of_a_stopped_idle_child_takes_are_given_back(project, told, client, prefix):
    queue = told(OPTIONS={"client_name": prefix})
    child = an_idle_child(project, client, prefix, "--prefetch", "2")
    os.kill(child, signal.SIGSTOP)
    queue.put_many({"do": "nothing", "name": name} for name in "abc")
    wait_for(lambda: queue.snapshot().stats.get("released") == 2, "what its claim took")
    assert [(item.payload["name"], item.deliveries) for item in queue.items("ready")] == [("a", 0), ("b", 0), ("c", 0)]
    first = queue.get(-1)
    os.kill(child, signal.SIGCONT)
    wait_for(lambda: queue.counts() == {"ready": 0, "in_flight": 1, "delayed": 0, "dead": 0}, "the others")
    assert (first.payload["name"], first.deliveries, queue.ack(first)) == ("a", 1, True)
    assert handled(project) == [("b", 1, child), ("c", 1, child)]
    assert queue.snapshot().stats.get("crashed", 0) == 0
    assert queue.audit() == []


@pytest.mark.parametrize("goes_on", [False, True])
def test_items_that_a_withdrawn_claim_of_a_stopped_child_takes_are_not_begun(project, told, client, prefix, goes_on):
    """The claim is withdrawn before the server carries it out; the child goes on before that, or not at all."""
    queue = told(OPTIONS={"client_name": prefix})
    project.add_to_settings(PATIENT_WAITS)
    child = an_idle_child(project, client, prefix)
    os.kill(child, signal.SIGSTOP)
    withdrawn_before_it_was_carried_out(queue, client)
    if goes_on:
        os.kill(child, signal.SIGCONT)
    queue.put({"do": "nothing", "name": "it"})
    wait_for(lambda: queue.snapshot().stats.get("released") == 1, "what its claim took")
    os.kill(child, signal.SIGCONT)
    assert began(project, "it")[1] == "1"
    wait_for(lambda: empty(queue), "the ack")
    queue.put({"do": "nothing", "name": "next"})
    assert int(began(project, "next")[2]) == child
    assert [name for name, *_ in handled(project)] == ["it", "next"]
    assert queue.audit() == []


def test_an_idle_child_behind_a_thread_that_holds_the_lock_begins_no_item_that_was_given_back(
    project, told, client, prefix
):
    """The supervisor cannot notice that the child does not react, until its wait should be over."""
    queue = told(OPTIONS={"client_name": prefix})
    project.add_to_settings(PATIENT_WAITS.replace(f"{LONG}", "3"))
    fifo = project.folder / "fifo"
    os.mkfifo(fifo)
    queue.put({"do": "hold the GIL later", "until": str(fifo), "word": "hold", "name": "it"})
    project.start("srq_consume")
    wait_for(lambda: empty(queue), "the ack")
    a_new_wait(queue, client, prefix)
    project.say("hold")
    with opened(fifo) as held:
        queue.put({"do": "nothing", "name": "next"})
        wait_for(lambda: queue.snapshot().stats.get("released") == 1, "what its claim took")
        (back,) = queue.items("ready")
        assert (back.payload["name"], back.deliveries) == ("next", 0)
        os.write(held, b"go on")
    assert began(project, "next")[1] == "1"
    wait_for(lambda: empty(queue), "the ack of the last one")
    assert queue.audit() == []


def a_new_wait(queue, client, prefix) -> None:
    """Return when a wait of the child has just begun: the claim behind the one before it was carried out."""

    def number() -> bytes:
        found = client.hgetall(queue.keys["slots"])
        return next((known.split()[0] for slot, known in found.items() if slot.endswith(b".w")), b"")

    before = number()
    wait_for(lambda: number() != before, "the end of a wait")
    wait_for(lambda: parked(client, prefix), "the next wait")


@contextmanager
def opened(fifo):
    """Open the FIFO for writing, as soon as a reader is there."""

    def opens():
        with suppress(OSError):
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)

    file = wait_for(opens, "who reads")
    try:
        yield file
    finally:
        os.close(file)


def test_idle_children_that_are_stopped_now_and_then_handle_each_item_once(project, told, client, prefix):
    """The stops last about as long as the supervisor waits before it withdraws the claims."""
    queue, often = told(OPTIONS={"client_name": prefix}), random.Random(12)
    process = project.start("srq_consume", "--processes", "4")
    names = []
    for turn in range(4):
        idle = wait_for(lambda: count_parked(client, prefix) == 4 and children(process), "four idle children")
        for child in idle:
            os.kill(child, signal.SIGSTOP)
        turns = [f"{turn}-{number}" for number in range(4)]
        for name in turns:
            queue.put({"do": "nothing", "name": name})
        names += turns
        began = time.monotonic()
        for moment, child in sorted((often.uniform(0.5, 0.9), child) for child in idle):
            time.sleep(max(0, began + moment - time.monotonic()))
            os.kill(child, signal.SIGCONT)
        wait_for(lambda: empty(queue), "all items")
    assert sorted((name, delivery) for name, delivery, _ in handled(project)) == [(name, 1) for name in names]
    assert queue.audit() == []
