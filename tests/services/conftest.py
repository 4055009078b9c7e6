"""Fixtures: a PostgreSQL and a memcached server for the tests, on Unix sockets in a temporary folder."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pymemcache import Client

from tests.support.postgresql import database, program, running
from tests.support.waiting import wait_for


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that the servers' users may enter; its path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="srq-services-", dir="/tmp") as made:
        os.chmod(made, 0o777)
        yield Path(made)


@pytest.fixture(scope="session")
def postgresql(folder: Path) -> Iterator[dict[str, object]]:
    """The settings of a database on a throw-away server, with a table ``numbers`` of a hundred rows."""
    with database(folder) as settings:
        with psycopg.connect(host=str(folder), user="postgres", dbname="postgres") as connection:
            connection.execute(
                "CREATE TABLE numbers AS SELECT n, 'number ' || n AS name FROM generate_series(0, 999) n"
            )
        yield settings


@pytest.fixture(scope="session")
def memcached(folder: Path) -> Iterator[str]:
    """The location of a throw-away server, as in ``CACHES``."""
    socket = folder / "memcached.sock"
    with running(program("memcached", "memcached"), "-s", str(socket), "-u", "root", folder=folder) as process:
        wait_for(lambda: _answers(socket, process), "memcached")
        yield f"unix:{socket}"


def _answers(socket: Path, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "memcached did not start"
    client = Client(f"unix:{socket}")
    try:
        return bool(client.version())
    except OSError:
        return False
    finally:
        client.close()
