"""Connections: all connections to one server, of threads and of event loops; each process has its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from django_srq.runtime.process import PerProcess
from django_srq.transport.async_pool import AsyncPools
from django_srq.transport.sync_pool import SyncPool
from django_srq.transport.tls import Tls


class Connections:
    """The connections to one server, and what is known of the server."""

    here: Callable[[], ProcessConnections]
    """The connections of this process; a forked child has none at first."""

    def __init__(self, client_pool: Any, prepare: Callable[[], object] | None, address: str) -> None:
        """client_pool: of redis-py. prepare: called before each new connection. address: for messages."""
        self.address = address
        self.passing = _error_classes(client_pool.connection_kwargs.get("retry_on_error"))
        self.read_only = True  # send scripts that only read by EVALSHA_RO; False once the server refused that
        self.here = PerProcess(partial(ProcessConnections, client_pool, prepare)).get


class ProcessConnections:
    """The connections of one process to one server.

    A forked child closes its copies of its parent's connections and sends nothing over them: the parent uses them.
    """

    def __init__(
        self, client_pool: Any, prepare: Callable[[], object] | None, inherited: ProcessConnections | None
    ) -> None:
        self.tls = Tls(client_pool)
        self.threads = SyncPool(client_pool, prepare, self.tls)
        self.loops = AsyncPools(client_pool, prepare, self.tls)
        if inherited is not None:
            inherited.let_go()
        # Kept alive: when Python deletes the parent's asynchronous connections, they take themselves off the sockets
        # that their event loops watch, and the parent shares what its loops watch (epoll) with this process.
        self._inherited = inherited
        if client_pool.pid != os.getpid():
            client_pool._lock = threading.RLock()  # a thread of the parent may have held the old one at the fork
            client_pool.reset()  # the parent's connections do not count against max_connections here

    def let_go(self) -> None:
        """Close them in this process alone."""
        self.threads.let_go()
        self.loops.let_go()


def _error_classes(given: Any) -> tuple[type[Exception], ...]:
    """The classes in a client's ``retry_on_error``: errors that pass by themselves, as the client's owner says."""
    classes = given if isinstance(given, list | tuple | set | frozenset) else ()
    return tuple(kind for kind in classes if isinstance(kind, type) and issubclass(kind, Exception))
