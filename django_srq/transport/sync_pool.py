"""SyncPool: the connections of the threads of one process to one server."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from threading import get_ident
from typing import Any, TypeVar

import redis

from django_srq.runtime.clock import monotonic
from django_srq.transport.budget import Budget
from django_srq.transport.connection_errors import SPENT, NotSent
from django_srq.transport.sockets import cause_of
from django_srq.transport.sync_connection import SyncConnection, break_off_opening, connect
from django_srq.transport.tls import Tls

T = TypeVar("T")


class SyncPool:
    """The connections of the threads of one process: as many as there are calls at one time.

    The client's pool makes the connection objects, so that its options decide on TLS, credentials and protocol. Taking
    and giving back is atomic, so threads need no lock.
    """

    def __init__(self, client_pool: Any, prepare: Callable[[], object] | None, tls: Tls) -> None:
        """client_pool: of redis-py. prepare: called before each new connection; its time does not count."""
        self._client_pool, self._prepare, self._tls = client_pool, prepare, tls
        self.idle: deque[SyncConnection] = deque()
        self.closed: deque[Any] = deque()  # connections of redis-py that were closed, to be opened again
        self._broken_off: dict[int, float] = {}  # by the thread, the moment of the last ``break_off``
        self._open: set[SyncConnection] = set()
        self._opening: dict[Any, int] = {}  # connections of redis-py, and the threads that open them

    def exchange(
        self,
        commands: bytes,
        budget: Budget,
        patience: float | None = None,
        interrupt: int | None = None,
        *,
        receive: Callable[[SyncConnection, float], T] = SyncConnection.receive,
    ) -> T:
        """One round trip; its reply.

        patience: seconds to wait for the reply of a command that blocks on the server; None: until the deadline of the
        budget. interrupt: a file descriptor; Interrupted: it became readable before the reply. receive: reads the
        replies, until a deadline; by default the reply to a single command.
        """
        connection = self.take(budget)
        try:
            deadline = budget.deadline
            connection.send(commands, deadline, watched=interrupt is not None)
            if patience is not None:
                deadline = monotonic() + patience
            if interrupt is not None:
                connection.wait_for_reply(interrupt, deadline - monotonic())
            reply = receive(connection, deadline)
        except (NotSent, *SPENT):
            self.discard(connection)
            self.close()
            raise
        except redis.exceptions.ResponseError:
            self.idle.append(connection)
            raise
        except BaseException:
            # Interrupted in the middle of a call: its reply must not become the reply of the next call.
            self.discard(connection)
            raise
        self.idle.append(connection)
        return reply

    def take(self, budget: Budget) -> SyncConnection:
        """A connection for the caller alone: an idle one, or a new one. NotSent: none can be opened in time."""
        connection = self._take_idle() or self._open_new(budget)
        connection.silence, connection.thread = budget.seconds, get_ident()
        return connection

    def _take_idle(self) -> SyncConnection | None:
        # No check whether there is one: another thread could take it between the check and the pop.
        try:
            while not (connection := self.idle.pop()).check():
                self.discard(connection)
            return connection
        except IndexError:
            return None

    def _open_new(self, budget: Budget) -> SyncConnection:
        made = self._make()
        try:
            if self._prepare is not None:
                begun = monotonic()
                self._prepare()
                budget.excuse(monotonic() - begun)  # to start a server may take longer than a call
            self._opening[made] = get_ident()
            connection = connect(made, budget.deadline, self._tls)
        except (redis.RedisError, OSError) as error:
            self._put_away(made)
            raise NotSent(cause_of(error, made)) from error
        except BaseException:
            self._put_away(made)
            raise
        finally:
            self._opening.pop(made, None)
        self._open.add(connection)
        return connection

    def _make(self) -> Any:
        """A connection of redis-py, which is not connected."""
        try:
            return self.closed.pop()
        except IndexError:
            pass
        try:
            return self._client_pool.make_connection()
        except redis.RedisError as error:  # the client's max_connections
            raise NotSent(error) from error

    def _put_away(self, made: Any) -> None:
        made.disconnect()
        self.closed.append(made)

    def discard(self, connection: SyncConnection) -> None:
        """Close a connection that was taken."""
        self._open.discard(connection)
        self._put_away(connection.connection)

    def close(self) -> None:
        """Close the idle connections. After an error: its cause usually concerns the others, too."""
        while self.idle:
            try:
                self.discard(self.idle.pop())
            except IndexError:  # another thread was quicker
                return

    def break_off(self, threads: Collection[int]) -> None:
        """End the waits of other threads, by their idents, for the server, as if it had closed their connections."""
        self._broken_off.update(dict.fromkeys(threads, monotonic()))
        for connection in self._open.copy():
            if connection.thread in threads:
                connection.break_off()
        for made, thread in self._opening.copy().items():
            if thread in threads:
                break_off_opening(made)

    def broken_off_since(self, moment: float) -> bool:
        """Whether a wait of this thread was ended since that moment. A call that began before is not repeated."""
        return self._broken_off.get(get_ident(), 0.0) > moment

    def let_go(self) -> None:
        """Close them in this process alone: they are its parent's."""
        for connection in self._open.copy():
            connection.let_go()
