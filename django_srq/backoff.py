"""How long a failed item waits."""

from __future__ import annotations

from dataclasses import dataclass
from random import SystemRandom

from django_srq.exceptions import ConfigurationError, shown

_HUGE = 10**300  # beyond it a whole number is no float
_DICE = SystemRandom()  # the usual one goes on alike in all children that were forked in C


@dataclass(frozen=True)
class Backoff:
    base: float = 1.0  # seconds after the first failure
    factor: float = 2.0  # times as long after each further one
    max: float = 3600.0  # seconds at most

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _HUGE:
                raise ConfigurationError(f"Backoff: {name} is a number from 0 on, not {shown(value)}")

    def delay(self, deliveries: int) -> float:
        """Seconds to wait after that many deliveries: exponential, the upper half of it at random.

        Jitter spreads items that failed together ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
        """
        try:
            full = min(self.max, self.base * float(self.factor) ** (max(deliveries, 1) - 1))
        except OverflowError:
            full = self.max
        return full * _DICE.uniform(0.5, 1)
