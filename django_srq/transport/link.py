"""The link: sends the calls of this process to one server, over as many connections as it needs.

The idle connections are not those of the client's pool, because slots (slots.py) make every call safe to repeat:

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
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import redis

from django_srq.exceptions import ConfigurationError, LayoutError
from django_srq.operations import Call, Command
from django_srq.transport import embedded
from django_srq.transport.budget import Budget
from django_srq.transport.clients import address_of, client_from_arguments
from django_srq.transport.connection_errors import LOST, NotSent
from django_srq.transport.connections import Connections
from django_srq.transport.flow import LONGEST
from django_srq.transport.round_trip import RoundTrip
from django_srq.transport.sansio import Steps, run
from django_srq.transport.slots import Slot, slots
from django_srq.transport.stream import Stream
from django_srq.transport.sync_connection import Interrupted, SyncConnection

T = TypeVar("T")

TIMEOUT = 5.0  # seconds for a call that does not block, everything included
PUT_TIMEOUT = 2.0  # the same for a put: a request may wait for it
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
        self.connections = Connections(self.pool, prepare, self.address)

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
        trip = RoundTrip(self.connections, call, queue, Budget(self.timeout if timeout is None else timeout))
        try:
            while True:
                try:
                    trip.pack(slot)
                    reply = yield trip
                    break
                except redis.exceptions.NoScriptError:
                    trip.whole = True
                except NotSent as error:
                    yield trip.next_pause(error.cause, sent=False)
                except (redis.RedisError, OSError) as error:
                    if not trip.refused_read_only(error):
                        yield trip.next_pause(error, sent=True)
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
        trip = RoundTrip(self.connections, calls[0], asked[0][0], Budget(timeout))
        try:
            replies = self._look(calls, trip)
            if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies):
                trip.whole = True
                replies = self._look(calls, trip)
            if any(trip.refused_read_only(reply) for reply in replies):
                trip.whole = True
                replies = self._look(calls, trip)
        except NotSent as error:
            raise trip.error_for(error.cause) from error.cause
        except (redis.RedisError, OSError) as error:
            raise trip.error_for(error) from error
        return [self._result(call, reply, queue) for (queue, call), reply in zip(asked, replies, strict=True)]

    def _look(self, calls: Sequence[Call[Any] | Command[Any]], trip: RoundTrip) -> list[Any]:
        commands = b"".join(call.pack(b"", 0, whole=trip.whole, read_only=trip.read_only) for call in calls)

        def receive(connection: SyncConnection, deadline: float) -> list[Any]:
            return [connection.receive_any(deadline) for _ in calls]

        pool = self.connections.here().threads
        try:
            return pool.exchange(commands, trip.budget, receive=receive)
        except (NotSent, *LOST):
            if trip.budget.left() <= 0:
                raise
            # The server may have been restarted since this connection was last used. Reading twice does no harm.
            return pool.exchange(commands, trip.budget, receive=receive)

    def _result(self, call: Call[T] | Command[T], reply: Any, queue: str) -> T | Exception:
        if isinstance(reply, Exception):
            error = RoundTrip(self.connections, call, queue, Budget(0)).error_for(reply)
            error.__cause__ = reply
            return error
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
        patience = seconds + READ_GRACE
        trip = RoundTrip(self.connections, command, queue, Budget(self.timeout), patience=patience, interrupt=interrupt)
        trip.command = command.pack()
        try:
            reply = yield trip
            return command.read(reply)
        except (NotSent, redis.RedisError, OSError) as error:
            yield trip.pause_after_wait(error)
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

        def receive(connection: SyncConnection, deadline: float) -> Any:
            arriving()
            return _receive_second(connection, deadline)

        trip = RoundTrip(self.connections, call, queue, Budget(self.timeout))
        commands = wait.pack() + call.pack(slot.name, slot.seq)
        pool, patience = self.connections.here().threads, seconds + READ_GRACE
        try:
            reply = pool.exchange(commands, trip.budget, patience=patience, interrupt=interrupt, receive=receive)
            return call.read(reply)
        except (Interrupted, redis.exceptions.NoScriptError):
            return None
        except (NotSent, redis.RedisError, OSError) as error:
            trip.pause_after_wait(error).carry_out()
            return None

    def once(self, command: Command[T], *, queue: str, timeout: float) -> T | None:
        """Send a command once, as it is not safe to repeat; its result. timeout: seconds.

        None: it failed, and it is not known whether the server carried it out.
        """
        try:
            return command.read(self.connections.here().threads.exchange(command.pack(), Budget(timeout)))
        except (NotSent, redis.RedisError, OSError):
            return None

    def stream(self, timeout: float | None = None) -> Stream:
        """A stream of calls. timeout: seconds to send a call, and to receive a reply; at most those of the link."""
        return Stream(self.connections, self.timeout if timeout is None else min(timeout, self.timeout))

    def break_off(self, threads: Collection[int]) -> None:
        """Have the calls that these threads (idents) are making now fail, rather than wait for the server."""
        self.connections.here().threads.break_off(threads)

    def close(self) -> None:
        """Close the idle connections of this process's threads. The link can still be used."""
        self.connections.here().threads.close()

    async def aclose(self) -> None:
        """Close the idle connections of the running event loop. A loop does so by itself when it is shut down."""
        await self.connections.here().loops.close()

    def __del__(self) -> None:
        # A queue that was made for a few calls leaves no open connection behind. Errors matter to nobody any more.
        with suppress(Exception):
            self.close()


def _receive_second(connection: SyncConnection, deadline: float) -> Any:
    """Read two replies and return the second. If either is an error, it is raised after both were read."""
    replies = [connection.receive_any(deadline) for _ in range(2)]
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies[1]


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
