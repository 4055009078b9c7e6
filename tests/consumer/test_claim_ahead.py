"""A worker claims the next items while it handles the last ones: none is lost, handled twice or kept from others."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing
from pathlib import Path

import pytest

from django_srq import SafeRedisQueue, operations
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription, Supervisor
from django_srq.consumer.leases import Leases
from django_srq.consumer.ledger import HELD, Ledger
from django_srq.consumer.processes.child_handle import ChildHandle
from django_srq.consumer.worker import prefetch
from django_srq.consumer.worker.claim import Claim
from django_srq.consumer.worker.worker import Worker
from django_srq.exceptions import LayoutError
from django_srq.operations import DeliveryRef
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from django_srq.transport.slots import Slot
from tests.consumer.test_supervisor import LONG, account_for, began, children, empty, told
from tests.consumer.test_wakeups import claims, named, patient, running, worker
from tests.support.decoding import decoded
from tests.support.project import signal_session
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import PATIENT, parked, wait_for

__all__ = ["named", "patient", "told"]  # fixtures

# With --prefetch 10, the claim of the next items goes with the ack of the eighth item, when two more are waiting. While
# the ninth is handled, the reply may still be unread.
AHEAD, NINTH = 10, 8
EARLY = b"\r\n$2\r\nc1\r\n$1\r\n2\r\n"  # in the request: the second call in the slot of ordinary claims


@pytest.fixture
def unread(monkeypatch):
    """The worker reads no reply before it needs the items, however long that takes."""
    monkeypatch.setattr("django_srq.consumer.worker.buffer.WAITED", LONG)


@pytest.fixture
def quick(monkeypatch):
    """As after items so short that ten are claimed at one time."""
    monkeypatch.setattr(prefetch.AdaptivePrefetch, "ahead", AHEAD)


@pytest.fixture
def server():
    """A server that loses nothing when it is killed."""
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.close()


class Handler:
    """Records the items that it gets, and runs a deed at some of them, by their position."""

    def __init__(self, **deeds) -> None:
        self.seen: list[tuple[bytes, int]] = []
        self.deeds = {int(name[1:]): deed for name, deed in deeds.items()}

    def __call__(self, item) -> None:
        self.seen.append((item.payload, item.deliveries))
        if deed := self.deeds.get(len(self.seen) - 1):
            deed()


def all_of(number: int) -> list[tuple[bytes, int]]:
    return [(b"%d" % n, 1) for n in range(number)]


# -- when the claim is sent, and how much it takes


def test_the_next_items_are_claimed_with_the_ack_of_one_of_the_last(queue, client, unread):
    client.script_flush()
    queue.put_many(range(30))
    turns: list[int] = []
    most: list[int] = []

    def handle(item: object) -> None:
        done = len(turns)
        # Before an item is begun, or at least before the next one, the acks of all earlier items have arrived,
        # including the ack that went with the claim.
        wait_for(lambda: client.hlen(queue.keys["items"]) == 30 - done, "the ack before")
        most.append(client.hlen(queue.keys["holders"]) - 1)
        turns.append(one._roles._claims._slot.seq)

    one = worker(Subscription(queue, handle, lease=LONG), prefetch=AHEAD)
    with running(one):
        wait_for(lambda: empty(queue), "all items")
    assert turns == [1] * 8 + [2] * 8 + [3] * 8 + [4] * 6
    assert most == [9, 8, 7, 6, 5, 4, 3, 2, *[9, 8, 7, 6, 5, 4, 3, 2] * 2, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("prefetch", [4, 10, 100, None])
def test_the_number_of_waiting_items_is_bounded(queue, client, unread, threads, prefetch):
    """Counted on the server, where the items of an unread claim are in flight too."""
    queue.put_many(range(300))
    seen: list[tuple[bytes, int]] = []
    begun: set[bytes] = set()
    most: list[int] = []
    lock = threading.Lock()

    def handle(item) -> None:
        with lock:
            seen.append((item.payload, item.deliveries))
            begun.add(item.uid.encode())
            if prefetch is not None:  # an item that was begun is still in flight while its ack is on its way
                most.append(len(set(client.hkeys(queue.keys["holders"])) - begun))

    consumer = InProcessConsumer(
        [Subscription(queue, handle, lease=LONG)], options=ConsumerOptions(prefetch=prefetch, threads=threads)
    )
    with running(consumer):
        wait_for(lambda: empty(queue), "all items")
    assert sorted(seen, key=lambda one: int(one[0])) == all_of(300)
    assert threads > 1 or seen == all_of(300)
    assert max(most, default=0) <= (prefetch or 0) + threads - 1  # the other threads may be about to record their items
    assert queue.snapshot().stats["acked"] == queue.snapshot().stats["delivered"] == 300
    assert queue.audit() == []


@pytest.mark.parametrize("plan", [{"burst": True}, {"max_items": 25}, {"prefetch": 3}, {"sources": 2}, {}])
def test_cases_without_an_early_claim(make_queue, client, unread, plan):
    plan = {"prefetch": AHEAD, **plan}
    control = plan == {"prefetch": AHEAD}
    made = [make_queue(str(number)) for number in range(plan.pop("sources", 1))]
    made[0].put_many(range(30))
    asked: list[object] = []
    consumer = InProcessConsumer(
        [Subscription(queue, lambda item: asked.append(consumer._ledger.claiming), lease=LONG) for queue in made],
        options=ConsumerOptions(**plan),
    )
    handled = plan.get("max_items", 30)
    with running(consumer):
        wait_for(lambda: client.hlen(made[0].keys["items"]) == 30 - handled, "the end")
    assert len(asked) == handled
    assert any(place is not None for place in asked) is control
    assert made[0].counts() == {"ready": 30 - handled, "in_flight": 0, "delayed": 0, "dead": 0}


@pytest.mark.parametrize("slow", [False, True])
def test_claimed_items_are_not_begun_with_too_much_memory(queue, monkeypatch, slow):
    """Neither items of an unread reply, nor items that were taken over behind a slow one."""
    monkeypatch.setattr("django_srq.consumer.worker.worker._memory", lambda: len(handler.seen) > NINTH)
    taken_over = lambda: slow and wait_for(lambda: consumer._ledger.claiming is None, "what the claim took")  # noqa: E731
    queue.put_many(range(30))
    handler = Handler(_8=taken_over)
    consumer = InProcessConsumer(
        [Subscription(queue, handler, lease=LONG)], options=ConsumerOptions(prefetch=AHEAD, max_memory=0)
    )
    consumer.run()
    assert handler.seen == all_of(NINTH + 1)
    assert queue.counts() == {"ready": 21, "in_flight": 0, "delayed": 0, "dead": 0}
    assert {item.deliveries for item in queue.items()} == {0}


def test_a_claim_whose_reply_was_lost_does_not_count_as_being_read(make_queue, server_url, unread):
    """Otherwise its items would be blamed if the child died while the claim is repeated."""
    reading = []
    with closing(Proxy(server_url)) as proxy, closing(Link(client_from_url(proxy.url), timeout=1)) as link:
        proxy.arm("lose reply", EARLY)
        queue = make_queue(link=link)
        queue.put_many(range(30))
        one = worker(Subscription(queue, Handler(), lease=LONG), prefetch=AHEAD)
        repeat = one._retries._repeat

        def note(retry) -> bool:
            if (retry.slot.name, retry.slot.seq) == (b"c1", 2):
                reading.append((one._ledger.claiming, one._ledger.reading))
            return repeat(retry)

        one._retries._repeat = note
        with running(one):
            wait_for(lambda: empty(queue), "all items")
    assert reading == [(0, False)]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_of_a_claim_or_ack_ends_all_threads(named, client, prefix, threads):
    named.put_many(range(100))
    handler = Handler(_20=lambda: client.hset(named.keys["meta"], "layout", "99"))
    with pytest.raises(LayoutError):
        InProcessConsumer(
            [Subscription(named, handler, lease=LONG)], options=ConsumerOptions(prefetch=AHEAD, threads=threads)
        ).run()
    named.link.close()
    wait_for(
        lambda: not any(connection["name"] == prefix for connection in client.client_list()),
        "the end of all connections",
    )


@pytest.mark.parametrize("number", [1, 10, 18, 23])
def test_at_the_end_of_a_queue_the_worker_waits(patient, queue, named, client, prefix, number):
    """As without early claims; the last claim may have taken all items that there were, some, or none."""
    seen = Handler()
    one = worker(Subscription(named, seen, lease=LONG), prefetch=AHEAD)
    queue.put_many(range(number))
    before = claims(client)
    with running(one):
        wait_for(lambda: len(seen.seen) == number and parked(client, prefix), "an idle worker")
        turns = one._roles._claims._slot.seq
        # An ack for each item, alone or with a claim, and the worker's calls at its beginning and end; the wait has a
        # claim too.
        assert claims(client) - before <= number + turns + 1
        assert turns <= 2 + number // 8
        queue.put(number)
        wait_for(lambda: len(seen.seen) == number + 1 and parked(client, prefix), "an idle worker again")
        assert one._roles._claims._slot.seq <= turns + 2
    assert seen.seen == all_of(number + 1)
    assert empty(queue)


@pytest.mark.parametrize(
    ("threads", "batch", "prefetch"), [(1, 1, 10), (1, 1, 100), (2, 3, 10), (4, 5, 4), (1, 10, 10), (3, 7, 20)]
)
def test_the_ledger_has_room_for_all_early_claims(queue, client, unread, threads, batch, prefetch):
    queue.put_many(range(600))
    seen: list[tuple[bytes, int]] = []

    def handle(items) -> None:
        seen.extend((item.payload, item.deliveries) for item in ([items] if batch == 1 else items))

    one = worker(Subscription(queue, handle, lease=LONG, batch=batch), threads=threads, prefetch=prefetch)
    with running(one):
        wait_for(lambda: empty(queue) or one._error, "all items")
    assert one._error is None
    assert sorted(seen, key=lambda one: int(one[0])) == all_of(600)
    assert len(one._ledger._free) == Worker.capacity(one._subscriptions, one._options)  # all entries are free again


# -- lost replies, and late requests


@pytest.mark.parametrize("cut_at", range(AHEAD))
def test_connections_that_break_at_any_item(server, cut_at):
    """All connections break while the item at that position of each ten is handled."""
    queue = SafeRedisQueue(name="cut", url=server.url, timeout=PATIENT)
    queue.put_many(range(40))
    seen: list[tuple[bytes, int]] = []

    def handle(item) -> None:
        seen.append((item.payload, item.deliveries))
        if len(seen) % AHEAD == cut_at:
            with server.client() as client:
                client.client_kill_filter(_type="normal", skipme=True)

    with running(InProcessConsumer([Subscription(queue, handle, lease=LONG)], options=ConsumerOptions(prefetch=AHEAD))):
        wait_for(lambda: len(seen) >= 40 and empty(queue), "all items")
    assert seen == all_of(40)
    stats = queue.snapshot().stats
    assert (stats["acked"], stats["delivered"]) == (40, 40)
    queue.link.close()


@pytest.mark.parametrize("kind", ["lose reply", "lose request", "hold request", "stall request"])
def test_an_early_claim_without_a_reply_takes_items_once(queue, make_queue, server_url, unread, kind):
    asked: list[object] = []
    with closing(Proxy(server_url)) as proxy, closing(Link(client_from_url(proxy.url), timeout=1)) as link:
        fault = proxy.arm(kind, EARLY)
        handler = Handler(_8=lambda: (fault.wait(), asked.append(one._ledger.claiming)))
        one = worker(Subscription(make_queue(link=link), handler, lease=LONG), prefetch=AHEAD)
        queue.put_many(range(30))
        with running(one):
            wait_for(lambda: len(handler.seen) >= 30 and empty(queue), "all items")
    assert asked == [0]
    assert handler.seen == all_of(30)
    stats = queue.snapshot().stats
    assert (stats["acked"], stats["delivered"]) == (30, 30)
    assert queue.audit() == []


def test_no_early_claim_is_sent_while_another_is_being_read(queue, make_queue, server_url):
    """It would have the number in the slot with which the other is repeated."""
    with closing(Proxy(server_url)) as proxy, closing(Link(client_from_url(proxy.url), timeout=1)) as link:
        fault = proxy.arm("stall request", EARLY, times=2)
        handler = Handler(_8=lambda: wait_for(lambda: fault.hits == 2, "the repeated call"))
        one = worker(Subscription(make_queue(link=link), handler, lease=LONG), prefetch=AHEAD)
        queue.put_many(range(30))
        with running(one):
            wait_for(lambda: len(handler.seen) >= 30 and empty(queue), "all items")
    assert handler.seen == all_of(30)
    assert queue.snapshot().stats["delivered"] == 30


@pytest.mark.parametrize("place", [AHEAD, 18, 29])
def test_an_early_claim_that_arrives_late_takes_nothing_more(queue, make_queue, server_url, client, unread, place):
    """It was repeated meanwhile, and may or may not be the last call in its slot."""
    counted: list[dict[str, int]] = []

    def deliver() -> None:
        counts = queue.counts()
        fault.deliver()
        wait_for(lambda: client.hlen(queue.keys["items"]) == 50 - place, "the acks before")
        counted.append({**counts, "ready": counts["ready"] - queue.counts()["ready"]})

    with closing(Proxy(server_url)) as proxy, closing(Link(client_from_url(proxy.url), timeout=PATIENT)) as link:
        fault = proxy.arm("hold request", EARLY)
        handler = Handler(**{f"_{place}": deliver})
        one = worker(Subscription(make_queue(link=link), handler, lease=LONG), prefetch=AHEAD)
        queue.put_many(range(50))
        with running(one):
            wait_for(lambda: len(handler.seen) >= 50 and empty(queue), "all items")
    assert counted[0]["ready"] == 0
    assert handler.seen == all_of(50)
    assert queue.snapshot().stats["delivered"] == 50
    assert queue.audit() == []


@pytest.mark.parametrize("place", [2, 7, NINTH, 9, AHEAD, 17])
@pytest.mark.parametrize("away", [False, True])
def test_a_server_that_is_restarted_in_the_middle(server, place, away):
    """It is back before the worker needs it, or only after the worker has noticed."""
    queue = SafeRedisQueue(name="q", url=server.url, timeout=1)
    reading = SafeRedisQueue(name="q", url=server.url, timeout=PATIENT)
    reading.put_many(range(30))

    def restart() -> None:
        server.kill()
        if not away:
            server.start()

    handler = Handler(**{f"_{place}": restart})
    one = worker(Subscription(queue, handler, lease=LONG), prefetch=AHEAD)
    with running(one):
        if away:
            wait_for(lambda: one._retries._troubles, "that it is noticed")
            server.start()
        wait_for(lambda: len(handler.seen) >= 30 and empty(reading), "all items")
    assert handler.seen == all_of(30)
    assert reading.audit() == []
    for each in (queue, reading):
        each.link.close()


FIRST = b"\r\n$2\r\nc1\r\n$1\r\n1\r\n"  # in the request: the first ordinary claim


def test_a_claim_whose_reply_is_old_is_repeated_before_its_items_are_begun(
    queue, make_queue, server_url, client, monkeypatch
):
    """A lease may end while the reply is on its way, or while another thread has the interpreter's lock."""
    monkeypatch.setattr(Claim, "old", property(lambda claim: claim.share < 1))
    assert not queue.get(-1)  # now the server knows the script, and carries out the first call at once
    queue.put_many("ab")
    with closing(Proxy(server_url)) as proxy, closing(Link(client_from_url(proxy.url), timeout=PATIENT)) as link:
        fault = proxy.arm("stall reply", FIRST)
        handler = Handler()
        one = worker(Subscription(make_queue(link=link), handler, lease=LONG), prefetch=AHEAD)
        with running(one):
            wait_for(lambda: queue.counts()["in_flight"] == 2, "the claim")
            assert (one._ledger.claiming, one._ledger.reading) == (0, True)
            (first, _) = queue.items("in_flight")
            token = client.hget(queue.keys["holders"], first.uid).decode()
            queue.link.call(operations.release(queue.keys, [DeliveryRef(first.uid, token)]), queue="q")
            other = queue.get(-1)
            fault.deliver()
            wait_for(lambda: handler.seen, "what is still its own")
            queue.ack(other)
            wait_for(lambda: empty(queue), "the acks")
    assert [payload for payload, _ in handler.seen] == [{b"a": b"b", b"b": b"a"}[other.payload]]
    assert one._ledger.claiming is None


