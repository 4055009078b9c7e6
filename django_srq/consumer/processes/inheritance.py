"""Closes the connections of a process before a fork: the forked processes would share them."""

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

    Two processes with one socket would read each other's replies, and a fork has none of the threads that a pool needs.
    """
    for close in _close_functions():
        try:
            close()
        except Exception:  # close the others all the same
            logger.exception("cannot close a connection that the child processes would share")


def _close_functions() -> Iterator[Callable[[], None]]:
    """For each connection, cache and pool the function that closes it."""
    for connection in connections.all(initialized_only=True):
        yield connection.close
    for alias in connections:
        if (connections.settings[alias].get("OPTIONS") or {}).get("pool"):
            yield lambda alias=alias: _close_pool(alias)  # type: ignore[misc]
    for cache in caches.all(initialized_only=True):
        yield cache.close
    yield _forget_caches


def _close_pool(alias: str) -> None:
    """Close the pool of a database, also if another thread opened it: a pool belongs to the whole process."""
    with suppress(ImproperlyConfigured):  # the driver is not installed, so there is no pool
        connection = connections[alias]
        # Not connection.pool, which would open a pool if there is none.
        if alias in getattr(connection, "_connection_pools", ()):
            connection.close_pool()  # type: ignore[attr-defined]


def _forget_caches() -> None:
    """Drop the references to the caches: some clients, as pylibmc's, close their sockets only when they are freed."""
    for alias in caches:
        with suppress(AttributeError):  # this thread has not used the cache
            del caches[alias]
