"""Sockets: connections to a server's host below redis-py, opened within a time limit.

redis-py looks up the host's name without a limit, gives each of its addresses the whole time limit, and makes a TLS
context for each connection, which takes as long as a hundred puts.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio.connection as asynchronous

from django_srq.runtime.clock import monotonic
from django_srq.transport import names
from django_srq.transport.names import Address, Host, NameUnresolved
from django_srq.transport.sansio import Steps, arun, run

_FILES = {"ssl_ca_certs": "ca_certs", "ssl_ca_path": "ca_path", "ssl_certfile": "certfile", "ssl_keyfile": "keyfile"}
_CONNECTING = ("_connect", "_wrap_socket_with_ssl")  # redis-py 5.0.0 has the first alone
# How it looks when a server does not accept a client: by TLS 1.3, after the client's part is done, and often wordless.
_BROKEN_OFF = re.compile(r"EOF occurred|closed by|reset by peer|alert|Broken pipe", re.IGNORECASE)
_USUAL = (redis.SSLConnection, redis.UnixDomainSocketConnection)  # besides redis.Connection
_OCSP = ("ssl_validate_ocsp", "ssl_validate_ocsp_stapled")


class TlsError(redis.exceptions.ConnectionError):
    """TLS with this server is not possible, and will not be before somebody changes something."""


class Tls:
    """The TLS context of a link: one for all of its connections in this process, those of event loops too.

    It is made again when one of its files changed, as certificates are renewed.
    """

    def __init__(self, pool: Any) -> None:
        """pool: redis-py's, whose options say what the context is like."""
        self._pool = pool
        self._context: ssl.SSLContext | None = None
        self._files: object = None

    def context(self) -> ssl.SSLContext:
        options = self._pool.connection_class(**self._pool.connection_kwargs)
        files = [_version(name, path) for name, path in _files(options)]
        context = self._context
        if context is None or files != self._files:
            context = self._context = _context(options)
            self._files = files
        return context


def opened(connection: Any, deadline: float, tls: Tls) -> socket.socket:
    """What ``_connect`` of redis-py's connection returns: a connected socket. deadline: by monotonic()."""
    if isinstance(connection, redis.UnixDomainSocketConnection):
        return _connected_locally(connection, deadline)
    context = _context_for(connection, tls)
    plain = run(_connecting(connection, deadline))
    if context is None:
        return plain
    plain.settimeout(_left(deadline))
    try:
        # Of the name, and not of the address: it is what the certificate must be for.
        return context.wrap_socket(plain, server_hostname=connection.host)
    except ssl.SSLCertVerificationError as error:
        raise _not_accepted(error) from error


async def aopened(connection: Any, deadline: float, tls: Tls) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The same in an event loop, for an asynchronous connection, as streams."""
    context = _context_for(connection, tls)
    plain = await arun(_connecting(connection, deadline))
    # From here on the stream's transport closes the socket.
    if context is None:
        return await asyncio.open_connection(sock=plain)
    try:
        return await asyncio.open_connection(sock=plain, ssl=context, server_hostname=connection.host)
    except ssl.SSLCertVerificationError as error:
        raise _not_accepted(error) from error


def _context_for(connection: Any, tls: Tls) -> ssl.SSLContext | None:
    return tls.context() if hasattr(connection, "cert_reqs") else None


def _connected_locally(connection: Any, deadline: float) -> socket.socket:
    """redis-py 5.0 leaves the socket open where it cannot be connected."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(_left(deadline))
        made.connect(connection.path)
    except BaseException:
        made.close()
        raise
    return made


@dataclass
class _Lookup:
    """The addresses of a host; a request of steps."""

    host: Host
    seconds: float

    def carry_out(self) -> Sequence[Address]:
        return names.addresses(self.host, self.seconds)

    async def acarry_out(self) -> Sequence[Address]:
        return await names.aaddresses(self.host, self.seconds)


@dataclass
class _Connect:
    """A socket is connected to an address; a request of steps."""

    socket: socket.socket
    address: Address
    deadline: float

    def carry_out(self) -> None:
        self.socket.settimeout(_left(self.deadline))
        self.socket.connect(self.address[-1])

    async def acarry_out(self) -> None:
        self.socket.setblocking(False)
        async with asyncio.timeout(_left(self.deadline)):
            await asyncio.get_running_loop().sock_connect(self.socket, self.address[-1])


