"""AsyncPool: the connections of one event loop to one server.

A connection belongs to the event loop in which it was opened. A process may have several loops, some of them short:
``async_to_sync`` makes one for each call. So every loop has its own AsyncPool, which is closed when the loop is shut
down.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import redis
import redis.asyncio.connection as asynchronous
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from django_srq.exceptions import ConfigurationError
from django_srq.runtime.clock import monotonic
from django_srq.transport.async_connection import AsyncConnection
from django_srq.transport.budget import Budget
from django_srq.transport.connection_errors import SPENT, NotSent
from django_srq.transport.sockets import cause_of, timeout_error
from django_srq.transport.tls import Tls

AT_ONCE = 64  # calls of one event loop at one time; more are no faster, and would use up the process's open files
_KINDS: Sequence[tuple[type, type]] = (
    (redis.UnixDomainSocketConnection, asynchronous.UnixDomainSocketConnection),
    (redis.SSLConnection, asynchronous.SSLConnection),
    (redis.Connection, asynchronous.Connection),
)
# Options of a pool that only its own, blocking connections take. Time limits are set for each call.
_OWN = {
    "retry",
    "retry_on_error",
    "parser_class",
    "socket_timeout",
    "socket_connect_timeout",
    "event_dispatcher",
    "himport_registry",
}
_OWN_PREFIXES = ("maint_", "maintenance_", "orig_", "oss_")


class AsyncPools:
    """The AsyncPool of each event loop, for one server."""

    def __init__(self, client_pool: Any, prepare: Callable[[], object] | None, tls: Tls) -> None:
        """client_pool: of redis-py; its options make the connections. prepare: called before each new connection."""
        self._client_pool, self._prepare, self._tls = client_pool, prepare, tls
        self._pools: dict[asyncio.AbstractEventLoop, AsyncPool] = {}

    async def here(self) -> AsyncPool:
        """The AsyncPool of the running event loop; made on first use."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for ended in [loop for loop in list(self._pools) if loop.is_closed()]:
                self._pools.pop(ended, None)  # the loop was closed without being shut down
            most = self._client_pool.max_connections
            pool = self._pools[loop] = AsyncPool(self._make, self._prepare, self._tls, most)
            pool.closing = self._close_with(loop, pool)
            await anext(pool.closing)
        return pool

    async def close(self) -> None:
        """Close the idle connections of the running event loop."""
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is not None:
            await pool.close()

    def let_go(self) -> None:
        """Close them in this process alone: the connections, and their event loops, are its parent's."""
        for pool in self._pools.copy().values():
            pool.let_go()

    async def _close_with(self, loop: asyncio.AbstractEventLoop, pool: AsyncPool) -> AsyncGenerator[None]:
        """Close the pool together with its loop: a loop that is shut down closes its asynchronous generators."""
        try:
            yield
        finally:
            self._pools.pop(loop, None)
            await pool.close()

    def _make(self) -> AsyncConnection:
        if service := getattr(self._client_pool, "service_name", None):
            raise ConfigurationError(
                f"asynchronous calls cannot find {service!r} by Sentinel yet; calls without await can"
            )
        kind = self._client_pool.connection_class
        for theirs, ours in _KINDS:
            if issubclass(kind, theirs):
                return AsyncConnection(_connection(ours, self._client_pool.connection_kwargs))
        raise ConfigurationError(f"no asynchronous connection is known for {kind.__name__}")


