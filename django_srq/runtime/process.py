"""This process: its name, its title in ps and top, and objects that each process has for itself.

Python's hooks run in a forked child only where Python forked it; some application servers fork in C. So the functions
here compare the process's id at each call.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
RANDOM = random.SystemRandom()  # random's own generator yields the same numbers in all children forked in C

# Process id -> name. One entry: the name of this process, or, until a child asks for its name, that of its parent.
_names: dict[int, str] = {}


def name() -> str:
    """The name of this process, which no other process has: its id, and 40 random bits, as ids are reused."""
    try:
        return _names[os.getpid()]
    except KeyError:
        return _begin()


def _begin() -> str:
    pid = os.getpid()
    # No lock: a thread of the parent may have held it at the fork, and nobody would release it here.
    chosen = _names.setdefault(pid, f"{pid}-{secrets.token_hex(5)}")
    for other in [other for other in _names.copy() if other != pid]:
        _names.pop(other, None)
    return chosen


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork either
    # Needed only where a child has the same id as its parent, such as 1 as the first process of a PID namespace.
    os.register_at_fork(after_in_child=_names.clear)


def set_title(title: str) -> None:
    """Have ps and top show this process under a title of 15 characters at most. Only Linux can do that."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(title)


class PerProcess(Generic[T]):
    """An object that each process has for itself: a forked child makes its own, and does not use its parent's."""

    def __init__(self, make: Callable[[T | None], T]) -> None:
        """make: gets the object of the parent, or None; a child may have to release something that it inherited.

        Two threads may call make at one time; one of the two objects is kept.
        """
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