# -- a slow item while the reply is unread


def test_max_items_are_handled_although_one_of_them_is_slow(queue, quick):
    """Adaptive prefetch claims none ahead here, because items behind the slow one would be given back."""
    queue.put_many(range(30))
    handler = Handler(_8=lambda: wait_for(lambda: queue.counts()["in_flight"] == 1, "none but this in flight"))
    assert (
        InProcessConsumer([Subscription(queue, handler, lease=LONG)], options=ConsumerOptions(max_items=10)).run() == 10
    )
    assert handler.seen == all_of(10)
    assert len(queue) == 20


def test_items_of_an_early_claim_are_given_back_behind_a_slow_item(queue, quick):
    queue.put_many(range(30))
    end = threading.Event()
    handler = Handler(_8=lambda: end.wait(60))
    with running(InProcessConsumer([Subscription(queue, handler, lease=LONG)])):
        wait_for(lambda: queue.counts() == {"ready": 21, "in_flight": 1, "delayed": 0, "dead": 0}, "the others back")
        assert len(handler.seen) == 9
        assert {item.deliveries for item in queue.items()} == {0}
        item = queue.get(-1)
        assert (item.payload, item.deliveries) == (b"9", 1)
        assert queue.release(item)
        end.set()
        wait_for(lambda: empty(queue), "all items")
    assert handler.seen == all_of(30)  # in the original order


