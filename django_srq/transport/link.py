"""The link: sends the calls of this process to one server, over as many connections as it needs.

The client's pool makes the connection objects, so that its options decide on TLS, credentials and protocol. But the
link keeps its own list of idle connections, because slots (slots.py) make every call safe to repeat:

* A connection that was idle for a moment needs no test: if it is dead, the call is sent again on another one.
  (liveness.py says how a connection is checked that was idle for longer.)
* After a lost reply, the link sends the same call again, and the server answers what it answered before.
* One time limit covers connecting, sending, repeating and waiting until a reply begins. (flow.py says how long the
  reply may take from then on.)

When a call fails, the error says whether the server may have carried it out: ``OutcomeUnknown``, or not:
``QueueUnavailable``.
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
from django_srq.transport.async_pool import AsyncPools
from django_srq.transport.attempts import Attempts
from django_srq.transport.clients import address_of, client_from_arguments
from django_srq.transport.connection_errors import LOST, SPENT, NotSent
from django_srq.transport.flow import LONGEST
from django_srq.transport.sansio import Steps, run
from django_srq.transport.slots import Slot, slots
from django_srq.transport.sockets import explained, opened, opens_as_usual
from django_srq.transport.stream import Stream
from django_srq.transport.sync_connection import SyncConnection
from django_srq.transport.tls import Tls

T = TypeVar("T")

TIMEOUT = 5.0  # seconds for a call that does not block, everything included
READ_GRACE = 2.0  # seconds that a reply to a blocking command may be late


def embedded_link(url: str, *, timeout: float = TIMEOUT, base: str | os.PathLike[str] = ".", **options: Any) -> Link:
    """A link to the embedded server of the directory in ``embedded://[path]``.

    A relative path begins at base; without a path the directory is ``.srq``. The server is started, or joined when it
    runs, before the first connection is opened. options: of the redis client.
    """
    scheme, separator, path = url.partition("://")
    if scheme != "embedded" or not separator:
        raise ConfigurationError(f"not a URL of an embedded server: {url!r}; write embedded:// or embedded:///path")
    directory = os.path.abspath(os.path.join(base, path or ".srq"))
    client = client_from_arguments(unix_socket_path=embedded.socket_path(directory), **options)
    return Link(client, address=f"embedded://{directory}", timeout=timeout, prepare=lambda: embedded.serve(directory))


class Connections:
    """The connections of one process to one server.

    A forked child closes its copies of its parent's connections and sends nothing over them: the parent uses them.
    """

    def __init__(self, pool: Any, prepare: Callable[[], object] | None, inherited: Connections | None) -> None:
        self.tls = Tls(pool)
        self.lines = AsyncPools(pool, prepare, self.tls)
        self.idle: deque[SyncConnection] = deque()
        self.closed: deque[Any] = deque()
        self.open: set[SyncConnection] = set()
        if inherited is not None:
            inherited._let_go()
        # Kept alive: when Python deletes the parent's asynchronous connections, they take themselves off the sockets
        # that their event loops watch, and the parent shares what its loops watch (epoll) with this process.
        self._inherited = inherited
        if pool.pid != os.getpid():
            pool._lock = threading.RLock()  # a thread of the parent may have held the old one at the fork
            pool.reset()  # the parent's connections do not count against max_connections here

    def wire(self, connection: Any) -> SyncConnection:
        """Wrap a connection of redis-py, which is connected, and note that it is open."""
        wire = SyncConnection(connection)
        wire.home = self
        self.open.add(wire)
        return wire

    def _let_go(self) -> None:
        for wire in self.open.copy():
            wire.let_go()
        self.lines.let_go()


class Link:
    """Sends calls to one server, over as many connections as there are calls at one time.

    Safe to share between threads and between event loops, and to use after a fork: a child starts with no connections.
    ``calling`` and ``waiting`` are steps (sansio.py) for a thread or an event loop; ``call`` and ``wait`` carry them
    out in this thread.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        address: str = "",
        timeout: float = TIMEOUT,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """timeout: seconds for a call. prepare: called before each new connection, to start the embedded server."""
        self.client = client
        self.pool = client.connection_pool
        self.address = address or address_of(self.pool)
        self.timeout = min(timeout, LONGEST)
        self.passing = _error_classes(self.pool.connection_kwargs.get("retry_on_error"))
        self._prepare = prepare
        self._connections: PerProcess[Connections] = PerProcess(partial(Connections, self.pool, prepare))
        self.read_only = True  # send scripts that only read by EVALSHA_RO; False once the server refused that

    def call(
        self, call: Call[T] | Command[T], *, queue: str, timeout: float | None = None, slot: Slot | None = None
    ) -> T:
        """Carry out ``calling`` in this thread."""
        return run(self.calling(call, queue=queue, timeout=timeout, slot=slot))

    def calling(
        self, call: Call[T] | Command[T], *, queue: str, timeout: float | None = None, slot: Slot | None = None
    ) -> Steps[T]:
        """Send a call, again and again within the time limit (seconds), until a reply comes; its result.

        queue: its name, for messages. slot: borrowed by the caller, with the number for this call; None borrows one.

        QueueUnavailable: the server carried nothing out. (For a call that only reads, and for a plain Command: no reply
        came.) OutcomeUnknown: the call was sent, and it is not known whether the server carried it out.
        LayoutError: the keys have another layout version, or belong to something else.
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
        """Send calls that only read, in one round trip; their results, in the same order.

        asked: the name of a queue, for messages, and a call. timeout: seconds for all of them. A call that the server
        refuses, or whose reply cannot be read, has its exception as result. QueueUnavailable: no replies came.
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
            # The server may have been restarted since this connection was last used. Reading twice does no harm.
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

        interrupt: a file descriptor; as soon as it is readable, the wait ends with None.
        """
        steps = self.waiting(command, seconds, queue=queue, interrupt=interrupt)
        try:
            return run(steps)
        except Interrupted:
            return None

    def waiting(
        self, command: Command[T], seconds: float, *, queue: str, interrupt: int | None = None
    ) -> Steps[T | None]:
        """Send a command that blocks on the server for up to so many seconds; its result.

        None, after a short pause: the connection was lost, or the server ended the wait, as it does in a failover.
        """
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
        """Send a command that blocks on the server for up to so many seconds, and a call right behind it.

        The server carries out the call as soon as the wait ends: no round trip lies between. Returns the call's result.
        None: it is not known whether the call was carried out; make it again in this slot, with the same number.
        interrupt: as for ``wait``. arriving: called when a reply can be read, or the time is over.
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
        """Send a command once, as it is not safe to repeat; its result. timeout: seconds.

        None: it failed, and it is not known whether the server carried it out.
        """
        attempts = Attempts(self, command, queue, timeout)
        try:
            return command.read(self._exchange(command.pack(), attempts))
        except (NotSent, redis.RedisError, OSError):
            return None

    def stream(self, timeout: float | None = None) -> Stream:
        """A stream of calls. timeout: seconds to send a call, and to receive a reply; at most those of the link."""
        return Stream(self, self.timeout if timeout is None else min(timeout, self.timeout))

    def close(self) -> None:
        """Close the idle connections of this process's threads. The link can still be used."""
        self._discard_idle()

    async def aclose(self) -> None:
        """Close the idle connections of the running event loop. A loop does so by itself when it is shut down."""
        await self._connections.get().lines.close()

    def __del__(self) -> None:
        # A queue that was made for a few calls leaves no open connection behind. Errors matter to nobody any more.
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
        """One round trip. receive: reads the replies to the commands; by default the reply to a single command."""
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
            # Interrupted in the middle of a call: its reply must not become the reply of the next call.
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
        # No check whether there is one: another thread could take it between the check and the pop.
        try:
            while not (wire := mine.idle.pop()).check():
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
            connection.retry = Retry(NoBackoff(), 0)  # a client that the caller made may be set to repeat
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
        """Close all idle connections: the cause that made one useless usually concerns the others, too."""
        idle = self._connections.get().idle
        while idle:
            try:
                self._discard(idle.pop())
            except IndexError:  # another thread was quicker
                return


