"""SyncConnection: an open connection of a thread, which sends and receives without redis-py.

redis-py connects, greets, authenticates and knows TLS. But its sending and receiving would cost more than all the rest
of a call. So a SyncConnection writes to the socket, and feeds hiredis, by itself. Where redis-py parses without
hiredis, its parser reads from the SyncConnection as from a socket. Only this module uses private attributes of
redis-py's blocking connections.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress
from functools import partial
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from django_srq.runtime.clock import monotonic
from django_srq.transport.connection_errors import LOST, CutShort, NotSent, closed_before
from django_srq.transport.flow import Flow, limit_unsent
from django_srq.transport.liveness import ALONG_BELOW, ASK_AFTER, LOOK_AFTER, SIGN_OF_LIFE, share
from django_srq.transport.sockets import open_socket, time_left
from django_srq.transport.tls import Tls

CLOSE_ENOUGH = 0.01  # seconds by which the socket's time limit may be off, so that not every call has to set it
READ = 65536  # bytes read at a time

try:
    from hiredis import PushNotification as _Push  # a message that the server sends unasked; from hiredis 3.2 on
except ImportError:

    class _Push:  # type: ignore[no-redef]
        pass


_CONNECTING = ("_connect", "_wrap_socket_with_ssl")  # how redis-py connects; 5.0.0 has the first method alone
_USUAL = (redis.SSLConnection, redis.UnixDomainSocketConnection)  # besides redis.Connection
_OCSP = ("ssl_validate_ocsp", "ssl_validate_ocsp_stapled")


class Interrupted(BaseException):
    """The caller's file descriptor became readable, so that it no longer waits for a reply."""


def connect(connection: Any, deadline: float, tls: Tls) -> SyncConnection:
    """Let redis-py connect and greet the server, over a socket that we open. deadline: by monotonic(), for all of it.

    By itself, redis-py would allow the whole time limit for each reply of the greeting.
    """
    read = connection.read_response

    def read_in_time(*args: Any, **options: Any) -> Any:
        connection._sock.settimeout(time_left(deadline))
        return read(*args, **options)

    connection.socket_connect_timeout = connection.socket_timeout = time_left(deadline)
    connection.retry = Retry(NoBackoff(), 0)  # a client that the caller made may be set to repeat
    ours: dict[str, Any] = {"read_response": read_in_time, "begun_socket": None}
    if _opens_as_usual(connection):
        ours["_connect"] = lambda: open_socket(connection, deadline, tls, partial(setattr, connection, "begun_socket"))
    vars(connection).update(ours)
    try:
        connection.connect()
    finally:
        for name in ours:
            delattr(connection, name)
    if monotonic() >= deadline:
        raise redis.exceptions.TimeoutError("timed out while connecting")
    return SyncConnection(connection)


def break_off_opening(connection: Any) -> None:
    """End the wait of another thread for the server to accept and greet it; connection: of redis-py."""
    for opened in (connection._sock, vars(connection).get("begun_socket")):
        if opened is not None:
            _shut_down(opened)


