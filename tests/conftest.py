"""Fixtures: a live server (SRQ_TEST_URL, else a throw-away one) and queues with a prefix of their own."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import redis
from xdist.scheduler import LoadScopeScheduling

from django_srq import SafeRedisQueue
from django_srq.queue import links
from django_srq.transport.clients import client_from_url
from django_srq.transport.link import Link
from tests.support.project import ROOT, Project
from tests.support.servers import Server, held_port
from tests.support.waiting import PATIENT

MakeQueue = Callable[..., SafeRedisQueue]
# Files whose tests share a slow fixture: each goes to one worker as a whole, before all other tests.
WHOLE = ("tests/project/test_packaging.py",)

# Each command that a test starts would compile the whole package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell started the tests in the background; the commands under test would inherit this, and ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # started by nohup


class _WholeFilesFirst(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file, _, _ = nodeid.partition("::")
        return file if file in WHOLE else nodeid


def pytest_xdist_make_scheduler(config, log):
    return _WholeFilesFirst(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let each worker begin with other tests: whoever imports a module first compiles it for all."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None:
        return
    apart = set(session.config.getini("norecursedirs"))
    files = sorted(file for folder in session.config.args for file in Path(folder).absolute().rglob("test_*.py"))
    files = [file.relative_to(ROOT) for file in files if apart.isdisjoint(file.parts)]
    for file in files[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
        with suppress(Exception), warnings.catch_warnings(action="error"):  # pytest imports it again, and reports it
            import_module(".".join(file.with_suffix("").parts))


# redis-py 8 asks for its own version, a file to find and to parse, for each connection that it makes.
importlib.metadata.version = cache(importlib.metadata.version)

# A busy machine may need longer for a put than a request may wait: here a put has the time of any other call.
links.PUT_TIMEOUT = PATIENT


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The URL of the server under test."""
    if url := os.environ.get("SRQ_TEST_URL"):
        client_from_url(url).ping()  # a missing server fails the tests; they are not skipped
        yield url
        return
    server = Server()
    yield server.url
    server.close()


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port on which nobody listens."""
    with held_port() as port:
        yield port


@pytest.fixture
def server() -> Iterator[Server]:
    """A server for one test, which may stop, fill or lock it."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts throw-away servers with these options."""
    servers: list[Server] = []

    def serve(*options: str) -> Server:
        servers.append(Server(*options))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


@pytest.fixture
def at() -> Iterator[MakeQueue]:
    """Makes queues named orders at a URL, each with its own connections; the options are those of the client."""
    made = []

    def make(url: str, timeout: float = PATIENT, **options: object) -> SafeRedisQueue:
        made.append(Link(client_from_url(url, **options), timeout=timeout))
        return SafeRedisQueue(name="orders", link=made[-1])

    yield make
    for link in made:
        link.close()


@pytest.fixture(scope="session")
def client(server_url: str) -> Iterator[redis.Redis]:
    """A bare client, to look at the keys themselves."""
    with client_from_url(server_url) as client:
        yield client


@pytest.fixture(scope="session")
def link(server_url: str) -> Iterator[Link]:
    link = Link(client_from_url(server_url), timeout=PATIENT)
    yield link
    link.close()


@pytest.fixture
def prefix(client: redis.Redis) -> Iterator[str]:
    """A name that no other test has; all keys that start with it are deleted afterwards."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    for pattern in (f"srq:{name}*", f"srq:{{{name}*"):
        for key in client.scan_iter(pattern, count=1000):
            client.delete(key)


@pytest.fixture
def queue_class() -> type[SafeRedisQueue]:
    return SafeRedisQueue


@pytest.fixture
def make_queue(link: Link, prefix: str, queue_class: type[SafeRedisQueue]) -> MakeQueue:
    """Makes queues on the server under test: ``make_queue(serializer=…, name_suffix=…)``."""

    def make(name_suffix: str = "", **options: object) -> SafeRedisQueue:
        if not {"link", "url", "client", "port"} & options.keys():
            options["link"] = link
        return queue_class(name=prefix + name_suffix, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def queue(make_queue: MakeQueue) -> SafeRedisQueue:
    return make_queue()


@pytest.fixture
def project(settings: object, tmp_path: Path, server_url: str, prefix: str) -> Iterator[Project]:
    made = Project(settings, tmp_path, server_url, prefix)
    yield made
    made.close()
