"""Connections to the server: a redis client from a URL, and the link that carries calls over its connections.

The link takes redis-py's connection objects (made by the client's pool, so that TLS, credentials and protocol are its
business) but keeps its own list of idle ones, because of what slots make possible: every call may be sent again, so
that an idle connection need not be tested before use, a lost reply needs no guess, and one time limit covers
connecting, sending, waiting and repeating, until an answer begins (flow.py: how long it may take then). It also tells
whether anything was sent at all.
"""

from __future__ import annotations

import inspect
import os
import random
import re
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from django_srq import embedded
from django_srq.clock import monotonic
from django_srq.exceptions import ConfigurationError, LayoutError, OutcomeUnknown, QueueUnavailable, SRQError
from django_srq.flow import LONGEST, CutShort
from django_srq.lines import LOST, SPENT, Lines, NotSent
from django_srq.operations import Call, Command
from django_srq.process import PerProcess
from django_srq.slots import Slot, slots
from django_srq.sockets import Tls, TlsError, explained, opened, opens_as_usual
from django_srq.steps import Pause, Steps, run
from django_srq.wires import Wire

T = TypeVar("T")

SCHEMES = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}
TIMEOUT = 5.0  # seconds for a call that does not block, everything included
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5  # seconds between attempts, before jitter
_DICE = random.SystemRandom()  # the usual one goes on alike in all children that were forked in C
SHORTEST_ATTEMPT = 0.05  # seconds; one with less time left would only turn what is known into "no reply"
LARGE = 262144  # bytes; a command that is not sent just to find out whether the server knows its script
READ_GRACE = 2.0  # seconds that a reply to a blocking command may be late

# What passes by itself while a server starts, fails over or is busy: worth another attempt within the time limit.
_PASSING = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.MasterDownError,
)
# The same by how the reply begins, as redis-py has no class for it, or has it only in newer versions.
_PASSING_REPLIES = ("BUSY ", "CLUSTERDOWN ", "MASTERDOWN ", "NOREPLICAS ", "TRYAGAIN ", "UNBLOCKED ")
_READ_ONLY = re.compile(r"\beval(?:sha)?_ro\b", re.IGNORECASE)
# How servers say that a user lacks a right for a command of a script: our scripts themselves, and Redis 7.0 and others.
_LACKS_RIGHTS = ("SRQRIGHTS ", "ACL failure in script", "The user executing the script can't run")
_IN_SCRIPT = re.compile(r"(?: script: (?:\w+, )?on )?@user_script(?::\d+\.?)?")  # in an error of a command of a script
REFUSED_CALLER = (
    redis.exceptions.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.AuthenticationWrongNumberOfArgsError,
    redis.exceptions.NoPermissionError,
)


def masked(url: str) -> str:
    """The URL without user, password and query, which may hold a password too; for messages and the status."""
    # By hand: of a password with an unquoted / or # in it, urlsplit takes the beginning for the host.
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    address, _, query = rest.partition("?")
    if "@" in query:  # that may be a password with a ?
        address = "..."
    return f"{scheme}{separator}{address.rpartition('@')[2]}"


def client_from_url(url: str, **options: Any) -> redis.Redis:
    """A redis client for a URL; ConfigurationError when the URL is none that we know. Opens no connection."""
    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in (*SCHEMES, "embedded"))
        raise ConfigurationError(f"not a URL of a queue's server: {masked(url)!r}; it starts with one of {known}")
    try:
        client = redis.Redis.from_url(f"{SCHEMES[scheme]}://{rest}", **_client_options(options))
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # refuses options that it does not know
    except (ValueError, TypeError, redis.RedisError) as error:
        raise ConfigurationError(f"cannot use {masked(url)!r}: {_without_url(error, url)}") from None
    return client


