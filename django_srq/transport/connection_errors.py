"""The errors of a connection: how it was lost, and whether the server got the command that was sent over it."""

from __future__ import annotations

import errno
import socket
from typing import Any

import redis

LOST = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)
# Errors after which a connection is of no use. After a primary was demoted, its name may lead to another server.
SPENT = (*LOST, redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError)


class NotSent(Exception):
    """The server did not get the command: there was no connection, or it ended too early. cause: the error."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class CutShort(redis.exceptions.ConnectionError):
    """A reply that had begun could not be read to its end."""


class TlsError(redis.exceptions.ConnectionError):
    """TLS with this server is not possible until somebody changes something: to wait does not help."""


class NameUnresolved(redis.exceptions.TimeoutError):
    """No address of a name is known, and its lookup takes longer than the caller has time."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the name {name!r} could not be resolved in time")


def closed_before(lost: Any) -> bool:
    """Whether the server had closed a connection, which is lost now, before it got everything that was sent.

    The server answers bytes that arrive after its close with a reset, and then the socket's error is EPIPE. When the
    server closes later, or the connection breaks, the error is another one. lost: the connection's socket.
    """
    return lost is not None and bool(lost.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE)
