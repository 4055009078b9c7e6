"""Batches are bounded in bytes as well as in number, and no time limit interrupts data that still flows."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
import redis

from django_srq import OutcomeUnknown, SafeRedisQueue, operations, queues
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from django_srq.operations import GIVE_BACK, MOST_BYTES, UNREAD
from django_srq.queue.backoff import Backoff
from django_srq.transport.clients import client_from_url
from django_srq.transport.flow import SLOWEST, Flow
from django_srq.transport.link import Link
from django_srq.transport.slots import slots
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.waiting import PATIENT, wait_for

KB, MB = 1000, 1_000_000
# Bytes a second, about 10 Mbit/s: with SHORT and the payloads below it is like such a line with payloads of 8 MiB and a
# TIMEOUT of 5 s.
RATE = 1.2 * MB
SHORT = 1.5  # seconds; a TIMEOUT shorter than the transfer of the replies
PARSERS = {"the parser of this environment": {}, "no hiredis": {"parser_class": redis.connection._RESP2Parser}}

MakeQueue = Callable[..., SafeRedisQueue]


@pytest.fixture
def relay(server_url: str) -> Iterator[Callable[..., Proxy]]:
    made: list[Proxy] = []

    def make(**options: object) -> Proxy:
        made.append(Proxy(server_url, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def behind(prefix: str) -> Iterator[Callable[..., SafeRedisQueue]]:
    """Makes the same queue behind a relay."""
    links: list[Link] = []

    def make(proxy: Proxy, *, timeout: float = SHORT, options: dict[str, object] | None = None, **more: object):
        links.append(Link(client_from_url(proxy.url, protocol=2, **(options or {})), timeout=timeout))
        return SafeRedisQueue(name=prefix, link=links[-1], **more)

    yield make
    for link in links:
        link.close()


def payloads(number: int, size: int) -> list[bytes]:
    """Payloads of a size; each begins with its number."""
    return [b"%d " % n + bytes(size) for n in range(number)]


def number_of(payload: bytes) -> int:
    return int(payload.split(b" ")[0])


def scripts_run(client: redis.Redis) -> int:
    """The number of scripts that the server ran; a script that it did not know counts twice."""
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))


@contextmanager
def bytes_sent(client: redis.Redis) -> Iterator[list[int]]:
    """Yields a list that gets the number of bytes the server sent to all clients meanwhile."""
    sent: list[int] = []
    before = client.info("stats")["total_net_output_bytes"]
    yield sent
    sent.append(client.info("stats")["total_net_output_bytes"] - before)


@contextmanager
def consuming(consumer: InProcessConsumer) -> Iterator[None]:
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        yield
    finally:
        consumer.stop()
        thread.join(30)
        assert not thread.is_alive()


# -- claims


def by_the_list(queue: SafeRedisQueue, number: int) -> None:
    queue.put_many(payloads(number, 300 * KB))


def by_priority(queue: SafeRedisQueue, number: int) -> None:
    queue.put_many(payloads(number, 300 * KB), priority=5)


def by_return(queue: SafeRedisQueue, number: int) -> None:
    by_the_list(queue, number)
    taken: list[object] = []
    while item := queue.get(-1):
        taken.append(item)
    for item in taken:
        queue.release(item)


def by_headers(queue: SafeRedisQueue, number: int) -> None:
    for n in range(number):
        queue.put(b"%d " % n, headers={"large": "x" * 300 * KB})


WAYS = [by_the_list, by_priority, by_return, by_headers]


@pytest.mark.parametrize("way", WAYS)
def test_a_claim_is_bounded_by_bytes_and_keeps_the_order(queue, way):
    way(queue, 9)
    claims = []
    while items := queue.get_many(100):
        claims.append([number_of(item.payload) for item in items])
    assert claims == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert queue.audit() == []


@pytest.mark.parametrize("way", WAYS)
def test_a_claim_that_the_bytes_limit_says_that_more_is_ready(queue, client, way):
    way(queue, 5)
    client.delete(queue.keys["wake"])
    call = queue.claim("g1", lease=60, n=100)
    reply = queue.link.call(call, queue=queue.alias)
    assert (len(reply.found), reply.wait) == (4, 0)
    assert client.llen(queue.keys["wake"]) > 0  # a wake token for the next consumer


def test_the_first_item_of_a_claim_may_have_any_size(queue):
    queue.put_many([b"0 " + bytes(3 * MB), b"1 " + bytes(3 * MB), b"2", b"3"])
    assert [number_of(item.payload) for item in queue.get_many(10)] == [0]
    assert [number_of(item.payload) for item in queue.get_many(10)] == [1, 2, 3]


@pytest.mark.parametrize("way", WAYS)
def test_a_repeated_claim_gets_the_same_items(queue, way):
    way(queue, 9)
    slot = slots.borrow()
    call = queue.claim("g1", lease=60, n=100)
    replies = [queue.link.call(call, queue=queue.alias, slot=slot) for _ in range(3)]
    assert [item.uid for item in replies[0].found] == [item.uid for item in replies[2].found]
    assert [number_of(item.payload) for item in replies[1].found or ()] == [0, 1, 2, 3]
    assert queue.counts()["in_flight"] == 4


@pytest.mark.parametrize(("n", "how", "deliveries"), [(100, GIVE_BACK, 1), (1, GIVE_BACK, 1), (100, UNREAD, 1)])
def test_a_repeat_with_give_back_returns_the_items_of_the_claim(queue, n, how, deliveries):
    by_the_list(queue, 6)
    slot = slots.borrow()
    queue.link.call(queue.claim("g1", lease=60, n=n), queue=queue.alias, slot=slot)
    for _ in range(2):
        reply = queue.link.call(queue.claim("g1", lease=60, n=how), queue=queue.alias, slot=slot)
        assert (list(reply.found), reply.wait) == ([], 0)
    assert queue.counts()["in_flight"] == 0
    items = queue.get_many(3)
    assert [(number_of(item.payload), item.deliveries) for item in items] == [(n, deliveries) for n in range(3)]
    assert queue.audit() == []


@pytest.mark.parametrize("how", [GIVE_BACK, UNREAD])
def test_a_claim_that_arrives_after_its_give_back_takes_nothing(queue, how):
    queue.put("x")
    slot = slots.borrow()
    for n in (how, 1):
        reply = queue.link.call(queue.claim("g1", lease=60, n=n), queue=queue.alias, slot=slot)
        assert reply.found == []
    assert queue.counts()["ready"] == 1


def test_a_single_item_that_nobody_can_read_goes_to_the_back_and_then_is_dead(make_queue):
    queue = make_queue(max_deliveries=2)
    queue.put_many([b"large", b"small"])

    def unread() -> None:
        slot = slots.borrow()
        for n in (1, UNREAD):
            queue.link.call(queue.claim("g1", lease=60, n=n), queue=queue.alias, slot=slot)

    unread()
    assert [(item.payload, item.deliveries) for item in queue.items()] == [(b"small", 0), (b"large", 1)]
    queue.ack(queue.get(-1))
    unread()
    (dead,) = queue.items("dead")
    assert (dead.payload, dead.delivery.error["type"]) == (b"large", "ReplyUnread")
    assert queue.audit() == []


@pytest.mark.parametrize("plan", [{"prefetch": 10}, {"threads": 3}, {"prefetch": 10, "threads": 3}])
@pytest.mark.parametrize("batch", [1, 10])
def test_a_burst_goes_on_after_a_claim_that_the_bytes_limit(queue, plan, batch):
    queue.put_many(payloads(12, 600 * KB))
    seen: list[int] = []

    def handle(items: object) -> None:
        seen.extend(number_of(item.payload) for item in ([items] if batch == 1 else items))  # type: ignore[attr-defined]

    InProcessConsumer([Subscription(queue, handle, batch=batch)], options=ConsumerOptions(burst=True, **plan)).run()
    assert sorted(seen) == list(range(12))
    assert "threads" in plan or seen == list(range(12))
    assert sum(queue.counts().values()) == 0


def test_a_later_queue_does_not_overtake_items_that_did_not_fit_into_a_claim(make_queue):
    first, second = make_queue(".first"), make_queue(".second")
    first.put_many(payloads(9, 600 * KB))
    second.put_many(range(9))
    seen: list[str] = []
    subscriptions = [
        Subscription(queue, lambda item, name=queue.name[-1]: seen.append(name)) for queue in (first, second)
    ]
    InProcessConsumer(subscriptions, options=ConsumerOptions(burst=True, threads=3)).run()
    assert len(seen) == 18
    assert "d" not in "".join(seen)[:7]  # other threads may have items of the first queue in hand that are logged later


# -- puts


def test_a_batch_of_puts_is_bounded_by_bytes(queue, client):
    before = scripts_run(client)
    uids = queue.put_many(payloads(10, 500 * KB))
    assert 4 <= scripts_run(client) - before <= 6  # batches of three; perhaps one more, to load the script
    assert [item.uid for item in queue.items()] == uids
    before = scripts_run(client)
    queue.put_many([b"x" * 100] * 1000)
    assert scripts_run(client) - before == 1


@pytest.mark.parametrize("headers", [None, {"large": "x" * 500 * KB}])
def test_puts_that_take_longer_together_than_the_time_limit(queue, behind, relay, headers):
    """Each batch has its own time limit, so a batch in doubt can be put again with success."""
    remote = behind(relay(rate=RATE))
    given = payloads(5, 500 * KB if headers is None else 10)
    assert remote.put_many(given, headers=headers) == [item.uid for item in queue.items()]
    assert [item.payload for item in queue.items()] == given


def put_beside_another_client(server: Server, at: MakeQueue, number: int) -> None:
    """Put so many payloads of 1 MB in one call, and check that another client's puts go between its batches."""
    large, other = at(server.url), at(server.url)
    payload, over = bytes(1 * MB), threading.Event()
    small: list[str] = []

    def put_small() -> None:
        while not over.is_set():
            small.append(other.put("small"))

    thread = threading.Thread(target=put_small)
    thread.start()
    try:
        uids = large.put_many([payload] * number)
    finally:
        over.set()
        thread.join(PATIENT)
    with server.client(decode_responses=True) as client:
        order = client.lrange(large.keys["queue"], 0, -1)[::-1]
        lengths = {client.hstrlen(large.keys["items"], uid) for uid in uids}
    others = set(small)
    assert [uid for uid in order if uid not in others] == uids
    assert lengths == {len(payload)}
    first, last = order.index(uids[0]), order.index(uids[-1])
    assert sum(uid in others for uid in order[first:last]) > number / 50