def test_items_of_an_early_claim_are_taken_over_behind_a_slow_item(queue, client):
    queue.put_many(range(30))
    end = threading.Event()
    handler = Handler(_8=lambda: end.wait(60))
    consumer = InProcessConsumer([Subscription(queue, handler, lease=LONG)], options=ConsumerOptions(prefetch=AHEAD))
    with running(consumer):
        wait_for(lambda: len(handler.seen) == 9, "the ninth in hand")
        wait_for(lambda: sum(entry.state == HELD for entry in consumer._ledger) == 9, "what the claim took")
        assert consumer._ledger.claiming is None
        assert queue.counts() == {"ready": 12, "in_flight": 10, "delayed": 0, "dead": 0}
        end.set()
        wait_for(lambda: empty(queue), "all items")
    assert handler.seen == all_of(30)


def all_renewed(queue, client, beyond: float, number: int = 10) -> None:
    """Wait until the leases of all items in flight were renewed several times."""

    def leases() -> list[float]:
        return [score for _, score in client.zrange(queue.keys["leases"], 0, -1, withscores=True)]

    wait_for(lambda: queue.counts()["in_flight"] == number, "the acks, and the claim")
    first = max(leases())
    wait_for(lambda: len(leases()) == number and min(leases()) > first + 1000 * beyond, "renewals beyond the lease")


