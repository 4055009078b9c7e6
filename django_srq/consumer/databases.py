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

_left = threading.local()  # .open: the connections to leave alone in this thread, by their wrappers


@contextmanager
def left_alone() -> Iterator[None]:
    """Within the block, leave the connections alone that this thread has open now. At its end, close all others."""
    _left.open = {one: one.connection for one in connections.all(initialized_only=True) if one.connection is not None}
    try:
        yield
    finally:
        close_connections()
        del _left.open


def ours() -> Sequence[BaseDatabaseWrapper]:
    """This thread's connections that handlers opened, or may open."""
    found = connections.all(initialized_only=True)
    left: dict[BaseDatabaseWrapper, Any] | None = getattr(_left, "open", None)
    if not left:
        return found
    return [one for one in found if one.connection is None or left.get(one) is not one.connection]


def close_connections() -> None:
    """Close this thread's database connections while it has nothing to do, except those to be left alone."""
    for connection in ours():
        connection.close()