def test_other_clients_are_served_between_the_batches_of_large_puts(server, at):
    """A batch of the largest number of payloads takes too much memory here; tests/services has that test."""
    put_beside_another_client(server, at, 300)


def test_only_one_batch_is_in_doubt_and_can_be_put_again(queue, behind, relay):
    proxy = relay()
    remote = behind(proxy, timeout=0.5)
    given = payloads(7, 500 * KB)
    remote.put_many(given[:1])
    fault = proxy.arm("hold reply", b"3 ", times=1000)
    with pytest.raises(OutcomeUnknown) as raised:
        remote.put_many(given[1:])
    proxy.disarm()
    error = raised.value
    assert fault.hits
    assert (len(error.put), len(error.in_doubt)) == (0, 3)
    remote.link.timeout = PATIENT
    remote.put_many(given[1:4], uids=error.in_doubt)
    remote.put_many(given[4:])
    assert [item.payload for item in queue.items()] == given
    assert queue.audit() == []


def test_srq_put_prints_the_uids_of_the_puts_before_an_error(project):
    """Large payloads go in several calls, of which the first may succeed and the second fail."""
    project.configure({"small": {"MAX_LENGTH": 10}}, project.settings.SRQ_DEFAULTS)
    code, out, err = project.run("srq_put", "small", *[f"{n} {'x' * 120 * KB}" for n in range(12)])
    assert code != 0
    assert out.split() == [item.uid for item in queues["small"].items()]
    assert len(out.split()) == 9
    assert "put before that: 9" in err


