"""Connections to the server: a redis client from a URL, and the link that carries calls over its connections.

The link takes redis-py's connection objects (made by the client's pool, so that TLS, credentials and protocol are its
business) but keeps its own list of idle ones, because of what slots make possible: every call may be sent again, so
that an idle connection need not be tested before use, a lost reply needs no guess, and one time limit covers
connecting, sending, waiting and repeating, until an answer begins (flow.py: how long it may take then). It also tells
whether anything was sent at all.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from django_srq.exceptions import ConfigurationError, LayoutError
from django_srq.operations import Call, Command
from django_srq.runtime.clock import monotonic
from django_srq.runtime.process import PerProcess
from django_srq.transport import embedded
from django_srq.transport.async_pool import LOST, SPENT, AsyncPools, NotSent
from django_srq.transport.attempts import Attempts
from django_srq.transport.clients import address_of, client_from_arguments
from django_srq.transport.flow import LONGEST
from django_srq.transport.sansio import Steps, run
from django_srq.transport.slots import Slot, slots
from django_srq.transport.sockets import Tls, explained, opened, opens_as_usual
from django_srq.transport.stream import Stream
from django_srq.transport.sync_connection import SyncConnection

T = TypeVar("T")

TIMEOUT = 5.0  # seconds for a call that does not block, everything included
READ_GRACE = 2.0  # seconds that a reply to a blocking command may be late


def embedded_link(url: str, *, timeout: float = TIMEOUT, base: str | os.PathLike[str] = ".", **options: Any) -> Link:
    """A link to the server behind ``embedded://[path]``: a directory, relative to base; ``.srq`` when there is none.

    The server is started, or joined, when the first connection is opened.
    """
    scheme, separator, path = url.partition("://")
    if scheme != "embedded" or not separator:
        raise ConfigurationError(f"not a URL of an embedded server: {url!r}; write embedded:// or embedded:///path")
    directory = os.path.abspath(os.path.join(base, path or ".srq"))
    client = client_from_arguments(unix_socket_path=embedded.socket_path(directory), **options)
    return Link(client, address=f"embedded://{directory}", timeout=timeout, prepare=lambda: embedded.serve(directory))


class Connections:
    """Those of one process to one server. A child lets go of its parent's, without a word: the parent uses them."""

    def __init__(self, pool: Any, prepare: Callable[[], object] | None, inherited: Connections | None) -> None:
        self.tls = Tls(pool)
        self.lines = AsyncPools(pool, prepare, self.tls)
        self.idle: deque[SyncConnection] = deque()
        self.closed: deque[Any] = deque()
        self.open: set[SyncConnection] = set()
        if inherited is not None:
            inherited._let_go()
        # Kept, as event loops that it shares with the parent would be told of the end of what is in there.
        self._inherited = inherited
        if pool.pid != os.getpid():
            pool._lock = threading.RLock()  # a thread of the parent's may have had the other at the fork, for ever
            pool.reset()  # the parent's connections count no more

    def wire(self, connection: Any) -> SyncConnection:
        """connection: redis-py's, connected."""
        wire = SyncConnection(connection)
        wire.home = self
        self.open.add(wire)
        return wire

    def _let_go(self) -> None:
        for wire in self.open.copy():
            wire.let_go()
        self.lines.let_go()


