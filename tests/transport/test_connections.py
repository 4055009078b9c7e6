"""The client factory and the link: one time limit, every call carried out once, whatever happens to connections."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
import redis
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from django_srq import ConfigurationError, LayoutError, OutcomeUnknown, QueueUnavailable, SafeRedisQueue, operations
from django_srq.operations import Call, Command, Keys, Put, Script
from django_srq.transport.clients import client_from_arguments, client_from_url, is_embedded, masked
from django_srq.transport.link import Link, embedded_link, shared
from django_srq.transport.slots import Slot, Slots
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.tls import Front
from tests.support.waiting import PATIENT, wait_for

pytestmark = pytest.mark.versions

BUDGET = 0.3  # seconds; TIMEOUT of the queues whose server does not answer
SOCKET_LIMITS = {"socket_timeout": 3600, "socket_connect_timeout": 3600}  # redis-py's own limits, which must not matter


def connection_id(queue: SafeRedisQueue) -> int:
    """The server's id of the connection that the next call uses."""
    return queue.link.call(Command((b"CLIENT", b"ID"), int), queue=queue.alias)


def named(client: redis.Redis, name: str) -> int:
    """The number of connections with that name on the server."""
    return sum(connection["name"] == name for connection in client.client_list())


# -- the client factory


@pytest.mark.parametrize(
    ("url", "options", "kind"),
    [
        ("redis://host:1/2", {"host": "host", "port": 1, "db": 2}, redis.Connection),
        ("valkey://host:1/2", {"host": "host", "port": 1, "db": 2}, redis.Connection),
        ("rediss://host", {"host": "host"}, redis.SSLConnection),
        ("valkeys://host", {"host": "host"}, redis.SSLConnection),
        ("unix:///run/s?db=3", {"path": "/run/s", "db": 3}, redis.UnixDomainSocketConnection),
        ("valkey://user:p%40ss@host", {"username": "user", "password": "p@ss"}, redis.Connection),
    ],
)
def test_a_url_makes_a_client(url, options, kind):
    pool = client_from_url(url).connection_pool
    assert pool.connection_class is kind
    assert options.items() <= pool.connection_kwargs.items()


def test_valkey_url_works(server_url, prefix):
    link = Link(client_from_url(server_url.replace("redis://", "valkey://")), timeout=PATIENT)
    queue = SafeRedisQueue(name=prefix, link=link)
    uid = queue.put("x")
    assert queue.get(-1).uid == uid
    link.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@host",
        "redis:/user:secret@host",
        "user:secret@host",
        "host:6379",
        "",
        "redis://host:port?password=secret",
        "redis://:secret/word@host",
        "redis://:secret#word@host:port",
        "redis://:secret?word@host",
        "redis://host:port?password=secret@word",
        "redis://user:secret@host?nonsense=1",
    ],
)
def test_an_error_about_a_wrong_url_hides_its_secrets(url):
    with pytest.raises(ConfigurationError, match="not a URL of a queue's server|cannot use") as caught:
        client_from_url(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None  # a cause would quote the URL


def test_an_error_about_an_unknown_scheme_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"redis://, rediss://, unix://, valkey://, valkeys://, embedded://"):
        client_from_url("amqp://host")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: client_from_arguments(nonsense=1),
        lambda: client_from_url("redis://host", nonsense=1),
        lambda: client_from_url("redis://host?nonsense=1"),
        lambda: SafeRedisQueue(nonsense=1),
        lambda: SafeRedisQueue(url="redis://host", nonsense=1),
        lambda: SafeRedisQueue(url="x:"),
    ],
)
def test_wrong_arguments_are_configuration_errors(wrong):
    with pytest.raises(ConfigurationError, match=r"nonsense|'x:'"):
        wrong()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:1/2?password=secret", "redis://host:1/2"),
        ("redis://:sec@ret@host/2", "redis://host/2"),
        ("unix://user:secret@/run/socket?db=3", "unix:///run/socket"),
        ("unix:///run/socket", "unix:///run/socket"),
        ("redis://:sec/ret@host", "redis://host"),
        ("redis://:sec?ret@host", "redis://..."),
        ("redis://host?password=sec@ret", "redis://..."),
        ("redis://host", "redis://host"),
    ],
)
def test_masked_url(url, shown):
    assert masked(url) == shown


