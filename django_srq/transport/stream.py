"""Stream: calls that are sent one behind the other over one connection, and whose replies are read later."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import redis

from django_srq.operations import Call
from django_srq.runtime.clock import monotonic
from django_srq.transport.budget import Budget
from django_srq.transport.connection_errors import SPENT, NotSent
from django_srq.transport.connections import Connections
from django_srq.transport.slots import Slot, slots
from django_srq.transport.sync_connection import SyncConnection
from django_srq.transport.sync_pool import SyncPool

T = TypeVar("T")


@dataclass(slots=True)
class Sent(Generic[T]):
    """A call that was sent, or will be, and whose reply is collected later."""

    call: Call[T]
    queue: str
    slot: Slot
    about: Any  # anything that the sender wants to get back with it
    result: T | None = None  # None: no reply came
    posted: bool = False  # it was sent, or could not be sent


class Stream:
    """Sends calls at once, over a connection of its own; ``collect`` reads their replies.

    A call that could not be sent, or got no reply, is collected with None as its result. The sender makes it again in
    its slot, with its number, so that it is carried out once. Safe to share between threads.
    """

    def __init__(self, connections: Connections, timeout: float) -> None:
        self._connections, self._timeout = connections, timeout
        self._lock = threading.Lock()  # held while something is sent or received
        self._posted = threading.Condition(threading.Lock())  # never held for long
        self._waiting: deque[Sent[Any]] = deque()  # to be sent by the thread that is sending now
        self._posting = False
        self._newest: Sent[Any] | None = None  # of all calls so far
        self._sent: deque[Sent[Any]] = deque()
        self._taken: tuple[SyncPool, SyncConnection] | None = None  # the connection, and where it was taken from
        self._known: set[bytes] = set()  # scripts that the server has, as their texts went over this connection
        self._broken = False

    def send(self, call: Call[T], *, queue: str, about: Any = None, slot: Slot | None = None) -> Sent[T]:
        """Send a call, and wait for no reply.

        about: given back with it. slot: with the number that the call has in it. Without one, a slot is borrowed, and
        the sender has to give it back after the reply was collected.
        """
        sent = Sent(call, queue, slot or slots.borrow(), about)
        self.post(sent)
        return sent

    def post(self, sent: Sent[Any]) -> None:
        """Send a call, or leave it to the thread that is sending now, which may have to connect first."""
        try:
            with self._posted:
                self._waiting.append(sent)
                self._newest = sent
                if self._posting:
                    return
                self._posting = True
            while (following := self._next_waiting()) is not None:
                with self._lock:
                    self._post(following)
        except BaseException:
            self._give_up_waiting()
            raise

    def _next_waiting(self) -> Sent[Any] | None:
        """The next call to be sent. It stays among the waiting calls until it was sent: an interruption loses none."""
        with self._posted:
            while self._waiting and self._waiting[0].posted:
                self._waiting.popleft()
            self._posted.notify_all()
            self._posting = bool(self._waiting)
            return self._waiting[0] if self._waiting else None

    def _give_up_waiting(self) -> None:
        """Give up the calls that wait to be sent, as no thread sends them now: they are collected without result."""
        with self._lock, self._posted:
            self._broken = True
            for sent in self._waiting:
                if not any(sent is other for other in self._sent):
                    self._sent.append(sent)
                sent.posted = True
            self._waiting.clear()
            self._posting = False
            self._posted.notify_all()

    def _post(self, sent: Sent[Any]) -> None:
        if sent.posted:  # given up meanwhile, by a thread that was interrupted
            return
        self._sent.append(sent)
        sent.posted = True
        if self._broken:
            return
        try:
            connection = self._ready(sent)
            # With the script's text at first: a reply that the server does not know the script would be read too late.
            whole = sent.call.script.sha not in self._known
            command = sent.call.pack(sent.slot.name, sent.slot.seq, whole=whole)
            connection.send(command, monotonic() + self._timeout)
            self._known.add(sent.call.script.sha)
        except (NotSent, redis.RedisError, OSError):
            self._lost()
        except BaseException:
            self._break()  # interrupted, perhaps in the middle of a command
            raise

    def collect(self, last: Sent[Any] | None = None) -> list[Sent[Any]]:
        """The calls that are not collected yet, in the order in which they were sent, with their results.

        Waits for the replies, each for the time limit at most. last: collect up to this call; None collects all. Calls
        that another thread is about to send are among them: if they were left out, a caller that goes on would have
        more and more calls without a reply. Once the connection is lost, all are collected, as no more replies will
        come.
        """
        collected: list[Sent[Any]] = []
        newest = last or self._newest
        if newest is not None:
            with self._posted:
                self._posted.wait_for(lambda: newest.posted or not self._posting)
        with self._lock:
            while self._sent and (self._broken or not collected or collected[-1] is not last):
                sent = self._sent.popleft()
                if self._taken is not None and not self._broken:
                    sent.result = self._receive(sent, self._taken[1])
                collected.append(sent)
            if not self._sent:
                self._broken = False
        return collected

    @property
    def unread(self) -> bool:
        """Whether a call was sent, or waits to be sent, that is not collected yet."""
        return bool(self._sent or self._waiting or self._posting)

    def close(self) -> None:
        with self._lock:
            self._break()

    def _ready(self, sent: Sent[Any]) -> SyncConnection:
        """The connection to send over: the present one if replies are outstanding on it or it is open, else another."""
        if self._taken is not None and len(self._sent) == 1 and not self._taken[1].check():
            self._let_go()
        if self._taken is None:
            pool = self._connections.here().threads
            self._taken = pool, pool.take(Budget(self._timeout))
        return self._taken[1]

    def _receive(self, sent: Sent[T], connection: SyncConnection) -> T | None:
        try:
            return sent.call.read(connection.receive(monotonic() + self._timeout))
        except (NotSent, redis.RedisError, OSError) as error:
            # The sender makes the call again, and that raises the error if it lasts.
            if isinstance(error, SPENT) or not isinstance(error, redis.exceptions.ResponseError):
                self._lost()
            return None
        except BaseException:
            self._break()
            raise

    def _lost(self) -> None:
        self._break()
        self._connections.here().threads.close()

    def _break(self) -> None:
        self._broken = True
        self._let_go()

    def _let_go(self) -> None:
        self._known.clear()
        if self._taken is not None:
            pool, connection = self._taken
            self._taken = None
            pool.discard(connection)