def test_the_leases_of_an_unread_claim_are_renewed(queue, client, unread):
    queue.put_many(range(30))
    handler = Handler(_8=lambda: (all_renewed(queue, client, 2), asked.append(consumer._ledger.claiming)))
    asked: list[object] = []
    consumer = InProcessConsumer([Subscription(queue, handler, lease=2)], options=ConsumerOptions(prefetch=AHEAD))
    with running(consumer):
        wait_for(lambda: empty(queue), "all items")
    assert asked == [0]
    assert handler.seen == all_of(30)


def test_the_leases_of_a_claim_that_was_taken_over_are_renewed(queue, client):
    queue.put_many(range(30))
    handler = Handler(_8=lambda: all_renewed(queue, client, 2))
    with running(InProcessConsumer([Subscription(queue, handler, lease=2)], options=ConsumerOptions(prefetch=AHEAD))):
        wait_for(lambda: empty(queue), "all items")
    assert handler.seen == all_of(30)


@pytest.mark.parametrize("fault", [False, True])
def test_items_of_an_unread_claim_are_given_back_at_a_stop(queue, make_queue, server_url, unread, monkeypatch, fault):
    """This happens at once, though the item in hand is slow, and even if the reply is being read and does not come."""
    end = threading.Event()
    handler = Handler(_8=lambda: end.wait(60))
    with closing(Proxy(server_url)) as proxy, closing(Link(client_from_url(proxy.url), timeout=PATIENT)) as link:
        if fault:
            monkeypatch.setattr("django_srq.consumer.worker.buffer.WAITED", 0.05)
        stalled = proxy.arm("stall request", EARLY, times=int(fault))
        one = worker(Subscription(make_queue(link=link), handler, lease=LONG), prefetch=AHEAD)
        queue.put_many(range(30))
        with running(one):
            wait_for(lambda: len(handler.seen) == 9, "the ninth in hand")
            if fault:
                wait_for(lambda: stalled.hits and one._buffer._leading, "somebody who reads the reply")
            one.stop()
            one.give_back()
            if fault:
                stalled.deliver()
            counts = {"ready": 21, "in_flight": 1, "delayed": 0, "dead": 0}
            wait_for(lambda: queue.counts() == counts, "the others back")
            assert {item.deliveries for item in queue.items()} == {0}
            end.set()
    assert handler.seen == all_of(9)
    assert queue.counts() == {"ready": 21, "in_flight": 0, "delayed": 0, "dead": 0}
    assert queue.audit() == []