def client_option_names(url: str) -> set[str]:
    """The options that a client with such a URL takes."""
    pool = redis.ConnectionPool.from_url(f"{SCHEMES[url.partition('://')[0]]}://")
    return {name for base in pool.connection_class.__mro__ for name in inspect.signature(base.__init__).parameters}


def client_from_arguments(*args: Any, **options: Any) -> redis.Redis:
    """A redis client from what ``redis.Redis`` takes. Opens no connection."""
    try:
        return redis.Redis(*args, **_client_options(options))
    except (ValueError, TypeError, redis.RedisError) as error:
        raise ConfigurationError(f"cannot make a redis client: {error}") from error


def is_embedded(url: str) -> bool:
    return url.startswith("embedded:")


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


def _without_url(error: Exception, url: str) -> str:
    text = str(error).replace(url, masked(url))
    # "Port could not be cast to integer value as …" quotes what may be the beginning of a password with an unquoted /.
    return text.partition(" as '")[0] if "@" in url else text


def _client_options(options: dict[str, Any]) -> dict[str, Any]:
    # redis-py 8 would repeat by itself, ten times from the constructor and never from a URL; we do, by one rule. And it
    # would allow 100 connections, older ones any number.
    ours = {"retry": Retry(NoBackoff(), 0), "max_connections": 2**31}
    if options.get("socket_keepalive_options"):  # redis-py 5 takes them, and does nothing with them by itself
        ours["socket_keepalive"] = True
    return ours | options


class _Connections:
    """Those of one process to one server. A child lets go of its parent's, without a word: the parent uses them."""

    def __init__(self, pool: Any, prepare: Callable[[], object] | None, inherited: _Connections | None) -> None:
        self.tls = Tls(pool)
        self.lines = Lines(pool, prepare, self.tls)
        self.idle: deque[Wire] = deque()
        self.closed: deque[Any] = deque()
        self.open: set[Wire] = set()
        if inherited is not None:
            inherited._let_go()
        # Kept, as event loops that it shares with the parent would be told of the end of what is in there.
        self._inherited = inherited
        if pool.pid != os.getpid():
            pool._lock = threading.RLock()  # a thread of the parent's may have had the other at the fork, for ever
            pool.reset()  # the parent's connections count no more

    def wire(self, connection: Any) -> Wire:
        """connection: redis-py's, connected."""
        wire = Wire(connection)
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
        self.address = address or _address(self.pool)
        self.timeout = min(timeout, LONGEST)
        self.passing = _error_classes(self.pool.connection_kwargs.get("retry_on_error"))
        self._prepare = prepare
        self._connections: PerProcess[_Connections] = PerProcess(partial(_Connections, self.pool, prepare))
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
        attempts = _Attempts(self, call, queue, self.timeout if timeout is None else timeout)
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
        attempts = _Attempts(self, calls[0], asked[0][0], timeout)
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

    def _look(self, calls: Sequence[Call[Any] | Command[Any]], attempts: _Attempts) -> list[Any]:
        commands = b"".join(call.pack(b"", 0, whole=attempts.whole, read_only=attempts.read_only) for call in calls)

        def receive(wire: Wire, deadline: float) -> list[Any]:
            return [_received(wire, deadline) for _ in calls]

        try:
            return self._exchange(commands, attempts, receive)
        except (NotSent, *LOST):
            if attempts.left() <= 0:
                raise
            # The server may have been restarted since the connection was last used; reading twice does no harm.
            return self._exchange(commands, attempts, receive)

    def _result(self, call: Call[T] | Command[T], reply: Any, queue: str) -> T | Exception:
        if isinstance(reply, Exception):
            verdict = _Attempts(self, call, queue, 0).verdict(reply)
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
        except _Interrupted:
            return None

    def waiting(
        self, command: Command[T], seconds: float, *, queue: str, interrupt: int | None = None
    ) -> Steps[T | None]:
        """Send a command that blocks on the server for so many seconds; None when it is cut short, as in a failover."""
        attempts = _Attempts(self, command, queue, self.timeout)
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

        def receive(wire: Wire, deadline: float) -> Any:
            arriving()
            return _received_behind(wire, deadline)

        attempts = _Attempts(self, call, queue, self.timeout)
        attempts.patience, attempts.interrupt = seconds + READ_GRACE, interrupt
        try:
            commands = wait.pack() + call.pack(slot.name, slot.seq)
            return call.read(self._exchange(commands, attempts, receive))
        except (_Interrupted, redis.exceptions.NoScriptError):
            return None
        except (NotSent, redis.RedisError, OSError) as error:
            attempts.cut_short(error).carry_out()
            return None

    def once(self, command: Command[T], *, queue: str, timeout: float) -> T | None:
        """Send a command that must not be sent again; None: whether it was carried out is not known."""
        attempts = _Attempts(self, command, queue, timeout)
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

    async def _aexchange(self, command: bytes, attempts: _Attempts, *, patience: float | None) -> Any:
        line = await self._connections.get().lines.here()
        return await line.exchange(command, attempts.left(), patience=patience, silence=attempts.seconds)

    def _exchange(self, commands: bytes, attempts: _Attempts, receive: Callable[[Wire, float], T] = Wire.receive) -> T:
        """One round trip; receive takes what comes back, of one command if it is not given."""
        wire = self._take(attempts)
        try:
            deadline = attempts.deadline
            wire.send(commands, deadline, watched=attempts.interrupt is not None)
            if attempts.patience is not None:
                deadline = monotonic() + attempts.patience
            if attempts.interrupt is not None:
                _await(wire, attempts.interrupt, deadline - monotonic())
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

    def _take(self, attempts: _Attempts) -> Wire:
        wire = self._idle_or_new(attempts)
        wire.silence = attempts.seconds
        return wire

    def _idle_or_new(self, attempts: _Attempts) -> Wire:
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

    def _connected(self, connection: Any, attempts: _Attempts, mine: _Connections) -> Wire:
        try:
            if self._prepare is not None:
                self._prepare()
            connection.socket_connect_timeout = connection.socket_timeout = max(attempts.left(), 0.001)
            connection.retry = Retry(NoBackoff(), 0)  # a client that was given to us may have other ideas
            _connect(connection, attempts.deadline, mine.tls)
            return mine.wire(connection)
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            mine.closed.append(connection)
            raise NotSent(explained(error, connection)) from error
        except BaseException:
            connection.disconnect()
            mine.closed.append(connection)
            raise

    def _discard(self, wire: Wire) -> None:
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


