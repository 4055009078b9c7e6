"""Slots: they make every call safe to repeat.

A caller borrows a slot, for one call at a time, and numbers its calls in it. The server keeps, per queue and slot, the
number and the outcome of the last call. A call with that number again gets the same outcome. A call with a lower
number (an original that its own repeat overtook) is refused. The scheme is that of NFSv4.1 sessions (RFC 8881,
2.10.6.1).

Each process has slots of its own, as many as it has calls at one time, with names that no other process has. If two
processes numbered their calls in one slot, the server would take calls of one for repeats of the other's, and they
would be lost. The number of a call that is given up is not used again, so that nothing has to be undone.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field

from django_srq.runtime import process
from django_srq.runtime.process import PerProcess


@dataclass
class Slot:
    name: bytes
    seq: int = 0
    home: deque[Slot] | None = field(default=None, repr=False, compare=False)  # the free slots of its process


class _Pool:
    """The slots of one process. Taking, making and giving back is atomic, so threads need no lock."""

    def __init__(self, inherited: _Pool | None) -> None:
        self.free: deque[Slot] = deque()
        self._numbers = itertools.count(1)

    def make(self) -> Slot:
        return Slot(f"{process.name()}-{next(self._numbers)}".encode(), home=self.free)


class Slots:
    """The slots of this process."""

    def __init__(self) -> None:
        self._pool = PerProcess(_Pool)

    @property
    def process(self) -> str:
        """The name of this process."""
        return process.name()

    def borrow(self) -> Slot:
        """A free slot, its number raised by one for the call of the borrower."""
        pool = self._pool.get()
        try:
            slot = pool.free.pop()
        except IndexError:
            slot = pool.make()
        slot.seq += 1
        return slot

    def give_back(self, slot: Slot) -> None:
        # To the pool that it came from: a slot borrowed before a fork stays the parent's, and the child never uses it.
        if slot.home is not None:
            slot.home.append(slot)


slots = Slots()