# -- child processes


@pytest.fixture
def ninth(project, told, client):
    """Starts a consumer whose ninth item does a deed while a claim is unread; returns the queue and the command."""

    def start(deed: dict[str, object], **options: object):
        queue = told(**options)
        project.add_to_settings(f"from django_srq.consumer.worker import buffer\nbuffer.WAITED = {LONG}")
        items = [{"do": "nothing", "name": f"n{number}"} for number in range(30)]
        items[NINTH] = {"name": "it", **deed}
        queue.put_many(items)
        process = project.start("srq_consume", "--prefetch", str(AHEAD))
        began(project, "it")
        return queue, process

    return start


def handled(project) -> list[list[str]]:
    """The name and the delivery of each item that was begun."""
    return [line.split()[:2] for line in project.lines() if "lost=" not in line]


ALL_ONCE = [["it" if number == NINTH else f"n{number}", "1"] for number in range(30)]


@pytest.mark.parametrize("deed", ["suspend", "hold the GIL"])
def test_items_of_an_unread_claim_are_given_back_for_a_child_that_does_not_react(project, ninth, client, deed):
    """So are the items in the ledger of the child; its item in hand stays in flight."""
    fifo = project.folder / "fifo"
    os.mkfifo(fifo)
    queue, process = ninth({"do": deed, "until": str(fifo)}, LEASE=3)
    counts = {"ready": 21, "in_flight": 1, "delayed": 0, "dead": 0}
    wait_for(lambda: queue.counts() == counts, "what waited")
    assert {item.deliveries for item in queue.items()} == {0}
    all_renewed(queue, client, 3, 1)
    assert queue.counts() == counts
    if deed == "suspend":
        (child,) = children(process)
        os.kill(child, signal.SIGCONT)
    else:
        fifo.write_text("go on")
    wait_for(lambda: empty(queue), "all items")
    assert handled(project) == ALL_ONCE  # in the original order
    assert queue.audit() == []


