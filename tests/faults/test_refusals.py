"""Errors in place of an outcome: if the server carried out nothing, a call raises QueueUnavailable with the reason."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from django_srq import LayoutError, OutcomeUnknown, QueueUnavailable, SafeRedisQueue, operations
from django_srq.operations import Put
from django_srq.transport import sync_connection
from django_srq.transport.budget import Budget
from django_srq.transport.refusals import refused
from django_srq.transport.round_trip import RoundTrip
from tests.support.servers import Server
from tests.support.waiting import PATIENT, wait_for

PUTS: list[Callable[[SafeRedisQueue, str], object]] = [
    lambda queue, item: queue.put(item),
    lambda queue, item: asyncio.run(queue.aput(item)),
]
both = pytest.mark.parametrize("put", PUTS, ids=["put", "aput"])


def lock_out(server: Server) -> redis.Redis:
    """Set a password, and close all connections that were opened without it; returns a client that has the password."""
    server.client().config_set("requirepass", "secret")
    client = server.client(password="secret")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    return client


@pytest.mark.parametrize("look", [0, PATIENT], ids=["seen before it is sent", "seen after it is sent"])
def test_a_password_set_meanwhile_refuses_a_put(at, server, monkeypatch, look):
    """The server closed the connection; the call notices that before or after it sends."""
    monkeypatch.setattr(sync_connection, "LOOK_AFTER", look)
    queue = at(server.url)
    queue.put("x")
    with lock_out(server) as client:
        with pytest.raises(QueueUnavailable, match="the server refuses the user or password"):
            queue.put("y")
        client.config_set("requirepass", "")
    assert queue.put("z")
    assert len(queue) == 2


@pytest.mark.parametrize("look", [True, False], ids=["noticed before sending", "noticed after sending"])
def test_a_password_set_meanwhile_refuses_an_aput(at, server, look):
    queue = at(server.url)

    async def puts() -> None:
        await queue.aput("x")
        client = lock_out(server)  # this blocks the loop, which notices the closed connection only later
        if look:
            pool = await queue.link.connections.here().loops.here()
            while not pool._idle[0].closed_by_server():
                await asyncio.sleep(0.001)
        with pytest.raises(QueueUnavailable, match="the server refuses the user or password"):
            await queue.aput("y")
        client.config_set("requirepass", "")
        await queue.aput("z")
        client.close()

    asyncio.run(puts())
    assert len(queue) == 2


def no_commands(client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval")


def full(client: redis.Redis) -> None:
    client.config_set("maxmemory", 1)


def no_disk(client: redis.Redis) -> None:
    """Let a snapshot of the server fail; it then refuses writes."""
    (Path(client.config_get("dir")["dir"]) / "dump.rdb" / "in the way").mkdir(parents=True)
    client.config_set("save", "1 1")
    with suppress(redis.RedisError):
        client.bgsave()
    wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the failure")


def replica(client: redis.Redis) -> None:
    client.replicaof("127.0.0.1", 1)


def no_replicas(client: redis.Redis) -> None:
    client.config_set("min-replicas-to-write", 1)


@both
@pytest.mark.parametrize(
    ("hinder", "reason"),
    [
        (no_commands, "the server's access rules forbid it"),
        (full, "the server is out of memory"),
        (no_disk, "MISCONF"),
        (replica, "read-only replica"),
        (no_replicas, r"too few replicas .*min-replicas-to-write"),
    ],
)
def test_a_refusal_by_the_server_is_unavailable_with_the_reason(at, server, put, hinder, reason):
    queue = at(server.url, timeout=PATIENT)
    put(queue, "x")
    with server.client() as client:
        hinder(client)
        queue.link.timeout = 0.3
        with pytest.raises(QueueUnavailable, match=reason):
            put(queue, "y")
        assert client.llen("srq:orders:queue") == 1


@both
def test_a_put_waits_for_replicas_within_its_time(at, server, put):
    queue = at(server.url)
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        no_replicas(client)
        putting = pool.submit(put, queue, "x")
        wait_for(lambda: server.errors("NOREPLICAS") > 1, "two refusals of the put")
        client.config_set("min-replicas-to-write", 0)
        assert putting.result(PATIENT)
    assert len(queue) == 1


def without(command: str, *but: str) -> Callable[[redis.Redis], object]:
    return lambda client: client.execute_command("ACL", "SETUSER", "default", f"-{command}", *but)


@both
def test_an_error_in_the_middle_of_a_writing_script_is_an_unknown_outcome(at, server, put):
    """The user has a right for some keys only; at its beginning, a script checks its rights with one key."""
    queue = at(server.url)
    with server.client() as client:
        without("lpush", "(+lpush ~*:meta)")(client)
        with pytest.raises(OutcomeUnknown, match=r"put ended in the middle .*; it may be there; put it again"):
            put(queue, "x")


def test_an_error_in_the_middle_of_a_reading_script_is_unavailable(at, server):
    queue = at(server.url)
    with server.client() as client:
        without("zcard")(client)
        with pytest.raises(QueueUnavailable):
            queue.counts()


def test_a_key_of_a_foreign_type_is_still_a_layout_error(at, server):
    with server.client() as client:
        client.set("srq:orders:queue", "foreign")
        with pytest.raises(LayoutError):
            at(server.url).put("x")


def talk_nonsense(listener: socket.socket, reply: bytes) -> None:
    """Play a server that greets properly, and answers a call with other bytes."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(reply if b"EVAL" in data else b"+OK\r\n" * data.count(b"CLIENT"))


