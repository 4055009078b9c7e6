"""Wires: open connections of threads, below redis-py where it costs more than all the rest of a call.

redis-py connects, greets, authenticates and knows TLS. Where it parses with hiredis, a wire feeds that by itself;
elsewhere, redis-py reads from the wire as from a socket.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import redis

from django_srq.flow import CutShort, Flow, limit_unsent

CLOSE_ENOUGH = 0.01  # seconds by which a time limit may be off, so that it need not be set for each call
READ = 65536  # bytes at a time

try:
    from hiredis import PushNotification as _Push  # what the server says unasked; known from hiredis 3.2 on
except ImportError:

    class _Push:  # type: ignore[no-redef]
        pass


class Wire:
    """One open connection: sends commands, and receives the replies in their order."""

    __slots__ = (
        "_arrived", "_deadline", "_flow", "_limit", "_nothing", "_plain", "_reader", "_socket", "_until", "connection",
        "silence",
    )  # fmt: skip

    def __init__(self, connection: Any, silence: float) -> None:
        """connection: redis-py's, connected. silence: seconds without a byte that end what had begun to flow."""
        self.connection, self.silence = connection, silence
        self._socket: socket.socket = connection._sock
        limit_unsent(self._socket)
        self._limit: float | None = None
        self._flow: Flow | None = None
        # Not one with TLS; elsewhere a socket is no file that can be written to.
        self._plain = os.name == "posix" and type(self._socket) is socket.socket
        self._reader = getattr(connection._parser, "_reader", None)
        self._nothing = self._reader.gets(False) if self._reader is not None else None
        self._deadline = self._until = 0.0
        self._arrived = 0
        if self._reader is None:
            connection._parser._buffer._sock = self

    def send(self, commands: bytes, deadline: float) -> None:
        """deadline: by time.monotonic(); for the first bytes."""
        self._limit_to(deadline)
        self._until = 0.0
        written = 0
        if self._plain:
            # With a limit a socket does not block; its own methods ask first whether there is room: mostly there is.
            try:
                written = os.write(self._socket.fileno(), commands)
            except BlockingIOError:
                written = 0
        if written < len(commands):
            self._send_on(memoryview(commands), written, deadline)

    def _send_on(self, commands: memoryview, sent: int, deadline: float) -> None:
        flow, rest = Flow(self.silence), commands
        while rest := rest[sent:]:
            if sent:
                self._limit_to(max(deadline, flow.deadline))
            sent = self._socket.send(rest)
            flow.moved(sent)
        self._until = flow.deadline

    def receive(self, deadline: float) -> Any:
        """The next reply, not decoded; an error that the server replies with is raised.

        deadline: for its beginning, and not before that of what flowed last.
        """
        self._deadline = deadline if deadline > self._until else self._until
        self._arrived, self._flow, reader = 0, None, self._reader
        try:
            if reader is None:
                return self.connection.read_response(disable_decoding=True)
            while True:
                reply = reader.gets(False)
                if reply is self._nothing:
                    reader.feed(self.recv(READ))
                elif isinstance(reply, _Push):
                    self.connection._parser.handle_push_response(reply)
                    self._arrived = 0  # of what is waited for, nothing may have come
                elif isinstance(reply, redis.exceptions.RedisError):
                    raise reply
                else:
                    return reply
        except redis.exceptions.InvalidResponse as error:
            raise CutShort(f"the reply cannot be understood: {error}") from error

    def recv(self, size: int) -> bytes:
        """What comes next of a reply."""
        if self._arrived:
            self._flow = self._flow or Flow(self.silence)
            self._flow.moved(self._arrived)
            self._until = self._flow.deadline
            self._deadline = max(self._deadline, self._until)
        self._limit_to(self._deadline)
        try:
            data = self._socket.recv(size)
        except OSError as error:
            if self._flow is None:
                raise
            raise CutShort(f"the reply broke off: {error}") from error
        if not data:
            raise (CutShort if self._flow else redis.exceptions.ConnectionError)("connection closed by the server")
        self._arrived = len(data)
        return data

    def close(self) -> None:
        self.connection.disconnect()

    def _limit_to(self, deadline: float) -> None:
        """Set on the socket, as redis-py does itself: the time limit of a connection would cut blocking commands."""
        seconds = deadline - time.monotonic()
        if self._limit is None or abs(self._limit - seconds) > CLOSE_ENOUGH:
            self._limit = max(seconds, 0.001)
            self._socket.settimeout(self._limit)
