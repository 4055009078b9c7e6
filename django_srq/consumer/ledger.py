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
import threading
import time
from collections import deque
from collections.abc import Iterator
from ctypes import Structure, c_bool, c_char, c_double, c_uint8, c_uint32, c_uint64, sizeof
from dataclasses import dataclass, field
from typing import NamedTuple

from django_srq.consumer.clock import lease_time
from django_srq.consumer.shared_text import SharedText
from django_srq.operations import DeliveryRef

# The state of an entry. HELD: not started; DONE: handled, not acked yet; FAILED: its handler raised, and the server is
# being told; ACKING: its ack is on its way or was lost, so the lease is renewed until there is a reply.
FREE, HELD, RUNNING, DONE, FAILED, ACKING = range(6)
# What is to be stored with the ack of an entry. STUB: that a task returned None, which its supervisor can store too;
# VALUED: something that only the child knows.
NOTHING, STUB, VALUED = range(3)


class _Head(Structure):
    """The description of the child and of its claims. A subscription is its index plus one; 0: none."""

    _fields_ = (
        ("pid", c_uint64),
        ("handled", c_uint64),
        ("failed", c_uint64),
        ("postponed", c_uint64),
        ("last_beat", c_double),
        ("last_answer", c_double),
        # Claims without a wait: the number of the one on its way, and of the last one that is wanted back.
        ("claim", c_uint64),
        ("claim_wanted_back", c_uint64),
        # The claim behind a wait: its number (0: none), the end of the wait, and the last number that is wanted back.
        ("parked", c_uint64),
        ("parked_until", c_double),
        ("parked_wanted_back", c_uint64),
        ("claiming", c_uint32),  # the subscription of the claim on its way
        ("reading", c_bool),
        ("arriving", c_bool),
        ("ready", c_bool),
        ("leaving", c_bool),
        ("fatal", c_bool),
        ("wants_successor", c_bool),
        ("slot", c_char * 96),
        ("trouble", SharedText),
    )


class _Record(Structure):
    """An entry as it is in memory."""

    _fields_ = (
        ("state", c_uint8),
        ("uid_length", c_uint8),
        ("token_length", c_uint8),
        ("wanted_back", c_bool),  # written by the supervisor
        ("subscription", c_uint32),  # its index
        ("result", c_uint8),
        ("most_deliveries", c_uint32),  # after so many a task is dead; 0: its queue says how many
        ("generation", c_uint64),
        ("number", c_uint64),  # of the put
        ("started", c_double),
        ("until", c_double),  # the end of the lease that the claim brought
        ("renewed_generation", c_uint64),  # written when the lease is renewed, as is renewed_until
        ("renewed_until", c_double),
        ("limit", c_double),  # the task's own time limit in seconds; 0: it has none
        ("delay", c_double),  # after an attempt that takes longer: seconds until the next one; below 0: there is none
        ("uid", c_uint8 * 128),
        ("token", c_uint8 * 72),
    )

    @property
    def delivery(self) -> DeliveryRef:
        """The child may have been writing. A half-written uid or token names no delivery, so it does no harm."""
        raw = bytes(self)
        uid, token = raw[_UID : _UID + self.uid_length], raw[_TOKEN : _TOKEN + self.token_length]
        return DeliveryRef(uid.decode(errors="replace"), token.decode(errors="replace"), str(self.number or ""))

    def end_of_lease(self, generation: int) -> float:
        return float(self.renewed_until if self.renewed_generation == generation else self.until)


class _PutOffClaim(Structure):
    _fields_ = (("subscription", c_uint32), ("number", c_uint64))  # the subscription's index plus one; 0: none


