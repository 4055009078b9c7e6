"""The asynchronous API: each method has a twin, in any number of event loops. test_contract.py tests what each does."""

from __future__ import annotations

import asyncio
import inspect
import linecache
import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager

import pytest
import redis
from asgiref.sync import async_to_sync, sync_to_async

from django_srq import ConfigurationError, Item, OutcomeUnknown, QueueUnavailable, SafeRedisQueue, queues, status
from django_srq.testing import run_all
from django_srq.transport import embedded
from django_srq.transport.async_pool import AT_ONCE
from django_srq.transport.clients import client_from_arguments, client_from_url
from django_srq.transport.link import Link, embedded_link
from tests.support.async_queue import ALONE, PUBLIC, TWINS
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.tls import Front
from tests.support.waiting import PATIENT, wait_for

pytestmark = pytest.mark.versions

SYNC = {name for name in PUBLIC if not inspect.iscoroutinefunction(getattr(SafeRedisQueue, name))}


@pytest.fixture
def named(server_url, prefix, client):
    """A queue whose connections have its name, and a function that counts the open ones."""
    link = Link(client_from_url(server_url, client_name=prefix), timeout=PATIENT)

    def connections() -> int:
        return sum(connection["name"] == prefix for connection in client.client_list())

    yield SafeRedisQueue(name=prefix, link=link), connections
    link.close()


def test_every_method_has_an_async_twin_with_the_same_signature():
    operations = {name for name in SYNC if not inspect.isasyncgenfunction(getattr(SafeRedisQueue, name))}
    assert operations - {f"a{name}" for name in TWINS} - set(TWINS) == ALONE
    assert {"put", "get", "ack", "fail", "processing", "consume", "items", "audit"} <= TWINS.keys()
    for name, twin in TWINS.items():
        one, other = inspect.signature(getattr(SafeRedisQueue, name)), inspect.signature(getattr(SafeRedisQueue, twin))
        assert one.parameters == other.parameters
        assert "Steps" not in f"{one}{other}"


# -- a method that blocks, called in an event loop


def blocked(call) -> list[tuple[str, str, str]]:
    """The warnings of a call in an event loop: text, file, and the source of the line."""

    async def main() -> None:
        call()
        call()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        asyncio.run(main())
    assert {warning.category for warning in caught} <= {RuntimeWarning}
    return [
        (str(warning.message), warning.filename, linecache.getline(warning.filename, warning.lineno))
        for warning in caught
    ]