def test_queue_takes_the_arguments_of_a_client(server):
    queue = SafeRedisQueue("127.0.0.1", server.port, name="orders", decode_responses=True, timeout=PATIENT)
    queue.put("x")
    assert queue.get(-1).payload == "x"
    queue.link.close()


def test_queue_takes_a_url_with_options(server):
    queue = SafeRedisQueue(name="orders", url=server.url, decode_responses=True, timeout=PATIENT)
    queue.put("x")
    assert queue.get(-1).payload == "x"
    queue.link.close()


def test_tls(server):
    front = Front(server.port)
    try:
        queue = SafeRedisQueue(name="orders", url=front.url, timeout=PATIENT)
        queue.put("x" * 100_000)
        assert queue.get(-1).payload == b"x" * 100_000
        assert not queue.get(0.05)
        queue.link.close()
    finally:
        front.close()


def test_making_a_queue_opens_no_connection(server):
    with server.client() as client:
        before = client.info("stats")["total_connections_received"]
        SafeRedisQueue(name="orders", url=server.url)
        assert client.info("stats")["total_connections_received"] == before


@pytest.mark.parametrize("url", ["embedded:/data", "embedded:"])
def test_wrong_embedded_url(url):
    assert is_embedded(url)
    with pytest.raises(ConfigurationError, match=r"write embedded:// or embedded:///path"):
        embedded_link(url)


# -- time limits


@pytest.mark.parametrize(
    ("query", "options"),
    [("?socket_timeout=0.05", {}), ("", {"socket_timeout": 0.05}), ("", {})],
    ids=["in the URL", "as an argument", "none"],
)
def test_blocking_get_outlasts_every_socket_timeout(at, server, query, options):
    queue = at(server.url + query, timeout=1.5, **options)
    before = connection_id(queue)
    assert not queue.get(2)
    assert connection_id(queue) == before  # the same connection, so the wait was not cut short


@contextmanager
def deaf(backlog: int) -> Iterator[str]:
    """The URL of a socket that listens and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(backlog)
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def full() -> Iterator[str]:
    """The URL of a socket at which nobody is ever accepted."""
    with deaf(0) as url, socket.socket() as first, socket.socket() as second:
        for waiting in (first, second):  # fill the backlog
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", int(url.rpartition(":")[2])))
        yield url


@contextmanager
def within_budget() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < PATIENT  # seconds; a busy machine may be late, but SOCKET_LIMITS are far longer


CALLS = [lambda queue: queue.put("x"), lambda queue: queue.get(-1), lambda queue: len(queue)]


@pytest.mark.parametrize("call", CALLS, ids=["put", "get", "len"])
def test_call_to_a_server_that_never_answers_ends_in_time(at, call):
    with deaf(100) as url, within_budget(), pytest.raises(QueueUnavailable, match=r"queue 'orders' "):
        call(at(url, timeout=BUDGET, **SOCKET_LIMITS))


def test_call_to_a_server_that_never_accepts_ends_in_time(at):
    with full() as url, within_budget(), pytest.raises(QueueUnavailable, match=r"queue 'orders' "):
        at(url, timeout=BUDGET, **SOCKET_LIMITS).put("x")


@pytest.mark.parametrize(
    ("place", "query"),
    [(lambda: deaf(100), ""), (full, ""), (lambda: deaf(100), "?ssl_cert_reqs=none")],
    ids=["greeting", "connecting", "TLS"],
)
def test_the_wait_of_a_thread_for_a_new_connection_can_be_ended(at, place, query):
    with place() as url, ThreadPoolExecutor(1) as pool:
        queue = at(url.replace("redis:", "rediss:") + query if query else url, timeout=2 * PATIENT)
        threads: list[int] = []
        call = pool.submit(lambda: (threads.append(threading.get_ident()), queue.put("x")))
        wait_for(lambda: queue.link.connections.here().threads._opening, "its wait")
        wait_for(lambda: queue.link.break_off(threads) or call.done(), "the end of its wait")
        with pytest.raises(QueueUnavailable, match="the wait for the server was ended"):
            call.result()


def test_the_wait_of_a_thread_is_ended_and_that_of_another_thread_goes_on(at, server):
    queue = at(server.url)

    def waiting() -> list[str]:
        with server.client() as client:
            return [connection["id"] for connection in client.client_list() if "b" in connection["flags"]]

    with ThreadPoolExecutor(2) as pool:
        getting = pool.submit(lambda: queue.get(PATIENT))
        (before,) = wait_for(waiting, "the wait of one thread")
        with stopped(server):
            threads: list[int] = []
            call = pool.submit(lambda: (threads.append(threading.get_ident()), queue.ack("x")))
            wait_for(lambda: threads, "the call of the other")
            wait_for(lambda: queue.link.break_off(threads) or call.done(), "the end of the call")
            with pytest.raises((QueueUnavailable, OutcomeUnknown), match="was ended"):
                call.result()
        assert waiting() == [before]
        queue.put("x")
        assert getting.result().payload == b"x"


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """The server keeps its connections and answers nothing."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_call_over_an_open_connection_ends_in_time(at, server):
    queue = at(server.url, **SOCKET_LIMITS)
    queue.put("warm up")
    queue.link.timeout = BUDGET
    with stopped(server):
        for call in CALLS[:2]:
            with within_budget(), pytest.raises((OutcomeUnknown, QueueUnavailable)):
                call(queue)


