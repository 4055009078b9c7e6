"""Fixtures: a PostgreSQL and a memcached server for the tests, on Unix sockets in a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from pymemcache import Client

from tests.support.waiting import wait_for

POSTGRESQL = Path("/usr/lib/postgresql")  # Debian has its programs here, in a folder for each version


def program(name: str, package: str) -> str:
    """The path of a server's program; without it the tests fail."""
    versions = sorted(POSTGRESQL.glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, versions)])
    found = shutil.which(name, path=path)
    assert found, f"These tests need the program {name}, which Debian's package {package} has."
    return found


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that the servers' users may enter; its path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="srq-services-", dir="/tmp") as made:
        os.chmod(made, 0o777)
        yield Path(made)


def other_user(name: str) -> dict[str, object]:
    """Options that run a process as another user: these servers refuse to run as root."""
    return {"user": name, "group": name, "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def running(*command: str, folder: Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def postgresql(folder: Path) -> Iterator[dict[str, object]]:
    """The settings of a database on a throw-away server, with a table ``numbers`` of a hundred rows."""
    user = other_user("postgres")
    subprocess.run(
        [program("initdb", "postgresql"), "-D", folder / "data", "-N", "-A", "trust", "-U", "postgres", "--locale=C"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        **user,
    )
    options = ["-D", str(folder / "data"), "-F", "-k", str(folder), "-c", "listen_addresses="]
    with running(program("postgres", "postgresql"), *options, folder=folder, **user) as process:
        with wait_for(lambda: _connected(folder, process), "PostgreSQL") as connection:
            connection.execute(
                "CREATE TABLE numbers AS SELECT n, 'number ' || n AS name FROM generate_series(0, 999) n"
            )
        yield {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": str(folder),
        }


def _connected(folder: Path, process: subprocess.Popen[bytes]) -> psycopg.Connection | None:
    assert process.poll() is None, (folder / "server.log").read_text()
    try:
        return psycopg.connect(host=str(folder), user="postgres", dbname="postgres")
    except psycopg.OperationalError:  # the server is still starting
        return None


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