class Link:
    """Carries calls to one server, over as many connections as there are calls at one time.

    Safe to share between threads, event loops and across fork: a child starts with no connections. What it does is
    written as steps (``calling``, ``waiting``), which are carried out in a thread or in an event loop.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        address: str = "",
        timeout: float = TIMEOUT,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """timeout: seconds. prepare is called before each new connection; it starts the embedded server."""
        self.client = client
        self.pool = client.connection_pool
        self.address = address or address_of(self.pool)
        self.timeout = min(timeout, LONGEST)
        self.passing = _error_classes(self.pool.connection_kwargs.get("retry_on_error"))
        self._prepare = prepare
        self._connections: PerProcess[Connections] = PerProcess(partial(Connections, self.pool, prepare))
        self.read_only = True  # scripts that only read are sent by the commands for those

    def call(
        self, call: Call[T] | Command[T], *, queue: str, timeout: float | None = None, slot: Slot | None = None
    ) -> T:
        """Carry out ``calling`` in this thread."""
        return run(self.calling(call, queue=queue, timeout=timeout, slot=slot))

    def calling(
        self, call: Call[T] | Command[T], *, queue: str, timeout: float | None = None, slot: Slot | None = None
    ) -> Steps[T]:
        """Send a call as often as it takes within the time limit (seconds) and return its result.

        QueueUnavailable: nothing was carried out. OutcomeUnknown: it was sent, and whether it was carried out is not
        known. queue names the queue in messages.
        """
        borrowed = slot is None
        slot = slot or slots.borrow()
        attempts = Attempts(self, call, queue, self.timeout if timeout is None else timeout)
        try:
            while True:
                try:
                    attempts.command = attempts.packed(slot)
                    reply = yield attempts
                    break
                except redis.exceptions.NoScriptError:
                    attempts.whole = True
                except NotSent as error:
                    yield attempts.missed(error.cause, sent=False)
                except (redis.RedisError, OSError) as error:
                    if not attempts.refused_read_only(error):
                        yield attempts.missed(error, sent=True)
        finally:
            if borrowed:
                slots.give_back(slot)
        return call.read(reply)

    def look(self, asked: Sequence[tuple[str, Call[Any] | Command[Any]]], *, timeout: float) -> list[Any]:
        """Send calls that only read, each with its queue's name, in one round trip; their results.

        One that fails has its exception as result.
        """
        calls = [call for _, call in asked]
        attempts = Attempts(self, calls[0], asked[0][0], timeout)
        try:
            replies = self._look(calls, attempts)
            if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies):
                attempts.whole = True
                replies = self._look(calls, attempts)
            if any(attempts.refused_read_only(reply) for reply in replies):
                attempts.whole = True
                replies = self._look(calls, attempts)
        except NotSent as error:
            raise attempts.verdict(error.cause) from error.cause
        except (redis.RedisError, OSError) as error:
            raise attempts.verdict(error) from error
        return [self._result(call, reply, queue) for (queue, call), reply in zip(asked, replies, strict=True)]

    def _look(self, calls: Sequence[Call[Any] | Command[Any]], attempts: Attempts) -> list[Any]:
        commands = b"".join(call.pack(b"", 0, whole=attempts.whole, read_only=attempts.read_only) for call in calls)

        def receive(wire: SyncConnection, deadline: float) -> list[Any]:
            return [received(wire, deadline) for _ in calls]

        try:
            return self._exchange(commands, attempts, receive)
        except (NotSent, *LOST):
            if attempts.left() <= 0:
                raise
            # The server may have been restarted since the connection was last used; reading twice does no harm.
            return self._exchange(commands, attempts, receive)

    def _result(self, call: Call[T] | Command[T], reply: Any, queue: str) -> T | Exception:
        if isinstance(reply, Exception):
            verdict = Attempts(self, call, queue, 0).verdict(reply)
            verdict.__cause__ = reply
            return verdict
        try:
            return call.read(reply)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            return LayoutError(f"queue {queue!r} ({self.address}): what is stored there cannot be read: {error}")

    def wait(self, command: Command[T], seconds: float, *, queue: str, interrupt: int | None = None) -> T | None:
        """Carry out ``waiting`` in this thread.

        interrupt: a file descriptor; as soon as something can be read from it, the wait ends with None.
        """
        steps = self.waiting(command, seconds, queue=queue, interrupt=interrupt)
        try:
            return run(steps)
        except Interrupted:
            return None

    def waiting(
        self, command: Command[T], seconds: float, *, queue: str, interrupt: int | None = None
    ) -> Steps[T | None]:
        """Send a command that blocks on the server for so many seconds; None when it is cut short, as in a failover."""
        attempts = Attempts(self, command, queue, self.timeout)
        attempts.command, attempts.patience, attempts.interrupt = command.pack(), seconds + READ_GRACE, interrupt
        try:
            reply = yield attempts
            return command.read(reply)
        except (NotSent, redis.RedisError, OSError) as error:
            yield attempts.cut_short(error)
            return None

    def park(
        self,
        wait: Command[Any],
        call: Call[T],
        seconds: float,
        *,
        slot: Slot,
        queue: str,
        interrupt: int,
        arriving: Callable[[], object] = lambda: None,
    ) -> T | None:
        """Send a command that blocks on the server for so many seconds, and a call that is carried out when that ends.

        The server itself does so: no round trip lies between. None: whether the call was carried out is not known; it
        is to be made again in its slot, with its number. arriving is called when the wait is over.
        """

        def receive(wire: SyncConnection, deadline: float) -> Any:
            arriving()
            return received_behind(wire, deadline)

        attempts = Attempts(self, call, queue, self.timeout)
        attempts.patience, attempts.interrupt = seconds + READ_GRACE, interrupt
        try:
            commands = wait.pack() + call.pack(slot.name, slot.seq)
            return call.read(self._exchange(commands, attempts, receive))
        except (Interrupted, redis.exceptions.NoScriptError):
            return None
        except (NotSent, redis.RedisError, OSError) as error:
            attempts.cut_short(error).carry_out()
            return None

    def once(self, command: Command[T], *, queue: str, timeout: float) -> T | None:
        """Send a command that must not be sent again; None: whether it was carried out is not known."""
        attempts = Attempts(self, command, queue, timeout)
        try:
            return command.read(self._exchange(command.pack(), attempts))
        except (NotSent, redis.RedisError, OSError):
            return None

    def stream(self, timeout: float | None = None) -> Stream:
        """timeout: seconds for a command to be sent, and for a reply to come; at most those of the link."""
        return Stream(self, self.timeout if timeout is None else min(timeout, self.timeout))

    def close(self) -> None:
        """Close the idle connections of threads; the link goes on working."""
        self._discard_idle()

    async def aclose(self) -> None:
        """Close the idle connections of the running event loop, which happens by itself when that is shut down."""
        await self._connections.get().lines.close()

    def __del__(self) -> None:
        # A queue made in passing leaves no open connection behind; nothing that fails here matters any more.
        with suppress(Exception):
            self._discard_idle()

    async def _aexchange(self, command: bytes, attempts: Attempts, *, patience: float | None) -> Any:
        line = await self._connections.get().lines.here()
        return await line.exchange(command, attempts.left(), patience=patience, silence=attempts.seconds)

    def _exchange(
        self,
        commands: bytes,
        attempts: Attempts,
        receive: Callable[[SyncConnection, float], T] = SyncConnection.receive,
    ) -> T:
        """One round trip; receive takes what comes back, of one command if it is not given."""
        wire = self._take(attempts)
        try:
            deadline = attempts.deadline
            wire.send(commands, deadline, watched=attempts.interrupt is not None)
            if attempts.patience is not None:
                deadline = monotonic() + attempts.patience
            if attempts.interrupt is not None:
                wait_for_reply(wire, attempts.interrupt, deadline - monotonic())
            received = receive(wire, deadline)
        except (NotSent, *SPENT):
            self._discard(wire)
            self._discard_idle()
            raise
        except redis.exceptions.ResponseError:
            wire.home.idle.append(wire)
            raise
        except BaseException:
            # Interrupted in mid-call: its reply must not become the next call's.
            self._discard(wire)
            raise
        wire.home.idle.append(wire)
        return received

    def _take(self, attempts: Attempts) -> SyncConnection:
        wire = self._idle_or_new(attempts)
        wire.silence = attempts.seconds
        return wire

    def _idle_or_new(self, attempts: Attempts) -> SyncConnection:
        mine = self._connections.get()
        # Asking first whether there is one would let another thread take it in between.
        try:
            while not (wire := mine.idle.pop()).wake():
                self._discard(wire)
            return wire
        except IndexError:
            pass
        try:
            connection = mine.closed.pop()
        except IndexError:
            connection = self._new()
        return self._connected(connection, attempts, mine)

    def _new(self) -> Any:
        try:
            return self.pool.make_connection()
        except redis.RedisError as error:  # the client's max_connections
            raise NotSent(error) from error

    def _connected(self, connection: Any, attempts: Attempts, mine: Connections) -> SyncConnection:
        try:
            if self._prepare is not None:
                self._prepare()
            connection.socket_connect_timeout = connection.socket_timeout = max(attempts.left(), 0.001)
            connection.retry = Retry(NoBackoff(), 0)  # a client that was given to us may have other ideas
            connect(connection, attempts.deadline, mine.tls)
            return mine.wire(connection)
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            mine.closed.append(connection)
            raise NotSent(explained(error, connection)) from error
        except BaseException:
            connection.disconnect()
            mine.closed.append(connection)
            raise

    def _discard(self, wire: SyncConnection) -> None:
        wire.home.open.discard(wire)
        wire.close()
        wire.home.closed.append(wire.connection)

    def _discard_idle(self) -> None:
        """What spent one connection mostly spent the others."""
        idle = self._connections.get().idle
        while idle:
            try:
                self._discard(idle.pop())
            except IndexError:  # another thread was quicker
                return


def connect(connection: Any, deadline: float, tls: Tls) -> None:
    """Let redis-py connect and greet the server, over a socket of ours, and within the time limit.

    By itself it would give each reply of the server's greeting as much time as all of them have.
    """
    read = connection.read_response

    def read_in_time(*args: Any, **options: Any) -> Any:
        connection._sock.settimeout(max(deadline - monotonic(), 0.001))
        return read(*args, **options)

    ours: dict[str, Callable[..., Any]] = {"read_response": read_in_time}
    if opens_as_usual(connection):
        ours["_connect"] = lambda: opened(connection, deadline, tls)
    vars(connection).update(ours)
    try:
        connection.connect()
    finally:
        for name in ours:
            delattr(connection, name)
    if monotonic() >= deadline:
        raise redis.exceptions.TimeoutError("timed out while connecting")


def received(wire: SyncConnection, deadline: float) -> Any:
    """The next reply, which may be an error."""
    try:
        return wire.receive(deadline)
    except redis.exceptions.ResponseError as error:
        return error


def received_behind(wire: SyncConnection, deadline: float) -> Any:
    """The second of two replies; an error that came as either is raised."""
    replies = [received(wire, deadline), received(wire, deadline)]
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies[1]


def wait_for_reply(wire: SyncConnection, interrupt: int, seconds: float) -> None:
    """Wait until a wire has something to receive; Interrupted when the other descriptor has it sooner."""
    watched = select.poll()
    watched.register(wire.connection._sock, select.POLLIN)
    watched.register(interrupt, select.POLLIN)
    for ready, _ in watched.poll(seconds * 1000):
        if ready == interrupt:
            raise Interrupted


class Interrupted(BaseException):
    """The caller has something better to do than to wait for a reply."""


def _error_classes(given: Any) -> tuple[type[Exception], ...]:
    """Of ``retry_on_error``: errors of which the client's owner says that they pass."""
    classes = given if isinstance(given, list | tuple | set | frozenset) else ()
    return tuple(one for one in classes if isinstance(one, type) and issubclass(one, Exception))


_shared: dict[Any, Link] = {}


def shared(target: Any, make: Callable[[], Link]) -> Link:
    """The one link of this process to a target (hashable), made when it is first asked for."""
    link = _shared.get(target)
    # setdefault decides between two threads; the loser's link has no connection yet.
    return link if link is not None else _shared.setdefault(target, make())


def close_all() -> None:
    """Close the idle connections of all shared links, such as at the end of a test run."""
    for link in _shared.values():
        link.close()
