"""This process, and things that are its own.

Python tells a child that it was forked only where Python forked it; servers fork in C, and none of Python's hooks runs.
So the process is looked at, by its id, wherever it matters.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# One entry: that of this process, or, until a child asks for its name, that of its parent.
_names: dict[int, str] = {}


def name() -> str:
    """The name of this process, which no other has: its id, and 40 random bits, as ids come back."""
    try:
        return _names[os.getpid()]
    except KeyError:
        return _begin()


def _begin() -> str:
    pid = os.getpid()
    # Not with a lock: a thread of the parent's may have had it at the fork, and nobody would release it here.
    chosen = _names.setdefault(pid, f"{pid}-{secrets.token_hex(5)}")
    for other in [other for other in _names.copy() if other != pid]:
        _names.pop(other, None)
    return chosen


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork either
    # Not needed, except where a child has the id of its parent, as the first process of a PID namespace.
    os.register_at_fork(after_in_child=_names.clear)


class PerProcess(Generic[T]):
    """Something that each process has for itself: a child makes its own, whatever it found of its parent's."""

    def __init__(self, make: Callable[[T | None], T]) -> None:
        """make gets the parent's, from which a child may have to let go. Two threads may call it at one time."""
        self._make = make
        self._made: dict[str, T] = {}

    def get(self) -> T:
        try:
            return self._made[_names[os.getpid()]]
        except KeyError:
            return self._begin()

    def _begin(self) -> T:
        here = name()
        inherited = next((thing for process, thing in self._made.copy().items() if process != here), None)
        mine = self._made.setdefault(here, self._make(inherited))
        for process in [process for process in self._made.copy() if process != here]:
            self._made.pop(process, None)
        return mine
