"""The ledger: the items that a child process has in hand, in memory that it shares with its supervisor.

The child writes an entry for each item, and the supervisor reads them, also after the child died at any instruction.
That is safe without a lock: an entry counts only by its state, and when an entry is filled its state is written last.
The keeper, or the child itself, renews the leases. It writes only the new end of a lease, into fields of its own,
together with the entry's generation: this number is new each time the entry is filled, and says for which item the
lease was renewed.

Moments are those of ``time.monotonic()``; only the ends of leases are moments of ``lease_time()``. All processes of a
machine share both clocks.
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

# The state of an entry. HELD: not started; DONE: handled, not acked yet; FAILED: its handler raised, and the server is
# being told; SENT: its ack is on its way or was lost, so the lease is renewed until there is a reply.
FREE, HELD, RUNNING, DONE, FAILED, SENT = range(6)

_HANDLED, _BEAT = 0, 8
_READY, _FATAL, _FULL, _READING, _ASKED, _ARRIVING, _WORDS = 16, 17, 18, 19, 20, 24, 26  # offsets in the head
_HEAD, _RECORD = 1024, 256  # bytes
UID_MOST = 128  # bytes
# At the end of the head, in the order of the offsets. For the claim behind a wait: its number in its slot (0: none),
# the moment at which the wait is over, and the number of the last such claim whose items the supervisor wants back. Of
# the child: its pid, the length of the slot's name, whether it is leaving, and the slot of its claims. For claims
# without a wait: the number of the one on its way, and the number of the last one whose items the supervisor wants
# back. The moment at which the child last answered the supervisor.
_PARKED, _PARKED_UNTIL, _PARKED_MARK = _HEAD - 160, _HEAD - 152, _HEAD - 144
_PID, _SLOT_LENGTH, _LEAVING, _SLOT = _HEAD - 136, _HEAD - 128, _HEAD - 127, _HEAD - 120
_CLAIM, _CLAIM_MARK, _HEARD = _HEAD - 24, _HEAD - 16, _HEAD - 8
_WORDS_MOST = _PARKED - _WORDS - 2
# State, length of the uid, length of the token, room for the supervisor's mark, subscription, generation, number of the
# put, moment of the start, end of the lease.
_FILLED = struct.Struct("=BBBxIQQdd")
_WHOLE = struct.Struct(_FILLED.format + "16x128s72s")  # and room for _RENEWED, the uid, the token
_RENEWED = struct.Struct("=Qd")  # written when a lease is renewed: generation, end of the lease
_MARK_AT, _RENEWED_AT, _UID_AT, _TOKEN_AT = 3, 40, 56, 184
_MOMENT, _COUNT, _LENGTH, _PLACE = (struct.Struct(f"={kind}") for kind in "dQHI")
TOKEN_MOST = _RECORD - _TOKEN_AT  # bytes
# Behind the entries, one for each server if there are several: a claim that is owed to a server which is away, as its
# subscription (index plus one; 0: none) and its number.
_OWED = struct.Struct("=IxxxxQ")


@dataclass(frozen=True)
class Entry:
    """An item in hand, as it was when the entry was read."""

    index: int
    generation: int
    state: int
    subscription: int  # its index in the list of subscriptions
    held: DeliveryRef  # the delivery reference: uid, token, number of the put
    started: float  # moment; 0: not yet
    until: float = field(default=0.0, compare=False)  # end of the lease, as far as known; 0: a renewal was refused


class Waiting(NamedTuple):
    """An item that is held and not begun, or a claim whose items are not all written down yet."""

    number: int  # generation of the item's entry, or number of the claim in its slot
    record: int | None  # index of the item's entry; None: it is a claim
    parked: bool = False  # the claim is behind a wait


class Parked(NamedTuple):
    """A claim behind a wait, whose items are not all written down yet: the server may have carried it out."""

    number: int  # in its slot
    until: float  # the moment at which the wait is over at the latest


class Ledger:
    """The ledger of one child: a fixed number of entries, and a head in which the child describes itself."""

    def __init__(self, capacity: int, *, servers: int = 1, slot: bytes = b"") -> None:
        """capacity: entries. servers: how many servers the child's queues are on. slot: the slot of its claims."""
        self._records = range(_HEAD, _HEAD + capacity * _RECORD, _RECORD)
        end = self._records.stop + (servers * _OWED.size if servers > 1 else 0)
        self._owing = range(self._records.stop, end, _OWED.size)
        self._memory = mmap.mmap(-1, end)  # anonymous: shared with forked children, gone with them
        self._free = deque(range(capacity))
        self._fillings = self._handled = 0
        self._counting = threading.Lock()
        self.slot = slot

    def empty(self, slot: bytes, number: int) -> None:
        """Clear the ledger for the next child, before that is forked. number: the child's, among all children so far.

        The generations begin at another number for each child: the keeper may still write down a renewal for the former
        child, and its generation matches no entry of the new one.
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
        """The child's process id; 0 before it has begun."""
        return int(_COUNT.unpack_from(self._memory, _PID)[0])

    @property
    def slot(self) -> bytes:
        return self._memory[_SLOT : _SLOT + self._memory[_SLOT_LENGTH]]

    @slot.setter
    def slot(self, slot: bytes) -> None:
        self._memory[_SLOT : _SLOT + len(slot)] = slot
        self._memory[_SLOT_LENGTH] = len(slot)

    def hold(self, subscription: int, held: DeliveryRef, *, until: float) -> tuple[int, int]:
        """Write an item into a free entry, before anything is done with it. Returns the entry's index and generation.

        subscription: its index. until: the end of the item's lease.
        """
        index = self._free.popleft()
        self._fillings += 1
        # put accepts no longer uid, and our consumers have no longer token. An item with one is handled, but its lease
        # is not renewed.
        start, uid, token = _at(index), held.uid.encode()[:UID_MOST], held.token.encode()[:TOKEN_MOST]
        number, memory = int(held.number or 0), self._memory
        lengths = len(uid), len(token)
        _WHOLE.pack_into(memory, start, FREE, *lengths, subscription, self._fillings, number, 0, until, uid, token)
        memory[start] = HELD
        return index, self._fillings

    def is_wanted(self, index: int) -> bool:
        """Whether the supervisor wants the item back."""
        return self._memory[_at(index) + _MARK_AT] == 1

    def start(self, index: int) -> bool:
        """Mark an item as running. False: it must not be begun, as the supervisor wants it back, or has it already."""
        memory, start = self._memory, _at(index)
        _MOMENT.pack_into(memory, start + 24, time.monotonic())
        memory[start] = RUNNING
        # Read only now: the supervisor writes its mark first, and looks at the state some time later.
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
        """Whether the lease of that generation may have ended: a renewal was refused, or none came in time."""
        return lease_time() > self._until(_at(index), generation)

    def _until(self, start: int, generation: int) -> float:
        renewed, until = _RENEWED.unpack_from(self._memory, start + _RENEWED_AT)
        if renewed != generation:
            until = _MOMENT.unpack_from(self._memory, start + 32)[0]
        return float(until)

    # -- the head: the child writes, the supervisor reads

    @property
    def handled(self) -> int:
        """How many items were handled, with success or not."""
        return int(_COUNT.unpack_from(self._memory, _HANDLED)[0])

    def count_handled(self, number: int) -> None:
        with self._counting:
            self._handled += number
            _COUNT.pack_into(self._memory, _HANDLED, self._handled)

    @property
    def beat(self) -> float:
        """The moment at which the child last looked for items, or began to leave."""
        return float(_MOMENT.unpack_from(self._memory, _BEAT)[0])

    def live(self) -> None:
        """Note that the child is ready, and looks for items now."""
        _MOMENT.pack_into(self._memory, _BEAT, time.monotonic())
        self._memory[_READY] = 1

    def leave(self) -> None:
        """Note that the child has ended its work, and waits within the grace for threads that its handlers started."""
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
        """The subscription (its index) of a claim that is on its way; its items are held though they have no entry yet.

        None: there is no such claim.
        """
        (place,) = _PLACE.unpack_from(self._memory, _ASKED)
        return place - 1 if place else None

    @property
    def reading(self) -> bool:
        """Whether the child is reading the reply to that claim. If it dies meanwhile, the reply may be the cause."""
        return self._memory[_READING] == 1

    def ask(self, subscription: int, number: int) -> None:
        """Note that a claim is on its way, with that number in its slot. subscription: its index."""
        self._memory[_READING] = 0
        _COUNT.pack_into(self._memory, _CLAIM, number)
        _PLACE.pack_into(self._memory, _ASKED, subscription + 1)

    def read(self) -> None:
        """Note that the reply to that claim is read from now on."""
        self._memory[_READING] = 1

    def took(self, number: int) -> bool:
        """Note that the items of a claim are written down. False: the supervisor wants them back; do not begin them."""
        if number == self._claim:
            _PLACE.pack_into(self._memory, _ASKED, 0)
        for start in self._owing:
            if number == _OWED.unpack_from(self._memory, start)[1]:
                _PLACE.pack_into(self._memory, start, 0)
        return number > int(_COUNT.unpack_from(self._memory, _CLAIM_MARK)[0])  # a put-off claim has a lower number

    def owe(self, subscription: int, number: int) -> None:
        """Note that a claim is owed: its server is away, and the claim is repeated until the server is back.

        Meanwhile claims to other servers are made.
        """
        for start in self._owing:  # one for each server is enough: a server that is away gets no further claim
            if not _OWED.unpack_from(self._memory, start)[0]:
                _OWED.pack_into(self._memory, start, subscription + 1, number)
                _PLACE.pack_into(self._memory, _ASKED, 0)
                return

    @property
    def owed(self) -> list[tuple[int, int]]:
        """The subscription (its index) and the number of each claim to a server that is away. It may hold items."""
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
        """Note that a claim, with that number in its slot, is sent behind a wait of so many seconds."""
        _MOMENT.pack_into(self._memory, _PARKED_UNTIL, time.monotonic() + seconds)
        _COUNT.pack_into(self._memory, _PARKED, number)

    def took_parked(self, number: int) -> bool:
        """As ``took``, for the claim behind a wait."""
        self.arriving = False
        _COUNT.pack_into(self._memory, _PARKED, 0)
        return number > int(_COUNT.unpack_from(self._memory, _PARKED_MARK)[0])

    def hear(self) -> None:
        """Note that the child has read the supervisor's question whether it can hear."""
        _MOMENT.pack_into(self._memory, _HEARD, time.monotonic())

    @property
    def heard(self) -> float:
        """The moment of its last answer to that question."""
        return float(_MOMENT.unpack_from(self._memory, _HEARD)[0])

    @property
    def arriving(self) -> bool:
        """Whether the reply to a claim behind a wait is on its way, or was lost: its items are held as well."""
        return self._memory[_ARRIVING] == 1

    @arriving.setter
    def arriving(self, arriving: bool) -> None:
        self._memory[_ARRIVING] = arriving

    @property
    def words(self) -> str:
        """What the child reports: a trouble with a server, while it lasts, or why the child cannot go on."""
        (length,) = _LENGTH.unpack_from(self._memory, _WORDS)
        return self._memory[_WORDS + 2 : _WORDS + 2 + length].decode(errors="replace")

    def say(self, words: str, *, fatal: bool = False) -> None:
        """Report a trouble to the supervisor, or "" when it is over. fatal: a restart would not mend it."""
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
        """Whether the child makes room for a successor.

        It uses too much memory, has run out of files or threads, or was told to stop, by the supervisor or by a signal.
        """
        return self._memory[_FULL] == 1

    @full.setter
    def full(self, full: bool) -> None:
        self._memory[_FULL] = full

    # -- the supervisor's, and its keeper's

    def __iter__(self) -> Iterator[Entry]:
        """The entries that are not free, in the order in which they were filled."""
        found = [self._read(start) for start in self._records if self._memory[start] != FREE]
        return iter(sorted(found, key=lambda entry: entry.generation))

    def waiting(self) -> set[Waiting]:
        """All items that are held and not begun, and all claims that may hold some, except one behind a wait.

        For that one see ``parked``.
        """
        memory, found = self._memory, set()
        if self.asked is not None:
            found.add(Waiting(self._claim, None))
        found |= {Waiting(number, None) for _, number in self.owed}
        for start in self._records:
            if memory[start] == HELD:
                found.add(Waiting(_COUNT.unpack_from(memory, start + 8)[0], (start - _HEAD) // _RECORD))
        return found

    def mark(self, waiting: Waiting) -> None:
        """Mark an item, or the items of a claim, as wanted back: the child does not begin them any more.

        Only an item that the child is beginning at this moment may still run; ``withdrawal.py`` finds that out.
        """
        if waiting.record is None:
            at = _PARKED_MARK if waiting.parked else _CLAIM_MARK
            # A claim that is owed has a lower number than one that may be marked already.
            _COUNT.pack_into(self._memory, at, max(waiting.number, *_COUNT.unpack_from(self._memory, at)))
        else:
            self._memory[_at(waiting.record) + _MARK_AT] = 1

    def of(self, waiting: Waiting) -> Entry | None:
        """The entry of an item that waits; None: it does not wait any more, or it is a claim."""
        if waiting.record is None:
            return None
        entry = self._read(_at(waiting.record))
        return entry if (entry.generation, entry.state) == (waiting.number, HELD) else None

    def source_of(self, claim: Waiting) -> int | None:
        """The subscription (its index) of a claim that waits; None: it does not wait any more."""
        if claim.parked:
            return 0  # such a claim is made only with a single subscription
        asked = self.asked if claim.number == self._claim else None
        return next((place for place, number in self.owed if number == claim.number), asked)

    def _read(self, start: int) -> Entry:
        memory = self._memory
        state, uid, token, subscription, generation, number, started, _ = _FILLED.unpack_from(memory, start)
        # The child may be writing at this moment. A half-written uid or token names no delivery, so it does no harm.
        held = DeliveryRef(
            memory[start + _UID_AT : start + _UID_AT + uid].decode(errors="replace"),
            memory[start + _TOKEN_AT : start + _TOKEN_AT + token].decode(errors="replace"),
            str(number) if number else "",
        )
        return Entry(
            (start - _HEAD) // _RECORD, generation, state, subscription, held, started, self._until(start, generation)
        )

    def renewed(self, entry: Entry, until: float) -> None:
        """Note that the lease of that entry's generation lasts until then; 0: the renewal was refused."""
        start = _at(entry.index) + _RENEWED_AT
        _COUNT.pack_into(self._memory, start, 0)  # keeper and child may both write, for different generations
        _MOMENT.pack_into(self._memory, start + 8, until)
        _COUNT.pack_into(self._memory, start, entry.generation)


def _at(index: int) -> int:
    return _HEAD + index * _RECORD
