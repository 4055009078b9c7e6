"""The notation of durations, sizes and rates, the same in settings, in arguments and on the command line.

A duration is ``90s``, ``5m``, ``2h``, ``7d`` or ``1h30m``; a size ``512KB``, ``200MB`` or ``1GB``, in powers of 1024; a
rate ``10/s``, ``10/min``, ``10/hour`` or ``3/10s``. Each function raises ValueError for any other text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

N = TypeVar("N", int, float)

SECONDS_IN = {
    **dict.fromkeys(("s", "sec", "second"), 1),
    **dict.fromkeys(("m", "min", "minute"), 60),
    **dict.fromkeys(("h", "hour"), 3600),
    **dict.fromkeys(("d", "day"), 86_400),
}
_SECONDS_IN_DURATIONS = {**SECONDS_IN, **dict.fromkeys(("w", "week"), 604_800)}
_PART = re.compile(rf"([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)({'|'.join(_SECONDS_IN_DURATIONS)})(?![a-z])")
_DURATION = re.compile(f"(?:{_PART.pattern})+")
_SIZE = re.compile(r"([1-9][0-9]{0,14})([KMG]?)(I?B)?")
_POWER = {"": 0, "K": 10, "M": 20, "G": 30}
_RATE = re.compile(rf"([0-9]{{1,6}})/([0-9]{{0,6}})({'|'.join(SECONDS_IN)})")


def seconds_in(text: str) -> float:
    """The seconds of a duration such as ``90s`` or ``1h30m``."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no {DURATION.example}")
    return sum(float(number) * _SECONDS_IN_DURATIONS[unit] for number, unit in _PART.findall(text))


def bytes_in(text: str) -> int:
    """The bytes of a size such as ``200MB``; also ``200M``, ``200MiB``, in small letters. A unit is needed."""
    match = _SIZE.fullmatch(text.upper())
    if match is None or not (match[2] or match[3] == "B"):
        raise ValueError(f"{text!r} is no {SIZE.example}")
    return int(match[1]) << _POWER[match[2]]


def rate_in(text: str) -> tuple[int, float]:
    """How many, and in how many seconds, from a rate such as ``10/s``, ``10/min`` or ``3/10s``."""
    match = _RATE.fullmatch(text)
    if match and int(match[1]) and int(match[2] or 1):
        return int(match[1]), int(match[2] or 1) * SECONDS_IN[match[3]]
    raise ValueError(f"{text!r} is no {RATE}")


@dataclass(frozen=True)
class Notation(Generic[N]):
    """How a number may be written as text with a unit."""

    example: str  # in messages, without an article
    read: Callable[[str], N]


RATE = "rate such as '10/s', '10/min', '10/hour' or '3/10s'"  # in messages
DURATION = Notation("duration such as '90s', '5m', '2h' or '7d'", seconds_in)
SIZE = Notation("size such as '512KB', '200MB' or '1GB'", bytes_in)