def test_a_put_without_a_reply_says_what_to_do_and_can_be_repeated(at, server):
    queue = at(server.url)
    queue.put("warm up", uid="first")
    queue.link.timeout = BUDGET
    with (
        stopped(server),
        pytest.raises(
            OutcomeUnknown, match=r"queue 'orders' .*no reply to put .*may be there; put it again with the same"
        ),
    ):
        queue.put("x", uid="second")
    again = at(server.url)
    again.put("x", uid="second")
    assert [item.uid for item in again.get_many(5)] == ["first", "second"]
    assert again.audit() == []


@pytest.mark.parametrize("put", [lambda queue: queue.put("x"), lambda queue: queue.put_many("xy")])
def test_a_put_without_a_reply_names_the_uid_that_it_made(at, server, put):
    queue = at(server.url)
    assert len(queue) == 0
    queue.link.timeout = BUDGET
    with stopped(server), pytest.raises(OutcomeUnknown) as caught:
        put(queue)
    uid = re.search("the same uid: ([-0-9a-f]{36})", str(caught.value))[1]
    again = at(server.url)
    assert again.put("x", uid=uid) == uid
    uids = [item.uid for item in again.items()]
    assert uids.count(uid) == 1


def test_read_without_a_reply_is_unavailable(at, server):
    """A read cannot have changed anything."""
    queue = at(server.url)
    assert len(queue) == 0
    queue.link.timeout = BUDGET
    with stopped(server), pytest.raises(QueueUnavailable, match=r"queue 'orders' "):
        len(queue)


def half_a_reply(listener: socket.socket) -> None:
    """Play a server that greets properly, and stops in the middle of a reply."""
    connections = []
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            break
        connections.append(connection)
        data = connection.recv(65536)
        while b"EVAL" not in data:
            connection.sendall(b"+OK\r\n" * data.count(b"CLIENT"))
            data = connection.recv(65536)
        connection.sendall(b"$100\r\nhalf")
    for connection in connections:
        connection.close()


def test_half_a_reply_ends_in_time(at):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=half_a_reply, args=(listener,))
        thread.start()
        try:
            url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
            queue = at(url, timeout=3, protocol=2, **SOCKET_LIMITS)  # seconds; enough for the greeting as well
            with within_budget(), pytest.raises(OutcomeUnknown):
                queue.put("x")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)


def greet_slowly(listener: socket.socket, asked: list[bytes]) -> None:
    """Play a server whose replies each come within the time limit, but not all of them together."""
    connection, _ = listener.accept()
    with connection, suppress(OSError):
        while data := connection.recv(65536):
            asked.append(data)
            time.sleep(0.7)
            connection.sendall(b"+OK\r\n" * len(re.findall(rb"CLIENT|SELECT", data)))


@pytest.mark.parametrize("database", [0, 3])
def test_greeting_has_the_time_limit_of_the_call(at, database):
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        pool.submit(greet_slowly, listener, asked)
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/{database}"
        with pytest.raises(QueueUnavailable):
            at(url, timeout=1, protocol=2).put("x")
    assert asked
    assert not any(b"EVAL" in data or b"SELECT" in data for data in asked)  # these would be sent last


