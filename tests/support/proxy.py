"""A TCP proxy between client and server that loses, holds back and delays single requests and replies.

It can also be a slow line, and one that cuts long replies.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from tests.support.waiting import wait_for

# A held request looks lost to the client: its connection is closed. A stalled request leaves the client waiting.
# Replies behind a stalled reply wait as well, so the client may send several requests; they overtake a held reply.
Kind = Literal["lose reply", "lose request", "hold request", "stall request", "hold reply", "stall reply"]


@dataclass
class Fault:
    """What happens to the next requests that contain the bytes ``match``; all other traffic, such as HELLO, passes."""

    kind: Kind
    match: bytes
    times: int
    then: Callable[[], object] | None = None  # called when the fault has happened
    hits: int = 0
    held: list[_Held] = field(default_factory=list)  # requests or replies, in the order of their arrival

    def wait(self) -> None:
        wait_for(lambda: self.hits, f"a request whose fault is: {self.kind}")

    def deliver(self) -> list[bytes]:
        """Let through the requests or replies that were held back; returns the server's replies, byte for byte."""
        wait_for(lambda: len(self.held) == self.hits > 0, "something to be held back")
        held, self.held = self.held, []
        return [release() for release in held]


_Held = Callable[[], bytes]
_ECHO, _ECHOED = b"*2\r\n$4\r\nECHO\r\n$9\r\nfrom here\r\n", b"$9\r\nfrom here\r\n"


