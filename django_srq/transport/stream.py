"""Calls that are sent ahead, one behind the other, over one connection."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import redis

from django_srq.operations import Call
from django_srq.runtime.clock import monotonic
from django_srq.transport.async_pool import SPENT, NotSent
from django_srq.transport.attempts import Attempts
from django_srq.transport.slots import Slot, slots
from django_srq.transport.sync_connection import SyncConnection

if TYPE_CHECKING:
    from django_srq.transport.link import Link

T = TypeVar("T")


@dataclass(slots=True)
class Sent(Generic[T]):
    """A call whose reply nobody waited for."""

    call: Call[T]
    queue: str
    slot: Slot
    about: Any  # the sender's
    result: T | None = None  # None: no reply came
    posted: bool = False  # it was sent, or could not be


class Stream:
    """Calls that are sent at once, and whose replies are read later; over one connection of its own.

    What cannot be sent, or gets no reply, is told by ``collect``: to be called again in its slot, so that it is carried
    out once. Safe to share between threads.
    """

    def __init__(self, link: Link, timeout: float) -> None:
        self._link, self._timeout = link, timeout
        self._lock = threading.Lock()  # held while something is sent or received
        self._posted = threading.Condition(threading.Lock())  # never held for long
        self._waiting: deque[Sent[Any]] = deque()  # to be sent by the thread that is sending now
        self._posting = False
        self._sent: deque[Sent[Any]] = deque()
        self._wire: SyncConnection | None = None
        self._known: set[bytes] = set()  # scripts that the server has, as they went over this connection
        self._broken = False

    def send(self, call: Call[T], *, queue: str, about: Any = None, slot: Slot | None = None) -> Sent[T]:
        """slot: with the number that the call has in it; without one, the sender gives back what was borrowed."""
        sent = Sent(call, queue, slot or slots.borrow(), about)
        self.post(sent)
        return sent

    def post(self, sent: Sent[Any]) -> None:
        """Send a call; or leave that to the thread that is sending now, which may have to connect first."""
        with self._posted:
            self._waiting.append(sent)
            if self._posting:
                return
            self._posting = True
        try:
            while (following := self._next_waiting()) is not None:
                with self._lock:
                    self._post(following)
        except BaseException:
            self._give_up_waiting()
            raise

    def _next_waiting(self) -> Sent[Any] | None:
        with self._posted:
            self._posted.notify_all()
            self._posting = bool(self._waiting)
            return self._waiting.popleft() if self._waiting else None

    def _give_up_waiting(self) -> None:
        """Nobody sends them now: they are collected without a result."""
        with self._lock, self._posted:
            self._broken = True
            for sent in self._waiting:
                sent.posted = True
            self._sent += self._waiting
            self._waiting.clear()
            self._posting = False
            self._posted.notify_all()

    def _post(self, sent: Sent[Any]) -> None:
        self._sent.append(sent)
        sent.posted = True
        if self._broken:
            return
        try:
            wire = self._ready(sent)
            # Whole at first: that the server does not know a script would be read too late.
            whole = sent.call.script.sha not in self._known
            command = sent.call.pack(sent.slot.name, sent.slot.seq, whole=whole)
            wire.send(command, monotonic() + self._timeout)
            self._known.add(sent.call.script.sha)
        except (NotSent, redis.RedisError, OSError):
            self._lost()
        except BaseException:
            self._break()  # interrupted, perhaps in the middle of a command
            raise

    def collect(self, last: Sent[Any] | None = None) -> list[Sent[Any]]:
        """What was sent since, in that order, with the results: all, or up to the last; waits for the replies.

        Once the connection is lost it is all, as nothing more will come. The last may be one that is yet to be sent.
        """
        collected: list[Sent[Any]] = []
        if last is not None:
            with self._posted:
                self._posted.wait_for(lambda: last.posted)
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
        return bool(self._sent or self._waiting or self._posting)

    def close(self) -> None:
        with self._lock:
            self._break()

    def _ready(self, sent: Sent[Any]) -> SyncConnection:
        """The wire to send over: the one so far if replies are outstanding there, or if it is still good."""
        if self._wire is not None and len(self._sent) == 1 and not self._wire.wake():
            self._let_go()
        if self._wire is None:
            self._wire = self._link._take(Attempts(self._link, sent.call, sent.queue, self._timeout))
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
