"""Sockets: opens connections to a server's host, with TLS or without, within one time limit.

redis-py would look up the host's name without a limit, and allow each of its addresses the whole time limit.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import redis
import redis.asyncio.connection as asynchronous

from django_srq.runtime.clock import monotonic
from django_srq.transport import names
from django_srq.transport.connection_errors import NameUnresolved, TlsError
from django_srq.transport.names import Address, Host
from django_srq.transport.sansio import Steps, arun, run
from django_srq.transport.tls import Tls

# The errors that follow when a server does not accept a client. With TLS 1.3 they come after the client's part of the
# handshake is done, and often the server gives no reason.
_BROKEN_OFF = re.compile(r"EOF occurred|closed by|reset by peer|alert|Broken pipe", re.IGNORECASE)
Begin: TypeAlias = Callable[[socket.socket], object]


def open_socket(connection: Any, deadline: float, tls: Tls, begin: Begin) -> socket.socket:
    """A connected socket, in place of the one that redis-py's ``_connect`` would return. deadline: by monotonic().

    begin: called with each socket before it waits for the server, so that another thread can end the wait.
    """
    if isinstance(connection, redis.UnixDomainSocketConnection):
        return _connected_locally(connection, deadline, begin)
    context = _context_for(connection, tls)
    plain = run(_connected_socket(connection, deadline, begin))
    if context is None:
        return plain
    plain.settimeout(time_left(deadline))
    # With the name and not the address of the host: the certificate must be for the name.
    wrapped = context.wrap_socket(plain, server_hostname=connection.host, do_handshake_on_connect=False)
    try:
        begin(wrapped)
        wrapped.do_handshake()
    except ssl.SSLCertVerificationError as error:
        wrapped.close()
        raise _not_accepted(error) from error
    except BaseException:
        wrapped.close()
        raise
    return wrapped


async def open_streams(connection: Any, deadline: float, tls: Tls) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """``open_socket`` in an event loop, for a connection of redis.asyncio; the socket's streams."""
    context = _context_for(connection, tls)
    plain = await arun(_connected_socket(connection, deadline))
    # From here on the stream's transport closes the socket.
    if context is None:
        return await asyncio.open_connection(sock=plain)
    try:
        return await asyncio.open_connection(sock=plain, ssl=context, server_hostname=connection.host)
    except ssl.SSLCertVerificationError as error:
        raise _not_accepted(error) from error


def _context_for(connection: Any, tls: Tls) -> ssl.SSLContext | None:
    return tls.context() if hasattr(connection, "cert_reqs") else None


def _connected_locally(connection: Any, deadline: float, begin: Begin) -> socket.socket:
    """A connected Unix socket. It is closed if it cannot be connected, which redis-py 5.0 does not do."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(time_left(deadline))
        begin(made)
        made.connect(connection.path)
    except BaseException:
        made.close()
        raise
    return made


@dataclass
class _Resolve:
    """An effect (sansio.py): look up the addresses of a host."""

    host: Host
    seconds: float

    def carry_out(self) -> Sequence[Address]:
        return names.addresses(self.host, self.seconds)

    async def acarry_out(self) -> Sequence[Address]:
        return await names.aaddresses(self.host, self.seconds)


@dataclass
class _Connect:
    """An effect (sansio.py): connect a socket to an address."""

    socket: socket.socket
    address: Address
    deadline: float

    def carry_out(self) -> None:
        self.socket.settimeout(time_left(self.deadline))
        self.socket.connect(self.address[-1])

    async def acarry_out(self) -> None:
        self.socket.setblocking(False)
        async with asyncio.timeout(time_left(self.deadline)):
            await asyncio.get_running_loop().sock_connect(self.socket, self.address[-1])


def _connected_socket(connection: Any, deadline: float, begin: Begin = lambda made: None) -> Steps[socket.socket]:
    host = _host(connection)
    problem: OSError | None = None
    for address, until in _with_deadlines((yield _Resolve(host, deadline - monotonic())), deadline):
        made = _socket(connection, address)
        try:
            begin(made)
            yield _Connect(made, address, until)
        except OSError as error:
            made.close()
            problem = error
        except BaseException:
            made.close()
            raise
        else:
            names.prefer(host, address)
            return made
    raise problem or OSError("the name has no address")


def timeout_error(connection: Any) -> Exception:
    """The error of an asynchronous connection that could not be opened in time; it names the slow step.

    connection: None if it was not even made. When the event loop is late, the limits of the single steps end together
    with the limit of the whole, and their own errors are lost.
    """
    if isinstance(connection, asynchronous.Connection) and names.is_unresolved(_host(connection)):
        return NameUnresolved(connection.host)
    return redis.exceptions.TimeoutError("timed out while connecting")


def _host(connection: Any) -> Host:
    return connection.host, connection.port, connection.socket_type


def cause_of(error: Exception, connection: Any) -> Exception:
    """The cause why a connection could not be opened, from the error that redis-py raised."""
    if isinstance(error.__cause__, (TlsError, NameUnresolved)):  # redis.asyncio raises its own in place of ours
        return error.__cause__
    broken_off = not isinstance(error, (TlsError, redis.exceptions.TimeoutError)) and _BROKEN_OFF.search(str(error))
    if hasattr(connection, "cert_reqs") and broken_off:
        return redis.exceptions.ConnectionError(f"TLS was refused: {_wanted(connection)} ({error})")
    return error


def _wanted(connection: Any) -> str:
    if connection.certfile:
        return "does the server accept this client certificate?"
    return "does the server want a client certificate?"


def _with_deadlines(found: Sequence[Address], deadline: float) -> Iterator[tuple[Address, float]]:
    """Each address, and the moment until which it may be tried: the addresses left share the time left."""
    for tried, address in enumerate(found):
        now = monotonic()
        yield address, now + (deadline - now) / (len(found) - tried)


def _socket(connection: Any, address: Address) -> socket.socket:
    """A socket with the options that redis-py sets."""
    family, kind, protocol, _ = address
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if connection.socket_keepalive:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in connection.socket_keepalive_options.items():
                made.setsockopt(socket.IPPROTO_TCP, option, value)
    except BaseException:
        made.close()
        raise
    return made


def time_left(deadline: float) -> float:
    """Seconds until the deadline, by monotonic(); a socket's time limit must not be 0."""
    return max(deadline - monotonic(), 0.001)


def _not_accepted(error: ssl.SSLCertVerificationError) -> TlsError:
    return TlsError(f"the server's certificate is not accepted: {error.verify_message}")
