"""The attempts at one call."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

import redis

from django_srq.exceptions import LayoutError, OutcomeUnknown, QueueUnavailable
from django_srq.operations import Call, Command
from django_srq.runtime.clock import monotonic
from django_srq.transport.async_pool import LOST, NotSent
from django_srq.transport.flow import CutShort
from django_srq.transport.sansio import Sleep
from django_srq.transport.slots import Slot
from django_srq.transport.sockets import TlsError

if TYPE_CHECKING:
    from django_srq.transport.link import Link
from django_srq.transport.refusals import PASSING, PASSING_REPLIES, REFUSED_CALLER, explain, raised_by_script, refused

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5  # seconds between attempts, before jitter
_DICE = random.SystemRandom()  # the usual one goes on alike in all children that were forked in C
SHORTEST_ATTEMPT = 0.05  # seconds; one with less time left would only turn what is known into "no reply"
LARGE = 262144  # bytes; a command that is not sent just to find out whether the server knows its script
_READ_ONLY = re.compile(r"\beval(?:sha)?_ro\b", re.IGNORECASE)


class Attempts:
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

    def missed(self, error: Exception, *, sent: bool) -> Sleep:
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
        return Sleep(wait)

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

    def cut_short(self, error: Exception) -> Sleep:
        """The pause after a wait that ended with an error; raises what has to be said of one that is none of a moment.

        The next call finds out what is wrong, and says so; without a pause this could become a busy loop.
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
        """What is not known, and why."""
        if raised_by_script(error):
            return f"{name} ended in the middle ({explain(error)})"
        if refused(error):
            return f"no reply to {name} before the connection was lost, and then a refusal ({explain(error)})"
        return f"no reply to {name} within {self.seconds:g} s ({explain(error)})"
