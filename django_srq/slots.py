"""Slots: what makes every call safe to repeat.

A caller borrows a slot for one call and numbers its calls in it; the server keeps, per queue and slot, the number and
the outcome of the last call. The same number again gets the same outcome, a lower one (an original that was overtaken
by its repeat) is refused. The scheme is that of NFSv4.1 sessions (RFC 8881, 2.10.6.1).

Slots are a process's own: as many as there are calls at one time, with ids that are random per process and made anew in
a forked child. A call that is given up burns its number, so that nothing has to be undone.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from dataclasses import dataclass


@dataclass
class Slot:
    name: bytes
    seq: int = 0


class Slots:
    """The slots of this process. Taking and giving back is atomic, so threads need no lock."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Forget all slots; those borrowed after it have new ids."""
        self.process = secrets.token_hex(5)
        self._free: deque[Slot] = deque()
        self._made = 0

    def borrow(self) -> Slot:
        """A free slot, its number one higher than that of any call before."""
        try:
            slot = self._free.pop()
        except IndexError:
            self._made += 1
            # The random part guards against two threads that count to the same number here.
            slot = Slot(f"{self.process}.{self._made}{secrets.token_hex(2)}".encode())
        slot.seq += 1
        return slot

    def give_back(self, slot: Slot) -> None:
        self._free.append(slot)


slots = Slots()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork either
    os.register_at_fork(after_in_child=slots.renew)