# -- attempts


class Doorman:
    """A listener that closes every connection at once, and counts them."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}"
        self.visitors = 0
        self.thread = threading.Thread(target=self.turn_away)
        self.thread.start()

    def turn_away(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.visitors += 1
            connection.close()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(30)
        self.listener.close()


@pytest.fixture
def doorman() -> Iterator[Doorman]:
    doorman = Doorman()
    yield doorman
    doorman.close()


@pytest.mark.parametrize("make", [client_from_url, lambda url: client_from_arguments(port=int(url.rpartition(":")[2]))])
def test_redis_py_does_not_repeat_calls_itself(doorman, make):
    with make(doorman.url) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    assert doorman.visitors == 1


def test_the_link_repeats_a_call_within_its_time_limit(doorman, at):
    with pytest.raises(QueueUnavailable):
        at(doorman.url, timeout=2).put("x")  # enough time for a second attempt
    assert doorman.visitors > 1


class Tripwire(NoBackoff):
    """Fails when a client repeats a call itself, as redis-py 8 does ten times, with pauses of seconds."""

    def compute(self, failures: int) -> float:
        raise AssertionError("redis-py tries again by itself")


@pytest.mark.parametrize("make", [redis.Redis, redis.Redis.from_url])
def test_the_retries_of_a_caller_s_client_do_not_prolong_the_call(make, dead_port):
    place = {"port": dead_port} if make is redis.Redis else {"url": f"redis://127.0.0.1:{dead_port}"}
    client = make(**place, retry=Retry(Tripwire(), 10, (OSError, redis.ConnectionError)))
    with pytest.raises(AssertionError, match="by itself"):
        client.ping()
    queue = SafeRedisQueue(name="orders", client=client, timeout=BUDGET)
    with pytest.raises(QueueUnavailable):
        queue.put("x")


def test_call_waits_for_a_server_that_comes_back(at, server):
    queue = at(server.url)
    queue.put("warm up")
    server.stop()
    starter = threading.Timer(0.2, server.start)
    starter.start()
    assert queue.put("x")
    starter.join()
    assert len(queue) == 1  # the item of the warm-up was lost with the server


def test_connections_made_stale_by_a_restart_are_no_error(at, server):
    queue = at(server.url)
    with ThreadPoolExecutor(4) as pool:  # opens several connections
        list(pool.map(queue.put, range(8)))
    server.stop()
    server.start()
    assert queue.put("x")
    assert len(queue) == 1
    assert queue.snapshot().stats["put"] == 1


def test_after_a_failover_no_connection_to_the_demoted_primary_remains(at, server):
    new = Server()
    proxy = Proxy(server.url)
    queue = at(proxy.url, client_name="ours")
    with server.client() as client, ThreadPoolExecutor(20) as pool:
        got = [pool.submit(queue.get, PATIENT) for _ in range(20)]
        wait_for(lambda: named(client, "ours") >= 20, "a connection for each of them")
        queue.put_many(range(20))
        assert all(future.result() for future in got)
        client.replicaof("127.0.0.1", new.port)
        proxy.lead_to(new.url)
        uid = queue.put("x")
        wait_for(lambda: not named(client, "ours"), "the old connections to be closed")
        assert server.errors("READONLY") == 1  # not once for each connection
    assert queue.get(-1).uid == uid
    queue.link.close()
    proxy.close()
    new.close()


def test_stream_leaves_a_demoted_primary(at, server):
    new = Server()
    proxy = Proxy(server.url)
    queue = at(proxy.url)
    stream = queue.link.stream()

    def put(uid: str) -> object:
        stream.send(operations.put(queue.keys, [Put(uid, b"x", b"")], own=True), queue="q")
        [sent] = stream.collect()
        return sent.result

    with server.client() as client:
        assert put("before")
        client.replicaof("127.0.0.1", new.port)
        proxy.lead_to(new.url)
        assert put("at the old one") is None
        assert put("at the new one")
    assert [item.uid for item in queue.items()] == ["at the new one"]
    stream.close()
    queue.link.close()
    proxy.close()
    new.close()


def fail_over(client: redis.Redis) -> None:
    """Make the primary a replica and a primary again; it keeps its items."""
    client.replicaof("127.0.0.1", 1)  # nobody listens there
    wait_for(lambda: not blocked(client), "the end of the wait")
    client.replicaof("NO", "ONE")


def unblock(client: redis.Redis) -> None:
    """End the wait as an administrator does."""
    [number] = [connection["id"] for connection in client.client_list() if "b" in connection["flags"]]
    client.execute_command("CLIENT", "UNBLOCK", number, "ERROR")


GETS = [lambda queue: queue.get(PATIENT), lambda queue: asyncio.run(queue.aget(PATIENT))]


@pytest.mark.parametrize("end", [fail_over, unblock])
@pytest.mark.parametrize("get", GETS, ids=["get", "aget"])
def test_a_blocking_get_goes_on_when_the_server_ends_its_wait(at, server, get, end):
    queue = at(server.url, client_name="idle")
    with ThreadPoolExecutor(1) as pool, server.client() as client:
        got = pool.submit(get, queue)
        wait_for(lambda: blocked(client), "the wait")
        end(client)
        uid = at(server.url).put("x")
        assert got.result(PATIENT).uid == uid


@pytest.mark.parametrize("end", [fail_over, unblock])
def test_a_call_behind_a_wait_that_the_server_ends_has_to_be_repeated(at, server, end):
    queue, (alarm, other) = at(server.url, client_name="idle"), socket.socketpair()
    call = operations.put(queue.keys, [Put("uid", b"x", b"")], own=True)
    with ThreadPoolExecutor(1) as pool, server.client() as client, alarm, other:
        wait, slot = operations.wait([queue.keys], PATIENT), Slot(b"test", 1)
        parked = pool.submit(queue.link.park, wait, call, PATIENT, slot=slot, queue="q", interrupt=alarm.fileno())
        wait_for(lambda: blocked(client), "the wait")
        end(client)
        assert parked.result(PATIENT) is None
    assert queue.link.call(call, queue="q", slot=slot)
    assert queue.snapshot().stats["put"] == 1


def test_connection_that_the_server_closed_is_no_error(queue, client):
    for _ in range(3):
        client.client_kill_filter(_id=str(connection_id(queue)))
        queue.put("x")
    assert len(queue) == 3


def test_call_sent_again_in_its_slot_is_carried_out_once(link, queue):
    call = operations.put(queue.keys, [Put("uid", b"x", b"")], own=True)
    slot = Slot(b"test", 3)
    replies = [link.call(call, queue="q", slot=slot) for _ in range(3)]
    assert [list(reply.states) for reply in replies] == [[""]] * 3
    assert queue.snapshot().stats["put"] == 1


def test_a_call_that_arrives_after_its_repeat_is_refused(link, queue):
    late = operations.put(queue.keys, [Put("late", b"x", b"")], own=True)
    link.call(operations.recover(queue.keys, legacy_lease=60), queue="q", slot=Slot(b"test", 4))
    with pytest.raises(QueueUnavailable, match="SRQLATE"):
        link.call(late, queue="q", slot=Slot(b"test", 3))
    assert len(queue) == 0


# -- interruptions


class Interrupted(KeyboardInterrupt):
    """Unlike KeyboardInterrupt itself, it does not end pytest."""


@contextmanager
def interrupting(when: Callable[[], object]) -> Iterator[None]:
    """Interrupt the block like Ctrl-C as soon as when() is true."""

    def interrupt(*_):
        raise Interrupted

    def wait() -> None:
        wait_for(when, "the moment to interrupt")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        with pytest.raises(Interrupted):
            yield
    finally:
        thread.join(60)
        signal.signal(signal.SIGUSR1, before)


def blocked(client: redis.Redis) -> bool:
    """Whether the connection named idle waits for an item."""
    return any(c["name"] == "idle" and "b" in c["flags"] for c in client.client_list())


def test_interrupted_get_leaves_nothing_for_the_next_call(at, server):
    queue = at(server.url, client_name="idle")
    with server.client() as client, interrupting(lambda: blocked(client)):
        queue.get(0)
    uid = queue.put("x")
    assert queue.get(-1).uid == uid
    assert queue.counts()["in_flight"] == 1


def test_interrupted_put_leaves_no_reply_for_the_next_call(at, server):
    queue = at(server.url)
    queue.put("warm up", uid="first")

    def reading() -> bool:
        """Whether this thread has sent its call and waits for the reply."""
        frame = sys._current_frames()[threading.main_thread().ident]
        return any(step.f_code.co_name == "receive" for step, _ in traceback.walk_stack(frame))

    with stopped(server), interrupting(reading):
        queue.put("x", uid="second")
    assert queue.ack("unknown") is False  # the reply is not that of the put
    item = queue.get(-1)
    assert item.uid == "first"
    assert queue.ack(item)
    queue.put("x", uid="second")
    assert [item.uid for item in queue.get_many(5)] == ["second"]
    assert queue.audit() == []


# -- threads and processes


def test_threads_share_one_link(at, server):
    queue = at(server.url, client_name="ours")

    def work(number: int) -> list[str | None]:
        mine = []
        for n in range(20):
            queue.put(f"{number}.{n}")
            item = queue.get(30)
            mine.append(item.uid)
            assert queue.ack(item)
        return mine

    with ThreadPoolExecutor(8) as pool:
        uids = [uid for mine in pool.map(work, range(16)) for uid in mine]
    assert len(uids) == len(set(uids)) == 320
    assert queue.counts() == {"ready": 0, "in_flight": 0, "delayed": 0, "dead": 0}
    with server.client() as client:
        # By name, because redis-py 5.0.0 leaves the connections of a closed client to the garbage collector.
        assert 1 <= sum(c["name"] == "ours" for c in client.client_list()) <= 8


def test_connection_is_used_again(queue):
    assert connection_id(queue) == connection_id(queue)


def test_the_number_of_slots_is_that_of_the_simultaneous_calls(at, server, monkeypatch):
    monkeypatch.setattr("django_srq.transport.link.slots", Slots())
    queue = at(server.url)
    for _ in range(20):
        queue.put("x")
    with server.client() as client:
        assert client.hlen("srq:orders:slots") == 1


def test_threads_share_the_link_to_a_target():
    made = []

    def make() -> Link:
        made.append(Link(client_from_url("redis://localhost")))
        return made[-1]

    target = object()
    with ThreadPoolExecutor(8) as pool:
        links = set(pool.map(lambda _: shared(target, make), range(100)))
    assert len(links) == 1
    assert links <= set(made)


FORK = """
import os, sys
from django_srq import SafeRedisQueue
from django_srq.operations import Command
from django_srq.transport.slots import slots

