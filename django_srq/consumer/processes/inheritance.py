"""What is open in a process, and what the processes that are forked from it would share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress

from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

logger = logging.getLogger("django_srq.consumer")


def close_all() -> None:
    """Close the database connections and caches of this thread, and all pools of database connections.

    Two processes with one socket read each other's replies, and a fork has none of the threads that a pool needs.
    """
    for close in _open():
        try:
            close()
        except Exception:  # the others are to be closed all the same
            logger.exception("cannot close a connection that the child processes would share")


def _open() -> Iterator[Callable[[], None]]:
    """What closes each of them."""
    for connection in connections.all(initialized_only=True):
        yield connection.close
    for alias in connections:
        if (connections.settings[alias].get("OPTIONS") or {}).get("pool"):
            yield lambda alias=alias: _close_pool(alias)  # type: ignore[misc]
    for cache in caches.all(initialized_only=True):
        yield cache.close
    yield _forget_caches


def _close_pool(alias: str) -> None:
    """Also one that another thread opened: a pool belongs to the whole process."""
    with suppress(ImproperlyConfigured):  # its driver is not installed: then it has no pool either
        connection = connections[alias]
        # To ask the connection for its pool would make one.
        if alias in getattr(connection, "_connection_pools", ()):
            connection.close_pool()  # type: ignore[attr-defined]


def _forget_caches() -> None:
    """Some clients, such as pylibmc's, close their sockets only when nothing refers to them any more."""
    for alias in caches:
        with suppress(AttributeError):  # this thread has not used it
            del caches[alias]
