"""Names of servers: a silent name server costs a call at most its time limit, and nothing if the address is known."""

from __future__ import annotations

import re
import socket
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from django_srq import SafeRedisQueue
from django_srq.transport import names, sockets
from tests.support.resolver import Resolver
from tests.support.servers import Server
from tests.support.waiting import PATIENT

SILENCE = 10  # seconds; at least as long takes the system's own lookup with a silent name server

# The beginning of the programs below: calls, and their durations.
PREAMBLE = """
import asyncio, json, sys, threading, time
from django_srq import OutcomeUnknown, QueueUnavailable, SafeRedisQueue

def timed(call):
    begun = time.monotonic()
    try:
        said = call()
    except (QueueUnavailable, OutcomeUnknown) as error:
        said = f"{type(error).__name__}: {error}"
    return said, time.monotonic() - begun

async def atimed(awaitable):
    begun = time.monotonic()
    try:
        said = await awaitable
    except (QueueUnavailable, OutcomeUnknown) as error:
        said = f"{type(error).__name__}: {error}"
    return said, time.monotonic() - begun

def lookups():
    return sum(thread.name == "srq-names" for thread in threading.enumerate())
"""


@pytest.fixture
def resolver(tmp_path: Path) -> Iterator[Resolver]:
    resolver = Resolver(tmp_path)
    yield resolver
    resolver.close()


def run(resolver: Resolver, program: str, *arguments: str) -> Any:
    return resolver.run(PREAMBLE + textwrap.dedent(program), *arguments)


def test_with_a_silent_name_server_a_call_ends_in_time(resolver):
    """This holds in a thread and in an event loop, which also ends at once; all calls share a lookup."""
    program = """
    queue = SafeRedisQueue(name="orders", host="queue.example", timeout=1)
    calls = [
        lambda: queue.put("x"),
        lambda: asyncio.run(queue.aput("x")),
        lambda: len(queue),
        lambda: queue.get(timeout=-1),
    ]
    print(json.dumps([*map(timed, calls), lookups()]))
    """
    *calls, under_way = run(resolver, program)
    for said, seconds in calls:
        assert said.startswith("QueueUnavailable: queue 'orders' (queue.example:6379/0): ")
        assert said.endswith("the name 'queue.example' could not be resolved in time")
        assert seconds < SILENCE / 2
    assert under_way == 1


def test_many_callers_wait_for_one_lookup(resolver):
    program = """
    from concurrent.futures import ThreadPoolExecutor
    queue = SafeRedisQueue(name="orders", host="queue.example", timeout=1)
    with ThreadPoolExecutor(20) as pool:
        said = list(pool.map(lambda n: timed(lambda: queue.put("x")), range(20)))

    async def puts():
        # A loop that is late meets the time limits of the lookup and of the call at one time.
        asyncio.get_running_loop().call_later(0.9, time.sleep, 0.3)
        return await asyncio.gather(*(queue.aput("x") for _ in range(20)), return_exceptions=True)

    asynchronous = asyncio.run(puts())
    print(json.dumps([[seconds for _, seconds in said], [str(error) for error in asynchronous], lookups()]))
    """
    seconds, asynchronous, under_way = run(resolver, program)
    assert max(seconds) < SILENCE / 2
    assert all(text.endswith("could not be resolved in time") for text in asynchronous)
    assert under_way == 1


def test_a_known_address_is_used_while_the_name_server_is_silent(resolver, server_url, prefix):
    program = """
    hosts, url, name = sys.argv[1:]
    queue = SafeRedisQueue(name=name, url=url, timeout=8)

    async def both():
        await queue.aput("first")
        forget()
        return await queue.aput("fourth")

    def forget():
        queue.link.close()
        open(hosts, "w").close()

    def hidden_from_both(call):
        with open(hosts, "w") as file:
            file.write("127.0.0.1 queue.example")
        return call()

    def put():
        queue.put("second")
        forget()
        return timed(lambda: queue.put("third"))

    said = [hidden_from_both(put), hidden_from_both(lambda: timed(lambda: asyncio.run(both())))]
    print(json.dumps([said, len(queue)]))
    """
    url = server_url.replace("127.0.0.1", "queue.example")
    said, length = run(resolver, program, str(resolver.hosts), url, prefix)
    for uid, seconds in said:
        assert len(uid) == 36
        assert seconds < SILENCE / 2
    assert length == 4


@contextmanager
def silent_addresses(port: int, *addresses: str) -> Iterator[None]:
    """Other addresses of this machine with this port, where nobody is ever accepted."""
    with ExitStack() as stack:
        for address in addresses:
            listener = stack.enter_context(socket.socket())
            listener.bind((address, port))
            listener.listen(0)
            for _ in range(2):  # fill the backlog
                one = stack.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex((address, port))
        yield


