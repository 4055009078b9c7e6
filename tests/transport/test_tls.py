"""TLS: all connections share a context and check the server's name; a wrong configuration is an error at once."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from django_srq import QueueUnavailable, SafeRedisQueue
from django_srq.transport.liveness import LOOK_AFTER
from tests.support.resolver import Resolver
from tests.support.servers import Server
from tests.support.tls import CERTIFICATE, Front
from tests.support.waiting import PATIENT, wait_for

PUTS: list[Callable[[SafeRedisQueue], object]] = [
    lambda queue: queue.put("x"),
    lambda queue: asyncio.run(queue.aput("x")),
]
both = pytest.mark.parametrize("put", PUTS, ids=["put", "aput"])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def front(server: Server) -> Iterator[Front]:
    front = Front(server.port)
    yield front
    front.close()


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[ssl.SSLContext]:
    """The TLS contexts that were made."""
    made: list[ssl.SSLContext] = []
    make = ssl.create_default_context

    def create_default_context() -> ssl.SSLContext:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", create_default_context)
    return made


def test_all_connections_have_one_context(at, front, contexts):
    """Connections of event loops share it, too."""
    queue = at(front.url)
    for put in PUTS * 2:
        put(queue)
        queue.link.close()
    assert len(front.names) == 4
    assert len(contexts) == 1


def test_a_renewed_file_is_read_again(at, front, contexts, tmp_path):
    authorities = tmp_path / "authorities.pem"
    shutil.copy(CERTIFICATE, authorities)
    queue = at(f"rediss://127.0.0.1:{front.port}?ssl_ca_certs={authorities}")
    for times in (1, 1, 2, 2):
        if times == 2:
            authorities.unlink()
            shutil.copy(CERTIFICATE, authorities)
            os.utime(authorities, (0, 0))
        queue.put("x")
        queue.link.close()
        assert len(contexts) == times


FORK = """
import json, os, sys
from django_srq import SafeRedisQueue

queue = SafeRedisQueue(name="orders", url=sys.argv[1], timeout=60)
queue.put("x")
before = queue.link.connections.here().tls.context()
read, write = os.pipe()
if not os.fork():
    os.write(write, json.dumps([queue.put("x"), queue.link.connections.here().tls.context() is before]).encode())
    os._exit(0)
print(json.dumps([os.read(read, 1000).decode(), queue.link.connections.here().tls.context() is before]))
"""


def test_a_forked_child_has_a_context_of_its_own(front):
    done = subprocess.run(
        [sys.executable, "-c", FORK, front.url],
        capture_output=True,
        text=True,
        timeout=PATIENT,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    child, same = json.loads(done.stdout)
    assert same
    assert json.loads(child)[1] is False


def test_an_idle_connection_is_used_again(at, front):
    queue = at(front.url)
    queue.put("x")
    until = time.monotonic() + 10 * LOOK_AFTER
    wait_for(lambda: time.monotonic() > until, "a rest")
    queue.put("x")
    assert len(front.names) == 1


@both
def test_the_name_is_sent_and_checked(at, front, put):
    assert put(at(front.url.replace("127.0.0.1", "localhost")))
    assert front.names == ["localhost"]


OF_A_NAME = """
import asyncio, json, sys
from django_srq import QueueUnavailable, SafeRedisQueue

said = []
for url in sys.argv[1:]:
    queue = SafeRedisQueue(name="orders", url=url, timeout=60)
    for put in (lambda: queue.put("x"), lambda: asyncio.run(queue.aput("x"))):
        try:
            said.append(put())
        except QueueUnavailable as error:
            said.append(str(error))
    queue.link.close()
print(json.dumps(said))
"""


def test_a_certificate_for_another_name_is_not_accepted(front, tmp_path):
    """The certificate is refused although its name has the same address."""
    resolver = Resolver(tmp_path)
    resolver.hosts.write_text("127.0.0.1 queue.example localhost\n")
    begun = time.monotonic()
    url = f"{front.url}&ssl_check_hostname=true"  # redis-py 5.0 does not check it by default
    said = resolver.run(OF_A_NAME, *(url.replace("127.0.0.1", name) for name in ("queue.example", "localhost")))
    assert time.monotonic() - begun < PATIENT / 2
    resolver.close()
    assert all("is not accepted: Hostname mismatch" in text and "'queue.example'" in text for text in said[:2])
    assert [len(uid) for uid in said[2:]] == [36, 36]
    assert front.names == ["queue.example"] * 2 + ["localhost"] * 2


@both
@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "the server's certificate is not accepted: self-signed certificate"),
        ("?ssl_ca_certs=/none/authorities.pem", "the file that ssl_ca_certs names is not there: /none/authorities.pem"),
        (
            f"?ssl_ca_certs={CERTIFICATE}&ssl_certfile=/none/client.pem",
            "the file that ssl_certfile names is not there: /none/client.pem",
        ),
        (f"?ssl_ca_certs={__file__}", f"the options of TLS cannot be used .*ssl_ca_certs={__file__}"),
    ],
    ids=["unknown authority", "no file of authorities", "no file of the client", "a file of something else"],
)
def test_a_wrong_configuration_is_an_error_at_once(at, front, put, query, reason):
    begun = time.monotonic()
    with pytest.raises(QueueUnavailable, match=reason):
        put(at(f"rediss://127.0.0.1:{front.port}{query}"))
    assert time.monotonic() - begun < PATIENT / 2


@both
def test_a_server_that_demands_a_certificate(at, server, put):
    front = Front(server.port, wants_certificate=True)
    with pytest.raises(QueueUnavailable, match=r"TLS was refused: does the server want a client certificate\?"):
        put(at(front.url, timeout=1))
    queue = at(f"{front.url}&ssl_certfile={CERTIFICATE}&ssl_keyfile={CERTIFICATE}")
    assert put(queue)
    queue.link.close()
    front.close()


def test_a_connection_class_of_the_project_is_used(server, front):
    """redis-py allows subclasses of its connections."""

    class Own(redis.SSLConnection):
        made = 0

        def _connect(self) -> object:
            Own.made += 1
            return super()._connect()

    pool = redis.ConnectionPool(connection_class=Own, host="127.0.0.1", port=front.port, ssl_ca_certs=str(CERTIFICATE))
    queue = SafeRedisQueue(name="orders", client=redis.Redis(connection_pool=pool), timeout=PATIENT)
    queue.put("x")
    assert Own.made == 1
    queue.link.close()