def _connecting(connection: Any, deadline: float) -> Steps[socket.socket]:
    host = _host(connection)
    problem: OSError | None = None
    for address, until in _turns((yield _Lookup(host, deadline - monotonic())), deadline):
        made = _socket(connection, address)
        try:
            yield _Connect(made, address, until)
        except OSError as error:
            made.close()
            problem = error
        except BaseException:
            made.close()
            raise
        else:
            names.connected(host, address)
            return made
    raise problem or OSError("the name has no address")


def opens_as_usual(connection: Any) -> bool:
    """Whether ``opened`` does what the connection would do by itself; not one that has its own way of connecting."""
    kind = type(connection)
    usual = next((usual for usual in _USUAL if isinstance(connection, usual)), redis.Connection)
    same = all(getattr(kind, method, None) is getattr(usual, method, None) for method in _CONNECTING)
    return same and not any(getattr(connection, option, False) for option in _OCSP)


def late(connection: Any) -> Exception:
    """What took too long, of an asynchronous connection that could not be opened in time.

    connection: None if it was not even made. In an event loop that is late, the time limits within its time limit end
    together with that, and say nothing.
    """
    if isinstance(connection, asynchronous.Connection) and names.is_unresolved(_host(connection)):
        return NameUnresolved(connection.host)
    return redis.exceptions.TimeoutError("timed out while connecting")


def _host(connection: Any) -> Host:
    return connection.host, connection.port, connection.socket_type


def explained(error: Exception, connection: Any) -> Exception:
    """What went wrong while a connection was opened, from the error that redis-py made of it."""
    if isinstance(error.__cause__, (TlsError, NameUnresolved)):  # by its asynchronous connections
        return error.__cause__
    broken_off = not isinstance(error, (TlsError, redis.exceptions.TimeoutError)) and _BROKEN_OFF.search(str(error))
    if hasattr(connection, "cert_reqs") and broken_off:
        return redis.exceptions.ConnectionError(f"TLS was refused: {_wanted(connection)} ({error})")
    return error


def _wanted(connection: Any) -> str:
    if connection.certfile:
        return "does the server accept this client certificate?"
    return "does the server want a client certificate?"


def missing(options: Any) -> Iterator[tuple[str, str]]:
    """Options of TLS, and the files that they name, of those that are not there. options: a connection's."""
    for name, path in _files(options):
        if not os.path.exists(path):
            yield name, path


def _turns(found: Sequence[Address], deadline: float) -> Iterator[tuple[Address, float]]:
    """Each address, and until when it may take: what time is left is shared by those that are left."""
    for tried, address in enumerate(found):
        now = monotonic()
        yield address, now + (deadline - now) / (len(found) - tried)


def _socket(connection: Any, address: Address) -> socket.socket:
    """As redis-py makes it."""
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


def _left(deadline: float) -> float:
    return max(deadline - monotonic(), 0.001)


def _files(options: Any) -> Iterator[tuple[str, str]]:
    for name, attribute in _FILES.items():
        if path := getattr(options, attribute, None):
            yield name, os.fspath(path)


def _version(name: str, path: str) -> tuple[object, ...]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise TlsError(f"the file that {name} names is not there: {path}") from None
    except OSError as error:
        raise TlsError(f"the file that {name} names cannot be read: {path}: {error.strerror}") from None
    return path, found.st_mtime_ns, found.st_ino, found.st_size


def _context(options: Any) -> ssl.SSLContext:
    """A context by the options of a connection, as redis-py makes it; those that it does not know yet are not set."""

    def option(name: str) -> Any:
        return getattr(options, name, None)

    try:
        context = ssl.create_default_context()
        context.check_hostname = option("check_hostname")
        context.verify_mode = option("cert_reqs")
        for flag in option("ssl_include_verify_flags") or ():
            context.verify_flags |= flag
        for flag in option("ssl_exclude_verify_flags") or ():
            context.verify_flags &= ~flag
        if option("certfile") or option("keyfile"):
            context.load_cert_chain(option("certfile"), option("keyfile"), option("certificate_password"))
        authorities = [option(name) for name in ("ca_certs", "ca_path", "ca_data")]
        if any(authorities):
            context.load_verify_locations(*authorities)
        if option("ssl_min_version") is not None:
            context.minimum_version = option("ssl_min_version")
        if option("ssl_ciphers"):
            context.set_ciphers(option("ssl_ciphers"))
    except (OSError, ValueError, TypeError) as error:
        named = ", ".join(f"{name}={path}" for name, path in _files(options))
        raise TlsError(f"the options of TLS cannot be used ({named}): {error}") from error
    return context


def _not_accepted(error: ssl.SSLCertVerificationError) -> TlsError:
    return TlsError(f"the server's certificate is not accepted: {error.verify_message}")