UID_MOST, TOKEN_MOST = _Record.uid.size, _Record.token.size  # bytes
_UID, _TOKEN = _Record.uid.offset, _Record.token.offset
_HEAD, _RECORD, _PUT_OFF_CLAIM = sizeof(_Head), sizeof(_Record), sizeof(_PutOffClaim)


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
    result: int = NOTHING  # to be stored with its ack
    limit: float = 0.0  # the task's own time limit in seconds; 0: it has none
    delay: float = 0.0  # after an attempt that took longer: seconds until the next one; below 0: there is none
    most_deliveries: int = 0  # after so many deliveries a task is dead; 0: its queue says how many

    @property
    def in_doubt(self) -> bool:
        """Whether its handler is at work, or the server is to be told of the handler's error."""
        return self.state in {RUNNING, FAILED}

    @property
    def is_handled(self) -> bool:
        return self.state in {DONE, ACKING}

    @property
    def is_to_be_released(self) -> bool:
        """Whether it was not begun, or is a task that returned a value: that dies with the process, so it runs again.

        The latter has not failed. If this counted as a delivery, a task with a single attempt would end as failed.
        """
        return self.state == HELD or (self.is_handled and self.result == VALUED)


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
        # Behind the records, if there are several servers: for each a claim that is put off while its server is away.
        claims = _HEAD + capacity * _RECORD
        size = claims + (servers * _PUT_OFF_CLAIM if servers > 1 else 0)
        self._memory = memory = mmap.mmap(-1, size)  # anonymous: shared with forked children, gone with them
        self._head = _Head.from_buffer(memory)
        self._records = (_Record * capacity).from_buffer(memory, _HEAD)
        self._states = slice(_HEAD + _Record.state.offset, claims, _RECORD)
        self._put_off = [_PutOffClaim.from_buffer(memory, start) for start in range(claims, size, sizeof(_PutOffClaim))]
        self._free = deque(range(capacity))
        self._generation = 0
        self._counting = threading.Lock()
        self._head.slot = slot

    def reset(self, slot: bytes, number: int) -> None:
        """Clear the ledger for the next child, before that is forked. number: the child's, among all children so far.

        The generations begin at another number for each child: the keeper may still write down a renewal for the former
        child, and its generation matches no entry of the new one.
        """
        self._memory[:] = bytes(len(self._memory))
        self._free = deque(range(len(self._records)))
        self._generation = number << 32
        self._head.slot = slot

    # -- the entries: the child writes

    def hold(self, subscription: int, held: DeliveryRef, *, until: float) -> tuple[int, int]:
        """Write an item into a free entry, before anything is done with it. Returns the entry's index and generation.

        subscription: its index. until: the end of the item's lease.
        """
        index = self._free.popleft()
        self._generation += 1
        # put accepts no longer uid, and our consumers have no longer token. An item with one is handled, but its lease
        # is not renewed.
        uid, token = held.uid.encode()[:UID_MOST], held.token.encode()[:TOKEN_MOST]
        record, memory, start = self._records[index], self._memory, _HEAD + index * _RECORD
        memory[start + _UID : start + _UID + len(uid)] = uid
        memory[start + _TOKEN : start + _TOKEN + len(token)] = token
        record.uid_length, record.token_length = len(uid), len(token)
        record.subscription, record.generation, record.number = subscription, self._generation, int(held.number or 0)
        record.started, record.until, record.wanted_back = 0, until, False
        record.result, record.limit, record.most_deliveries = NOTHING, 0, 0
        record.state = HELD  # the last one: with it the entry counts
        return index, self._generation

    def is_wanted_back(self, index: int) -> bool:
        """Whether the supervisor wants the item back."""
        return bool(self._records[index].wanted_back)

    def start(self, index: int) -> bool:
        """Mark an item as running. False: it must not be begun, as the supervisor wants it back, or has it already."""
        record = self._records[index]
        record.started = time.monotonic()  # before the state: a running item has its moment
        record.state = RUNNING
        # Read only now: the supervisor writes its mark first, and looks at the state some time later.
        if record.wanted_back:
            record.state = HELD
            return False
        return True

    def allow(self, index: int, deliveries: int) -> None:
        """Write down after how many deliveries a task is dead."""
        self._records[index].most_deliveries = deliveries

    def limit(self, index: int, seconds: float, *, delay: float) -> None:
        """Write down the time limit of a task, and what becomes of its item when it takes longer (see ``Entry``)."""
        record = self._records[index]
        record.delay = delay
        record.limit = seconds  # the last one: with it the delay counts

    def hold_again(self, index: int) -> None:
        """Mark an item as not running after all; ``start`` comes again before it is handled."""
        self._records[index].state = HELD

    def finish(self, index: int, result: int = NOTHING) -> None:
        record = self._records[index]
        if result:
            record.result = result
        record.state = DONE

    def fail(self, index: int) -> None:
        self._records[index].state = FAILED

    def ack(self, index: int) -> None:
        """Note that the item's ack is on its way."""
        self._records[index].state = ACKING

    def free(self, index: int) -> None:
        self._records[index].state = FREE
        self._free.append(index)

    def lapsed(self, index: int, generation: int) -> bool:
        """Whether the lease of that generation may have ended: a renewal was refused, or none came in time."""
        return lease_time() > self._records[index].end_of_lease(generation)

    # -- the child itself

    def belong_to_this_process(self) -> None:
        self._head.pid = os.getpid()

    @property
    def pid(self) -> int:
        """The child's process id; 0 before it has begun."""
        return int(self._head.pid)

    @property
    def slot(self) -> bytes:
        """The slot of its claims."""
        return bytes(self._head.slot)

    @property
    def handled(self) -> int:
        """How many items were handled, with success or not."""
        return int(self._head.handled)

    @property
    def failed(self) -> int:
        """How many of these failed."""
        return int(self._head.failed)

    @property
    def postponed(self) -> int:
        """How many of those handled were put off by their handler (RetryLater)."""
        return int(self._head.postponed)

    def count_handled(self, number: int, *, failed: int = 0, postponed: int = 0) -> None:
        with self._counting:
            self._head.handled += number
            self._head.failed += failed
            self._head.postponed += postponed

    @property
    def last_beat(self) -> float:
        """The moment at which the child last looked for items, or began to leave."""
        return float(self._head.last_beat)

    def beat(self) -> None:
        """Note that the child is ready, and looks for items now."""
        self._head.last_beat = time.monotonic()
        self._head.ready = True

    @property
    def ready(self) -> bool:
        return bool(self._head.ready)

    def leave(self) -> None:
        """Note that the child has ended its work, and waits within the grace for threads that its handlers started."""
        self._head.last_beat = time.monotonic()
        self._head.leaving = True

    @property
    def leaving(self) -> bool:
        return bool(self._head.leaving)

    def want_successor(self) -> None:
        """Note that the child ends although there may be items for it: a successor is to take its place.

        It uses too much memory, has run out of files or threads, or was told to stop, by the supervisor or by a signal.
        """
        self._head.wants_successor = True

    @property
    def wants_successor(self) -> bool:
        return bool(self._head.wants_successor)

    def answer(self) -> None:
        """Note that the child has read the supervisor's question whether it can hear."""
        self._head.last_answer = time.monotonic()

    @property
    def last_answer(self) -> float:
        """The moment of its last answer to that question."""
        return float(self._head.last_answer)

    def report(self, trouble: str, *, fatal: bool = False) -> None:
        """Report a trouble to the supervisor, or "" when it is over. fatal: a restart would not mend it."""
        self._head.trouble.write(trouble)
        self._head.fatal = fatal

    @property
    def trouble(self) -> str:
        """A trouble with a server, while it lasts, or why the child cannot go on."""
        return str(self._head.trouble)

    @property
    def fatal(self) -> bool:
        return bool(self._head.fatal)

    # -- its claims: they may hold items that have no entry yet

    def begin_claim(self, subscription: int, number: int) -> None:
        """Note that a claim is on its way, with that number in its slot. subscription: its index."""
        self._head.reading = False
        self._head.claim = number
        self._head.claiming = subscription + 1

    @property
    def claiming(self) -> int | None:
        """The subscription (its index) of a claim that is on its way; None: there is no such claim."""
        return self._head.claiming - 1 if self._head.claiming else None

    def read_reply(self) -> None:
        """Note that the reply to that claim is read from now on."""
        self._head.reading = True

    @property
    def reading(self) -> bool:
        """Whether the child is reading the reply to that claim. If it dies meanwhile, the reply may be the cause."""
        return bool(self._head.reading)

    def end_claim(self, number: int) -> bool:
        """Note that the items of a claim are written down. False: the supervisor wants them back; do not begin them."""
        if number == self._head.claim:
            self._head.claiming = 0
        for claim in self._put_off:
            if number == claim.number:
                claim.subscription = 0
        return number > int(self._head.claim_wanted_back)  # a claim that was put off has a lower number

    def put_off(self, subscription: int, number: int) -> None:
        """Note that a claim is put off: its server is away, and the claim is repeated until the server is back.

        Meanwhile claims to other servers are made.
        """
        for claim in self._put_off:  # one for each server is enough: a server that is away gets no further claim
            if not claim.subscription:
                claim.number = number  # before the subscription, by which it counts
                claim.subscription = subscription + 1
                self._head.claiming = 0
                return

    @property
    def claims_put_off(self) -> list[tuple[int, int]]:
        """The subscription (its index) and the number of each claim to a server that is away."""
        found = [(claim.subscription, claim.number) for claim in self._put_off]
        return [(subscription - 1, number) for subscription, number in found if subscription]

    def park(self, number: int, seconds: float) -> None:
        """Note that a claim, with that number in its slot, is sent behind a wait of so many seconds."""
        self._head.parked_until = time.monotonic() + seconds  # before the number, by which it counts
        self._head.parked = number

    @property
    def parked(self) -> Parked | None:
        """The claim behind a wait; None: there is none. It is made only with a single subscription."""
        number = self._head.parked
        return Parked(number, self._head.parked_until) if number else None

    @property
    def arriving(self) -> bool:
        """Whether the reply to a claim behind a wait is on its way, or was lost: its items are held as well."""
        return bool(self._head.arriving)

    @arriving.setter
    def arriving(self, arriving: bool) -> None:
        self._head.arriving = arriving

    def end_parked(self, number: int) -> bool:
        """As ``end_claim``, for the claim behind a wait."""
        self._head.arriving = False
        self._head.parked = 0
        return number > int(self._head.parked_wanted_back)

    # -- the supervisor's, and its keeper's

    def __iter__(self) -> Iterator[Entry]:
        """The entries that are not free, in the order in which they were filled."""
        found = [self._read(index) for index, state in enumerate(self._memory[self._states]) if state != FREE]
        return iter(sorted((entry for entry in found if entry.state != FREE), key=lambda entry: entry.generation))

    def waiting(self) -> set[Waiting]:
        """All items that are held and not begun, and all claims that may hold some, except one behind a wait.

        For that one see ``parked``.
        """
        # In this order: the child writes that a claim is put off before it writes that it is no longer on its way.
        found = {Waiting(self._head.claim, None)} if self.claiming is not None else set()
        found |= {Waiting(number, None) for _, number in self.claims_put_off}
        states = self._memory[self._states]
        return found | {
            Waiting(self._records[index].generation, index) for index, state in enumerate(states) if state == HELD
        }

    def want_back(self, waiting: Waiting) -> None:
        """Mark an item, or the items of a claim, as wanted back: the child does not begin them any more.

        Only an item that the child is beginning at this moment may still run; ``withdrawal.py`` finds that out.
        """
        head = self._head
        if waiting.record is not None:
            self._records[waiting.record].wanted_back = True
        elif waiting.parked:
            head.parked_wanted_back = max(waiting.number, head.parked_wanted_back)
        else:  # a claim that is put off has a lower number than one that may be marked already
            head.claim_wanted_back = max(waiting.number, head.claim_wanted_back)

    def entry_of(self, waiting: Waiting) -> Entry | None:
        """The entry of an item that waits; None: it does not wait any more, or it is a claim."""
        if waiting.record is None:
            return None
        entry = self._read(waiting.record)
        return entry if (entry.generation, entry.state) == (waiting.number, HELD) else None

    def subscription_of(self, claim: Waiting) -> int | None:
        """The subscription (its index) of a claim that waits; None: it does not wait any more."""
        if claim.parked:
            return 0  # such a claim is made only with a single subscription
        claiming = self.claiming if claim.number == self._head.claim else None
        put_off = (subscription for subscription, number in self.claims_put_off if number == claim.number)
        return next(put_off, claiming)

    def _read(self, index: int) -> Entry:
        # A copy: the child may go on meanwhile, and the fields must be those of one item.
        copy = _Record.from_buffer_copy(self._memory, _HEAD + index * _RECORD)
        until = copy.end_of_lease(copy.generation)
        return Entry(
            index,
            copy.generation,
            copy.state,
            copy.subscription,
            copy.delivery,
            copy.started,
            until,
            copy.result,
            copy.limit,
            copy.delay,
            copy.most_deliveries,
        )

    def renew(self, entry: Entry, until: float) -> None:
        """Note that the lease of that entry's generation lasts until then; 0: the renewal was refused."""
        record = self._records[entry.index]
        if record.renewed_generation != entry.generation:
            record.renewed_generation = 0  # keeper and child may both write, for different generations
        record.renewed_until = until
        record.renewed_generation = entry.generation