@dataclass(slots=True)
class Sent(Generic[T]):
    """A call whose reply nobody waited for."""

    call: Call[T]
    queue: str
    slot: Slot
    about: Any  # the sender's
    result: T | None = None  # None: no reply came


class Stream:
    """Calls that are sent at once, and whose replies are read later; over one connection of its own.

    What cannot be sent, or gets no reply, is told by ``collect``: to be called again in its slot, so that it is carried
    out once. Safe to share between threads.
    """

    def __init__(self, link: Link, timeout: float) -> None:
        self._link, self._timeout = link, timeout
        self._lock = threading.Lock()
        self._sent: deque[Sent[Any]] = deque()
        self._wire: Wire | None = None
        self._known: set[bytes] = set()  # scripts that the server has, as they went over this connection
        self._broken = False

    def send(self, call: Call[T], *, queue: str, about: Any = None, slot: Slot | None = None) -> Sent[T]:
        """slot: with the number that the call has in it; without one, the sender gives back what was borrowed."""
        with self._lock:
            sent = Sent(call, queue, slot or slots.borrow(), about)
            self._sent.append(sent)
            if self._broken:
                return sent
            try:
                wire = self._ready(sent)
                # Whole at first: that the server does not know a script would be read too late.
                whole = call.script.sha not in self._known
                command = call.pack(sent.slot.name, sent.slot.seq, whole=whole)
                wire.send(command, monotonic() + self._timeout)
                self._known.add(call.script.sha)
            except (NotSent, redis.RedisError, OSError):
                self._lost()
            except BaseException:
                self._break()  # interrupted, perhaps in the middle of a command
                raise
            return sent

    def collect(self, last: Sent[Any] | None = None) -> list[Sent[Any]]:
        """What was sent since, in that order, with the results: all, or up to the last; waits for the replies.

        Once the connection is lost it is all, as nothing more will come.
        """
        collected: list[Sent[Any]] = []
        with self._lock:
            while self._sent and (self._broken or not collected or collected[-1] is not last):
                sent = self._sent.popleft()
                if self._wire is not None and not self._broken:
                    sent.result = self._receive(sent)
                collected.append(sent)
            if not self._sent:
                self._broken = False
        return collected

    @property
    def unread(self) -> bool:
        """Whether something was sent that is not collected yet."""
        return bool(self._sent)

    def close(self) -> None:
        with self._lock:
            self._break()

    def _ready(self, sent: Sent[Any]) -> Wire:
        """The wire to send over: the one so far if replies are outstanding there, or if it is still good."""
        if self._wire is not None and len(self._sent) == 1 and not self._wire.wake():
            self._let_go()
        if self._wire is None:
            self._wire = self._link._take(_Attempts(self._link, sent.call, sent.queue, self._timeout))
        return self._wire

    def _receive(self, sent: Sent[T]) -> T | None:
        assert self._wire is not None
        try:
            return sent.call.read(self._wire.receive(monotonic() + self._timeout))
        except (NotSent, redis.RedisError, OSError) as error:
            # Called again, it will say what is wrong.
            if isinstance(error, SPENT) or not isinstance(error, redis.exceptions.ResponseError):
                self._lost()
            return None
        except BaseException:
            self._break()
            raise

    def _lost(self) -> None:
        self._break()
        self._link._discard_idle()

    def _break(self) -> None:
        self._broken = True
        self._let_go()

    def _let_go(self) -> None:
        self._known.clear()
        if self._wire is not None:
            self._link._discard(self._wire)
            self._wire = None


