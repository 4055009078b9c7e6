"""The server under measurement, and a relay in front of it that counts round trips."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.servers import Server


@contextmanager
def pinned_server() -> Iterator[Server]:
    """A throw-away server with a core to itself, if the system can pin processes and has more than one core."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[-1:])  # the server inherits this
    server = Server()
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[:-1])
    try:
        yield server
    finally:
        server.close()
        if cores:
            os.sched_setaffinity(0, cores)


@contextmanager
def on_the_core_of(server: Server) -> Iterator[None]:
    """Processes that are started meanwhile share the server's core."""
    assert server.process
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, os.sched_getaffinity(server.process.pid))
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


class Meter:
    """Relays connections to a server and counts round trips: all that is sent until the reply comes is one."""

    def __init__(self, port: int) -> None:
        self.round_trips = 0
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listening.getsockname()[1]}/0"

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:  # closed
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            threading.Thread(target=self._relay, args=(near, far), daemon=True).start()

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        asking = False
        with near, far:
            while True:
                for source in select.select([near, far], [], [])[0]:
                    try:
                        data = source.recv(65536)
                    except OSError:
                        return
                    if not data:
                        return
                    if source is near and not asking:
                        self.round_trips += 1
                    asking = source is near
                    (far if source is near else near).sendall(data)