# -- time limits


@pytest.mark.parametrize("parser", PARSERS)
def test_a_time_limit_does_not_interrupt_flowing_data(queue, behind, relay, parser):
    remote = behind(relay(rate=RATE), options=PARSERS[parser])
    payload = bytes(2 * MB)
    began = time.monotonic()
    uid = remote.put(payload)
    assert remote.get(-1) == (uid, payload)
    assert time.monotonic() - began > 2 * SHORT  # otherwise the test shows nothing
    assert remote.ack(uid)


def test_a_time_limit_does_not_interrupt_flowing_data_in_an_event_loop(queue, behind, relay):
    remote = behind(relay(rate=RATE))
    payload = bytes(2 * MB)

    async def main() -> None:
        began = time.monotonic()
        uid = await remote.aput(payload)
        assert await remote.aget(-1) == (uid, payload)
        assert time.monotonic() - began > 2 * SHORT
        assert await remote.aack(uid)

    asyncio.run(main())


def test_a_look_with_several_long_replies(queue, behind, relay):
    queue.put(bytes(1 * MB))
    remote = behind(relay(rate=RATE))
    page = ("", operations.list_items(queue.keys, "ready", largest=-1))
    pages = remote.link.look([page, page], timeout=SHORT)
    assert [len(page.items[0].payload) for page in pages] == [1 * MB] * 2