def _connect(connection: Any, deadline: float, tls: Tls) -> None:
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


def _received(wire: Wire, deadline: float) -> Any:
    """The next reply, which may be an error."""
    try:
        return wire.receive(deadline)
    except redis.exceptions.ResponseError as error:
        return error


def _received_behind(wire: Wire, deadline: float) -> Any:
    """The second of two replies; an error that came as either is raised."""
    replies = [_received(wire, deadline), _received(wire, deadline)]
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies[1]


def _await(wire: Wire, interrupt: int, seconds: float) -> None:
    """Wait until a wire has something to receive; _Interrupted when the other descriptor has it sooner."""
    watched = select.poll()
    watched.register(wire.connection._sock, select.POLLIN)
    watched.register(interrupt, select.POLLIN)
    for ready, _ in watched.poll(seconds * 1000):
        if ready == interrupt:
            raise _Interrupted


class _Interrupted(BaseException):
    """The caller has something better to do than to wait for a reply."""


class _Attempts:
    """The attempts at one call: how long they may go on, and what to say in the end.

    As a request of steps, one attempt: a round trip of ``command``; patience: seconds to wait for its reply.
    """

    command = b""
    patience: float | None = None
    interrupt: int | None = None  # a file descriptor that ends the wait for the reply
    whole = unknown = broke_off = False
    hindrance: Exception | None = None  # why there was no connection
    pause = FIRST_PAUSE

    def __init__(self, link: Link, call: Call[Any] | Command[Any], queue: str, seconds: float) -> None:
        self.link, self.call, self.queue, self.seconds = link, call, queue, seconds
        self.deadline = monotonic() + seconds
        self.read_only = link.read_only

    def packed(self, slot: Slot) -> bytes:
        command = self.call.pack(slot.name, slot.seq, whole=self.whole, read_only=self.read_only)
        if len(command) > LARGE and not self.whole:  # to send it once more would take longer than the script's text
            command = self.call.pack(slot.name, slot.seq, whole=True, read_only=self.read_only)
        return command

    def carry_out(self) -> Any:
        return self.link._exchange(self.command, self)

    async def acarry_out(self) -> Any:
        return await self.link._aexchange(self.command, self, patience=self.patience)

    def left(self) -> float:
        return self.deadline - monotonic()

    def missed(self, error: Exception, *, sent: bool) -> Pause:
        """The pause before the next attempt; raises what has to be said when there is none."""
        if sent and not refused(error):
            self.unknown = True
        # An attempt for which there was too little time left says nothing about the one before.
        late = self.broke_off and isinstance(error, (redis.exceptions.TimeoutError, TimeoutError))
        self.broke_off = late or isinstance(error, CutShort)
        if not sent and type(error) is redis.exceptions.TimeoutError:
            error = self.hindrance or error  # what the attempts before met says more
        elif not sent:
            self.hindrance = error
        wait = _DICE.uniform(0, self.pause)
        if not self._passes(error) or self.left() <= wait + SHORTEST_ATTEMPT:
            raise self.verdict(error) from error
        self.pause = min(self.pause * 2, LONGEST_PAUSE)
        return Pause(wait)

    def refused_read_only(self, reply: Any) -> bool:
        """Whether it refuses the way in which scripts that only read are sent; from now on they are sent as others are.

        A user with the older list of rights may not go that way, and look-alikes of Redis do not know it.
        """
        if (
            not self.read_only
            or not isinstance(reply, redis.exceptions.ResponseError)
            or not _READ_ONLY.search(str(reply))
        ):
            return False
        self.read_only = self.link.read_only = False
        return True

    def cut_short(self, error: Exception) -> Pause:
        """The pause after a wait that ended with an error; raises what has to be said of one that is none of a moment.

        The next call finds out what is wrong, and says so; without a pause this could become a busy loop.
        """
        if not isinstance(error, (NotSent, *LOST)) and not self._passes(error):
            raise self.verdict(error) from error
        return Pause(_DICE.uniform(0, FIRST_PAUSE * 10))

    def _passes(self, error: Exception) -> bool:
        if isinstance(error, (*REFUSED_CALLER, TlsError)) or _raised_by_script(error):
            return False
        passing = (*LOST, *_PASSING, *self.link.passing)
        return isinstance(error, passing) or str(error).startswith(_PASSING_REPLIES)

    def verdict(self, error: Exception) -> Exception:
        where = f"queue {self.queue!r} ({self.link.address})"
        text = str(error)
        if text.startswith("SRQLAYOUT"):
            found, known = text.split()[1:3]
            return LayoutError(
                f"{where}: its layout has version {found}, this package knows {known}: upgrade django-srq here"
            )
        if text.startswith("SRQTYPE"):
            return LayoutError(f"{where}: {text.partition(' ')[2]}; something else uses this prefix")
        if "WRONGTYPE" in text or text.startswith("Operation against a key"):
            return LayoutError(f"{where}: a key holds something else than expected; something else uses this prefix")
        if isinstance(self.call, Call) and self.call.script.writes and (self.unknown or _raised_by_script(error)):
            left_open = self._left_open(self.call.script.name, error)
            unknown = OutcomeUnknown(f"{where}: {left_open}; {self.call.unknown}")
            unknown.cut_short = self.broke_off
            return unknown
        return QueueUnavailable(f"{where}: {explain(error)}")

    def _left_open(self, name: str, error: Exception) -> str:
        """What is not known, and why."""
        if _raised_by_script(error):
            return f"{name} ended in the middle ({explain(error)})"
        if refused(error):
            return f"no reply to {name} before the connection was lost, and then a refusal ({explain(error)})"
        return f"no reply to {name} within {self.seconds:g} s ({explain(error)})"