def test_a_child_whose_host_was_suspended_begins_no_item_that_others_may_have(project, ninth):
    """This concerns the items in its ledger and those of an unread claim."""
    queue, process = ninth({"do": "suspend"}, LEASE=1)
    os.killpg(process.pid, signal.SIGSTOP)
    wait_for(lambda: queue.recover() == 0 and queue.counts()["ready"] == 22, "the end of all leases")
    taken = [*queue.get_many(10), *queue.get_many(9)]  # the first item comes alone, because the child may have begun it
    signal_session(process.pid, signal.SIGCONT)
    # The child's late ack of its item in hand counts.
    wait_for(lambda: queue.counts() == {"ready": 0, "in_flight": 9, "delayed": 0, "dead": 0}, "the others")
    assert handled(project) == ALL_ONCE[:9] + ALL_ONCE[18:]
    assert [(item.payload["name"], item.deliveries) for item in taken[1:]] == [(f"n{n}", 1) for n in range(9, 18)]
    assert [queue.ack(item) for item in taken[1:]] == [True] * 9
    assert queue.audit() == []


def test_items_of_an_unread_claim_of_a_dead_child_come_back_without_blame(project, ninth):
    queue, _ = ninth({"do": "SIGKILL"}, MAX_CRASHES=1, MAX_DELIVERIES=1)
    counts = {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 1}
    wait_for(lambda: queue.counts() == counts, "all items")
    assert handled(project) == ALL_ONCE  # in the original order
    (dead,) = queue.items("dead")
    assert (dead.payload["name"], dead.delivery.crashes) == ("it", 1)
    stats = queue.snapshot().stats
    assert (stats["crashed"], stats["acked"]) == (1, 29)
    assert queue.audit() == []


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_items_of_an_unread_claim_are_given_back_before_the_item_in_hand_is_done(project, ninth, end):
    """This holds also for a child that ends because its supervisor died."""
    queue, process = ninth({"do": "wait"})
    (child,) = children(process)
    process.send_signal(end)
    counts = {"ready": 21, "in_flight": 1, "delayed": 0, "dead": 0}
    wait_for(lambda: queue.counts() == counts, "the others back")
    assert {item.deliveries for item in queue.items()} == {0}
    project.say("on")
    assert process.wait(60) == (0 if end == signal.SIGTERM else -end)
    wait_for(lambda: not Path(f"/proc/{child}").exists(), "the end of the child")
    assert handled(project) == ALL_ONCE[:9]
    assert queue.counts() == {**counts, "in_flight": 0}
    assert queue.audit() == []


