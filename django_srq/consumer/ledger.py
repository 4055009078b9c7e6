"""What a child process has in hand, in memory that it shares with its supervisor.

The child writes, and the supervisor reads, also after the child died at whatever instruction: a record counts by its
state, which is written after all else when the record is filled. Whoever renews a lease (the supervisor's keeper, or
the child itself) writes back only how long it lasts, into fields of its own; the record's number says which filling of
it that is about.

Moments are those of ``time.monotonic()``, and where a lease ends those of ``lease_time()``; all processes of a machine
share both.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from django_srq.consumer.clock import lease_time
from django_srq.operations import DeliveryRef

# A record's state. HELD: not started; DONE: handled, not acked yet; FAILED: its handler raised, which is being told;
# SENT: its ack is on its way, or was lost on it, so that its lease goes on until there is a reply.
FREE, HELD, RUNNING, DONE, FAILED, SENT = range(6)

_HANDLED, _BEAT = 0, 8
_READY, _FATAL, _FULL, _READING, _ASKED, _ARRIVING, _WORDS = 16, 17, 18, 19, 20, 24, 26  # offsets in the head
_HEAD, _RECORD = 1024, 256  # bytes
UID_MOST = 128  # bytes
# At the end of the head: which process it belongs to, and the slot of its claims; the number of the claim that is asked
# for, that of the last one whose items the supervisor wants back, and when the child heard something last. Before these
# the same of the claim behind a wait: its number, when that wait is over, and the last number that is wanted back.
_PARKED, _PARKED_UNTIL, _PARKED_MARK = _HEAD - 160, _HEAD - 152, _HEAD - 144
_PID, _SLOT_LENGTH, _LEAVING, _SLOT = _HEAD - 136, _HEAD - 128, _HEAD - 127, _HEAD - 120
_CLAIM, _CLAIM_MARK, _HEARD = _HEAD - 24, _HEAD - 16, _HEAD - 8
_WORDS_MOST = _PARKED - _WORDS - 2
# state, length of uid and token, room for the supervisor's mark, source, number of this filling, number of the put,
# started, lease's end
_FILLED = struct.Struct("=BBBxIQQdd")
_WHOLE = struct.Struct(_FILLED.format + "16x128s72s")  # with room for what the supervisor writes, uid and token
_RENEWED = struct.Struct("=Qd")  # the supervisor's: number of the filling, lease's end
_MARK_AT, _RENEWED_AT, _UID_AT, _TOKEN_AT = 3, 40, 56, 184
_MOMENT, _COUNT, _LENGTH, _PLACE = (struct.Struct(f"={kind}") for kind in "dQHI")
TOKEN_MOST = _RECORD - _TOKEN_AT  # bytes
# Behind the records, one for each of several servers: source (its place and one more; 0: none) and number of a claim.
_OWED = struct.Struct("=IxxxxQ")


@dataclass(frozen=True)
class Entry:
    """One item in hand, as it was when it was read."""

    index: int
    generation: int
    state: int
    subscription: int  # its place in the list of sources
    held: DeliveryRef
    started: float  # moment; 0: not yet
    until: float = field(default=0.0, compare=False)  # lease's end, as far as it is known here; 0: refused


class Waiting(NamedTuple):
    """What is held and not begun."""

    number: int  # of the filling, or of a claim
    record: int | None  # its place; None: it is a claim whose items are not all written down yet
    parked: bool = False  # that claim is behind a wait


class Parked(NamedTuple):
    """A claim behind a wait, whose items are not all written down yet: the server may have carried it out."""

    number: int  # in its slot
    until: float  # the moment at which the wait is over at the latest


class Ledger:
    """The table of one child: so many records, and a head with what it says of itself."""

    def __init__(self, capacity: int, *, servers: int = 1, slot: bytes = b"") -> None:
        """servers: how many have the child's queues. slot: that of its claims."""
        self._records = range(_HEAD, _HEAD + capacity * _RECORD, _RECORD)
        end = self._records.stop + (servers * _OWED.size if servers > 1 else 0)
        self._owing = range(self._records.stop, end, _OWED.size)
        self._memory = mmap.mmap(-1, end)  # anonymous: shared with forked children, gone with them
        self._free = deque(range(capacity))
        self._fillings = self._handled = 0
        self._counting = threading.Lock()
        self.slot = slot

    def empty(self, slot: bytes, number: int) -> None:
        """Make it the table of the next child, before that is forked. number: that of the child, among all children.

        The keeper may still write down what became of the former child's leases: its fillings had other numbers.
        """
        self._memory[:] = bytes(len(self._memory))
        self._free = deque(range(len(self._records)))
        self.slot = slot
        self._fillings = number << 32

    # -- the child's

    def belong_to_this_process(self) -> None:
        _COUNT.pack_into(self._memory, _PID, os.getpid())

    @property
    def pid(self) -> int:
        """That of the child; 0 before it has begun."""
        return int(_COUNT.unpack_from(self._memory, _PID)[0])

    @property
    def slot(self) -> bytes:
        return self._memory[_SLOT : _SLOT + self._memory[_SLOT_LENGTH]]

    @slot.setter
    def slot(self, slot: bytes) -> None:
        self._memory[_SLOT : _SLOT + len(slot)] = slot
        self._memory[_SLOT_LENGTH] = len(slot)

    def hold(self, subscription: int, held: DeliveryRef, *, until: float) -> tuple[int, int]:
        """Write down an item before anything is done with it; until: the end of its lease. Returns (index, filling)."""
        index = self._free.popleft()
        self._fillings += 1
        # A longer uid is none that put accepts: such an item is handled, but its lease is not renewed.
        # Nor has a consumer of ours such a long token.
        start, uid, token = _at(index), held.uid.encode()[:UID_MOST], held.token.encode()[:TOKEN_MOST]
        number, memory = int(held.number or 0), self._memory
        lengths = len(uid), len(token)
        _WHOLE.pack_into(memory, start, FREE, *lengths, subscription, self._fillings, number, 0, until, uid, token)
        memory[start] = HELD
        return index, self._fillings

    def is_wanted(self, index: int) -> bool:
        """Whether the supervisor wants it back."""
        return self._memory[_at(index) + _MARK_AT] == 1

    def start(self, index: int) -> bool:
        """Whether it may be begun; else the supervisor wants it back, and has it perhaps."""
        memory, start = self._memory, _at(index)
        _MOMENT.pack_into(memory, start + 24, time.monotonic())
        memory[start] = RUNNING
        # Only now: the supervisor first writes this, and looks at the state later.
        if memory[start + _MARK_AT]:
            memory[start] = HELD
            return False
        return True

    def finish(self, index: int) -> None:
        self._memory[_at(index)] = DONE

    def fail(self, index: int) -> None:
        self._memory[_at(index)] = FAILED

    def sent(self, index: int) -> None:
        self._memory[_at(index)] = SENT

    def let_go(self, index: int) -> None:
        self._memory[_at(index)] = FREE
        self._free.append(index)

    def lapsed(self, index: int, generation: int) -> bool:
        """Whether the lease of that filling may have ended: it was refused, or not renewed for its length."""
        return lease_time() > self._until(_at(index), generation)

    def _until(self, start: int, generation: int) -> float:
        renewed, until = _RENEWED.unpack_from(self._memory, start + _RENEWED_AT)
        if renewed != generation:
            until = _MOMENT.unpack_from(self._memory, start + 32)[0]
        return float(until)

    # -- the head: the child writes, the supervisor reads

    @property
    def handled(self) -> int:
        """How many items were handled, well or not."""
        return int(_COUNT.unpack_from(self._memory, _HANDLED)[0])

    def count_handled(self, number: int) -> None:
        with self._counting:
            self._handled += number
            _COUNT.pack_into(self._memory, _HANDLED, self._handled)

    @property
    def beat(self) -> float:
        """The moment at which it last looked for items."""
        return float(_MOMENT.unpack_from(self._memory, _BEAT)[0])

    def live(self) -> None:
        """It is ready, and looks for items now."""
        _MOMENT.pack_into(self._memory, _BEAT, time.monotonic())
        self._memory[_READY] = 1

    def leave(self) -> None:
        """It has nothing in hand any more, and waits for the threads of its handlers within the grace."""
        _MOMENT.pack_into(self._memory, _BEAT, time.monotonic())
        self._memory[_LEAVING] = 1

    @property
    def leaving(self) -> bool:
        return self._memory[_LEAVING] == 1

    @property
    def ready(self) -> bool:
        return self._memory[_READY] == 1

    @property
    def asked(self) -> int | None:
        """The source (its place) of a claim whose items are not all written down yet: they are held all the same."""
        (place,) = _PLACE.unpack_from(self._memory, _ASKED)
        return place - 1 if place else None

    @property
    def reading(self) -> bool:
        """Whether the reply to that claim is being read, which may be what kills the child."""
        return self._memory[_READING] == 1

    def ask(self, subscription: int, number: int) -> None:
        """A claim, with that number in its slot, is sent whose reply is read later."""
        self._memory[_READING] = 0
        _COUNT.pack_into(self._memory, _CLAIM, number)
        _PLACE.pack_into(self._memory, _ASKED, subscription + 1)

    def read(self) -> None:
        """Its reply is read from now on."""
        self._memory[_READING] = 1

    def took(self, number: int) -> bool:
        """What it brought is written down; whether that may be begun: else the supervisor wants it back."""
        if number == self._claim:
            _PLACE.pack_into(self._memory, _ASKED, 0)
        for start in self._owing:
            if number == _OWED.unpack_from(self._memory, start)[1]:
                _PLACE.pack_into(self._memory, start, 0)
        return number > int(_COUNT.unpack_from(self._memory, _CLAIM_MARK)[0])  # else of that claim, or one put off

    def owe(self, subscription: int, number: int) -> None:
        """That claim got no reply: its server is away, and it is made again until that is back. Others are made now."""
        for start in self._owing:  # a server that is away is asked for nothing more, so that there is one for each
            if not _OWED.unpack_from(self._memory, start)[0]:
                _OWED.pack_into(self._memory, start, subscription + 1, number)
                _PLACE.pack_into(self._memory, _ASKED, 0)
                return

    @property
    def owed(self) -> list[tuple[int, int]]:
        """The source (its place) and the number of each claim to a server that is away: it may have taken something."""
        found = [_OWED.unpack_from(self._memory, start) for start in self._owing]
        return [(place - 1, number) for place, number in found if place]

    @property
    def _claim(self) -> int:
        return int(_COUNT.unpack_from(self._memory, _CLAIM)[0])

    @property
    def parked(self) -> Parked | None:
        (number,) = _COUNT.unpack_from(self._memory, _PARKED)
        return Parked(number, _MOMENT.unpack_from(self._memory, _PARKED_UNTIL)[0]) if number else None

    def park(self, number: int, seconds: float) -> None:
        """A claim, with that number in its slot, is sent behind a wait of so many seconds."""
        _MOMENT.pack_into(self._memory, _PARKED_UNTIL, time.monotonic() + seconds)
        _COUNT.pack_into(self._memory, _PARKED, number)

    def took_parked(self, number: int) -> bool:
        """As ``took``, for the claim behind a wait."""
        self.arriving = False
        _COUNT.pack_into(self._memory, _PARKED, 0)
        return number > int(_COUNT.unpack_from(self._memory, _PARKED_MARK)[0])

    def hear(self) -> None:
        """It can hear what the supervisor says."""
        _MOMENT.pack_into(self._memory, _HEARD, time.monotonic())

    @property
    def heard(self) -> float:
        """The moment at which it heard something last."""
        return float(_MOMENT.unpack_from(self._memory, _HEARD)[0])

    @property
    def arriving(self) -> bool:
        """Whether the reply to a claim behind a wait is on its way, or was lost on it: its items are held as well."""
        return self._memory[_ARRIVING] == 1

    @arriving.setter
    def arriving(self, arriving: bool) -> None:
        self._memory[_ARRIVING] = arriving

    @property
    def words(self) -> str:
        """What it has to say: a trouble with a server, while that lasts, or why it cannot go on."""
        (length,) = _LENGTH.unpack_from(self._memory, _WORDS)
        return self._memory[_WORDS + 2 : _WORDS + 2 + length].decode(errors="replace")

    def say(self, words: str, *, fatal: bool = False) -> None:
        """fatal: a restart would not mend it."""
        said = words.encode(errors="replace")[:_WORDS_MOST]
        _LENGTH.pack_into(self._memory, _WORDS, 0)
        self._memory[_WORDS + 2 : _WORDS + 2 + len(said)] = said
        _LENGTH.pack_into(self._memory, _WORDS, len(said))
        self._memory[_FATAL] = fatal

    @property
    def fatal(self) -> bool:
        return self._memory[_FATAL] == 1

    @property
    def full(self) -> bool:
        """Whether it makes room for a successor: it has too much memory, or nobody but a signal told it to end."""
        return self._memory[_FULL] == 1

    @full.setter
    def full(self, full: bool) -> None:
        self._memory[_FULL] = full

    # -- the supervisor's, and its keeper's

    def __iter__(self) -> Iterator[Entry]:
        """The records that are not free, in the order of their filling."""
        found = [self._read(start) for start in self._records if self._memory[start] != FREE]
        return iter(sorted(found, key=lambda entry: entry.generation))

    def waiting(self) -> set[Waiting]:
        """All that is held and not begun, but for what a claim behind a wait may have taken: see ``parked``."""
        memory, found = self._memory, set()
        if self.asked is not None:
            found.add(Waiting(self._claim, None))
        found |= {Waiting(number, None) for _, number in self.owed}
        for start in self._records:
            if memory[start] == HELD:
                found.add(Waiting(_COUNT.unpack_from(memory, start + 8)[0], (start - _HEAD) // _RECORD))
        return found

    def mark(self, waiting: Waiting) -> None:
        """Want it back: from soon on the child begins it no more."""
        if waiting.record is None:
            at = _PARKED_MARK if waiting.parked else _CLAIM_MARK
            # One that is owed is older than another that may be marked already.
            _COUNT.pack_into(self._memory, at, max(waiting.number, *_COUNT.unpack_from(self._memory, at)))
        else:
            self._memory[_at(waiting.record) + _MARK_AT] = 1

    def of(self, waiting: Waiting) -> Entry | None:
        """The record of an item that waits; None: it does not any more."""
        if waiting.record is None:
            return None
        entry = self._read(_at(waiting.record))
        return entry if (entry.generation, entry.state) == (waiting.number, HELD) else None

    def source_of(self, claim: Waiting) -> int | None:
        """The source (its place) of a claim that waits; None: it does not any more."""
        if claim.parked:
            return 0  # made only where there is but one source
        asked = self.asked if claim.number == self._claim else None
        return next((place for place, number in self.owed if number == claim.number), asked)

    def _read(self, start: int) -> Entry:
        memory = self._memory
        state, uid, token, subscription, generation, number, started, _ = _FILLED.unpack_from(memory, start)
        # The child may be writing: what is torn here names no delivery, so that nothing comes of it.
        held = DeliveryRef(
            memory[start + _UID_AT : start + _UID_AT + uid].decode(errors="replace"),
            memory[start + _TOKEN_AT : start + _TOKEN_AT + token].decode(errors="replace"),
            str(number) if number else "",
        )
        return Entry(
            (start - _HEAD) // _RECORD, generation, state, subscription, held, started, self._until(start, generation)
        )

    def renewed(self, entry: Entry, until: float) -> None:
        """The lease of that filling lasts until then; 0: it was refused."""
        start = _at(entry.index) + _RENEWED_AT
        _COUNT.pack_into(self._memory, start, 0)  # as keeper and child may both write, about different fillings
        _MOMENT.pack_into(self._memory, start + 8, until)
        _COUNT.pack_into(self._memory, start, entry.generation)


def _at(index: int) -> int:
    return _HEAD + index * _RECORD