queue = SafeRedisQueue(name="orders", url=sys.argv[1], max_connections=1, timeout=60)
queue.put("before")
child = os.fork()
for n in range(50):
    queue.put(f"{bool(child)} {n}")
assert queue.ack(queue.get(60))
number = queue.link.call(Command((b"CLIENT", b"ID"), int), queue="orders")
if child:
    assert os.waitpid(child, 0)[1] == 0
print(os.getpid(), slots.process, number, flush=True)
os._exit(0)
"""


def test_parent_and_child_both_go_on_after_fork(at, server):
    done = subprocess.run(
        [sys.executable, "-c", FORK, server.url],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.stderr == ""
    child, parent = (line.split() for line in done.stdout.splitlines())
    assert [one == other for one, other in zip(child, parent, strict=True)] == [False] * 3
    queue = at(server.url)
    assert queue.snapshot().stats["put"] == 101
    assert len(queue) == 99
    assert queue.audit() == []


def test_a_closed_link_can_be_used_again(at, server):
    queue = at(server.url)
    before = connection_id(queue)
    queue.link.close()
    assert connection_id(queue) != before


def test_a_time_limit_beyond_that_of_sockets(at, server):
    assert at(server.url, timeout=10**9).put("x")


def test_closed_connections_are_opened_again(at, server):
    queue = at(server.url, max_connections=1)
    for _ in range(3):
        queue.put("x")
        queue.link.close()
    assert len(queue) == 3


def test_more_threads_can_wait_than_redis_py_has_connections_by_default(at, server):
    queue = at(server.url, client_name="ours")
    with ThreadPoolExecutor(110) as pool, server.client() as client:
        got = [pool.submit(queue.get, PATIENT) for _ in range(110)]
        wait_for(lambda: client.info("clients")["blocked_clients"] == 110, "all to wait")
        queue.put_many(range(110))
        assert all(future.result() for future in got)


def test_more_simultaneous_calls_than_the_client_has_connections(at, server):
    queue = at(server.url, client_name="idle", max_connections=1)
    with ThreadPoolExecutor(1) as pool, server.client() as client:
        got = pool.submit(queue.get, 60)
        wait_for(lambda: blocked(client), "the only connection to be in use")
        queue.link.timeout = BUDGET
        with pytest.raises(QueueUnavailable, match="Too many connections"):
            queue.put("x")
        uid = at(server.url).put("x")
        assert got.result(60).uid == uid


def test_a_connection_may_be_taken_by_another_thread_first(at, server):
    """The other thread takes it after this one has found it and before it takes it."""
    queue = at(server.url)
    queue.link.connections.here().threads.closed = Elusive()
    assert queue.put("x")


class Elusive(deque):
    """Looks non-empty, but raises when something is taken from it."""

    def __bool__(self) -> bool:
        return True


def test_prepare_is_called_before_each_connection(server):
    prepared = []
    link = Link(client_from_url(server.url), timeout=PATIENT, prepare=lambda: prepared.append(1))
    queue = SafeRedisQueue(name="orders", link=link)
    queue.put("x")
    queue.put("x")
    assert len(prepared) == 1
    link.close()
    queue.put("x")
    assert len(prepared) == 2
    link.close()


# -- looks at several queues


def test_a_look_reads_all_queues_at_once(at, server):
    queue = at(server.url)
    queue.put("x")
    asked = [(name, operations.counts(Keys(name))) for name in ("orders", "other")]
    assert [counts.ready for counts in queue.link.look(asked, timeout=PATIENT)] == [1, 0]


def test_a_look_returns_the_error_of_one_queue_beside_the_other_results(at, server):
    with server.client() as client:
        client.set("srq:broken:queue", "foreign")
    asked = [(name, operations.counts(Keys(name))) for name in ("orders", "broken")]
    good, bad = at(server.url).link.look(asked, timeout=PATIENT)
    assert good.ready == 0
    assert isinstance(bad, LayoutError)
    assert "'broken'" in str(bad)


def test_look_ends_in_time(at):
    with deaf(100) as url, within_budget(), pytest.raises(QueueUnavailable):
        at(url, **SOCKET_LIMITS).link.look([("orders", operations.counts(Keys("orders")))], timeout=BUDGET)


def test_a_link_that_is_garbage_leaves_no_open_connection(server_url, client):
    link = Link(client_from_url(server_url, client_name="forgotten"), timeout=PATIENT)
    link.call(operations.info(), queue="q")
    assert [connection for connection in client.client_list() if connection["name"] == "forgotten"]
    del link
    # redis-py 5.0.0 keeps the error of a greeting that Redis 7.0 refuses in a cycle with the frames, and so the link.
    gc.collect()
    wait_for(
        lambda: not [connection for connection in client.client_list() if connection["name"] == "forgotten"], "its end"
    )


def test_the_service_of_a_sentinel_is_named(at):
    """Clients that ask Sentinels for the primary, those that work and those that do not yet."""
    sentinel = redis.sentinel.Sentinel([("127.0.0.1", 1), ("127.0.0.2", 1)], sentinel_kwargs={"socket_timeout": 0.1})
    queue = SafeRedisQueue(name="orders", client=sentinel.master_for("shop", db=2), timeout=0.3)
    assert queue.link.address == "sentinel://127.0.0.1:1,127.0.0.2:1/shop/2"
    assert "sentinel://127.0.0.1:1,127.0.0.2:1/shop/2" in repr(queue)
    with pytest.raises(QueueUnavailable, match="'shop'"):
        queue.put("x")
    with pytest.raises(ConfigurationError, match=r"asynchronous calls cannot find 'shop' by Sentinel yet"):
        asyncio.run(queue.aput("x"))
    queue.link.close()
    for client in sentinel.sentinels:
        client.close()


@pytest.mark.parametrize("name", ["put", "counts"])
def test_a_server_too_old_for_the_scripts_is_named_as_the_reason(link, prefix, name):
    """To such a server #!lua, the first line of the scripts, means as little as ##!lua means to any server."""
    script = Script.named(name)
    older = dataclasses.replace(script, text=b"#" + script.text, sha=b"0" * 40)
    call = Call(older, Keys(prefix), (), lambda reply: reply)
    with pytest.raises(QueueUnavailable, match="too old, it needs Redis 7.0 or Valkey 7.2: .*unexpected symbol near"):
        link.call(call, queue=prefix)