@pytest.fixture
def server() -> Iterator[Server]:
    # Of several addresses the system prefers those that are near its own address, 127.0.0.1.
    server = Server("--bind", "127.0.0.1", "127.0.0.9")
    yield server
    server.close()


SEVERAL = """
queue = SafeRedisQueue(name="orders", url=sys.argv[1], timeout=3)

async def aputs():
    said = [await atimed(queue.aput("x"))]
    await queue.link.aclose()
    return [*said, await atimed(queue.aput("x"))]

def puts():
    said = [timed(lambda: queue.put("x"))]
    queue.link.close()
    return [*said, timed(lambda: queue.put("x"))]

print(json.dumps(puts() if sys.argv[2] == "put" else asyncio.run(aputs())))
"""


@pytest.mark.parametrize("call", ["put", "aput"])
def test_the_addresses_of_a_name_share_the_time(resolver, server, call):
    """Only the last of three addresses answers: it is reached within the time limit, and is tried first afterwards."""
    silent = ["127.0.0.2", "127.0.0.3"]
    resolver.hosts.write_text("".join(f"{address} queue.example\n" for address in [*silent, "127.0.0.9"]))
    with silent_addresses(server.port, *silent):
        said = run(resolver, SEVERAL, f"redis://queue.example:{server.port}", call)
    assert [len(uid) for uid, _ in said] == [36, 36]
    assert said[0][1] > 1 > said[1][1]


ALL_SILENT = """
queue = SafeRedisQueue(name="orders", url=sys.argv[1], timeout=2)
calls = {"put": lambda: queue.put("x"), "aput": lambda: asyncio.run(queue.aput("x"))}
print(json.dumps(timed(calls[sys.argv[2]])))
"""


@pytest.mark.parametrize("call", ["put", "aput"])
def test_addresses_that_are_all_silent_take_the_time_limit_once(resolver, server, call):
    silent = [f"127.0.0.{number}" for number in range(2, 7)]
    resolver.hosts.write_text("".join(f"{address} queue.example\n" for address in silent))
    with silent_addresses(server.port, *silent):
        said, seconds = run(resolver, ALL_SILENT, f"redis://queue.example:{server.port}", call)
    assert said.startswith("QueueUnavailable")
    assert seconds < 5  # seconds; the five calls would take ten otherwise


def test_an_error_says_that_a_name_does_not_exist(resolver):
    resolver.conf.write_text("nameserver 127.0.0.1\n")  # nobody listens there, so the lookup fails at once
    program = """
    queue = SafeRedisQueue(name="orders", host="nowhere.example", timeout=0.5)
    print(json.dumps([timed(lambda: queue.put("x")), timed(lambda: asyncio.run(queue.aput("x")))]))
    """
    for said, _ in run(resolver, program):
        assert said.startswith("QueueUnavailable: queue 'orders' (nowhere.example:6379/0): ")
        assert re.search(r"Error -\d connecting to nowhere.example", said)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%lo"])
def test_an_address_needs_no_lookup(host, monkeypatch):
    monkeypatch.setattr(names, "_Lookup", None)
    [(_, _, _, address), *_] = names.addresses((host, 6379, 0), 1)
    assert address[:2] == (host.partition("%")[0], 6379)


def test_a_unix_socket_needs_no_lookup(monkeypatch):
    monkeypatch.setattr(names, "_literal", None)
    server = Server("--unixsocket", "socket")
    queue = SafeRedisQueue(name="orders", unix_socket_path=str(server.directory / "socket"), timeout=PATIENT)
    assert queue.put("x")
    queue.link.close()
    server.close()


def test_a_lookup_is_made_anew_in_a_forked_child(resolver):
    """The child lacks the thread that would end the parent's lookup."""
    program = """
    import os
    queue = SafeRedisQueue(name="orders", host="queue.example", timeout=0.5)
    timed(lambda: queue.put("x"))
    read, write = os.pipe()
    if not os.fork():
        from django_srq.transport import names
        names._looked_up = lambda host, flags=0: (_ for _ in ()).throw(OSError("looked up again"))
        os.write(write, timed(lambda: queue.put("x"))[0].encode())
        os._exit(0)
    print(json.dumps(os.read(read, 10000).decode()))
    """
    assert "looked up again" in run(resolver, program)


def test_without_threads_a_name_is_looked_up_by_the_caller(monkeypatch):
    """A process that is ending can start no more threads."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    host = ("localhost", 6379, socket.AF_INET)
    assert [address for *_, address in names.addresses(host, PATIENT)] == [("127.0.0.1", 6379)]


def test_the_remaining_addresses_share_the_remaining_time():
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, ("127.0.0.1", port)) for port in (1, 2, 3, 4)]
    now = time.monotonic()
    turns = [until - now for _, until in sockets._with_deadlines(found, now + 8)]
    assert turns == pytest.approx([2, 8 / 3, 4, 8], abs=0.5)
