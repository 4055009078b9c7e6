"""Forked processes. Servers fork in C, without Python's hooks: the package must notice a new process all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from django_srq import SafeRedisQueue
from django_srq.transport.clients import client_from_url
from django_srq.transport.embedded import release, socket_path
from tests.support.tls import Front
from tests.support.waiting import PATIENT, wait_for

# The beginning of all scripts. A child exits with 0 and prints nothing when all went well; join() checks that.
PRELUDE = """
import asyncio, ctypes, os, sys, threading, time, traceback
import tests.support.lean
from django_srq import SafeRedisQueue

libc = ctypes.PyDLL(None)  # the interpreter's lock is kept, as where a server forks
fork = {"c": libc.fork, "python": os.fork}[sys.argv[3]]
queue = SafeRedisQueue(name=sys.argv[2], url=sys.argv[1], timeout=60, **OPTIONS)

def child(work, *arguments):
    pid = fork()
    if pid == 0:
        try:
            work(*arguments)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid

def join(*pids):
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0

def tell(lines):
    os.write(1, "".join(f"{line}\\n" for line in lines).encode())  # not print, as its buffer has a lock

def put(number):
    tell([queue.put("x") for _ in range(number)])

async def aput(number):
    tell(await asyncio.gather(*(queue.aput("x") for _ in range(number))))
"""

BEFORE_A_FIRST_USE = """
join(*[child(put, 50) for _ in range(4)])
put(50)
"""

AFTER_A_FIRST_USE = """
put(1)
children = [child(put, 50) for _ in range(4)]
put(50)
join(*children)
"""

GRANDCHILDREN = """
def family():
    put(20)
    join(child(put, 20), child(put, 20))
    put(20)

def childless():
    join(child(put, 20), child(family))

put(1)
children = [child(family), child(childless), child(family)]
put(20)
join(*children)
"""

# The threads block in a call, but run no Python code: a child would inherit a lock of the interpreter itself for ever.
BESIDE_THREADS = """
other = SafeRedisQueue(name=sys.argv[2] + ".other", url=sys.argv[1], client_name=f"other-{os.getpid()}")

def getting():
    put(5)
    other.get()
    put(5)

threads = [threading.Thread(target=getting) for _ in range(4)]
for thread in threads:
    thread.start()

def blocked():
    found = other.link.client.client_list()
    return sum(connection["cmd"] == "blpop" for connection in found if connection["name"] == f"other-{os.getpid()}")

while blocked() < 4:
    time.sleep(0.01)
children = [child(put, 20) for _ in range(8)]
put(5)
join(*children, child(lambda: other.put_many(range(4))))
for thread in threads:
    thread.join()
"""

THREADS_OF_A_CHILD = """
def many():
    start = threading.Barrier(8)

    def one():
        start.wait()
        put(20)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

put(1)
join(child(many), child(many))
"""

IN_EVENT_LOOPS = """
def in_a_loop():
    asyncio.run(aput(50))

asyncio.run(aput(1))
children = [child(in_a_loop), child(put, 50)]
asyncio.run(aput(50))
children += [child(in_a_loop)]
join(*children)
asyncio.run(aput(1))
"""

BESIDE_AN_EVENT_LOOP = """
def in_child():
    asyncio.run(aput(20))
    put(20)

loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
for _ in range(3):
    asyncio.run_coroutine_threadsafe(aput(20), loop).result()
    join(child(in_child))
