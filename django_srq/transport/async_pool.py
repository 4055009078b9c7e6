"""AsyncPool: the connections of one event loop to one server, by redis.asyncio.

A connection belongs to the event loop in which it was opened. A process may have several loops, some of them short:
``async_to_sync`` makes one for each call. So every loop has its own AsyncPool, which is closed when the loop is shut
down.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Any

import redis
import redis.asyncio.connection as asynchronous
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from django_srq.exceptions import ConfigurationError
from django_srq.runtime.clock import monotonic
from django_srq.transport.connection_errors import LOST, SPENT, CutShort, NotSent, closed_before
from django_srq.transport.flow import Flow, limit_unsent
from django_srq.transport.rest import LARGE, REST, SIGN_OF_LIFE, share
from django_srq.transport.sockets import aopened, explained, late
from django_srq.transport.tls import Tls

PARTING = 1.0  # seconds that the closing of a connection may take
PIECE = 65536  # bytes of a command that are sent at one time
_SOONER = 0.98  # share of the time left in which a socket has to be open: see _connect
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

    def __init__(self, pool: Any, prepare: Callable[[], object] | None, tls: Tls) -> None:
        """pool: of redis-py; its options make the connections. prepare: called before each new connection."""
        self._pool, self._prepare, self._tls = pool, prepare, tls
        self._lines: dict[asyncio.AbstractEventLoop, AsyncPool] = {}

    async def here(self) -> AsyncPool:
        """The AsyncPool of the running event loop; made on first use."""
        loop = asyncio.get_running_loop()
        line = self._lines.get(loop)
        if line is None:
            for ended in [loop for loop in list(self._lines) if loop.is_closed()]:
                self._lines.pop(ended, None)  # the loop was closed without being shut down
            line = self._lines[loop] = AsyncPool(self._make, self._prepare, self._tls, self._pool.max_connections)
            line.keeper = self._keep(loop, line)
            await anext(line.keeper)
        return line

    async def close(self) -> None:
        """Close the idle connections of the running event loop."""
        line = self._lines.get(asyncio.get_running_loop())
        if line is not None:
            await line.close()

    def let_go(self) -> None:
        """Close them in this process alone: the connections, and their event loops, are its parent's."""
        for line in self._lines.copy().values():
            line.let_go()

    async def _keep(self, loop: asyncio.AbstractEventLoop, line: AsyncPool) -> AsyncGenerator[None]:
        """Close the pool together with its loop: a loop that is shut down closes its asynchronous generators."""
        try:
            yield
        finally:
            self._lines.pop(loop, None)
            await line.close()

    def _make(self) -> Any:
        if service := getattr(self._pool, "service_name", None):
            raise ConfigurationError(
                f"asynchronous calls cannot find {service!r} by Sentinel yet; calls without await can"
            )
        for theirs, ours in _KINDS:
            if issubclass(self._pool.connection_class, theirs):
                return _connection(ours, self._pool.connection_kwargs)
        raise ConfigurationError(f"no asynchronous connection is known for {self._pool.connection_class.__name__}")