def refused(error: Exception) -> bool:
    """Whether an error is the server's reply instead of carrying a call out; every other leaves open what it did."""
    replies = (redis.exceptions.ResponseError, redis.exceptions.BusyLoadingError, *REFUSED_CALLER)
    # redis-py makes of this reply what it makes of a lost connection.
    full = str(error).endswith("max number of clients reached")
    return (isinstance(error, replies) or full) and not _raised_by_script(error)


def is_refusal(error: SRQError) -> bool:
    """Whether the server answered, and refuses that call for longer than a moment: it may carry out others."""
    cause = error.__cause__
    passing = isinstance(cause, _PASSING) or str(cause).startswith(_PASSING_REPLIES)
    return isinstance(cause, redis.exceptions.ResponseError) and not passing


def _raised_by_script(error: Exception) -> bool:
    """Whether a command within a script failed: others before it may have written."""
    return isinstance(error, redis.exceptions.ResponseError) and _IN_SCRIPT.search(str(error)) is not None


_MOVED = "this server is a node of a cluster, and the queue's keys are on another node"
_ACROSS = "this server is a node of a cluster, where a queue's keys must be in one slot (cluster=True)"
_EXPLANATIONS = {
    "AuthenticationError": "the server refuses the user or password",
    "AuthenticationWrongNumberOfArgsError": "the server refuses the user or password",
    "AuthorizationError": "the server refuses the user or password",
    "NoPermissionError": "the server's access rules forbid it to this user",
    "ReadOnlyError": "the server is a read-only replica",
    "BusyLoadingError": "the server is still loading its data",
    "OutOfMemoryError": "the server is out of memory (maxmemory)",
    "MovedError": _MOVED,
    "AskError": _MOVED,
    "ClusterCrossSlotError": _ACROSS,
}
# By the first word of a reply, as redis-py has no class for it, or has it only in newer versions.
_REPLIES = {
    "OOM": _EXPLANATIONS["OutOfMemoryError"],
    "MOVED": _MOVED,
    "ASK": _MOVED,
    "CROSSSLOT": _ACROSS,
    "NOREPLICAS": "too few replicas are connected to the server (min-replicas-to-write)",
}