def test_an_item_that_a_dead_child_had_begun_to_read_may_have_killed_it(queue):
    """For example, its payload was too large for the memory of the child."""
    ledger, uid = Ledger(1, slot=b"c1.1"), queue.put("a")
    ledger.begin_claim(0, 1)
    ledger.read_reply()
    queue.link.call(queue.claim("c1.1", lease=LONG), queue="q", slot=Slot(b"c1.1", 1))
    account_for(Supervisor([Subscription(queue, print)], ConsumerOptions()), ChildHandle("c1.1", 0, ledger, 0))
    assert [(item.uid, item.delivery.crashes) for item in queue.items()] == [(uid, 1)]


# For the settings of a command: it logs when it begins to read the reply of a claim. The thread that needs the items
# reads it, or behind a slow item the thread that takes over.
TELLS_WHEN_IT_READS = """
from django_srq.consumer.worker import buffer
from django_srq.consumer.worker.pipeline import Pipeline
from tests.support.handlers import _say
collecting = Pipeline.collect

def collect(self, *arguments):
    if self.asked is not None:
        _say("reads")
    return collecting(self, *arguments)

Pipeline.collect = collect
"""


@pytest.mark.parametrize("slow", [False, True])
def test_a_reply_that_stalls_beyond_a_lease_delivers_no_item_twice(project, told, server_url, client, prefix, slow):
    """Another consumer waits for any lease to end, also for that of a slow item, which is done but not acked."""
    names = [f"n{number}" for number in range(18)]  # ten, and the eight that are claimed with one of their acks
    with closing(Proxy(server_url)) as proxy:
        fault = proxy.arm("stall reply", b".1\r\n$1\r\n2\r\n")  # the second call in the slot of ordinary claims
        queue = told(URL=proxy.url, LEASE=2)
        project.add_to_settings(TELLS_WHEN_IT_READS + f"buffer.WAITED = {0.05 if slow else LONG}")
        queue.put_many([{"do": "wait" if slow and name == "n8" else "nothing", "name": name} for name in names])
        project.start("srq_consume", "--prefetch", str(AHEAD))
        project.said("reads")
        if slow:
            project.say("on")
            project.said("n8 went on lost=False")
        queue = told(LEASE=2, OPTIONS={"client_name": prefix})
        project.start("srq_consume")
        wait_for(lambda: parked(client, prefix), "the other consumer")
        all_renewed(queue, client, 2, 10 if slow else 8)
        assert fault.hits == 1
        fault.deliver()
        wait_for(lambda: empty(queue), "all items")
    begun = [line.split() for line in project.lines() if "lost=" not in line and line != "reads"]
    assert [words[:2] for words in begun] == [[name, "1"] for name in names]
    assert len({pid for _, _, pid, *_ in begun}) == 1
    stats = queue.snapshot().stats
    assert (stats["delivered"], stats["acked"]) == (18, 18)
    assert queue.audit() == []


