"""A whole consumer is lost again and again: only items that it may have begun are blamed, and no good item dies."""

from __future__ import annotations

import signal
import threading

import pytest

from django_srq import operations, queues
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from django_srq.transport.slots import Slot
from tests.support.decoding import decoded
from tests.support.server_clock import pass_time
from tests.support.waiting import PATIENT, wait_for

LEASE = 0.6  # seconds
LONG = 600  # seconds; a lease that does not end during a test
MAX_CRASHES = 3
ALL_BUT_ONE = {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 1}


@pytest.fixture
def told(project, server_url, prefix):
    """A queue whose items name the deed of their handler."""

    def make(**options: object):
        queue = {"HANDLER": "tests.support.handlers.told", "LEASE": LEASE, "MAX_CRASHES": MAX_CRASHES, **options}
        project.configure({"told": queue}, {"URL": server_url, "PREFIX": prefix + ".{alias}"})
        return queues["told"]

    return make


def put(queue, number: int, deed: str, *, bad: int = 0, others: str = "nothing", first: int = 0) -> None:
    names = ["bad" if place == bad else f"n{place}" for place in range(first, first + number)]
    deeds = {"bad": deed}
    queue.put_many([{"do": deeds.get(name, others), "name": name, "once": False} for name in names])


def begun(project) -> list[tuple[str, int]]:
    """The name and the delivery of each item that a handler got."""
    lines = [line.split() for line in project.lines() if "went on" not in line]
    return [(words[0], int(words[1])) for words in lines]


def times(project, name: str) -> int:
    return sum(name == one for one, _ in begun(project))


def kill_in_bad(project, queue, *options: str, beside: int = 0) -> None:
    """Kill a consumer with all its processes while it handles the bad item, again and again until that is dead.

    beside: other items that are handled at the same time, the first time.
    """
    for number in range(1, queue.max_crashes + 1):
        process = project.start("srq_consume", *options)
        wait_for(lambda number=number: times(project, "bad") == number, f"the bad item, for the {number}. time")
        wait_for(lambda: len(begun(project)) > beside, "what is handled beside it")
        project.kill(process)
        wait_for(lambda: queue.recover() == 0 and queue.counts()["in_flight"] == 0, "the end of the leases")


def finish(project, queue, *options: str) -> None:
    """Let another consumer handle the rest; in the end only the bad item is dead."""
    process = project.start("srq_consume", *options)
    wait_for(lambda: queue.counts() == ALL_BUT_ONE, "the end of all but the bad one")
    process.terminate()
    assert process.wait(60) == 0
    (dead,) = queue.items("dead")
    assert (dead.payload["name"], dead.delivery.crashes) == ("bad", queue.max_crashes)
    assert dead.delivery.error["type"] == "ConsumerLost"
    assert queue.audit() == []


# -- with real processes


def test_items_that_a_lost_consumer_had_claimed_ahead_are_not_blamed(project, told):
    queue = told(MAX_CRASHES=2)
    put(queue, 50, "wait")
    kill_in_bad(project, queue, "--prefetch", "50")
    finish(project, queue, "--prefetch", "50")
    # They come in their order, and were not even counted as delivered.
    assert begun(project)[2:] == [(f"n{place}", 1) for place in range(1, 50)]


def test_an_item_that_kills_its_consumer_kills_no_other_item(project, told):
    """With adaptive prefetch: the other items are so short that many are claimed ahead, also when it comes back."""
    queue = told()
    put(queue, 90, "kill all", bad=30)
    for turn in range(MAX_CRASHES):
        process = project.start("srq_consume")
        put(queue, 50, "kill all", bad=-1, first=100 * (turn + 1))
        assert process.wait(60) == -signal.SIGKILL
    finish(project, queue)
    assert times(project, "bad") == MAX_CRASHES
    good = [name for name, _ in begun(project) if name != "bad"]
    assert (len(good), len(set(good))) == (89 + 3 * 50, 89 + 3 * 50)


def test_each_item_of_a_batch_is_blamed_once_and_then_handed_out_alone(project, told):
    queue = told(HANDLER="tests.support.handlers.one_by_one", HANDLER_BATCH=5)
    put(queue, 20, "kill all", bad=2)
    for _ in range(MAX_CRASHES):
        assert project.start("srq_consume", "--prefetch", "15").wait(60) == -signal.SIGKILL
    finish(project, queue, "--prefetch", "15")
    deliveries = {name: max(delivery for one, delivery in begun(project) if one == name) for name, _ in begun(project)}
    batch = {"n0": 2, "n1": 2, "bad": 3, "n3": 2, "n4": 2}
    assert deliveries == batch | {f"n{place}": 1 for place in range(5, 20)}
    assert (times(project, "n0"), times(project, "n3")) == (2, 1)  # the items before the bad one are handled again


