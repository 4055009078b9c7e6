"""Throw-away PostgreSQL servers, on a Unix socket in a folder; and other servers that a Linux distribution packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import wait_for

POSTGRESQL = Path("/usr/lib/postgresql")  # Debian has its programs here, in a folder for each version


def program(name: str, package: str) -> str:
    """The path of a server's program; AssertionError without it."""
    versions = sorted(POSTGRESQL.glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, versions)])
    found = shutil.which(name, path=path)
    assert found, f"This needs the program {name}, which Debian's package {package} has."
    return found


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


@contextmanager
def database(folder: Path) -> Iterator[dict[str, object]]:
    """The settings of a database on a server of its own; the folder must be one that any user may write to."""
    user = other_user("postgres")
    subprocess.run(
        [program("initdb", "postgresql"), "-D", folder / "data", "-N", "-A", "trust", "-U", "postgres", "--locale=C"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        **user,  # type: ignore[call-overload]
    )
    options = ["-D", str(folder / "data"), "-F", "-k", str(folder), "-c", "listen_addresses="]
    with running(program("postgres", "postgresql"), *options, folder=folder, **user) as process:
        wait_for(lambda: _answers(folder, process), "PostgreSQL")
        yield {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": str(folder),
        }


def _answers(folder: Path, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, (folder / "server.log").read_text()
    asked = [program("pg_isready", "postgresql"), "--quiet", "--host", str(folder)]
    return subprocess.run(asked, check=False).returncode == 0