@pytest.mark.parametrize("look", [0, PATIENT], ids=["seen before it is sent", "seen after it is sent"])
def test_stream_whose_connection_was_closed(at, server, monkeypatch, look):
    """A call sent afterwards goes over another connection, or its caller has to repeat it."""
    monkeypatch.setattr("django_srq.transport.sync_connection.LOOK_AFTER", look)
    queue = at(server.url)
    stream = queue.link.stream()

    def send(uid: str) -> object:
        stream.send(operations.put(queue.keys, [Put(uid, b"x", b"")], own=True), queue="q")
        [sent] = stream.collect()
        return sent.result

    with server.client() as client:
        assert send("before")
        client.client_kill_filter(_type="normal", skipme=True)
        assert (send("after") is None) == (look == PATIENT)
        assert send("later")
    stream.close()


@pytest.mark.parametrize("moment", ["_next_waiting", "_post"])
def test_a_call_whose_sender_is_interrupted_is_collected_without_a_result(at, server, monkeypatch, moment):
    queue = at(server.url)
    stream = queue.link.stream()
    inner = getattr(stream, moment)

    def interrupted(*arguments):
        monkeypatch.setattr(stream, moment, inner)
        if moment == "_next_waiting":
            inner()
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, moment, interrupted)
    call = operations.put(queue.keys, [Put("a", b"x", b"")], own=True)
    with pytest.raises(KeyboardInterrupt):
        stream.send(call, queue="q")
    with ThreadPoolExecutor(1) as pool:
        [sent] = pool.submit(stream.collect).result(PATIENT)
    assert (sent.call, sent.result, stream.unread) == (call, None, False)
    stream.send(call, queue="q")
    assert stream.collect()[0].result is not None
    stream.close()