class AsyncPool:
    """The connections of one event loop: as many as there are calls at one time, within limits.

    Calls take turns, AT_ONCE of them at one time. A call that blocks on the server gives its turn back as soon as it
    has a connection, so that any number of them may wait.
    """

    closing: AsyncGenerator[None]  # closes the pool when the loop is shut down

    def __init__(
        self, make: Callable[[], AsyncConnection], prepare: Callable[[], object] | None, tls: Tls, most: int
    ) -> None:
        """most: connections at one time, at most."""
        self._make, self._prepare, self._tls, self._most = make, prepare, tls, most
        self._turns = asyncio.Semaphore(min(most, AT_ONCE))
        self._idle: deque[AsyncConnection] = deque()
        self._open: set[AsyncConnection] = set()

    async def exchange(self, command: bytes, budget: Budget, patience: float | None = None) -> Any:
        """One round trip; its reply.

        patience: seconds to wait for the reply of a command that blocks on the server; None: until the deadline of the
        budget.
        """
        deadline, silence = _deadline(budget), budget.seconds
        await (self._turn(deadline) if self._turns.locked() else self._turns.acquire())  # acquire returns at once
        try:
            connection = await self._idle_one()
            if connection is None:
                connection = await self._open_new(budget)
                deadline = _deadline(budget)
            if patience is None:
                return await self._round_trip(connection, command, deadline, silence)
        finally:
            self._turns.release()
        return await self._round_trip(connection, command, deadline, silence, patience)

    async def _turn(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._turns.acquire()
        except TimeoutError as error:
            raise NotSent(redis.exceptions.TimeoutError("timed out behind other calls")) from error

    async def _idle_one(self) -> AsyncConnection | None:
        """An idle connection that the server did not close; None when there is none."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed_by_server():
                return connection
            await self._discard(connection)
        return None

    async def _round_trip(self, connection: AsyncConnection, *trip: Any) -> Any:
        """trip: the arguments of ``AsyncConnection.round_trip``."""
        try:
            reply = await connection.round_trip(*trip)
        except (NotSent, *SPENT):
            await self._discard(connection)
            while self._idle:  # the cause that made one useless usually concerns the others, too
                await self._discard(self._idle.pop())
            raise
        except redis.exceptions.ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            # Cancelled in the middle of a call: its reply must not become the reply of the next call.
            await self._discard(connection)
            raise
        self._idle.append(connection)
        return reply

    async def _open_new(self, budget: Budget) -> AsyncConnection:
        connection = None
        try:
            if self._prepare is not None:
                begun = monotonic()
                await asyncio.to_thread(self._prepare)
                budget.excuse(monotonic() - begun)  # to start a server may take longer than a call
            deadline = _deadline(budget)
            async with asyncio.timeout_at(deadline):
                connection = self._new()
                try:
                    await connection.connect(deadline, self._tls)
                except BaseException:
                    await self._discard(connection)
                    raise
        except TimeoutError as error:
            raise NotSent(timeout_error(connection and connection.connection)) from error
        except (redis.RedisError, OSError) as error:
            raise NotSent(cause_of(error, connection and connection.connection)) from error
        return connection

    def _new(self) -> AsyncConnection:
        if len(self._open) >= self._most:
            raise redis.exceptions.ConnectionError("Too many connections")  # the words of redis-py's pool
        connection = self._make()
        self._open.add(connection)
        return connection

    async def _discard(self, connection: AsyncConnection) -> None:
        self._open.discard(connection)
        await connection.abort()

    async def close(self) -> None:
        """Close the idle connections. The pool can still be used."""
        while self._idle:
            connection = self._idle.pop()
            self._open.discard(connection)
            await connection.close()

    def let_go(self) -> None:
        """Close them in this process alone."""
        for connection in self._open.copy():
            connection.let_go()


def _deadline(budget: Budget) -> float:
    """The deadline of the budget, by the clock of the running event loop."""
    return asyncio.get_running_loop().time() + budget.left()


def _connection(kind: Any, options: dict[str, Any]) -> Any:
    """An asynchronous connection, made from the options of a pool of blocking ones."""
    known = {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}
    usable = {name: value for name, value in options.items() if name not in _OWN and not name.startswith(_OWN_PREFIXES)}
    # Decoding is off: with hiredis, redis-py 5.0 decodes a reply even where read_response is told not to.
    ours = {
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": False,
    }
    try:
        return kind(**{name: value for name, value in usable.items() if value or name in known} | ours)
    except TypeError as error:
        raise ConfigurationError(f"no asynchronous connection can do what the client's options say: {error}") from error
