"""Wires: open connections of threads, below redis-py where it costs more than all the rest of a call.

redis-py connects, greets, authenticates and knows TLS. Where it parses with hiredis, a wire feeds that by itself;
elsewhere, redis-py reads.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import redis

from django_srq.clock import monotonic

CLOSE_ENOUGH = 0.01  # seconds by which a time limit may be off, so that it need not be set for each call
READ = 65536  # bytes at a time

try:
    from hiredis import PushNotification as _Push  # what the server says unasked; known from hiredis 3.2 on
except ImportError:

    class _Push:  # type: ignore[no-redef]
        pass


class Wire:
    """One open connection: sends commands, and receives the replies in their order."""

    __slots__ = ("_limit", "_nothing", "_plain", "_reader", "_socket", "connection", "home")

    home: Any  # where it belongs when it is not in use

    def __init__(self, connection: Any) -> None:
        """connection: redis-py's, connected."""
        self.connection = connection
        self._socket: socket.socket = connection._sock
        self._limit: float | None = None
        # Not one with TLS; elsewhere a socket is no file that can be written to.
        self._plain = os.name == "posix" and type(self._socket) is socket.socket
        self._reader = getattr(connection._parser, "_reader", None)
        self._nothing = self._reader.gets(False) if self._reader is not None else None

    def send(self, commands: bytes, deadline: float) -> None:
        """deadline: by time.monotonic()."""
        self._limit_to(deadline)
        if self._plain:
            # With a limit a socket does not block; its own methods ask first whether there is room: mostly there is.
            try:
                written = os.write(self._socket.fileno(), commands)
            except BlockingIOError:
                written = 0
            commands = commands[written:]
        if commands:
            self._socket.sendall(commands)

    def receive(self, deadline: float) -> Any:
        """The next reply, not decoded; an error that the server replies with is raised."""
        reader = self._reader
        if reader is None:
            self._limit_to(deadline)
            return self.connection.read_response(disable_decoding=True)
        while True:
            reply = reader.gets(False)
            if reply is self._nothing:
                self._limit_to(deadline)
                data = self._socket.recv(READ)
                if not data:
                    raise redis.exceptions.ConnectionError("connection closed by the server")
                reader.feed(data)
            elif isinstance(reply, _Push):
                self.connection._parser.handle_push_response(reply)
            elif isinstance(reply, redis.exceptions.RedisError):
                raise reply
            else:
                return reply

    def close(self) -> None:
        self.connection.disconnect()

    def let_go(self) -> None:
        """Close it in this process alone: its parent goes on with it, so that the server is told nothing."""
        self._socket.close()

    def _limit_to(self, deadline: float) -> None:
        """Set on the socket, as redis-py does itself: the time limit of a connection would cut blocking commands."""
        seconds = deadline - monotonic()
        if self._limit is None or abs(self._limit - seconds) > CLOSE_ENOUGH:
            self._limit = max(seconds, 0.001)
            self._socket.settimeout(self._limit)