def _shut_down(opened: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        socket.socket.shutdown(opened, socket.SHUT_RDWR)  # not TLS's own method, which is for the thread that reads


def _opens_as_usual(connection: Any) -> bool:
    """Whether ``open_socket`` does what the connection would do itself: not when its class connects in its own way."""
    kind = type(connection)
    usual = next((usual for usual in _USUAL if isinstance(connection, usual)), redis.Connection)
    same = all(getattr(kind, method, None) is getattr(usual, method, None) for method in _CONNECTING)
    return same and not any(getattr(connection, option, False) for option in _OCSP)


class SyncConnection:
    """One open connection: sends commands, and receives the replies in their order."""

    __slots__ = (
        "_arrived", "_ask", "_deadline", "_flow", "_heard", "_limit", "_nothing", "_plain", "_reader", "_socket",
        "_until", "connection", "silence", "thread",
    )  # fmt: skip

    # Set for each use.
    silence: float  # seconds without a byte after which a command or reply is broken off (flow.py)
    thread: int  # the ident of the thread that uses it, or did so last

    def __init__(self, connection: Any) -> None:
        """connection: of redis-py, connected."""
        self.connection = connection
        self._socket: socket.socket = connection._sock
        limit_unsent(self._socket)
        self._limit: float | None = None
        self._flow: Flow | None = None
        # Whether os.write works on it: not with TLS, and not on Windows, where a socket is not a file.
        self._plain = os.name == "posix" and type(self._socket) is socket.socket
        self._reader = getattr(connection._parser, "_reader", None)
        self._nothing = self._reader.gets(False) if self._reader is not None else None
        self._deadline = self._until = 0.0
        self._arrived = 0
        if self._reader is None:
            connection._parser._buffer._sock = self
        self._heard = monotonic()  # when the last bytes came from the server
        self._ask = False  # for a sign of life (liveness.py), together with the next command

    def check(self) -> bool:
        """Check the connection before it is used again. False: the server closed it. No reply may be outstanding."""
        idle = monotonic() - self._heard
        self._ask = idle > ASK_AFTER
        return idle < LOOK_AFTER or not self._closed()

    def send(self, commands: bytes, deadline: float, *, watched: bool = False) -> None:
        """Send commands. deadline: by monotonic(), for the first bytes to go. NotSent: the server got no whole command.

        watched: the caller will poll the socket for the reply. So the commands do not go along with a sign of life:
        reading the answer to that could read the reply, too.
        """
        if self._ask:
            self._ask = False
            commands = self._behind_sign_of_life(commands, deadline, along=not watched and len(commands) < ALONG_BELOW)
        if commands:
            self._write(commands, deadline)

    def _behind_sign_of_life(self, commands: bytes, deadline: float, *, along: bool) -> bytes:
        """Wait for a sign of life, for a share of the time left. along: send the commands together with it.

        Returns the commands that are still to be sent.
        """
        with_it, rest = (commands, b"") if along else (b"", commands)
        now = monotonic()
        until = now + share(deadline - now)
        self._write(SIGN_OF_LIFE + with_it, until)
        try:
            with suppress(redis.exceptions.ResponseError):
                self.receive(until)
        except LOST as error:
            if rest:
                raise NotSent(error) from error
            raise
        return rest

    def _closed(self) -> bool:
        watched = select.poll()
        watched.register(self._socket, select.POLLIN)
        try:
            # With TLS, only the server's farewell can be there to be read.
            return bool(watched.poll(0)) and not (self._plain and self._socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return True

    def _write(self, commands: bytes, deadline: float) -> None:
        """deadline: for the first bytes to go."""
        try:
            self._limit_to(deadline)
            self._until = 0.0
            written = 0
            if self._plain:
                # A socket with a time limit does not block. Its send() would first ask whether there is room; there
                # usually is.
                try:
                    written = os.write(self._socket.fileno(), commands)
                except BlockingIOError:
                    written = 0
            if written < len(commands):
                self._write_on(memoryview(commands), written, deadline)
        except LOST as error:  # the last bytes were not sent
            raise NotSent(error) from error

    def _write_on(self, commands: memoryview, sent: int, deadline: float) -> None:
        flow, rest = Flow(self.silence), commands
        while rest := rest[sent:]:
            if sent:
                self._limit_to(max(deadline, flow.deadline))
            sent = self._socket.send(rest)
            flow.moved(sent)
        if sent < len(commands):  # else all went at once, as small commands do with TLS
            self._until = flow.deadline

    def receive(self, deadline: float) -> Any:
        """The next reply, not decoded; an error reply is raised.

        deadline: by monotonic(), for the reply to begin; if the bytes sent or received last set a later one (flow.py),
        that counts. NotSent: the server closed the connection before it had got everything that was sent. CutShort: the
        reply began and broke off, or cannot be understood.
        """
        self._deadline = deadline if deadline > self._until else self._until
        self._arrived, self._flow, reader = 0, None, self._reader
        try:
            if reader is None:
                return self.connection.read_response(disable_decoding=True, disconnect_on_error=False)
            while True:
                reply = reader.gets(False)
                if reply is self._nothing:
                    reader.feed(self.recv(READ))
                elif isinstance(reply, _Push):
                    self.connection._parser.handle_push_response(reply)
                    self._arrived = 0  # nothing of the awaited reply may have come yet
                elif isinstance(reply, redis.exceptions.RedisError):
                    raise reply
                else:
                    return reply
        except redis.exceptions.InvalidResponse as error:
            raise CutShort(f"the reply cannot be understood: {error}") from error

    def receive_any(self, deadline: float) -> Any:
        """The next reply. An error reply is returned, not raised."""
        try:
            return self.receive(deadline)
        except redis.exceptions.ResponseError as error:
            return error

    def wait_for_reply(self, interrupt: int, seconds: float) -> None:
        """Wait until a reply can be read, or the seconds are over. Interrupted: interrupt is readable, a descriptor."""
        watched = select.poll()
        watched.register(self._socket, select.POLLIN)
        watched.register(interrupt, select.POLLIN)
        for ready, _ in watched.poll(seconds * 1000):
            if ready == interrupt:
                raise Interrupted

    def recv(self, size: int) -> bytes:
        """The next bytes of a reply."""
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
            raise self._closed_by_server()
        self._arrived, self._heard = len(data), monotonic()
        return data

    def _closed_by_server(self) -> Exception:
        if self._flow is not None:
            return CutShort("connection closed by the server")
        closed = redis.exceptions.ConnectionError("connection closed by the server")
        return NotSent(closed) if closed_before(self._socket) else closed

    def break_off(self) -> None:
        """End the wait of the thread that uses the connection; called in another thread."""
        _shut_down(self._socket)

    def let_go(self) -> None:
        """Close it in this process alone, and tell the server nothing: the parent process goes on using it."""
        self._socket.close()

    def _limit_to(self, deadline: float) -> None:
        """Set the socket's time limit, as redis-py does. The one that it connected with would cut blocking commands."""
        seconds = deadline - monotonic()
        if self._limit is None or abs(self._limit - seconds) > CLOSE_ENOUGH:
            self._limit = max(seconds, 0.001)
            self._socket.settimeout(self._limit)
