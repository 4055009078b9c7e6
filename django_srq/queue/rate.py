"""How many items of a queue may be handed out in a given time."""

from __future__ import annotations

import re
from dataclasses import dataclass

RATES = "rate such as '10/s', '100/m' or '3/10s'"  # in messages
_WRITTEN = re.compile(r"(\d{1,6})/(\d{0,6})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Rate:
    """``count`` items in ``seconds``, evenly spread; what the last 0.1 s left unused may be made up for."""

    count: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    @property
    def interval(self) -> float:
        """Milliseconds from one item to the next."""
        return 1000 / self.per_second

    @classmethod
    def parse(cls, written: str) -> Rate:
        """From ``"10/s"``, ``"100/m"``, ``"5000/h"``, ``"1/d"`` or ``"3/10s"``; ValueError when it is none of these."""
        match = _WRITTEN.fullmatch(written)
        if match and int(match[1]) and int(match[2] or 1):
            return cls(int(match[1]), int(match[2] or 1) * _UNITS[match[3]])
        raise ValueError(f"{written!r} is no {RATES}")