class Proxy:
    """Listens on ``url``. A fault concerns one request: a client awaits its reply before it sends the next request."""

    def __init__(
        self,
        server_url: str,
        *,
        rate: float | None = None,
        longest_reply: int | None = None,
        swallows: bool = False,
    ) -> None:
        """rate: bytes a second in each direction. longest_reply: in bytes; a longer one closes the connection.

        swallows: a reply that is too long vanishes, and the connection stays open.
        """
        parts = urlsplit(server_url)
        self.rate, self.longest_reply, self.swallows = rate, longest_reply, swallows
        assert parts.scheme in {"redis", "valkey"}, "the proxy reads the protocol: TCP without TLS"
        self._server = _place(server_url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        if rate:  # for the sender, data in this buffer counts as sent, however slow the line is
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        user = parts.netloc.rpartition("@")[0]
        self.url = parts._replace(
            netloc=f"{user}{'@' if user else ''}127.0.0.1:{self._listener.getsockname()[1]}"
        ).geturl()
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._reading: list[threading.Thread] = []  # the threads that read requests
        self._start(self._accept)

    def arm(
        self, kind: Kind, match: bytes = b"EVAL", *, times: int = 1, then: Callable[[], object] | None = None
    ) -> Fault:
        """Let a fault happen to the next ``times`` requests that contain the bytes ``match``."""
        fault = Fault(kind, match, times, then)
        with self._lock:
            self._fault = fault
        return fault

    def disarm(self) -> None:
        with self._lock:
            self._fault = None

    def lead_to(self, server_url: str) -> None:
        """Lead new connections to another server, as a name does after a failover."""
        self._server = _place(server_url)

    def settle(self) -> None:
        """Wait until the proxy has read all requests of its clients, which have closed their connections by now."""
        wait_for(lambda: not any(thread.is_alive() for thread in self._reading), "the end of all requests")

    def close(self) -> None:
        for each in self._sockets:
            _close(each)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _start(self, target: Callable[..., None]) -> threading.Thread:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += (client, server)
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = _Connection(client, server, self)
                self._reading.append(self._start(connection.pump_requests))
                self._start(connection.pump_replies)

    def hit(self, request: bytes) -> Fault | None:
        with self._lock:
            fault = self._fault
            if fault is None or fault.match not in request or fault.hits >= fault.times:
                return None
            fault.hits += 1
            return fault


class _Connection:
    def __init__(self, client: socket.socket, server: socket.socket, proxy: Proxy) -> None:
        self.client, self.server, self.proxy = client, server, proxy
        self.replied = 0  # bytes since the last request
        self.faulty: Fault | None = None  # the fault of a request whose reply must not pass
        self.kept = b""
        self.replying = threading.RLock()

    def pump_requests(self) -> None:
        buffer = b""
        with suppress(OSError):
            while data := self.receive(self.client):
                buffer += data
                while size := _request_size(buffer):
                    request, buffer = buffer[:size], buffer[size:]
                    self.send(request)
        if self.faulty is None:
            _close(self.server)

    def send(self, request: bytes) -> None:
        fault = self.proxy.hit(request)
        if self.replied < sys.maxsize:
            self.replied = 0
        if fault is None:
            self.server.sendall(request)
        elif fault.kind in {"lose reply", "hold reply"}:
            self.faulty = fault
            self.server.sendall(request)
        elif fault.kind == "stall reply":
            self.faulty = fault
            fault.held.append(self.go_on)
            self.server.sendall(request)
        else:
            self.withhold(fault, request)

    def withhold(self, fault: Fault, request: bytes) -> None:
        if fault.kind == "lose request":
            _close(self.server)
        else:
            self.faulty = fault
            fault.held.append(lambda: self.deliver(request))
        if fault.kind != "stall request":
            _close(self.client)
        if fault.then is not None:
            fault.then()

    def pump_replies(self) -> None:
        with suppress(OSError):
            while data := self.receive(self.server):
                self.replied = min(self.replied + len(data), sys.maxsize)
                if self.proxy.longest_reply is not None and self.replied > self.proxy.longest_reply:
                    if self.proxy.swallows:
                        self.replied = sys.maxsize  # all data behind it vanishes as well
                        continue
                    _close(self.server)
                    data = data[: self.proxy.longest_reply - self.replied]
                with self.replying:
                    self.reply(data)
        _close(self.client)

    def receive(self, end: socket.socket) -> bytes:
        rate = self.proxy.rate
        data = end.recv(65536 if rate is None else min(65536, max(1, int(rate / 50))))
        if rate is not None:
            time.sleep(len(data) / rate)
        return data

    def reply(self, data: bytes) -> None:
        if self.faulty is None:
            self.pass_on(data)
        elif self.faulty.kind in {"lose reply", "hold reply"}:
            self.spoil(self.faulty, data)
        else:
            self.kept += data

    def spoil(self, fault: Fault, reply: bytes) -> None:
        self.faulty = None
        if fault.kind == "lose reply":
            _close(self.client)
        else:
            fault.held.append(lambda: self.pass_on(reply))
        if fault.then is not None:
            fault.then()

    def deliver(self, request: bytes) -> bytes:
        self.server.sendall(_ECHO + request)  # replies to earlier requests may still come; they come before the echo
        wait_for(lambda: self.held_reply().endswith(b"\r\n"), "the reply to a held request")
        _close(self.server)
        return self.held_reply()

    def held_reply(self) -> bytes:
        return self.kept.partition(_ECHOED)[2]

    def go_on(self) -> bytes:
        with self.replying:
            self.faulty = None
            return self.pass_on(self.kept)

    def pass_on(self, reply: bytes) -> bytes:
        with suppress(OSError):  # the client may be gone, but a held request must be delivered all the same
            self.client.sendall(reply)
        return reply


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "localhost", parts.port or 6379


def _request_size(buffer: bytes) -> int:
    """The size of the first request, an array of bulk strings; 0 while it is incomplete."""
    end = buffer.find(b"\r\n")
    if end < 0:
        return 0
    position = end + 2
    for _ in range(int(buffer[1:end])):
        end = buffer.find(b"\r\n", position)
        if end < 0:
            return 0
        position = end + 2 + int(buffer[position + 1 : end]) + 2
    return position if position <= len(buffer) else 0


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