CALLS = {
    "put": lambda queue: queue.put("x"),
    "get": lambda queue: queue.get(-1),
    "counts": lambda queue: queue.counts(),
    "pause": lambda queue: queue.pause(),
    "purge": lambda queue: queue.purge(),
    "audit": lambda queue: queue.audit(),
    "consume": lambda queue: list(queue.consume(-1)),
    "items": lambda queue: list(queue.items()),
    "processing": lambda queue: queue.processing(-1).__enter__(),
    "len": lambda queue: len(queue),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_method_that_blocks_an_event_loop_warns_once_for_each_place(queue, name):
    twin = "acounts" if name == "len" else f"a{name}"
    ((message, file, line),) = blocked(lambda: CALLS[name](queue))
    assert message == f"{name}() of a queue blocks the event loop in which it is called: use {twin}() instead."
    assert hasattr(queue, twin)
    assert (file, f'"{name}": lambda queue:' in line) == (__file__, True)
    assert len(blocked(lambda: (queue.put("x"), CALLS[name](queue)))) == 2


def test_no_warning_where_no_event_loop_is_blocked(queue):
    """In threads, also those of sync_to_async, in the asynchronous twins, and in code of the package."""

    async def main() -> None:
        await asyncio.to_thread(queue.put, "x")
        await sync_to_async(queue.put)("x")
        await queue.aput_many("xy")
        async for _ in queue.aitems():
            pass
        async with queue.aprocessing(-1):
            pass
        assert await queue.apurge() == 3

    asyncio.run(main())
    assert len(queue) == 0


def test_the_package_calls_its_own_methods_without_a_warning(settings, server_url, prefix):
    settings.SRQ_QUEUES = {"q": {"URL": server_url, "PREFIX": prefix, "HANDLER": "builtins.len"}}
    queues["q"].put("x")
    assert blocked(lambda: (run_all("q"), status.snapshot(timeout=PATIENT))) == []
    assert queues["q"].snapshot().stats["acked"] == 1


def test_an_async_twin_has_a_docstring():
    assert SafeRedisQueue.aput.__qualname__ == "SafeRedisQueue.aput"
    assert "Once ``put`` has returned, the item is stored" in SafeRedisQueue.aput.__doc__
    assert "Once ``put`` has returned, the item is stored" in SafeRedisQueue.put.__doc__


def test_the_tasks_of_a_loop_share_its_connections(named):
    queue, connections = named

    async def main() -> tuple[int, int]:
        for number in range(20):
            await queue.aput(number)
        one_after_the_other = connections()
        await asyncio.gather(*(queue.aput(number) for number in range(5)))
        return one_after_the_other, connections()

    after, beside = asyncio.run(main())
    assert after == 1
    assert beside <= 5
    wait_for(lambda: connections() == 0, "the server to see them closed")
    assert len(queue) == 25


def test_many_loops_leave_no_connection_and_no_warning(named):
    queue, connections = named
    put = async_to_sync(queue.aput)
    for number in range(250):  # pytest makes an error of a warning
        put(number)
    wait_for(lambda: connections() <= 1, "the server to see them closed")
    assert queue.counts()["ready"] == 250


def test_loops_in_several_threads(named):
    queue, connections = named

    async def work() -> None:
        for number in range(20):
            await queue.aput(number)
            assert await queue.aack(await queue.aget(-1))

    threads = [threading.Thread(target=asyncio.run, args=[work()]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.snapshot().stats["acked"] == 80
    wait_for(lambda: connections() <= 1, "only that of the snapshot")


def test_a_loop_that_was_not_shut_down_is_forgotten(named):
    queue, _ = named
    loop = asyncio.new_event_loop()
    loop.run_until_complete(queue.aput("x"))
    loop.run_until_complete(queue.link.aclose())
    loop.close()
    asyncio.run(queue.aput("y"))
    assert len(queue) == 2
    assert loop not in queue.link.connections.here().loops._pools


def test_a_loop_that_begins_in_another_thread_meanwhile_is_no_error(named):
    queue, _ = named
    pools = queue.link.connections.here().loops._pools

    class Meanwhile:
        """Another loop begins while the code checks whether this one is closed."""

        def is_closed(self) -> bool:
            pools[object()] = None
            return False

    pools[Meanwhile()] = None
    assert asyncio.run(queue.aput("x"))


def test_sync_and_async_calls_of_one_queue(queue):
    async def main() -> list[bytes]:
        await sync_to_async(queue.put)("a")
        await queue.aput("b")
        return [item.payload async for item in queue.aitems()]

    assert asyncio.run(main()) == [b"a", b"b"]


def test_consume_and_processing(queue):
    queue.put_many("abc")

    async def main() -> list[Item]:
        seen = []
        async with queue.aprocessing(-1) as item:
            seen.append(item)
        with pytest.raises(RuntimeError, match="boom"):
            async with queue.aprocessing(-1):
                raise RuntimeError("boom")
        async for item in queue.aconsume(-1):
            seen.append(item)
            await queue.aack(item)
        async with queue.aprocessing(-1) as item:
            assert not item
        return seen

    assert [item.payload for item in asyncio.run(main())] == [b"a", b"c"]
    assert queue.counts() == {"ready": 0, "in_flight": 0, "delayed": 1, "dead": 0}
    assert next(queue.items("delayed")).delivery.error["message"] == "boom"


FORK = """
import asyncio, os, sys
from django_srq import SafeRedisQueue
queue = SafeRedisQueue(name=sys.argv[2], url=sys.argv[1], timeout=60)
asyncio.run(queue.aput("before"))
if (child := os.fork()) == 0:
    asyncio.run(queue.aput("child"))
    os._exit(0)
asyncio.run(queue.aput("parent"))
assert os.waitpid(child, 0)[1] == 0
"""


def test_after_a_fork(server_url, queue):
    path = os.pathsep.join(sys.path)
    subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, server_url, queue.name],
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert sorted(item.payload for item in queue.items()) == [b"before", b"child", b"parent"]


def test_queues_of_the_settings(settings, server_url, prefix):
    settings.SRQ_QUEUES = {"orders": {"URL": server_url, "PREFIX": prefix}}

    async def view() -> str:
        return await queues["orders"].aput({"order": 17})

    uid = async_to_sync(view)()
    assert [(item.uid, item.payload) for item in queues["orders"].items()] == [(uid, {"order": 17})]


@contextmanager
def counted(**options: object):
    """A queue on a server of its own, and a client of that server, whose statistics are reset."""
    server = Server()
    with server.client() as client:
        client.config_resetstat()
        yield SafeRedisQueue(url=server.url, timeout=PATIENT, **options), client
    server.close()


def received(client: redis.Redis) -> int:
    return client.info("stats")["total_connections_received"]


@pytest.mark.parametrize(("options", "most"), [({}, AT_ONCE), ({"max_connections": 5}, 5)])
def test_a_burst_of_calls_shares_few_connections(options, most):
    async def main() -> list[str]:
        return await asyncio.gather(*(queue.aput(number) for number in range(2000)))

    with counted(**options) as (queue, client):
        assert len(set(asyncio.run(main()))) == 2000
        assert received(client) <= most


def test_many_gets_wait_and_delay_no_other_call():
    async def main() -> list[Item]:
        gets = [asyncio.create_task(queue.aget(PATIENT)) for _ in range(2 * AT_ONCE)]
        while client.info("clients")["blocked_clients"] < len(gets):
            await asyncio.sleep(0.005)
        await asyncio.gather(*(queue.aput(number) for number in range(len(gets))))
        return await asyncio.gather(*gets)

    with counted() as (queue, client):
        assert all(asyncio.run(asyncio.wait_for(main(), PATIENT)))


def test_more_simultaneous_calls_than_the_client_has_connections():
    async def main() -> Item:
        got = asyncio.create_task(queue.aget(PATIENT))
        while not client.info("clients")["blocked_clients"]:
            await asyncio.sleep(0.005)
        queue.link.timeout = 0.3
        with pytest.raises(QueueUnavailable, match="Too many connections"):
            await queue.aput("x")
        assert received(client) == 1
        queue.link.timeout = PATIENT
        await asyncio.to_thread(queue.put, "y")
        return await got

    with counted(max_connections=1) as (queue, client):
        assert asyncio.run(asyncio.wait_for(main(), PATIENT)).payload == b"y"


def test_a_call_whose_turn_does_not_come_in_time_was_not_sent():
    async def main() -> None:
        assert await queue.acounts()
        server.process.send_signal(signal.SIGSTOP)
        queue.link.timeout = 1
        done = await asyncio.gather(*(queue.aput("x") for _ in range(2)), return_exceptions=True)
        assert {type(error) for error in done} == {OutcomeUnknown, QueueUnavailable}

    server = Server()
    queue = SafeRedisQueue(url=server.url, max_connections=1, timeout=PATIENT)
    try:
        asyncio.run(main())
    finally:
        server.close()


def test_after_a_failover_no_connection_to_the_demoted_primary_remains():
    old, new = Server(), Server()
    proxy = Proxy(old.url)
    queue = SafeRedisQueue(url=proxy.url, client_name="ours", timeout=PATIENT)

    async def main() -> Item:
        with old.client() as client:
            await asyncio.gather(*(queue.aget(1) for _ in range(20)))
            assert len([connection for connection in client.client_list() if connection["name"] == "ours"]) >= 20
            client.replicaof("127.0.0.1", new.port)
            proxy.lead_to(new.url)
            await queue.aput("x")
            while any(connection["name"] == "ours" for connection in client.client_list()):
                await asyncio.sleep(0.005)
            assert old.errors("READONLY") == 1  # not once for each connection
        return await queue.aget(-1)

    try:
        assert asyncio.run(asyncio.wait_for(main(), PATIENT)).payload == b"x"
    finally:
        for server in (proxy, old, new):
            server.close()


# -- kinds of connections


def put_and_get(queue: SafeRedisQueue) -> object:
    async def main() -> object:
        await queue.aput("x")
        return (await queue.aget(-1)).payload

    return asyncio.run(main())


def test_unix_socket(tmp_path):
    server = Server("--unixsocket", str(tmp_path / "s"))
    try:
        assert put_and_get(SafeRedisQueue(url=f"unix://{tmp_path}/s?db=1", timeout=PATIENT)) == b"x"
    finally:
        server.close()


def test_embedded(tmp_path):
    assert put_and_get(SafeRedisQueue(link=embedded_link(f"embedded://{tmp_path}", timeout=PATIENT))) == b"x"
    embedded.release(tmp_path)


@pytest.mark.parametrize("protocol", [2, 3])
def test_password_and_arguments_of_a_client(protocol):
    server = Server("--requirepass", "secret")
    try:
        queue = SafeRedisQueue(
            "127.0.0.1", server.port, password="secret", protocol=protocol, decode_responses=True, timeout=PATIENT
        )
        assert put_and_get(queue) == "x"
    finally:
        server.close()


def test_tls():
    server = Server()
    front = Front(server.port)
    try:
        assert put_and_get(SafeRedisQueue(url=front.url, timeout=PATIENT)) == b"x"
    finally:
        front.close()
        server.close()


def test_options_that_only_blocking_connections_have():
    client = client_from_arguments(ssl=True, ssl_validate_ocsp=True)
    with pytest.raises(ConfigurationError, match="ssl_validate_ocsp"):
        asyncio.run(SafeRedisQueue(client=client).aput("x"))


def test_unknown_kind_of_connection():
    client = client_from_url("redis://127.0.0.1:1")
    client.connection_pool.connection_class = type("Tunnel", (), {})
    with pytest.raises(ConfigurationError, match="no asynchronous connection is known for Tunnel"):
        asyncio.run(SafeRedisQueue(client=client).aput("x"))