@pytest.mark.parametrize("options", [("--threads", "4"), ("--processes", "2")])
def test_items_handled_beside_the_bad_one_are_blamed_once(project, told, options):
    """After that, all threads and processes of a consumer together have one of them in hand at a time."""
    queue = told(MAX_CRASHES=2)
    put(queue, 20, "wait", others="wait")
    others = {"--threads": 3, "--processes": 1}[options[0]]
    kill_in_bad(project, queue, "--prefetch", "8", *options, beside=others)
    blamed = {item.payload["name"]: item.delivery.crashes for item in queue.items("ready")}
    assert (sum(blamed.values()) >= others, max(blamed.values())) == (True, 1)
    project.say("on")
    finish(project, queue, *options)
    assert {name for name, _ in begun(project)} == {"bad", *(f"n{place}" for place in range(1, 20))}


@pytest.mark.parametrize(("handler", "batch"), [("told", 1), ("one_by_one", 2)])
def test_items_behind_the_suspects_of_a_lost_consumer_do_not_wait_for_them(project, told, handler, batch):
    """The four items that it had in hand are handled one after the other; idle processes handle the rest."""
    queue = told(HANDLER=f"tests.support.handlers.{handler}", HANDLER_BATCH=batch)
    slow, others = [f"slow{place}" for place in range(4)], {f"n{place}" for place in range(6)}
    queue.put_many([{"do": "wait", "name": name, "once": False} for name in slow])
    options = ["--processes", str(4 // batch)]
    process = project.start("srq_consume", *options)
    wait_for(lambda: len(begun(project)) == 4 // batch and queue.counts()["in_flight"] == 4, "all processes at work")
    queue.put_many([{"do": "nothing", "name": name} for name in sorted(others)])
    project.kill(process)
    wait_for(lambda: queue.recover() == 0 and queue.counts()["in_flight"] == 0, "the end of the leases")
    process = project.start("srq_consume", *options)
    wait_for(lambda: others <= {name for name, _ in begun(project)}, "the others")
    assert [name for name, delivery in begun(project) if delivery == 2] == slow[:1]
    project.say("on")
    wait_for(lambda: sum(queue.counts().values()) == 0, "the end of all")
    assert [name for name, delivery in begun(project) if delivery == 2] == slow  # each once more, in their order
    process.terminate()
    assert process.wait(60) == 0
    assert queue.audit() == []


# -- with calls like those of a consumer


def claimed(queue, consumer: str, n: int, *, width: int | None = 1, lease: float = LONG, acks=()):
    """The items of a claim, and its reply; width None: a claim by an older version."""
    name = consumer if width is None else f"{consumer}+{width}"
    reply = queue.link.call(queue.claim(name, lease=lease, n=n, acks=acks), queue=queue.alias)
    return decoded(queue, reply.found), reply


def told_of(queue) -> dict[bytes, tuple[int, int]]:
    """The deliveries and crashes of the ready items, in their order."""
    return {item.payload: (item.delivery.deliveries, item.delivery.crashes) for item in queue.items()}


def number(n: int) -> list[bytes]:
    return [b"%d" % place for place in range(n)]


def lose(queue, client) -> None:
    """Let the leases of a lost consumer end."""
    pass_time(client, queue.keys, LONG + 1)


@pytest.mark.parametrize("width", [1, 3, 250])
def test_the_oldest_items_without_an_ack_are_blamed_however_many_calls_the_recovery_takes(queue, client, width):
    queue.put_many(range(230))
    items, _ = claimed(queue, "c1.1", 200, width=width)
    more, _ = claimed(queue, "c1.1", 30, width=width)
    assert queue.ack(items[0])
    lose(queue, client)
    claimed(queue, "c2", 0)
    wait_for(lambda: claimed(queue, "c2", 0) and queue.counts()["in_flight"] == 0, "the recovery of all")
    assert list(told_of(queue)) == number(230)[1:]
    assert list(told_of(queue).values()) == [((1, 1) if place <= width else (0, 0)) for place in range(1, 230)]
    assert queue.snapshot().stats["crashed"] == min(width, 229)
    assert len(more) == 30


def test_items_that_were_claimed_later_are_not_blamed(queue, client):
    queue.put_many(range(6))
    claimed(queue, "c1.1", 3)
    pass_time(client, queue.keys, LONG / 2)
    claimed(queue, "c1.1", 3)
    pass_time(client, queue.keys, LONG / 2 + 1)
    assert queue.recover() == 3
    pass_time(client, queue.keys, LONG / 2)
    assert queue.recover() == 3
    assert list(told_of(queue).values()) == [(1, 1)] + [(0, 0)] * 5


def test_each_process_of_a_consumer_may_have_begun_an_item(queue, client):
    queue.put_many(range(6))
    claimed(queue, "c1.1", 3)
    claimed(queue, "c1.2", 3)
    lose(queue, client)
    queue.recover()
    assert list(told_of(queue).values()) == [(1, 1), (0, 0), (0, 0)] * 2


def test_all_items_of_an_older_versions_consumer_may_have_been_begun(queue, client):
    queue.put_many(range(3))
    claimed(queue, "c1.1", 3, width=None)
    lose(queue, client)
    queue.recover()
    assert list(told_of(queue).values()) == [(1, 1)] * 3


def test_items_that_are_taken_back_after_a_suspension_leave_no_suspects(queue, client):
    queue.put_many(range(3))
    items, _ = claimed(queue, "c1.1", 3)
    lose(queue, client)
    queue.recover()
    extend = operations.extend(queue.keys, [queue_held(item) for item in items], lease=LONG)
    assert queue.link.call(extend, queue="q") == [True, False, False]
    assert not client.exists(queue.keys["crashes"])
    again, _ = claimed(queue, "c1.1", 3)
    assert [item.payload for item in again] == [b"1", b"2"]


def queue_held(item):
    return operations.DeliveryRef(item.uid, item.token, item.delivery.number)


def suspects(queue, client, *places: int, of: int) -> None:
    """Put so many items, of which those at these positions were in hand when a consumer died."""
    queue.put_many(range(of))
    items = queue.get_many(of)
    crashed = operations.crashed(queue.keys, [queue_held(items[place]) for place in places], evidence=b"{}")
    queue.link.call(crashed, queue="q")
    queue.link.call(operations.release(queue.keys, [queue_held(item) for item in items]), queue="q")
    assert [item.delivery.crashes for item in queue.items()] == [int(place in places) for place in range(of)]


def test_a_suspect_is_handed_out_alone(queue, client):
    suspects(queue, client, 0, 3, of=6)
    found = [[item.payload for item in claimed(queue, f"c{turn}", 10)[0]] for turn in range(4)]
    assert found == [[b"0"], [b"1", b"2"], [b"3"], [b"4", b"5"]]


@pytest.mark.parametrize("priority", [0, 5, -5])
def test_a_suspect_that_failed_afterwards_is_handed_out_alone_too(queue, client, priority):
    """It is on the list then, or among the items of its priority."""
    queue.put("bad", priority=priority)
    crashed = operations.crashed(queue.keys, [queue_held(queue.get(-1))], evidence=b"{}")
    queue.link.call(crashed, queue="q")
    queue.put("a", priority=priority)
    queue.fail(queue.get(-1))
    queue.put("b", priority=priority)
    found = [[item.payload for item in queue.get_many(10, timeout=-1)] for _ in range(3)]
    assert found == [[b"a"], [b"bad"], [b"b"]]


def test_a_claim_and_its_repeat_return_the_number_of_crashes(queue, client):
    suspects(queue, client, 0, of=1)
    call, slot = queue.claim("c1+1", lease=LONG), Slot(b"c1", 1)
    for _ in range(2):
        (found,) = queue.link.call(call, queue="q", slot=slot).found
        assert (found.delivery.deliveries, found.delivery.crashes) == (2, 1)


def test_a_consumer_gets_one_suspect_at_a_time_and_another_consumer_the_next(queue, client):
    suspects(queue, client, 0, 1, of=2)
    (first,), _ = claimed(queue, "c1.1", 10)
    found, reply = claimed(queue, "c1.2", 10)
    assert (found, reply.wait, reply.held_up) == ([], 1, 1)  # a burst goes on, and the consumer asks again soon
    (second,), _ = claimed(queue, "c2.1", 10)
    assert (first.payload, second.payload) == (b"0", b"1")


def payloads(found) -> list[bytes]:
    items, _ = found
    return [item.payload for item in items]


def test_a_consumer_gets_items_behind_a_suspect_that_it_may_not_have(queue, client):
    suspects(queue, client, 0, 1, 3, of=7)
    (first,), _ = claimed(queue, "c1.1", 10)
    items, reply = claimed(queue, "c1.2", 1)
    assert ([item.payload for item in items], reply.wait, reply.held_up) == ([b"2"], 0, 0)  # more are ready
    items, reply = claimed(queue, "c1.2", 3)
    assert ([item.payload for item in items], reply.wait, reply.held_up) == ([b"4", b"5", b"6"], 1, 2)
    queue.put("7")
    # The suspects lost their places only while they had to wait.
    assert list(told_of(queue)) == [b"1", b"3", b"7"]
    assert payloads(claimed(queue, "c1.1", 10, acks=[queue_held(first)])) == [b"1"]
    assert payloads(claimed(queue, "c1.2", 10)) == [b"7"]
    assert payloads(claimed(queue, "c2.1", 10)) == [b"3"]


@pytest.mark.parametrize("priority", [0, 5, -5])
def test_waiting_suspects_keep_their_places(queue, client, priority):
    """Those on the list have failed since; they come back behind the items that were put before their failure."""
    suspects(queue, client, 0, of=1)
    claimed(queue, "c1.1", 1)
    uids = queue.put_many("abcdefg", priority=priority)
    client.hset(queue.keys["crashes"], mapping={uids[place]: 1 for place in (0, 2, 3, 5)})
    assert payloads(claimed(queue, "c1.2", 2)) == [b"b", b"e"]
    assert payloads(claimed(queue, "c1.2", 2)) == [b"g"]
    assert list(told_of(queue)) == [b"a", b"c", b"d", b"f"]
    assert queue.audit() == []


def test_an_item_behind_a_suspect_that_does_not_fit_into_the_reply_keeps_its_place(queue, client):
    suspects(queue, client, 0, 1, of=2)
    claimed(queue, "c1.1", 1)
    large = [bytes([letter]) * operations.MOST_BYTES for letter in b"ab"]
    queue.put_many([b"small", *large])
    items, reply = claimed(queue, "c1.2", 10)
    assert ([item.payload for item in items], reply.wait) == ([b"small", large[0]], 0)
    assert list(told_of(queue)) == [b"1", large[1]]


def test_max_in_flight_counts_items_behind_a_suspect(make_queue, client):
    queue = make_queue(max_in_flight=3)
    suspects(queue, client, 0, 1, of=6)
    claimed(queue, "c1.1", 10)
    items, reply = claimed(queue, "c1.2", 10)
    assert ([item.payload for item in items], reply.held_up) == ([b"2", b"3"], 3)


def test_a_consumer_gets_the_next_suspect_when_the_last_one_is_settled(queue, client):
    suspects(queue, client, 0, 1, of=2)
    (first,), _ = claimed(queue, "c1.1", 10)
    (second,), _ = claimed(queue, "c1.1", 10, acks=[queue_held(first)])
    assert second.payload == b"1"


def test_a_suspect_that_hangs_does_not_block_the_others_for_ever(queue, client):
    suspects(queue, client, 0, 1, of=2)
    claimed(queue, "c1.1", 10)
    assert claimed(queue, "c1.2", 10)[0] == []
    pass_time(client, queue.keys, 61)
    assert [item.payload for item in claimed(queue, "c1.2", 10)[0]] == [b"1"]


def test_a_plain_get_may_have_any_number_of_suspects(queue, client):
    suspects(queue, client, 0, 1, of=2)
    assert [queue.get(-1).payload, queue.get(-1).payload] == [b"0", b"1"]


def test_a_consumer_that_may_not_have_a_suspect_wakes_another_once(queue, client):
    suspects(queue, client, 0, 1, of=2)
    claimed(queue, "c1.1", 10)
    client.delete(queue.keys["wake"])
    pass_time(client, queue.keys, 2)
    for _ in range(3):
        claimed(queue, "c1.2", 10)
    assert client.llen(queue.keys["wake"]) == 1


def test_a_consumer_that_takes_an_item_behind_a_suspect_wakes_another_for_the_next(queue, client):
    suspects(queue, client, 0, 1, of=5)
    claimed(queue, "c1.1", 1)
    pass_time(client, queue.keys, -LONG)  # as if it had just woken another consumer for the suspect
    for rung in (1, 1, 0):  # in the end only the suspect is left
        client.delete(queue.keys["wake"])
        assert claimed(queue, "c1.2", 1)[0]
        assert client.llen(queue.keys["wake"]) == rung


def test_dropped_items_behind_a_suspect_hide_no_ready_items(queue, client):
    suspects(queue, client, 0, 1, of=2)
    claimed(queue, "c1.1", 1)
    uids = queue.put_many("abcdef")
    queue.drop(*uids[:3])
    assert payloads(claimed(queue, "c1.2", 3)) == [b"d", b"e", b"f"]


def test_a_process_that_handles_a_suspect_claims_nothing_ahead(queue, client):
    """Its other threads go on with single items from behind the suspect."""
    suspects(queue, client, 0, of=200)
    over, held = threading.Event(), []

    def handle(item) -> None:
        if item.payload == b"0":
            assert over.wait(PATIENT)
            return consumer.stop()
        held.append(queue.counts()["in_flight"])
        if item.payload == b"199":
            over.set()

    consumer = InProcessConsumer(
        [Subscription(queue, handle, lease=LONG)], options=ConsumerOptions(threads=4, prefetch=20)
    )
    consumer.run()
    assert max(held) <= 7  # each thread has one, and three more may be handled with their acks on their way
