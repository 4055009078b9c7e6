"""AsyncConnection: an open connection of an event loop, over a connection of redis.asyncio.

redis.asyncio connects, greets, authenticates, sends and parses. An AsyncConnection adds the time limits: for the whole
of connecting, and for a command or reply whose bytes flow (flow.py). Only this module uses private attributes of
redis.asyncio's connections.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any

import redis
import redis.asyncio.connection as asynchronous

from django_srq.runtime.clock import monotonic
from django_srq.transport.connection_errors import LOST, CutShort, NotSent, closed_before
from django_srq.transport.flow import Flow, limit_unsent
from django_srq.transport.liveness import ALONG_BELOW, ASK_AFTER, SIGN_OF_LIFE, share
from django_srq.transport.sockets import open_streams
from django_srq.transport.tls import Tls

CLOSE_TIMEOUT = 1.0  # seconds that the closing of a connection may take
PIECE = 65536  # bytes of a command that are sent at one time
_SOONER = 0.98  # share of the time left in which the socket has to be open


class AsyncConnection:
    """One connection: connects, and carries out one round trip at a time."""

    __slots__ = ("_heard", "connection")

    def __init__(self, connection: Any) -> None:
        """connection: of redis.asyncio, not connected yet."""
        self.connection = connection
        self._heard = float("inf")  # when its last reply came, by the clock of its loop; no reply: it is not checked

    async def connect(self, deadline: float, tls: Tls) -> None:
        """Let redis.asyncio connect and greet the server, over a socket that we open.

        deadline: by the clock of the loop. The socket has to be open a little earlier, so that its error, which names
        the slow step, comes first.
        """
        ends = monotonic() + (deadline - asyncio.get_running_loop().time()) * _SOONER
        connection = self.connection

        async def connect() -> None:
            connection._reader, connection._writer = await open_streams(connection, ends, tls)

        if isinstance(connection, asynchronous.Connection):
            vars(connection)["_connect"] = connect
        try:
            await connection.connect()
        finally:
            vars(connection).pop("_connect", None)
        limit_unsent(self.socket())

    def socket(self) -> Any:
        """Its socket; None when it is not connected."""
        writer = self.connection._writer
        return writer and writer.get_extra_info("socket")

    def closed_by_server(self) -> bool:
        """Whether the loop has seen that the server closed it."""
        return bool(self.connection._reader.at_eof())

    async def round_trip(self, command: bytes, deadline: float, silence: float, patience: float | None = None) -> Any:
        """Send a command; its reply. After any error but an error reply, the connection must be discarded.

        deadline: by the clock of the loop, for the reply to begin. patience: of a command that blocks on the server,
        seconds from its sending until the reply has to begin. silence: seconds without a byte after which a command or
        reply is broken off. NotSent: the server got no whole command. CutShort: the reply began and broke off, or
        cannot be understood.
        """
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout_at(deadline)
        arrivals = _Arrivals(self.connection._reader, silence, limit)
        try:
            if loop.time() - self._heard > ASK_AFTER:
                command = await self._behind_sign_of_life(command, deadline)
            async with limit:
                if len(command) > PIECE:
                    await self._send_in_pieces(command, limit, silence)
                elif command:
                    await self.connection.send_packed_command([command], check_health=False)
                if patience is not None:
                    limit.reschedule(loop.time() + patience)
                with arrivals:
                    reply = await self._receive()
        except (*LOST, redis.exceptions.InvalidResponse) as error:
            if arrivals.broke_off(error):
                raise CutShort("the reply broke off") from error
            if closed_before(self.socket()):
                raise NotSent(error) from error
            if isinstance(error, TimeoutError):
                raise _with_text(error) from error
            raise
        finally:
            self._heard = loop.time()
        return reply

    async def _receive(self) -> Any:
        return await self.connection.read_response(disable_decoding=True, disconnect_on_error=False)

    async def _behind_sign_of_life(self, command: bytes, deadline: float) -> bytes:
        """Wait for a sign of life, for a share of the time left. A small command goes along; else it is returned."""
        along, left = (command, b"") if len(command) < ALONG_BELOW else (b"", command)
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(now + share(deadline - now)):
                await self.connection.send_packed_command([SIGN_OF_LIFE + along], check_health=False)
                with suppress(redis.exceptions.ResponseError):
                    await self._receive()
        except LOST as error:
            if left:
                raise NotSent(_with_text(error)) from error
            raise
        return left

    async def _send_in_pieces(self, command: bytes, limit: asyncio.Timeout, silence: float) -> None:
        """Send a command piece by piece, so that the time limit counts from the last piece that was sent."""
        # By the writer's write: after writelines, which redis-py calls, Python 3.12 and 3.13 do not wait in drain.
        writer, rest = self.connection._writer, memoryview(command)
        flow = Flow(silence, asyncio.get_running_loop().time)
        while rest:
            writer.write(rest[:PIECE])
            await writer.drain()
            flow.moved(len(rest[:PIECE]))
            rest = rest[PIECE:]
            limit.reschedule(max(flow.deadline, limit.when() or 0))

    async def close(self) -> None:
        with suppress(TimeoutError):  # the server does not answer the farewell of TLS
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.connection.disconnect()

    async def abort(self) -> None:
        """Close it without a farewell to the server."""
        await self.connection.disconnect(nowait=True)
        await asyncio.sleep(0)  # the loop closes the socket in its next round; it may have no other after that

    def let_go(self) -> None:
        """Close it in this process alone: the connection, and its event loop, are the parent's.

        /dev/null takes the place of the socket. If the socket's transport closed it, the parent's loop would no longer
        watch it, as parent and child share what the loop watches (epoll). And if its number became free, another file
        could get it, which the transport would close later.
        """
        shared = self.socket()
        if shared and shared.fileno() >= 0:  # else it is closed
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, shared.fileno(), inheritable=False)
            os.close(nothing)


def _with_text(error: Exception) -> Exception:
    """An error with a text: the error itself, or another one in place of asyncio's TimeoutError, which has none."""
    return redis.exceptions.TimeoutError("timed out") if isinstance(error, TimeoutError) else error


class _Arrivals:
    """Moves the time limit of a reply with each byte that arrives (flow.py)."""

    __slots__ = ("_begun", "_clock", "_feed", "_flow", "_limit", "_reader", "_silence")

    def __init__(self, reader: Any, silence: float, limit: asyncio.Timeout) -> None:
        self._reader, self._silence, self._limit = reader, silence, limit
        self._begun = False
        self._flow: Flow | None = None

    def __enter__(self) -> None:
        self._clock = asyncio.get_running_loop().time
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