def drip(listener: socket.socket, head: bytes) -> None:
    """Play a server that greets, and then sends an endless reply, a byte at a time."""

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            data = connection.recv(65536)
            while b"EVAL" not in data:
                connection.sendall(b"+OK\r\n" * data.count(b"CLIENT"))
                data = connection.recv(65536)
            connection.sendall(head)
            while True:
                connection.sendall(b"x")
                time.sleep(0.02)

    threads = []
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threads.append(threading.Thread(target=serve, args=[connection]))
            threads[-1].start()
    for thread in threads:
        thread.join(30)


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("head", [b"$1000000\r\n", b"nonsense\r\n"])
def test_an_endless_reply_ends_the_call(behind, way, parser, head):
    """The reply comes a byte at a time, or begins with nonsense."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=[listener, head])
        thread.start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        link = Link(client_from_url(url, protocol=2, **PARSERS[parser]), timeout=1)
        queue = SafeRedisQueue(name="q", link=link)
        with pytest.raises(OutcomeUnknown) as raised:
            if way == "sync":
                queue.put("x")
            else:
                asyncio.run(queue.aput("x"))
        assert raised.value.cut_short
        link.close()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)


def test_a_flow_is_cut_for_silence_for_slowness_and_for_length():
    now = [1000.0]
    flow = Flow(5, clock=lambda: now[0])
    assert flow.deadline == 1005
    now[0] += 4
    flow.moved(4 * SLOWEST)
    assert flow.deadline == 1009  # just fast enough so far, and silent from now on
    flow.moved(100 * MB)
    now[0] += 3
    flow.moved(1)
    assert flow.deadline == 1012
    now[0] += 890
    flow.moved(100 * MB)
    assert flow.deadline == 1900


# -- replies that cannot be read


def test_get_many_takes_one_item_when_it_cannot_read_the_reply(queue, behind, relay):
    given = payloads(5, 100 * KB)
    queue.put_many(given)
    remote = behind(relay(longest_reply=250 * KB), timeout=0.5)
    items = remote.get_many(5)
    assert [(item.payload, item.deliveries) for item in items] == [(given[0], 1)]
    assert queue.counts() == {"ready": 4, "in_flight": 1, "delayed": 0, "dead": 0}
    assert [number_of(item.payload) for item in queue.items()] == [1, 2, 3, 4]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_get_gives_back_an_item_whose_reply_it_cannot_read(queue, behind, relay, way):
    queue.put_many([bytes(400 * KB), b"small"])
    remote = behind(relay(longest_reply=250 * KB), timeout=0.5)

    def get() -> object:
        return remote.get(-1) if way == "sync" else asyncio.run(remote.aget(-1))

    with pytest.raises(OutcomeUnknown) as raised:
        get()
    assert raised.value.cut_short
    assert queue.counts()["in_flight"] == 0
    item = get()
    assert item.payload == b"small"  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", [{"prefetch": 10}, {"threads": 2}, {"prefetch": 10, "burst": True}])
def test_a_consumer_handles_the_items_whose_replies_it_can_read(make_queue, behind, relay, options):
    queue = make_queue(max_deliveries=2)
    given = payloads(7, 100 * KB)
    given.insert(3, b"3 " + bytes(400 * KB))  # this item alone is too large
    queue.put_many(given)
    remote = behind(relay(longest_reply=250 * KB), timeout=0.4, max_deliveries=2)
    seen: list[int] = []

    def handle(item: object) -> None:
        seen.append(number_of(item.payload))  # type: ignore[attr-defined]

    consumer = InProcessConsumer([Subscription(remote, handle)], options=ConsumerOptions(**options))
    with consuming(consumer):
        wait_for(lambda: queue.counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 1}, "all to be settled")
    assert sorted(seen) == [0, 1, 2, 3, 4, 5, 6]
    (dead,) = queue.items("dead")
    assert (len(dead.payload), dead.delivery.error["type"]) == (400 * KB + 2, "ReplyUnread")
    assert queue.audit() == []


@pytest.mark.parametrize("options", [{"prefetch": 10}, {"threads": 3}])
def test_a_consumer_goes_on_when_long_replies_vanish(queue, behind, relay, options):
    """This happens when packets are too large for a part of the way: nothing of such a reply arrives."""
    queue.put_many(payloads(9, 8 * KB))
    remote = behind(relay(longest_reply=20 * KB, swallows=True), timeout=0.4)
    seen: list[int] = []
    deliveries: set[int] = set()

    def handle(item: object) -> None:
        seen.append(number_of(item.payload))  # type: ignore[attr-defined]
        deliveries.add(item.deliveries)  # type: ignore[attr-defined]

    with consuming(InProcessConsumer([Subscription(remote, handle)], options=ConsumerOptions(**options))):
        wait_for(lambda: sum(queue.counts().values()) == 0, "all items")
    assert sorted(seen) == list(range(9))
    assert "threads" in options or seen == list(range(9))
    assert deliveries == {1}


def test_an_item_whose_reply_always_vanishes_does_not_block_those_behind_it(make_queue, behind, relay):
    queue = make_queue(max_deliveries=1)
    queue.put_many([bytes(40 * KB), b"small"])
    remote = behind(relay(longest_reply=20 * KB, swallows=True), timeout=0.4, max_deliveries=1)
    seen: list[bytes] = []
    with consuming(InProcessConsumer([Subscription(remote, lambda item: seen.append(item.payload))])):
        wait_for(lambda: seen and queue.counts()["dead"], "the other one")
    assert seen == [b"small"]


def test_a_claim_behind_a_wait_with_a_reply_that_cannot_be_read(make_queue, behind, relay, client):
    queue = make_queue(max_deliveries=1)
    remote = behind(relay(longest_reply=250 * KB), timeout=0.4, max_deliveries=1)
    seen: list[bytes] = []
    consumer = InProcessConsumer([Subscription(remote, lambda item: seen.append(item.payload))])
    with consuming(consumer):
        wait_for(lambda: client.info("clients")["blocked_clients"], "the consumer to wait")
        queue.put(bytes(400 * KB))
        wait_for(lambda: queue.counts()["dead"], "the item to be dead")
        queue.put("small")
        wait_for(lambda: seen, "the other one")
    assert seen == [b"small"]


def test_failures_are_reported_in_batches_that_are_bounded_by_bytes(queue, client):
    def failure(place: int, notes: int) -> Exception:
        error = ValueError(place)
        for _ in range(notes):
            error.add_note("x" * KB)
        return error

    def calls(notes: int) -> int:
        """The number of scripts that it takes to fail 400 items, each with its own error of so many notes."""

        def handle(items: object) -> dict[int, Exception]:
            return {place: failure(place, notes) for place in range(400)}

        queue.put_many(range(400))
        before = scripts_run(client)
        subscription = Subscription(queue, handle, batch=400, backoff=Backoff(base=600))
        InProcessConsumer([subscription], options=ConsumerOptions(burst=True)).run()
        return scripts_run(client) - before

    calls(0)  # loads the scripts into the server
    queue.purge()
    few = calls(0)
    queue.purge()
    assert calls(10) >= few + 3  # 400 errors, with about 8 KB stored of each
    assert queue.counts()["delayed"] == 400


# -- consumers behind a slow line


@pytest.mark.parametrize(
    ("batch", "plan"), [(1, {"prefetch": 10}), (5, {"prefetch": None}), (1, {"prefetch": 10, "threads": 2})]
)
def test_a_consumer_behind_a_slow_line(queue, behind, relay, batch, plan):
    """The items of one claim take longer than the time limit, and longer than a lease."""
    queue.put_many(payloads(6, 1 * MB))
    remote = behind(relay(rate=3 * MB), timeout=1)
    seen: list[int] = []
    deliveries: list[int] = []

    def handle(items: object) -> None:
        for item in [items] if batch == 1 else items:  # type: ignore[attr-defined]
            seen.append(number_of(item.payload))
            deliveries.append(item.deliveries)

    with consuming(
        InProcessConsumer([Subscription(remote, handle, batch=batch, lease=1)], options=ConsumerOptions(**plan))
    ):
        wait_for(lambda: sum(queue.counts().values()) == 0, "all items")
    assert sorted(seen) == list(range(6))
    assert "threads" in plan or seen == list(range(6))
    assert deliveries == [1] * 6


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"HANDLER": "tests.support.handlers.beginning"}, ["--prefetch", "10"]),
        ({"HANDLER": "tests.support.handlers.beginnings", "HANDLER_BATCH": 10}, []),
    ],
)
def test_srq_consume_behind_a_slow_line(project, relay, options, arguments):
    proxy = relay(rate=3 * MB)
    project.configure({"large": options}, {**project.settings.SRQ_DEFAULTS, "LEASE": 1})
    queues["large"].put_many([f"{n}{'x' * MB}" for n in range(5)])
    project.configure({"large": options}, {**project.settings.SRQ_DEFAULTS, "LEASE": 1, "TIMEOUT": 1, "URL": proxy.url})
    code, _, err = project.run("srq_consume", "large", "--burst", *arguments)
    assert (code, "unavailable" in err) == (0, False)
    assert project.lines() == [f"{n} {MB + 1} 1" for n in range(5)]


def test_another_consumer_gets_items_beside_a_consumer_with_a_slow_line(queue, behind, relay):
    queue.put_many(payloads(8, 1 * MB))
    remote = behind(relay(rate=3 * MB), timeout=1)
    seen: dict[str, list[int]] = {"slow": [], "quick": []}

    def handling(name: str) -> Callable[[object], None]:
        def handle(item: object) -> None:
            seen[name].append(number_of(item.payload))  # type: ignore[attr-defined]

        return handle

    with consuming(InProcessConsumer([Subscription(remote, handling("slow"))], options=ConsumerOptions(prefetch=10))):
        wait_for(lambda: queue.counts()["in_flight"], "its claim")
        with consuming(
            InProcessConsumer([Subscription(queue, handling("quick"))], options=ConsumerOptions(prefetch=10))
        ):
            wait_for(lambda: sum(queue.counts().values()) == 0, "all items")
    assert seen["quick"]
    assert sorted(seen["slow"] + seen["quick"]) == list(range(8))


def test_get_many_behind_a_slow_line(queue, behind, relay):
    given = payloads(4, 600 * KB)
    queue.put_many(given)
    remote = behind(relay(rate=RATE))
    taken: list[bytes] = []
    while items := remote.get_many(100):
        taken += [item.payload for item in items]
        remote.ack_many(items)
    assert taken == given


def test_a_reply_that_takes_longer_than_its_lease_delivers_no_item_twice(queue, behind, relay, client):
    """The claim is sent behind a wait, so the consumer has no item in hand before."""
    remote = behind(relay(rate=1 * MB), timeout=1)
    seen: list[int] = []
    slow = InProcessConsumer([Subscription(remote, lambda item: seen.append(item.deliveries), lease=0.6)])
    quick = InProcessConsumer([Subscription(queue, lambda item: seen.append(item.deliveries), lease=0.6)])
    with consuming(slow):
        wait_for(lambda: client.info("clients")["blocked_clients"], "the consumer to wait")
        queue.put(bytes(2 * MB))
        wait_for(lambda: queue.counts()["in_flight"], "its claim")
        with consuming(quick):
            wait_for(lambda: sum(queue.counts().values()) == 0, "the item")
    assert seen == [1]
    assert queue.snapshot().stats.get("recovered", 0) == 0


def test_a_get_with_a_slow_reply_has_a_whole_lease(queue, behind, relay, client):
    remote = behind(relay(rate=1 * MB), autoclean_interval=3)
    queue.put(bytes(2 * MB))
    item = remote.get(-1)
    deadline = client.zscore(queue.keys["leases"], item.uid)
    seconds, _ = client.time()
    assert deadline / 1000 - seconds > 1.9


# -- pages, purges and audits


def test_a_page_is_bounded_by_bytes_and_the_next_one_continues(queue):
    by_the_list(queue, 9)
    pages, offset = [], 0
    while offset is not None:
        items, offset = queue.page("ready", offset)
        pages.append([number_of(item.payload) for item in items])
    assert pages == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert [number_of(item.payload) for item in queue.items()] == list(range(9))


def test_a_page_of_ready_items_from_several_keys(queue):
    queue.put_many(payloads(2, 700 * KB))
    queue.put_many(payloads(2, 700 * KB), priority=1)
    queue.put_many(payloads(2, 700 * KB), priority=-1)
    assert len(list(queue.items())) == 6
    assert len(queue.page("ready")[0]) == 2


@pytest.mark.parametrize("bring", [SafeRedisQueue.put, partial(SafeRedisQueue.put, delay=60)], ids=["ready", "delayed"])
def test_a_page_beyond_the_end_is_empty(queue, bring):
    """For programs, which go on until nothing follows; people get the last page."""
    bring(queue, "x")
    state = "ready" if queue.counts()["ready"] else "delayed"
    assert [item.payload for item in queue.page(state)[0]] == [b"x"]
    for offset in (1, 100, 2**53 - 1):
        assert queue.page(state, offset) == ([], None)
    call = operations.list_items(queue.keys, state, anchor="100")
    assert len(queue.link.call(call, queue=queue.alias).items) == 1


@pytest.mark.parametrize("state", [None, "ready", "delayed", "dead"])
def test_purge_does_not_fetch_the_payloads(make_queue, client, state):
    queue = make_queue(max_deliveries=1)
    queue.put_many(payloads(4, MOST_BYTES // 2))
    queue.fail_many(queue.get_many(3))
    queue.put_many(payloads(4, MOST_BYTES // 2), delay=600)
    queue.put_many(payloads(4, MOST_BYTES // 2), priority=1)
    with bytes_sent(client) as sent:
        assert queue.purge(state)
    assert sent[0] < MOST_BYTES // 2


def test_a_batch_of_a_purge_is_bounded_by_bytes(queue):
    queue.put_many(payloads(80, 1 * MB))
    batches: list[int] = []
    assert queue.purge("ready", on_batch=batches.append) == 80
    assert [number for number in batches if number] == [68, 12]


def test_a_page_of_the_status_view_is_bounded_by_bytes_and_the_next_one_continues(queue):
    by_headers(queue, 20)
    seen: list[str] = []
    anchor = "0"
    while True:
        call = operations.list_items(queue.keys, "ready", anchor=anchor, count=50, largest=1000)
        listing = queue.link.call(call, queue=queue.alias)
        assert len(listing.items) <= 7
        seen += [item.uid for item in listing.items]
        if not (anchor := listing.anchor):
            break
    assert seen == [item.uid for item in queue.items()]


def test_an_audit_fetches_no_payloads(queue, client):
    queue.put_many(payloads(20, 200 * KB))
    with bytes_sent(client) as sent:
        assert queue.audit() == []
    assert sent[0] < 200 * KB
    client.hset(queue.keys["items"], "lost", bytes(2 * MB))
    assert queue.audit() == ["lost is in no place (items)"]


def test_an_audit_finds_all_of_many_faults(queue, client):
    uids = queue.put_many(range(3000))
    client.delete(queue.keys["queue"])
    assert len(queue.audit()) == len(uids)


def test_a_cancelled_get_gives_the_item_back_without_reading_the_reply(queue, behind, relay):
    queue.put(bytes(3 * MB))
    remote = behind(relay(rate=300 * KB), timeout=PATIENT)

    async def main() -> None:
        task = asyncio.create_task(remote.aget(-1))
        while not (await asyncio.to_thread(queue.counts))["in_flight"]:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert queue.counts() == {"ready": 1, "in_flight": 0, "delayed": 0, "dead": 0}