def connect(connection: Any, deadline: float, tls: Tls) -> None:
    """Let redis-py connect and greet the server, over a socket that we open. deadline: by monotonic(), for all of it.

    By itself, redis-py would allow the whole time limit for each reply of the greeting.
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
    """The next reply. An error reply is returned, not raised."""
    try:
        return wire.receive(deadline)
    except redis.exceptions.ResponseError as error:
        return error


def received_behind(wire: SyncConnection, deadline: float) -> Any:
    """Read two replies and return the second. If either is an error, it is raised after both were read."""
    replies = [received(wire, deadline), received(wire, deadline)]
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies[1]


def wait_for_reply(wire: SyncConnection, interrupt: int, seconds: float) -> None:
    """Wait until a reply can be read, or the seconds are over. Interrupted: the descriptor interrupt is readable."""
    watched = select.poll()
    watched.register(wire.connection._sock, select.POLLIN)
    watched.register(interrupt, select.POLLIN)
    for ready, _ in watched.poll(seconds * 1000):
        if ready == interrupt:
            raise Interrupted


class Interrupted(BaseException):
    """The caller's file descriptor became readable, so that it no longer waits for a reply."""


def _error_classes(given: Any) -> tuple[type[Exception], ...]:
    """The classes in a client's ``retry_on_error``: errors that pass by themselves, as the client's owner says."""
    classes = given if isinstance(given, list | tuple | set | frozenset) else ()
    return tuple(one for one in classes if isinstance(one, type) and issubclass(one, Exception))


_shared: dict[Any, Link] = {}


def shared(target: Any, make: Callable[[], Link]) -> Link:
    """The link that this process shares for a target (hashable); made on first use."""
    link = _shared.get(target)
    # Of two threads that come first, both get the link that setdefault kept. The other one has no connection yet.
    return link if link is not None else _shared.setdefault(target, make())


def close_all() -> None:
    """Close the idle connections of all shared links, for example at the end of a test run."""
    for link in _shared.values():
        link.close()
