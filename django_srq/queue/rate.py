"""How many items of a queue may be handed out in a given time."""

from __future__ import annotations

from dataclasses import dataclass

from django_srq.notation import rate_in


@dataclass(frozen=True)
class Rate:
    """``count`` items in ``seconds``, evenly spread. After an idle time, the items of 0.1 s go out at once."""

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
        """From ``"10/s"``, ``"10/min"``, ``"1/d"`` or ``"3/10s"``; ValueError when it is none of these."""
        return cls(*rate_in(written))
