"""A consumer of many queues asks those with a wake token, and those that are due for a look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from django_srq import SafeRedisQueue
from django_srq.consumer import ConsumerOptions, InProcessConsumer, Subscription
from django_srq.queue.backoff import Backoff
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from tests.support.servers import Server
from tests.support.waiting import PATIENT, parked, wait_for

from tests.consumer.test_wakeups import running  # isort: skip

QUEUES = 200
ITEMS = 25
MOST = 10  # scripts for a single item, including its put


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with closing(Server()) as server:
        yield server


@pytest.fixture
def names(prefix) -> list[str]:
    return [f"{prefix}-{number}" for number in range(QUEUES)]


@pytest.fixture
def link(server, prefix) -> Iterator[Link]:
    link = Link(client_from_url(server.url, client_name=prefix), timeout=PATIENT)
    yield link
    link.close()


def calls(client, *commands: str) -> int:
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in commands)


def scripts(client) -> int:
    return calls(client, "eval", "evalsha")


@pytest.mark.parametrize(("threads", "place"), [(1, QUEUES - 1), (4, 0)])
def test_a_single_item_costs_few_scripts(server, link, names, prefix, threads, place):
    seen: list[bytes] = []
    subscriptions = [
        Subscription(SafeRedisQueue(name=name, link=link), lambda item: seen.append(item.payload)) for name in names
    ]
    queue = SafeRedisQueue(name=names[place], url=server.url)
    costs: list[int] = []
    with running(InProcessConsumer(subscriptions, options=ConsumerOptions(threads=threads))), server.client() as client:

        def idle(items: int) -> bool:
            return len(seen) == items and not client.hlen(queue.keys["holders"]) and parked(client, prefix)

        for items in range(ITEMS):
            wait_for(lambda: idle(items), "an idle consumer")  # noqa: B023 (used at once)
            before = scripts(client)
            queue.put(b"alone")
            wait_for(lambda: idle(items + 1), "the item to be handled")  # noqa: B023
            costs.append(scripts(client) - before)
    # The median, because every five seconds the consumer looks at all queues, at nearly the same time.
    assert sorted(costs)[ITEMS // 2] <= MOST, costs


def test_an_earlier_queue_has_its_turn_though_a_later_one_always_has_items(server, link, names):
    queues = [SafeRedisQueue(name=name, link=link) for name in names[:3]]
    seen: list[bytes] = []

    def handle(item) -> None:
        seen.append(item.payload)
        if item.payload == b"later 3":
            queues[0].put(b"first")

    queues[2].put_many([b"later %d" % number for number in range(10)])
    with running(
        InProcessConsumer([Subscription(queue, handle) for queue in queues], options=ConsumerOptions(prefetch=1))
    ):
        wait_for(lambda: len(seen) == 11, "all items")
    assert seen[4] == b"first"


def test_a_queue_on_another_server_has_its_turn_before_later_queues(server, link, names, prefix):
    """The consumer takes the tokens of a server together; it pushes a token back that it took too early."""
    other = Link(client_from_url(server.url, client_name=prefix), timeout=PATIENT)
    links = [link, other, link, link]  # each link stands for a server
    queues = [SafeRedisQueue(name=name, link=one) for name, one in zip(names, links, strict=False)]
    seen: list[bytes] = []
    tokens: list[int] = []

    def handle(item) -> None:
        seen.append(item.payload)
        if item.payload == b"last 3":
            for queue in (queues[2], queues[1]):
                queue.put(queue.name.encode())
        if len(seen) == 5:
            tokens.append(client.llen(queues[2].keys["wake"]))

    queues[3].put_many([b"last %d" % number for number in range(10)])
    consumer = InProcessConsumer([Subscription(queue, handle) for queue in queues], options=ConsumerOptions(prefetch=1))
    with closing(other), server.client() as client, running(consumer):
        wait_for(lambda: len(seen) == 12, "all items")
    assert (seen[4:6], tokens) == ([queue.name.encode() for queue in queues[1:3]], [1])


def test_with_weights_a_queue_that_was_empty_has_its_share(server, link, names):
    busy, other = (SafeRedisQueue(name=name, link=link) for name in names[:2])
    seen: list[bytes] = []

    def handle(item) -> None:
        seen.append(item.payload)
        if item.payload == b"busy 3":
            other.put_many([b"other"] * 3)

    busy.put_many([b"busy %d" % number for number in range(20)])
    subscriptions = [Subscription(busy, handle, weight=1), Subscription(other, handle, weight=1)]
    with running(InProcessConsumer(subscriptions, options=ConsumerOptions(prefetch=1))):
        wait_for(lambda: len(seen) == 23, "all items")
    assert seen.index(b"other") == 4
    assert sorted(place for place, payload in enumerate(seen) if payload == b"other")[-1] < 12


def test_an_item_put_without_a_wake_token_is_found(server, link, names):
    """Such an item comes from saferedisqueue, or its token was lost with a connection."""
    queues = [SafeRedisQueue(name=name, link=link) for name in names[:3]]
    seen: list[bytes] = []
    with running(InProcessConsumer([Subscription(queue, lambda item: seen.append(item.payload)) for queue in queues])):
        with server.client() as client, client.pipeline() as pipeline:
            wait_for(lambda: parked(client, link.pool.connection_kwargs["client_name"]), "an idle consumer")
            pipeline.hset(queues[1].keys["items"], "uid", b"silent").lpush(queues[1].keys["queue"], "uid").execute()
        wait_for(lambda: seen, "the item")


def test_a_delayed_item_in_one_of_many_queues_comes_when_it_is_due(server, link, names):
    queues = [SafeRedisQueue(name=name, link=link) for name in names[:5]]
    seen: list[int] = []

    def fail_once(item) -> None:
        seen.append(item.deliveries)
        if item.deliveries == 1:
            raise ValueError

    subscriptions = [Subscription(queue, fail_once, backoff=Backoff(0.3)) for queue in queues]
    with running(InProcessConsumer(subscriptions)):
        queues[3].put(b"a")
        wait_for(lambda: seen == [1, 2], "the second delivery", seconds=4)


@pytest.mark.parametrize("number", [1, 20])
def test_an_idle_consumer_seldom_checks_the_types_of_keys(server, link, names, prefix, number):
    # With so short a lease, it asks each queue three times a second.
    subscriptions = [Subscription(SafeRedisQueue(name=name, link=link), print, lease=1) for name in names[:number]]
    with running(InProcessConsumer(subscriptions)), server.client() as client:
        wait_for(lambda: parked(client, prefix), "an idle consumer")
        looks, asked = calls(client, "type"), scripts(client)
        wait_for(lambda: scripts(client) >= asked + 4 * number, "more claims")
        # Not with each claim. One more check happens after a clock was set back.
        assert calls(client, "type") - looks <= looks // number
