"""The database connections of a thread that runs handlers, without those of its caller.

Without child processes that thread is the caller's: of a test, with a transaction under way, or of a script. The caller
itself closes the connections that it had opened before.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

_preserved = threading.local()  # .connections: those to leave alone in this thread, by their wrappers


@contextmanager
def preserve_open_connections() -> Iterator[None]:
    """Within the block, leave the connections alone that this thread has open now. At its end, close all others."""
    _preserved.connections = {
        wrapper: wrapper.connection
        for wrapper in connections.all(initialized_only=True)
        if wrapper.connection is not None
    }
    try:
        yield
    finally:
        close_connections()
        del _preserved.connections


def handler_connections() -> Sequence[BaseDatabaseWrapper]:
    """This thread's connections that handlers opened, or may open."""
    wrappers = connections.all(initialized_only=True)
    preserved: dict[BaseDatabaseWrapper, Any] = getattr(_preserved, "connections", {})
    return [
        wrapper
        for wrapper in wrappers
        if wrapper.connection is None or preserved.get(wrapper) is not wrapper.connection
    ]


def close_connections() -> None:
    """Close this thread's database connections while it has nothing to do, except those to be left alone."""
    for connection in handler_connections():
        connection.close()
