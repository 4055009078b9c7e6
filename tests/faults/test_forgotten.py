"""Idle connections that a firewall or NAT has forgotten: it swallows all that is sent over them, and closes none."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from urllib.parse import urlsplit

import pytest

from django_srq import SafeRedisQueue, operations
from django_srq.operations import Command, Put
from django_srq.transport import async_connection, sync_connection
from django_srq.transport.budget import Budget
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from django_srq.transport.liveness import ALONG_BELOW, ASK_AFTER
from django_srq.transport.slots import Slot
from tests.support.tls import Front
from tests.support.waiting import PATIENT, wait_for

TIMEOUT = 6.0  # seconds; a connection gets a share of it, 1.5, before the call changes to another one
IN_TIME = 5.0  # seconds; the longest time of a call that spends a share on a forgotten connection
BRIEF = 0.1  # seconds of rest before a connection is tested, for tests that need not wait for the real time


class Firewall:
    """Passes data on until it forgets connections: all of them at once, or each one that is quiet for too long."""

    def __init__(self, server_url: str, quiet: float = float("inf")) -> None:
        parts = urlsplit(server_url)
        self.server, self.quiet = (parts.hostname, parts.port), quiet
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = parts._replace(netloc=f"127.0.0.1:{self.listener.getsockname()[1]}").geturl()
        self.connections: list[_Passage] = []
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    @property
    def swallowed(self) -> list[bytes]:
        """The data that came over each connection after it was forgotten."""
        return [each.swallowed for each in self.connections if each.swallowed]

    def forget(self) -> None:
        for each in self.connections:
            each.forgotten = True

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                passage = _Passage(client, socket.create_connection(self.server), self.quiet)
                self.connections.append(passage)
                for ends in ((client, passage.server), (passage.server, client)):
                    self.threads.append(threading.Thread(target=passage.pump, args=ends))
                    self.threads[-1].start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.threads[0].join()
        for each in self.connections:
            for end in (each.client, each.server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        for each in self.connections:
            each.client.close()
            each.server.close()


class _Passage:
    def __init__(self, client: socket.socket, server: socket.socket, quiet: float) -> None:
        self.client, self.server, self.quiet = client, server, quiet
        self.last = time.monotonic()
        self.forgotten, self.swallowed = False, b""

    def pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                now = time.monotonic()
                self.forgotten |= now - self.last > self.quiet
                self.last = now
                if self.forgotten:
                    self.swallowed += data
                else:
                    target.sendall(data)
        if not self.forgotten:
            with suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def firewall(server_url: str) -> Iterator[Firewall]:
    firewall = Firewall(server_url)
    yield firewall
    firewall.close()


@pytest.fixture
def queue(firewall: Firewall, prefix: str) -> Iterator[SafeRedisQueue]:
    queue = SafeRedisQueue(name=prefix, link=Link(client_from_url(firewall.url), timeout=TIMEOUT))
    yield queue
    queue.link.close()


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sync_connection, async_connection):
        monkeypatch.setattr(module, "ASK_AFTER", BRIEF)


def stay_idle(seconds: float = BRIEF) -> None:
    until = time.monotonic() + seconds + 0.01
    wait_for(lambda: time.monotonic() > until, "the end of the idle time")


def in_time(call: Callable[[], object]) -> object:
    begun = time.monotonic()
    result = call()
    assert time.monotonic() - begun < IN_TIME
    return result


def test_a_put_over_a_connection_that_was_forgotten_while_it_was_quiet(server_url, prefix):
    firewall = Firewall(server_url, quiet=ASK_AFTER + 0.1)
    queue = SafeRedisQueue(name=prefix, link=Link(client_from_url(firewall.url), timeout=TIMEOUT))
    queue.put("x")
    stay_idle(ASK_AFTER + 0.2)
    assert in_time(lambda: queue.put("y"))
    assert len(firewall.swallowed) == 1
    assert queue.snapshot().stats["put"] == 2
    queue.link.close()
    firewall.close()


def test_an_aput_over_a_connection_that_was_forgotten_while_it_was_quiet(server_url, prefix):
    firewall = Firewall(server_url, quiet=ASK_AFTER + 0.1)
    queue = SafeRedisQueue(name=prefix, link=Link(client_from_url(firewall.url), timeout=TIMEOUT))

    async def puts() -> float:
        await queue.aput("x")
        await asyncio.sleep(ASK_AFTER + 0.2)
        begun = time.monotonic()
        await queue.aput("y")
        return time.monotonic() - begun

    assert asyncio.run(puts()) < IN_TIME
    assert len(firewall.swallowed) == 1
    assert queue.snapshot().stats["put"] == 2
    queue.link.close()
    firewall.close()


CALLS: dict[str, Callable[[SafeRedisQueue], object]] = {
    "put": lambda queue: queue.put("y"),
    "large put": lambda queue: queue.put("y" * 2 * ALONG_BELOW),
    "get": lambda queue: queue.get(-1),
    "counts": lambda queue: queue.counts(),
    "renewal": lambda queue: queue.link.call(operations.counts(queue.keys), queue="q", timeout=3),
    "look": lambda queue: queue.link.look([("q", operations.counts(queue.keys))], timeout=TIMEOUT),
}


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_call_over_a_forgotten_connection(queue, firewall, call):
    queue.put("x")
    firewall.forget()
    stay_idle()
    assert in_time(lambda: call(queue))
    [swallowed] = firewall.swallowed
    assert len(swallowed) < ALONG_BELOW
    assert len(firewall.connections) == 2


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("large", [False, True])
def test_an_aput_over_a_forgotten_connection(queue, firewall, large):
    async def puts() -> float:
        await queue.aput("x")
        firewall.forget()
        await asyncio.sleep(2 * BRIEF)
        begun = time.monotonic()
        await queue.aput("y" * (2 * ALONG_BELOW if large else 1))
        return time.monotonic() - begun

    assert asyncio.run(puts()) < IN_TIME
    [swallowed] = firewall.swallowed
    assert len(swallowed) < ALONG_BELOW
    assert queue.snapshot().stats["put"] == 2


@pytest.mark.usefixtures("brief")
def test_a_blocking_get_over_a_forgotten_connection(queue, firewall, link):
    """The wait begins again over another connection, and ends when an item comes."""
    producer = SafeRedisQueue(name=queue.name, link=link)
    queue.counts()
    firewall.forget()
    stay_idle()
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(queue.get, PATIENT)
        wait_for(lambda: len(firewall.connections) == 2, "a new connection")
        producer.put("x")
        assert in_time(got.result).payload == b"x"


@pytest.mark.usefixtures("brief")
def test_a_blocking_aget_over_a_forgotten_connection(queue, firewall, link):
    producer = SafeRedisQueue(name=queue.name, link=link)

    async def get() -> float:
        await queue.acounts()
        firewall.forget()
        await asyncio.sleep(2 * BRIEF)
        begun = time.monotonic()
        getting = asyncio.create_task(queue.aget(PATIENT))
        while len(firewall.connections) < 2:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(producer.put, "x")
        assert (await getting).payload == b"x"
        return time.monotonic() - begun

    assert asyncio.run(get()) < IN_TIME


def put_call(queue: SafeRedisQueue, uid: str) -> operations.Call[object]:
    return operations.put(queue.keys, [Put(uid, b"x", b"")], own=True)


@pytest.mark.usefixtures("brief")
def test_a_stream_over_a_forgotten_connection(queue, firewall):
    """The caller has to repeat the call that was swallowed; later calls go over a new connection."""
    stream = queue.link.stream()

    def send(uid: str) -> object:
        stream.send(put_call(queue, uid), queue="q")
        [sent] = stream.collect()
        return sent.result

    assert send("first")
    firewall.forget()
    stay_idle()
    assert in_time(lambda: send("swallowed")) is None
    assert send("second")
    assert queue.snapshot().stats["put"] == 2
    assert len(firewall.swallowed) == 1
    stream.close()


@pytest.mark.usefixtures("brief")
def test_a_stream_with_outstanding_replies_is_not_tested(queue, firewall):
    """Replies that arrive after a rest belong to the calls, not to a test of the connection."""
    stream = queue.link.stream()
    for uid in ("a", "b", "c"):
        stream.send(put_call(queue, uid), queue="q")
        stay_idle()
    assert [list(sent.result.states) for sent in stream.collect()] == [[""]] * 3
    stream.close()


@pytest.mark.usefixtures("brief")
def test_a_call_behind_a_wait_over_a_forgotten_connection(queue, firewall):
    alarm, other = socket.socketpair()
    queue.counts()
    firewall.forget()
    stay_idle()

    def park() -> object:
        wait, slot = operations.wait([queue.keys], 0.1), Slot(b"test", 1)
        return queue.link.park(wait, put_call(queue, "a"), 0.1, slot=slot, queue="q", interrupt=alarm.fileno())

    with alarm, other:
        assert in_time(park) is None
        assert list(park().states) == [""]
    assert len(firewall.swallowed) == 1


@pytest.mark.usefixtures("brief")
def test_an_interruptible_wait_sees_a_token_that_is_already_there(queue, firewall):
    """The token may arrive together with the reply that shows the connection alive."""
    alarm, other = socket.socketpair()
    queue.put("x")  # which pushes a wake token
    stay_idle()
    command = operations.wait([queue.keys], PATIENT)
    with alarm, other:
        assert in_time(lambda: queue.link.wait(command, PATIENT, queue="q", interrupt=alarm.fileno()))


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("size", [1, ALONG_BELOW // 2, 2 * ALONG_BELOW])
def test_a_put_over_a_forgotten_tls_connection(server_url, prefix, size):
    with closing(Front(urlsplit(server_url).port)) as front, closing(Firewall(front.url)) as firewall:
        queue = SafeRedisQueue(name=prefix, link=Link(client_from_url(firewall.url), timeout=TIMEOUT))
        queue.put("x")
        firewall.forget()
        stay_idle()
        assert in_time(lambda: queue.put("y" * size))
        assert len(firewall.connections) == 2
        queue.link.close()


@pytest.mark.usefixtures("brief")
def test_forgotten_connections_of_the_same_age_cost_one_share_of_the_time(queue, firewall):
    barrier = threading.Barrier(6)

    def look(_: int) -> None:
        connections = queue.link.connections.here().threads
        connection = connections.take(Budget(TIMEOUT))
        barrier.wait(PATIENT)
        connections.idle.append(connection)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(look, range(6)))
    assert len(firewall.connections) == 6
    firewall.forget()
    stay_idle()

    def puts() -> None:
        for _ in range(6):
            queue.put("x")

    in_time(puts)
    assert len(firewall.swallowed) == 1


@pytest.mark.usefixtures("brief")
def test_a_live_but_slow_server_is_tested_once(queue, firewall):
    """It answers the test at once, and after that the call has all of its time."""
    queue.link.timeout = 0.4  # seconds; a share is 0.1
    number = Command((b"CLIENT", b"ID"), int)
    before = queue.link.call(number, queue="q", timeout=PATIENT)
    stay_idle()
    assert queue.link.wait(operations.wait([queue.keys], 1), 1, queue="q") == ""  # None: the wait was cut short
    assert queue.link.call(number, queue="q", timeout=PATIENT) == before
    assert len(firewall.connections) == 1


def test_a_busy_connection_is_not_tested(queue, client):
    def signs() -> int:
        return int(client.info("commandstats").get("cmdstat_time", {}).get("calls", 0))

    # Scripts call TIME as well, so only the difference counts.
    queue.link.call(Command((b"PING",), bytes), queue="q")
    before = signs()
    for _ in range(50):
        queue.link.call(Command((b"PING",), bytes), queue="q")
    assert signs() == before