def test_a_call_that_another_thread_is_about_to_send_is_collected_too(at, server, monkeypatch):
    """That thread may stand still for long. Meanwhile the reader would go on, with more and more replies unread."""
    queue = at(server.url)
    stream, stalled, go_on = queue.link.stream(), threading.Event(), threading.Event()
    following = stream._next_waiting

    def stalls():
        found = following()
        if found is not None:
            stalled.set()
            assert go_on.wait(PATIENT)
        return found

    monkeypatch.setattr(stream, "_next_waiting", stalls)
    with ThreadPoolExecutor(2) as pool:
        sending = pool.submit(stream.send, operations.put(queue.keys, [Put("a", b"x", b"")], own=True), queue="q")
        assert stalled.wait(PATIENT)
        collecting = pool.submit(stream.collect)
        wait_for(lambda: collecting.done() or stream._posted._waiters, "the reader to wait, or to leave the call out")
        go_on.set()
        assert collecting.result(PATIENT) == [sending.result(PATIENT)]
    assert queue.counts()["ready"] == 1
    stream.close()


@pytest.mark.parametrize("look", [0, PATIENT], ids=["seen before it is sent", "seen after it is sent"])
def test_look_over_a_connection_that_was_closed(at, server, monkeypatch, look):
    monkeypatch.setattr("django_srq.transport.sync_connection.LOOK_AFTER", look)
    queue = at(server.url)
    asked = [("orders", operations.counts(Keys("orders")))]
    with server.client() as client:
        for _ in range(3):
            [counts] = queue.link.look(asked, timeout=PATIENT)
            assert counts.ready == 0
            client.client_kill_filter(_type="normal", skipme=True)


def test_the_socket_of_a_failed_unix_connection_is_closed(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        queue = SafeRedisQueue(name="orders", unix_socket_path=str(tmp_path / "none.sock"), timeout=0.1)
        with pytest.raises(QueueUnavailable):
            queue.put("x")
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