# -- leases that are renewed by the slot of a claim


def lasts(queue, client) -> dict[str, int]:
    """For each item, the remaining time of its lease in hundreds of seconds."""
    seconds, _ = client.time()
    leases = client.zrange(queue.keys["leases"], 0, -1, withscores=True)
    names = client.hgetall(queue.keys["items"])
    return {names[uid].decode(): round((score / 1000 - seconds) / 100) for uid, score in leases}


def claimed(queue, slot: Slot, n: int, lease: float):
    slot.seq += 1
    call = queue.claim("c1", lease=lease, n=n)
    return decoded(queue, queue.link.call(call, queue=queue.alias, slot=slot).found)


def test_extending_a_slot_extends_the_items_that_its_last_claim_took_and_still_holds(queue, client):
    queue.put_many("abcde")
    slot = Slot(b"c1")
    claimed(queue, slot, 1, 200)
    _, acked, lost, released = claimed(queue, slot, 4, 200)
    assert queue.ack(acked)
    assert queue.release(lost)
    other = queue.get(-1)
    assert queue.extend(other, 400)
    assert other.payload == lost.payload
    assert queue.release(released)
    assert queue.link.call(operations.extend(queue.keys, [], lease=900, claims=[b"c1", b"c2"]), queue="q") == []
    assert lasts(queue, client) == {"a": 2, "b": 9, "d": 4}
    both = operations.extend(queue.keys, [DeliveryRef(other.uid, other.token)], lease=1000, claims=[b"c1"])
    assert queue.link.call(both, queue="q") == [True]  # the results are those of the items
    assert lasts(queue, client) == {"a": 2, "b": 10, "d": 10}
    assert queue.counts()["ready"] == 1


def test_extending_a_slot_takes_its_items_back_when_their_lease_ended(queue, client):
    queue.put("a")
    (item,) = claimed(queue, Slot(b"c1"), 1, 0.001)
    wait_for(queue.recover, "the end of the lease")
    queue.link.call(operations.extend(queue.keys, [], lease=900, claims=[b"c1"]), queue="q")
    assert lasts(queue, client) == {"a": 9}
    assert queue.ack(item)
    assert queue.audit() == []


def test_leases_are_renewed_by_the_slots_that_the_ledgers_name(make_queue, client):
    """Each slot counts until its items are in the ledger; using it also keeps the slot from being trimmed."""
    made = [make_queue(str(place)) for place in range(4)]
    ledgers = [Ledger(1, servers=2, slot=b"c1") for _ in made]
    for place, (queue, ledger) in enumerate(zip(made, ledgers, strict=True)):
        queue.put("a")
        claimed(queue, Slot(b"c1"), 1, 200)
        number, _, outcome = client.hget(queue.keys["slots"], "c1").split(b" ", 2)
        client.hset(queue.keys["slots"], "c1", b"%s 1000 %s" % (number, outcome))
        ledger.begin_claim(place, 1)
        ledger.read_reply()
    ledgers[0].end_claim(1)
    ledgers[3].put_off(3, 1)
    ledgers[3].begin_claim(1, 2)  # beside the claim that is owed
    Leases("c1", [Subscription(queue, print, lease=900) for queue in made], lambda: ledgers).renew()
    assert [lasts(queue, client) for queue in made] == [{"a": 2}, {"a": 9}, {"a": 9}, {"a": 9}]
    used = [int(client.hget(queue.keys["slots"], "c1").split()[1]) for queue in made]
    assert used[0] == 1000 < min(used[1:])
