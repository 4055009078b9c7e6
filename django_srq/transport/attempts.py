"""The attempts at one call: how long they go on, the pauses between them, and the error in the end."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

import redis

from django_srq.exceptions import LayoutError, OutcomeUnknown, QueueUnavailable
from django_srq.operations import Call, Command
from django_srq.runtime.clock import monotonic
from django_srq.transport.connection_errors import LOST, CutShort, NotSent, TlsError
from django_srq.transport.sansio import Sleep
from django_srq.transport.slots import Slot

if TYPE_CHECKING:
    from django_srq.transport.link import Link
from django_srq.transport.refusals import PASSING, PASSING_REPLIES, REFUSED_CALLER, explain, raised_by_script, refused

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5  # seconds between attempts, before jitter
_DICE = random.SystemRandom()  # random's own generator yields the same numbers in all children forked in C
SHORTEST_ATTEMPT = 0.05  # seconds; with less time left, an attempt would only replace a known error by "no reply"
LARGE = 262144  # bytes; a larger command always goes with the text of its script
_READ_ONLY = re.compile(r"\beval(?:sha)?_ro\b", re.IGNORECASE)


class Attempts:
    """The attempts at one call: how long they may go on, and which error to raise in the end.

    Carried out as an effect (sansio.py), it makes one attempt: a round trip of ``command``. Flags: ``whole``, send the
    script's text; ``unknown``, an attempt may have been carried out; ``broke_off``, the last reply broke off.
    """

    command = b""
    patience: float | None = None  # seconds to wait for the reply of a blocking command; None: until the deadline
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
        if len(command) > LARGE and not self.whole:
            # Without the text, a server that does not know the script would have to get all of this a second time.
            command = self.call.pack(slot.name, slot.seq, whole=True, read_only=self.read_only)
        return command

    def carry_out(self) -> Any:
        return self.link._exchange(self.command, self)

    async def acarry_out(self) -> Any:
        return await self.link._aexchange(self.command, self, patience=self.patience)

    def left(self) -> float:
        return self.deadline - monotonic()

    def missed(self, error: Exception, *, sent: bool) -> Sleep:
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
            error = self.hindrance or error  # why earlier attempts got no connection says more than "timed out"
        elif not sent:
            self.hindrance = error
        wait = _DICE.uniform(0, self.pause)
        if not self._passes(error) or self.left() <= wait + SHORTEST_ATTEMPT:
            raise self.verdict(error) from error
        self.pause = min(self.pause * 2, LONGEST_PAUSE)
        return Sleep(wait)

    def refused_read_only(self, reply: Any) -> bool:
        """Whether a reply refuses EVAL_RO or EVALSHA_RO. If so, the link sends no script by these from now on.

        A user with an older list of rights may lack them, and some servers that imitate Redis do not know them.
        """
        if (
            not self.read_only
            or not isinstance(reply, redis.exceptions.ResponseError)
            or not _READ_ONLY.search(str(reply))
        ):
            return False
        self.read_only = self.link.read_only = False
        return True

    def cut_short(self, error: Exception) -> Sleep:
        """The pause after a blocking command that ended with an error. Raises an error that does not pass by itself.

        After any other error, the next call finds out what is wrong. Without the pause, a caller that waits again at
        once would be in a busy loop.
        """
        if not isinstance(error, (NotSent, *LOST)) and not self._passes(error):
            raise self.verdict(error) from error
        return Sleep(_DICE.uniform(0, FIRST_PAUSE * 10))

    def _passes(self, error: Exception) -> bool:
        if isinstance(error, (*REFUSED_CALLER, TlsError)) or raised_by_script(error):
            return False
        passing = (*LOST, *PASSING, *self.link.passing)
        return isinstance(error, passing) or str(error).startswith(PASSING_REPLIES)

    def verdict(self, error: Exception) -> Exception:
        # The error to raise for the call, made of the error of its last attempt.
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
        if isinstance(self.call, Call) and self.call.script.writes and (self.unknown or raised_by_script(error)):
            left_open = self._left_open(self.call.script.name, error)
            unknown = OutcomeUnknown(f"{where}: {left_open}; {self.call.unknown}")
            unknown.cut_short = self.broke_off
            return unknown
        return QueueUnavailable(f"{where}: {explain(error)}")

    def _left_open(self, name: str, error: Exception) -> str:
        """Which outcome is unknown, and why."""
        if raised_by_script(error):
            return f"{name} ended in the middle ({explain(error)})"
        if refused(error):
            return f"no reply to {name} before the connection was lost, and then a refusal ({explain(error)})"
        return f"no reply to {name} within {self.seconds:g} s ({explain(error)})"