@both
@pytest.mark.parametrize("reply", [b"HTTP/1.1 200 OK\r\n\r\n", b"\x15\x03\x03\r\n"], ids=["HTTP", "TLS"])
def test_a_reply_that_is_not_the_protocol_is_an_unknown_outcome(put, reply):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk_nonsense, args=(listener, reply))
        thread.start()
        try:
            queue = SafeRedisQueue(name="orders", port=listener.getsockname()[1], protocol=2, timeout=0.5)
            with pytest.raises(OutcomeUnknown):
                put(queue, "x")
            queue.link.close()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)


def test_a_large_put_that_was_sent_in_part_is_unavailable(at, server):
    """The server stops reading; a part of a call is not carried out."""
    queue = at(server.url)
    queue.put("x")
    queue.link.timeout = 0.5
    server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(QueueUnavailable):
            queue.put("y" * 30_000_000)
    finally:
        server.process.send_signal(signal.SIGCONT)
    queue.link.timeout = PATIENT
    assert len(queue) == 1


def receiving() -> bool:
    """Whether a thread waits for a reply."""
    frames = [frame for frame in sys._current_frames().values() if frame is not sys._getframe()]
    return any(step.f_code.co_name == "receive" for frame in frames for step, _ in traceback.walk_stack(frame))


def test_a_lost_call_whose_repeat_is_refused_is_an_unknown_outcome(at, server):
    """Nobody knows what the server did with the first attempt."""
    queue = at(server.url, timeout=PATIENT)
    queue.put("x")
    server.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(queue.put, "y")
        wait_for(receiving, "the call to be sent")
        server.kill()
        server.options = ("--requirepass", "secret")
        server.start(wait=False)
        with pytest.raises(OutcomeUnknown, match=r"no reply to put before the connection was lost, and then a refusal"):
            putting.result(PATIENT)


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.AuthenticationError("Authentication required."),
        redis.exceptions.NoPermissionError("this user has no permissions to run the 'evalsha' command"),
        redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
        redis.exceptions.ConnectionError("max number of clients reached"),
        redis.exceptions.ResponseError("Protocol error: invalid bulk length"),
        redis.exceptions.ResponseError("CLUSTERDOWN Hash slot not served"),
        redis.exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
    ],
)
def test_errors_that_are_refusals(error):
    assert refused(error)


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.ConnectionError("Connection closed by server."),
        redis.exceptions.TimeoutError("timed out"),
        redis.exceptions.InvalidResponse("Protocol Error: b'H'"),
        OSError("whatever"),
        redis.exceptions.ResponseError("ACL failure in script: User w has no permissions script: on @user_script:2."),
    ],
)
def test_errors_that_are_not_refusals(error):
    assert not refused(error)


def test_a_node_of_a_cluster_is_named_as_the_reason(at):
    server = Server("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf")
    try:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_for(lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")), "the cluster")
            with pytest.raises(QueueUnavailable, match="a node of a cluster, where a queue's keys must be in one slot"):
                at(server.url, timeout=1).put("x")
            tagged = SafeRedisQueue(name="orders", cluster=True, link=at(server.url).link)
            assert tagged.put("x")
    finally:
        server.close()


@pytest.mark.parametrize("reply", ["MOVED 7450 127.0.0.1:7301", "ASK 7450 127.0.0.1:7301"])
def test_the_wrong_node_of_a_cluster_is_named_as_the_reason(at, server, reply):
    """Some versions of redis-py have an error class for this, others do not."""
    queue = at(server.url, timeout=1)
    parse = queue.link.pool.connection_class(port=server.port)._parser.parse_error
    error = parse(reply)
    call = operations.put(queue.keys, [Put("uid", b"x", b"")], own=True)
    said = RoundTrip(queue.link.connections, call, "orders", Budget(1)).error_for(error)
    assert isinstance(said, QueueUnavailable)
    assert "this server is a node of a cluster, and the queue's keys are on another node" in str(said)
    assert "127.0.0.1:7301" in str(said)


def test_a_call_waits_out_errors_that_the_client_retries(at, server):
    queue = at(server.url, retry_on_error=[redis.exceptions.NoPermissionError, redis.exceptions.OutOfMemoryError])
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        full(client)
        for put in PUTS:
            putting = pool.submit(put, queue, "x")
            before = server.errors("OOM")
            wait_for(lambda before=before: server.errors("OOM") > before + 1, "two refusals of the put")
            client.config_set("maxmemory", 0)
            assert putting.result(PATIENT)
            full(client)
        client.config_set("maxmemory", 0)
    assert len(queue) == 2
