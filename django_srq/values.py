"""The values that arguments, settings and the command line have in common.

Each range has its name, so that all messages about it are the same: an argument "is a whole number above 0", a setting
and an argument on the command line "must be a whole number above 0".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django_srq.notation import DURATION, SIZE, Notation

N = TypeVar("N", int, float)

HUGE = 10**300  # the scripts' numbers are 64-bit floats: beyond about 10**308 they are infinite
LONGEST_DELAY = 10**10  # seconds, some 300 years: far beyond that, a due time would be no date any more
LONGEST_TIME = 10**9  # seconds, some 30 years; Python can wait for no more than 9.2 * 10**9
UID = r"[!-~]{1,128}"  # a regular expression
_UID = re.compile(UID)


@dataclass(frozen=True)
class Numbers(Generic[N]):
    """The numbers of a range. ``in`` is for numbers only; ``read`` and ``parse`` also take texts with a unit."""

    name: str  # in messages
    convert: type[N]
    fits: Callable[[float], bool]
    notation: Notation[N] | None = None

    @property
    def described(self) -> str:
        """The name, with the notation for texts, if there is one."""
        return f"{self.name} or a {self.notation.example}" if self.notation else self.name

    def __contains__(self, value: object) -> bool:
        kinds = int if self.convert is int else int | float
        return isinstance(value, kinds) and not isinstance(value, bool) and self.fits(value)

    def read(self, value: object) -> N:
        """The number that a setting or an argument means; ValueError when it is none of these."""
        number: Any = self.notation.read(value) if self.notation and isinstance(value, str) else value
        if number in self:
            return self.convert(number)
        raise ValueError(f"it is not {self.described}")

    def parse(self, text: str) -> N:
        """The number of a text on the command line, where it needs no unit; ValueError when it is none of these."""
        try:
            return self.read(self.convert(text))
        except ValueError:
            return self.read(text)


def whole_numbers(least: int, most: int) -> Numbers[int]:
    return Numbers(f"a whole number from {least} to {most}", int, lambda number: least <= number <= most)


SECONDS = Numbers("a number of seconds above 0", float, lambda seconds: 0 < seconds <= LONGEST_TIME, DURATION)
DELAYS = Numbers("a number of seconds from 0 on", float, lambda seconds: 0 <= seconds < LONGEST_DELAY, DURATION)
FACTORS = Numbers("a number from 1 on", float, lambda factor: 1 <= factor <= LONGEST_TIME)
BYTES = Numbers("a whole number of bytes above 0", int, lambda number: 0 < number < HUGE, SIZE)
COUNTS = Numbers("a whole number above 0", int, lambda number: 0 < number < HUGE)
COUNTS_FROM_0 = Numbers("a whole number from 0 on", int, lambda number: 0 <= number < HUGE)
PRIORITIES = whole_numbers(-100, 100)


def is_uid(text: object) -> bool:
    return isinstance(text, str) and _UID.fullmatch(text) is not None