class AsyncPool:
    """The connections of one event loop: as many as there are calls at one time, within limits.

    Calls take turns, AT_ONCE of them at one time. A call that blocks on the server gives its turn back as soon as it
    has a connection, so that any number of them may wait.
    """

    keeper: AsyncGenerator[None]

    def __init__(self, make: Callable[[], Any], prepare: Callable[[], object] | None, tls: Tls, most: int) -> None:
        """most: connections at one time, at most."""
        self._make, self._prepare, self._tls, self._most = make, prepare, tls, most
        self._turns = asyncio.Semaphore(min(most, AT_ONCE))
        self._idle: deque[tuple[Any, float]] = deque()  # each with the time of its last reply
        self._open: set[Any] = set()

    async def exchange(self, command: bytes, seconds: float, *, patience: float | None = None, silence: float) -> Any:
        """One round trip. seconds: until the reply has to begin, connecting included.

        patience: of a command that blocks on the server, seconds from its sending until the reply has to begin.
        silence: seconds without a byte after which a command or reply is broken off (flow.py).
        """
        deadline = asyncio.get_running_loop().time() + seconds
        await (self._turn(deadline) if self._turns.locked() else self._turns.acquire())  # acquire returns at once
        try:
            connection, rest = await self._rested() or (await self._connected(deadline), 0)
            if patience is None:
                return await self._round_trip(connection, rest, command, deadline, silence)
        finally:
            self._turns.release()
        return await self._round_trip(connection, rest, command, deadline, silence, patience)

    async def _turn(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._turns.acquire()
        except TimeoutError as error:
            raise NotSent(redis.exceptions.TimeoutError("timed out behind other calls")) from error

    async def _rested(self) -> tuple[Any, float] | None:
        """An idle connection, and the seconds since its last reply; None when there is none."""
        while self._idle:
            connection, since = self._idle.pop()
            if not connection._reader.at_eof():
                return connection, asyncio.get_running_loop().time() - since
            await self._discard(connection)  # the server closed it
        return None

    async def _round_trip(
        self,
        connection: Any,
        rest: float,
        command: bytes,
        deadline: float,
        silence: float,
        patience: float | None = None,
    ) -> Any:
        limit = asyncio.timeout_at(deadline)
        arrivals = _Arrivals(connection, silence, limit)
        try:
            if rest > REST:
                command = await self._behind_sign_of_life(connection, command, deadline)
            async with limit:
                if len(command) > PIECE:
                    await _send(connection, command, limit, silence)
                elif command:
                    await connection.send_packed_command([command], check_health=False)
                if patience is not None:
                    limit.reschedule(asyncio.get_running_loop().time() + patience)
                with arrivals:
                    reply = await connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except (NotSent, *SPENT, redis.exceptions.InvalidResponse) as error:
            unsent = closed_before(connection._writer and connection._writer.get_extra_info("socket"))
            await self._discard(connection)
            while self._idle:  # the cause that made one useless usually concerns the others, too
                await self._discard(self._idle.pop()[0])
            if arrivals.broke_off(error):
                raise CutShort("the reply broke off") from error
            if unsent and not isinstance(error, NotSent):
                raise NotSent(error) from error
            if isinstance(error, TimeoutError):
                raise _telling(error) from error
            raise
        except redis.exceptions.ResponseError:
            self._put_back(connection)
            raise
        except BaseException:
            # Cancelled in the middle of a call: its reply must not become the reply of the next call.
            await self._discard(connection)
            raise
        self._put_back(connection)
        return reply

    async def _behind_sign_of_life(self, connection: Any, command: bytes, deadline: float) -> bytes:
        """Wait for a sign of life, for a share of the time left. A small command goes along, a large is returned."""
        along, left = (command, b"") if len(command) < LARGE else (b"", command)
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(now + share(deadline - now)):
                await connection.send_packed_command([SIGN_OF_LIFE + along], check_health=False)
                with suppress(redis.exceptions.ResponseError):
                    await connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except LOST as error:
            if left:
                raise NotSent(_telling(error)) from error
            raise
        return left

    def _put_back(self, connection: Any) -> None:
        self._idle.append((connection, asyncio.get_running_loop().time()))

    async def _connected(self, deadline: float) -> Any:
        connection = None
        try:
            async with asyncio.timeout_at(deadline):
                if self._prepare is not None:
                    await asyncio.to_thread(self._prepare)
                connection = self._new()
                try:
                    await self._connect(connection, deadline)
                    limit_unsent(connection._writer.get_extra_info("socket"))
                except BaseException:
                    await self._discard(connection)
                    raise
        except TimeoutError as error:
            raise NotSent(late(connection)) from error
        except (redis.RedisError, OSError) as error:
            raise NotSent(explained(error, connection)) from error
        return connection

    async def _connect(self, connection: Any, deadline: float) -> None:
        """Let redis-py connect and greet the server, over a socket that we open."""
        # A little less time than there is, so that the socket's error, which names the slow step, comes first.
        ends = monotonic() + (deadline - asyncio.get_running_loop().time()) * _SOONER

        async def connect() -> None:
            connection._reader, connection._writer = await aopened(connection, ends, self._tls)

        if isinstance(connection, asynchronous.Connection):
            vars(connection)["_connect"] = connect
        try:
            await connection.connect()
        finally:
            vars(connection).pop("_connect", None)

    def _new(self) -> Any:
        if len(self._open) >= self._most:
            raise redis.exceptions.ConnectionError("Too many connections")  # the words of redis-py's pool
        connection = self._make()
        self._open.add(connection)
        return connection

    async def _discard(self, connection: Any) -> None:
        """Close a connection without a farewell to the server."""
        self._open.discard(connection)
        await connection.disconnect(nowait=True)
        await asyncio.sleep(0)  # the loop closes the socket in its next round; it may have no other after that

    async def close(self) -> None:
        """Close the idle connections. The pool can still be used."""
        while self._idle:
            connection, _ = self._idle.pop()
            self._open.discard(connection)
            with suppress(TimeoutError):  # the server does not answer the farewell of TLS
                async with asyncio.timeout(PARTING):
                    await connection.disconnect()

    def let_go(self) -> None:
        for connection in self._open.copy():
            writer = connection._writer
            shared = writer and writer.transport.get_extra_info("socket")
            if shared and shared.fileno() >= 0:  # else it is closed
                _let_go(shared.fileno())


def _telling(error: Exception) -> Exception:
    """An error with a text: the error itself, or another one in place of asyncio's TimeoutError, which has none."""
    return redis.exceptions.TimeoutError("timed out") if isinstance(error, TimeoutError) else error


def _let_go(descriptor: int) -> None:
    """Close a socket of an event loop of the parent process, in this process alone, and put /dev/null in its place.

    If its transport closed it, the parent's loop would no longer watch it, as parent and child share what the loop
    watches (epoll). And if its number became free, another file could get it, which the transport would close later.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


class _Arrivals:
    """Moves the time limit of a reply with each byte that arrives (flow.py)."""

    __slots__ = ("_begun", "_clock", "_connection", "_feed", "_flow", "_limit", "_reader", "_silence")

    def __init__(self, connection: Any, silence: float, limit: asyncio.Timeout) -> None:
        self._connection, self._silence, self._limit = connection, silence, limit
        self._begun = False
        self._flow: Flow | None = None

    def __enter__(self) -> None:
        self._reader, self._clock = self._connection._reader, asyncio.get_running_loop().time
        self._feed = self._reader.feed_data
        self._reader.feed_data = self.feed_data

    def __exit__(self, *error: object) -> None:
        del self._reader.feed_data

    def feed_data(self, data: bytes) -> None:
        self._feed(data)
        if self._limit.expired():
            return
        until = self._limit.when() or 0
        # Usually this is the whole reply. Then the limit need not be moved, which takes longer than all else here.
        if self._begun or until - self._clock() < self._silence / 2:
            self._flow = self._flow or Flow(self._silence, self._clock)
            self._flow.moved(len(data))
            self._limit.reschedule(max(self._flow.deadline, until))
        self._begun = True

    def broke_off(self, error: Exception) -> bool:
        """Whether an error came in the middle of a reply, and is not itself a reply."""
        lost = type(error) is redis.exceptions.ConnectionError or isinstance(error, OSError)
        return isinstance(error, redis.exceptions.InvalidResponse) or (lost and self._begun)


async def _send(connection: Any, command: bytes, limit: asyncio.Timeout, silence: float) -> None:
    """Send a command piece by piece, so that the time limit counts from the last piece that was sent."""
    # By the writer's write: after writelines, which redis-py calls, Python 3.12 and 3.13 do not wait in drain.
    writer, rest = connection._writer, memoryview(command)
    flow = Flow(silence, asyncio.get_running_loop().time)
    while rest:
        writer.write(rest[:PIECE])
        await writer.drain()
        flow.moved(len(rest[:PIECE]))
        rest = rest[PIECE:]
        limit.reschedule(max(flow.deadline, limit.when() or 0))


def _connection(kind: Any, options: dict[str, Any]) -> Any:
    """An asynchronous connection, made from the options of a pool of blocking ones."""
    known = {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}
    kept = {name: value for name, value in options.items() if name not in _OWN and not name.startswith(_OWN_PREFIXES)}
    # Decoding is off: with hiredis, redis-py 5.0 decodes a reply even where read_response is told not to.
    ours = {
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": False,
    }
    try:
        return kind(**{name: value for name, value in kept.items() if value or name in known} | ours)
    except TypeError as error:
        raise ConfigurationError(f"no asynchronous connection can do what the client's options say: {error}") from error
