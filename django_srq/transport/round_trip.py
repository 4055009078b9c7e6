"""RoundTrip: one call on its way to the server and back, as often as its budget allows, and the error in the end."""

from __future__ import annotations

import re
from typing import Any

import redis

from django_srq.exceptions import LayoutError, OutcomeUnknown, QueueUnavailable
from django_srq.operations import Call, Command
from django_srq.transport.budget import FIRST_PAUSE, Budget, jitter
from django_srq.transport.connection_errors import LOST, CutShort, NotSent, TlsError
from django_srq.transport.connections import Connections
from django_srq.transport.refusals import PASSING, PASSING_REPLIES, REFUSED_CALLER, explain, raised_by_script, refused
from django_srq.transport.sansio import Sleep
from django_srq.transport.slots import Slot

WITH_TEXT_ABOVE = 262144  # bytes; a larger command always goes with the text of its script
_READ_ONLY = re.compile(r"\beval(?:sha)?_ro\b", re.IGNORECASE)


class RoundTrip:
    """The round trip of one call. Carried out as an effect (sansio.py), it makes one attempt: it sends ``command``.

    After an attempt that failed, ``next_pause`` gives the pause before the next one, or raises the error of the call.
    Flags: ``whole``, send the script's text; ``unknown``, the server may have carried out an attempt; ``broke_off``,
    the last reply broke off; ``ended``, another thread ended the wait for the server (``Link.break_off``).
    """

    command = b""
    whole = unknown = broke_off = ended = False
    no_connection: Exception | None = None  # why the last attempt had no connection

    def __init__(
        self,
        connections: Connections,
        call: Call[Any] | Command[Any],
        queue: str,
        budget: Budget,
        *,
        patience: float | None = None,
        interrupt: int | None = None,
    ) -> None:
        """queue: its name, for messages. patience: seconds to wait for the reply of a command that blocks on the
        server; None: until the deadline of the budget. interrupt: a file descriptor that ends the wait for the reply.
        """
        self.connections, self.call, self.queue, self.budget = connections, call, queue, budget
        self.patience, self.interrupt = patience, interrupt
        self.read_only = connections.read_only

    def pack(self, slot: Slot) -> None:
        """Pack the call, as its number in the slot, for the next attempt."""
        command = self.call.pack(slot.name, slot.seq, whole=self.whole, read_only=self.read_only)
        if len(command) > WITH_TEXT_ABOVE and not self.whole:
            # Without the text, a server that does not know the script would have to get all of this a second time.
            command = self.call.pack(slot.name, slot.seq, whole=True, read_only=self.read_only)
        self.command = command

    def carry_out(self) -> Any:
        threads = self.connections.here().threads
        return threads.exchange(self.command, self.budget, self.patience, self.interrupt)

    async def acarry_out(self) -> Any:
        pool = await self.connections.here().loops.here()
        return await pool.exchange(self.command, self.budget, self.patience)

    def next_pause(self, error: Exception, *, sent: bool) -> Sleep:
        """The pause before the next attempt, after an attempt that failed.

        sent: whether the server may have got the command. Raises the call's error when no attempt follows: the error
        does not pass by itself, or too little time is left.
        """
        if sent and not refused(error):
            self.unknown = True
        # When a reply broke off and the next attempt merely timed out, the latter had too little time to say more.
        late = self.broke_off and isinstance(error, (redis.exceptions.TimeoutError, TimeoutError))
        self.broke_off = late or isinstance(error, CutShort)
        if not sent and type(error) is redis.exceptions.TimeoutError:
            error = self.no_connection or error  # why earlier attempts got no connection says more than "timed out"
        elif not sent:
            self.no_connection = error
        begun = self.budget.deadline - self.budget.seconds
        self.ended = self.connections.here().threads.broken_off_since(begun)
        if self.ended or not self._passes(error) or (seconds := self.budget.pause()) is None:
            raise self.error_for(error) from error
        return Sleep(seconds)

    def refused_read_only(self, reply: Any) -> bool:
        """Whether a reply refuses EVAL_RO or EVALSHA_RO. If so, no script is sent to the server by these from now on.

        A user with an older list of rights may lack them, and some servers that imitate Redis do not know them.
        """
        if (
            not self.read_only
            or not isinstance(reply, redis.exceptions.ResponseError)
            or not _READ_ONLY.search(str(reply))
        ):
            return False
        self.read_only = self.connections.read_only = False
        return True

    def pause_after_wait(self, error: Exception) -> Sleep:
        """The pause after a blocking command that ended with an error. Raises an error that does not pass by itself.

        After any other error, the next call finds out what is wrong. Without the pause, a caller that waits again at
        once would be in a busy loop.
        """
        if not isinstance(error, (NotSent, *LOST)) and not self._passes(error):
            raise self.error_for(error) from error
        return Sleep(jitter(FIRST_PAUSE * 10))

    def _passes(self, error: Exception) -> bool:
        if isinstance(error, (*REFUSED_CALLER, TlsError)) or raised_by_script(error):
            return False
        passing = (*LOST, *PASSING, *self.connections.passing)
        return isinstance(error, passing) or str(error).startswith(PASSING_REPLIES)

    def error_for(self, error: Exception) -> Exception:
        """The error to raise for the call, made of the error of its last attempt."""
        where = f"queue {self.queue!r} ({self.connections.address})"
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
        if isinstance(self.call, Call) and self.call.script.writes and (self.unknown or raised_by_script(error)):
            left_open = self._left_open(self.call.script.name, error)
            unknown = OutcomeUnknown(f"{where}: {left_open}; {self.call.unknown}")
            unknown.cut_short, unknown.advice = self.broke_off, self.call.unknown
            return unknown
        why = f"the wait for the server was ended ({explain(error)})" if self.ended else explain(error)
        return QueueUnavailable(f"{where}: {why}")

    def _left_open(self, name: str, error: Exception) -> str:
        """Which outcome is unknown, and why."""
        if raised_by_script(error):
            return f"{name} ended in the middle ({explain(error)})"
        if refused(error):
            return f"no reply to {name} before the connection was lost, and then a refusal ({explain(error)})"
        if self.ended:
            return f"no reply to {name} before the wait for it was ended ({explain(error)})"
        return f"no reply to {name} within {self.budget.seconds:g} s ({explain(error)})"
