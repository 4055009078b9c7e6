"""At its start a consumer warns of servers that may lose items."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from django_srq import queues
from tests.support.servers import Server
from tests.support.waiting import wait_for

NO_FILE, EVICTS = "the server has no append-only file", "the server may evict items"


@pytest.fixture
def serve(project) -> Iterator[Callable[..., Server]]:
    """Starts a server with these options, and configures two queues on it."""
    servers: list[Server] = []

    def serve(*options: str) -> Server:
        servers.append(Server(*options))
        handlers = {alias: {"HANDLER": "tests.support.handlers.note"} for alias in ("orders", "mail")}
        project.configure(handlers, {"URL": servers[-1].url})
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if " WARNING " in line]


@pytest.mark.parametrize(
    ("options", "processes", "said"),
    [
        ((), "2", [NO_FILE]),
        ((), "0", [NO_FILE]),
        (("--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lfu"), "1", [NO_FILE, EVICTS]),
        (("--appendonly", "yes", "--maxmemory", "1gb", "--maxmemory-policy", "volatile-lru"), "1", []),
    ],
    ids=["nothing kept", "nothing kept, one process", "may evict", "kept, and evicts what is none of ours"],
)
def test_consumer_warns_once_of_each_server(project, serve, options, processes, said):
    server = serve(*options)
    queues["orders"].put("x")
    code, _, err = project.run("srq_consume", "--burst", "--processes", processes)
    assert (code, project.lines()) == (0, ["x 1"])
    told = warnings(err)
    assert len(told) == len(said)
    for line, words in zip(told, said, strict=True):
        assert words in line
        assert f"server=127.0.0.1:{server.port}/0" in line


def test_a_consumer_works_when_the_server_refuses_to_tell(project, serve):
    with serve().client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-info")
    queues["orders"].put("x")
    code, _, err = project.run("srq_consume", "--burst")
    assert (code, project.lines(), warnings(err)) == (0, ["x 1"], [])


def test_a_consumer_that_starts_before_its_server_warns_when_the_server_is_up(project, serve):
    server = serve()
    server.kill()
    process = project.start("srq_consume")
    line = wait_for(process.stderr.readline, "a line")
    while "server unavailable" not in line:
        line = process.stderr.readline()
    server.start()
    while NO_FILE not in line:
        line = process.stderr.readline()
        assert line
    queues["mail"].put("x")
    project.said("x 1")