asyncio.run_coroutine_threadsafe(aput(20), loop).result()
os._exit(0)
"""

SCRIPTS = {
    "before a first use": BEFORE_A_FIRST_USE,
    "after a first use": AFTER_A_FIRST_USE,
    "grandchildren": GRANDCHILDREN,
    "beside threads": BESIDE_THREADS,
    "threads of a child": THREADS_OF_A_CHILD,
    "in event loops": IN_EVENT_LOOPS,
    "beside an event loop": BESIDE_AN_EVENT_LOOP,
}


@pytest.fixture(params=["c", "python"])
def start(request, server_url, queue) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a script; its processes fork in C or in Python."""
    started = []

    def begin(script: str, *arguments: str, url: str = server_url, options: str = "{}") -> subprocess.Popen[str]:
        code = PRELUDE.replace("OPTIONS", options) + script
        process = subprocess.Popen(
            # Python 3.12 warns of a fork beside threads.
            [
                sys.executable,
                "-W",
                "ignore::DeprecationWarning",
                "-c",
                code,
                url,
                queue.name,
                request.param,
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


@pytest.fixture
def run(start) -> Callable[..., list[str]]:
    """Runs a script, which must succeed; returns the lines of its output."""

    def run(script: str, **options: str) -> list[str]:
        process = start(script, **options)
        out, err = process.communicate(timeout=PATIENT)
        assert (process.returncode, err) == (0, "")
        return out.splitlines()

    return run


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_every_put_that_is_answered_is_stored_once(run, queue, script):
    answered = run(script)
    assert sorted(item.uid for item in queue.items()) == sorted(answered)
    assert queue.snapshot().stats["put"] == len(answered)


def test_the_name_of_a_slot_identifies_its_process(run, queue, client):
    """The name has the process id and random bits, because process ids are used again."""
    run(BEFORE_A_FIRST_USE.replace("put(50)", "put(1); tell([os.getpid()])"))
    names = [name.decode().rpartition("-")[0].partition("-") for name in client.hkeys(queue.keys["slots"])]
    assert len(names) == 5
    assert len({id for id, _, _ in names}) == len({random for _, _, random in names}) == 5
    assert {len(random) for _, _, random in names} == {10}


TAKING = """
queue.put_many(range(6))

def take():
    while item := queue.get(-1):
        tell([f"{os.getpid()} {item.token}"])

queue.get(-1)
children = [child(lambda: (tell([f"{os.getpid()} {queue.get(-1).token}"]))) for _ in range(2)]
join(*children)
tell([f"{os.getpid()} {queue.get(-1).token}"])
"""


def test_each_process_claims_under_its_own_name(run):
    lines = [line.split() for line in run(TAKING)]
    assert len(lines) == 3
    assert len({token.partition("/")[0] for _, token in lines}) == 3
    assert all(token.startswith(f"g{pid}-") for pid, token in lines)


IN_THE_MIDDLE_OF_A_CALL = """
from django_srq.transport.slots import slots

def in_child():
    slots.give_back(slot)
    put(1)
    mine = slots.borrow()
    assert mine.name != slot.name, mine

put(1)
slot = slots.borrow()  # as a call has it, in whose middle a signal's handler forks
pid = child(in_child)
slots.give_back(slot)
put(10)
join(pid)
"""


def test_a_slot_that_is_borrowed_during_a_fork_stays_with_the_parent(run, queue):
    assert len(run(IN_THE_MIDDLE_OF_A_CALL)) == len(queue) == 12


# The parent has idle connections and busy ones, of threads and of an event loop; it ends when its child has put.
OUTLIVED = """
from django_srq.transport.clients import client_from_url

async def many():
    await asyncio.gather(*(queue.aput("x") for _ in range(3)))

loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
asyncio.run_coroutine_threadsafe(many(), loop).result()
while queue.get(-1):
    pass
threading.Thread(target=queue.get, daemon=True).start()
asyncio.run_coroutine_threadsafe(queue.aget(), loop)
server = client_from_url(sys.argv[1])
while sum(connection["cmd"] == "blpop" for connection in server.client_list() if connection["name"] == "ours") < 2:
    time.sleep(0.01)
len(queue)
tell([sum(connection["name"] == "ours" for connection in server.client_list())])
reading, writing = os.pipe()
if fork() == 0:
    put(1) if sys.argv[4] == "sync" else asyncio.run(aput(1))
    os.write(writing, b"x")
    sys.stdin.read()
    os._exit(0)
os.read(reading, 1)
os._exit(0)
"""


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_child_keeps_no_connection_of_its_parent_open(start, client, way):
    """The server would go on to serve the blocked calls of a dead parent, with wake tokens that then wake nobody."""
    name = f"ours-{uuid.uuid4().hex[:8]}"
    process = start(OUTLIVED.replace("ours", name), way, options=f"{{'client_name': {name!r}}}")
    assert int(process.stdout.readline()) >= 5
    process.stdout.readline()
    wait_for(
        lambda: sum(connection["name"] == name for connection in client.client_list()) <= 1,
        "only the child's connection",
    )
    process.stdin.close()
    assert process.wait(PATIENT) == 0
    assert process.stderr.read() == ""


ENCRYPTED = {"after a first use": AFTER_A_FIRST_USE, "beside an event loop": BESIDE_AN_EVENT_LOOP}


@pytest.mark.parametrize("script", ENCRYPTED.values(), ids=ENCRYPTED.keys())
def test_a_child_does_not_close_encrypted_connections_for_its_parent(run, queue, server_url, script):
    front = Front(client_from_url(server_url).connection_pool.connection_kwargs["port"])
    try:
        answered = run(script.replace("20", "2"), url=front.url)  # TLS connections take long
    finally:
        front.close()
    assert sorted(item.uid for item in queue.items()) == sorted(answered)


LOCKED = """

def hold(lock):
    held = threading.Event()

    def hold_for_ever():
        with lock:
            held.set()
            time.sleep(1000)

    threading.Thread(target=hold_for_ever, daemon=True).start()
    held.wait()

put(1)
hold(queue.link.pool._lock)
join(child(put, 1))
os._exit(0)
"""


def test_a_child_is_not_blocked_by_a_lock_of_a_parent_s_thread(run, queue):
    """The child has no such thread that could release the lock."""
    assert len(run(LOCKED)) == len(queue) == 2


ON_ONE_LOOP = """
from django_srq.consumer.handler import adapt
from django_srq.queue.item import Item

async def handle(payload):
    await asyncio.sleep(0)
    tell([f"{os.getpid()} {threading.get_ident()}"])

handler = adapt(handle, on_loop=True)
handler(Item("uid", 1))
join(child(handler, Item("uid", 2)))
os._exit(0)
"""


def test_async_handlers_of_a_child_run_in_an_event_loop_of_the_child(run):
    lines = [line.split() for line in run(ON_ONE_LOOP)]
    assert len({pid for pid, _ in lines}) == 2


ON_AN_EMBEDDED_SERVER = {
    "before a first use": BEFORE_A_FIRST_USE,
    "after a first use": AFTER_A_FIRST_USE,
    "grandchildren": GRANDCHILDREN,
}


@pytest.mark.parametrize("script", ON_AN_EMBEDDED_SERVER.values(), ids=ON_AN_EMBEDDED_SERVER.keys())
def test_on_an_embedded_server(run, queue, tmp_path, script):
    url = f"embedded://{tmp_path}/data"
    answered = run(script, url=url)
    assert not os.path.exists(socket_path(tmp_path / "data"))  # the last process has ended the server
    try:
        again = SafeRedisQueue(name=queue.name, url=url, timeout=PATIENT)
        assert sorted(item.uid for item in again.items()) == sorted(answered)
    finally:
        release(tmp_path / "data")


JITTER = """
from django_srq.queue.backoff import Backoff

join(*[child(lambda: tell([Backoff().delay(5)])) for _ in range(4)])
"""


def test_children_wait_for_different_times(run):
    """Items that failed together must not come back together."""
    assert len(set(run(JITTER))) == 4
