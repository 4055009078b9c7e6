"""A cancelled call leaves nothing behind: items that a cancelled get took, or may take yet, are given back at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from django_srq import SafeRedisQueue
from django_srq.operations import Script
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from tests.support.proxy import Fault, Proxy
from tests.support.waiting import PATIENT, wait_for

pytestmark = pytest.mark.versions

CLAIM = Script.named("claim").sha


@pytest.fixture
def proxy(server_url, client) -> Iterator[Proxy]:
    for name in ("put", "claim", "release", "ack"):
        client.script_load(Script.named(name).text)  # or the server would answer the first request with NOSCRIPT
    proxy = Proxy(server_url)
    yield proxy
    proxy.close()


@pytest.fixture
def remote(proxy, queue) -> SafeRedisQueue:
    """The same queue, through the proxy."""
    return SafeRedisQueue(
        name=queue.name,
        link=Link(client_from_url(proxy.url, client_name=queue.name), timeout=PATIENT),
        autoclean_interval=600,
    )


async def wait_in_loop(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(wait_for, condition, what)


async def cancel(call: Coroutine[Any, Any, Any], when: Callable[[], object], what: str) -> None:
    task = asyncio.create_task(call)
    await wait_in_loop(when, what)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def hit(fault: Fault) -> Callable[[], bool]:
    return lambda: fault.hits > 0 and (fault.kind == "stall request" or len(fault.held) > 0)


@pytest.mark.parametrize("kind", ["hold reply", "stall request"])
@pytest.mark.filterwarnings("ignore:.*blocks the event loop:RuntimeWarning")
def test_claim_of_a_cancelled_get_is_given_back_at_once(proxy, queue, remote, kind):
    queue.put_many("abc")
    fault = proxy.arm(kind, CLAIM)

    async def main() -> None:
        await remote.aput("d")
        await cancel(remote.aget(), hit(fault), "the claim to be sent")
        assert queue.counts() == {"ready": 4, "in_flight": 0, "delayed": 0, "dead": 0}
        await asyncio.to_thread(fault.deliver)  # the reply, or the request, arrives after all
        assert queue.counts() == {"ready": 4, "in_flight": 0, "delayed": 0, "dead": 0}

    asyncio.run(main())
    items = queue.get_many(10)
    assert [(item.payload, item.deliveries) for item in items] == [(b"a", 1), (b"b", 1), (b"c", 1), (b"d", 1)]
    assert queue.audit() == []


@pytest.mark.parametrize("n", [1, 3])
def test_all_items_of_a_cancelled_claim_are_given_back(proxy, queue, remote, n):
    queue.put_many("abc")
    fault = proxy.arm("hold reply", CLAIM)

    async def main() -> None:
        await cancel(remote.aget_many(n), hit(fault), "the claim to be carried out")

    asyncio.run(main())
    assert [item.payload for item in queue.items()] == [b"a", b"b", b"c"]
    assert queue.counts()["in_flight"] == 0


def test_a_cancelled_get_gives_back_the_items_beside_an_undecodable_one(proxy, queue, remote, client):
    """The call is cancelled while the undecodable item is being set aside."""

    class Picky:
        dumps = staticmethod(str.encode)

        @staticmethod
        def loads(data: bytes) -> bytes:
            if data == b"b":
                raise ValueError
            return data

    client.script_load(Script.named("fail").text)
    queue.put_many("abc")
    remote.serializer = Picky()
    fault = proxy.arm("stall request", Script.named("fail").sha)

    async def main() -> None:
        await cancel(remote.aget_many(3), hit(fault), "the item to be set aside")

    asyncio.run(main())
    assert queue.counts()["in_flight"] == 0
    assert queue.counts()["ready"] == 3
    assert queue.audit() == []


@pytest.mark.filterwarnings("ignore:.*blocks the event loop:RuntimeWarning")
def test_a_second_cancellation_ends_the_call_at_once(proxy, queue, remote):
    queue.put("a")
    fault = proxy.arm("hold reply", CLAIM)

    async def main() -> None:
        await remote.aput("b")
        task = asyncio.create_task(remote.aget())
        await wait_in_loop(lambda: fault.held, "the claim to be carried out")
        stalled = proxy.arm("stall request", CLAIM)
        task.cancel()
        await wait_in_loop(lambda: stalled.held, "what it took to be given back")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert queue.counts()["in_flight"] == 1
        await asyncio.to_thread(stalled.deliver)
        await wait_in_loop(lambda: queue.counts()["in_flight"] == 0, "the claim to be given back")

    asyncio.run(main())
    assert [item.payload for item in queue.items()] == [b"a", b"b"]


def test_a_cancelled_idle_get_passes_its_wake_token_on(queue, remote, client):
    """Nobody knows whether the server had already given a token to this get."""

    def blocked() -> bool:
        return any(
            connection["name"] == queue.name and "b" in connection["flags"] for connection in client.client_list()
        )

    async def main() -> None:
        await cancel(remote.aget(), blocked, "the get to wait")

    asyncio.run(main())
    assert client.llen(queue.keys["wake"]) == 1
    assert not queue.get(-1)
    assert client.llen(queue.keys["wake"]) == 0


def test_timeout_around_a_get(queue, remote):
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await remote.aget()
        uid = await remote.aput("x")
        assert (await remote.aget()).uid == uid

    asyncio.run(main())


def test_a_cancellation_does_not_wait_for_a_silent_server(queue, remote, proxy):
    queue.put("a")
    fault = proxy.arm("stall request", CLAIM, times=1000)

    async def main() -> None:
        task = asyncio.create_task(remote.aget())
        await wait_in_loop(lambda: fault.hits, "the claim to be sent")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert queue.counts()["ready"] == 1


def test_a_cancelled_block_fails_its_item(queue, remote):
    queue.put("a")

    async def main() -> None:
        began = asyncio.Event()

        async def work() -> None:
            async with remote.aprocessing():
                began.set()
                await asyncio.sleep(3600)

        task = asyncio.create_task(work())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    (item,) = queue.items("delayed")
    assert item.delivery.error["type"] == "asyncio.exceptions.CancelledError"


@pytest.mark.parametrize("kind", ["stall request", "hold reply"])
def test_a_cancelled_put_uses_up_its_number(proxy, queue, remote, kind):
    fault = proxy.arm(kind, Script.named("put").sha)

    async def main() -> None:
        await cancel(remote.aput("first"), hit(fault), "the put to be sent")
        await remote.aput("second")
        (reply,) = await asyncio.to_thread(fault.deliver)
        assert reply.startswith(b"-SRQLATE") is (kind == "stall request")

    asyncio.run(main())
    carried_out = [b"second"] if kind == "stall request" else [b"first", b"second"]
    assert [item.payload for item in queue.items()] == carried_out


def test_a_cancelled_move_leaves_the_item_in_one_queue(proxy, queue, remote):
    queue.put("a")
    fault = proxy.arm("hold reply", CLAIM)
    target = SafeRedisQueue(name=f"{queue.name}-target", link=remote.link)

    async def main() -> None:
        await cancel(remote.amove(target), hit(fault), "the claim to be carried out")

    asyncio.run(main())
    assert (len(queue), len(target), queue.counts()["in_flight"]) == (1, 0, 0)