def explain(error: BaseException) -> str:
    """The cause of a trouble with the server, in words where its own need some."""
    explained = _EXPLANATIONS.get(type(error).__name__) or _REPLIES.get(str(error).partition(" ")[0])
    if explained is None and "unauthenticated" in str(error):  # to a command as long as ours, Redis says so
        explained = _EXPLANATIONS["AuthenticationError"]
    text = _IN_SCRIPT.sub("", str(error)).rstrip(".") or type(error).__name__
    if text.startswith("SRQRIGHTS "):
        return f"{_EXPLANATIONS['NoPermissionError']}: {', '.join(text.split()[1:])}"
    if explained is None and lacks_rights(error):
        explained = _EXPLANATIONS["NoPermissionError"]
    if explained is None and "unexpected symbol near '#'" in text:  # how scripts begin since then
        explained = "the server is too old, it needs Redis 7.0 or Valkey 7.2"
    return f"{explained}: {text}" if explained else text


def lacks_rights(error: BaseException) -> bool:
    """Whether the server refused a script, or a command in it, to this user."""
    return any(words in str(error) for words in _LACKS_RIGHTS)


def _address(pool: Any) -> str:
    """Where a client connects to, without user and password."""
    options = pool.connection_kwargs
    database = options.get("db") or 0
    if "path" in options:
        return f"unix://{options['path']}"
    if service := getattr(pool, "service_name", None):
        sentinels = [_address(sentinel.connection_pool) for sentinel in pool.sentinel_manager.sentinels]
        places = ",".join(address.rpartition("/")[0] for address in sentinels)
        return f"sentinel://{places}/{service}/{database}"
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}/{database}"


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
