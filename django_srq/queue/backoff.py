"""How long a failed item waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from django_srq.exceptions import ConfigurationError, RetryLater, shown
from django_srq.runtime.completion import drop
from django_srq.runtime.guarded_log import guarded
from django_srq.runtime.interruption import is_interruption, may_be_interruption
from django_srq.runtime.process import RANDOM
from django_srq.values import DELAYS, HUGE

logger = guarded("django_srq.queue", may_be_interruption)


@dataclass(frozen=True)
class Backoff:
    """How long a failed item waits: exponentially longer after each failure; a random time from the half to all of it.

    :param base: seconds after the first failure, at most.
    :param factor: each further failure waits so many times as long.
    :param max: seconds after any failure, at most.
    """

    base: float = 1.0
    factor: float = 2.0
    max: float = 3600.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < HUGE:
                raise ConfigurationError(f"Backoff: {name} is a number from 0 on, not {shown(value)}")

    def delay(self, deliveries: int) -> float:
        """Seconds to wait after so many deliveries: exponential, then a random share of it between a half and all.

        Jitter spreads items that failed together ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

        :param deliveries: how many have failed.
        """
        try:
            full = min(self.max, self.base * float(self.factor) ** (max(deliveries, 1) - 1))
        except OverflowError:
            full = self.max
        return full * RANDOM.uniform(0.5, 1)


class Delays(Protocol):
    def delay(self, deliveries: int) -> float: ...


def delay_after(error: BaseException | None, backoff: Delays, deliveries: int) -> float:
    """Seconds until an item that failed with this error is ready again: the delay of a RetryLater, else the backoff's.

    When the project's delay or backoff raises, or returns no number, the default backoff decides: the item has failed
    in any case, and the server has to be told.
    """
    try:
        seconds = error.delay if isinstance(error, RetryLater) else backoff.delay(deliveries)
        if not _is_delay(seconds):
            drop(seconds)
            raise TypeError(f"a delay is {DELAYS.name}, not of type {type(seconds).__name__}")
        return float(seconds)
    except BaseException as wrong:
        if is_interruption(wrong):
            raise
        logger.error("cannot compute the delay of a failed item, using the default error=%s", type(wrong).__name__)
        return Backoff().delay(deliveries)


def _is_delay(seconds: Any) -> bool:
    return type(seconds) in (int, float) and seconds in DELAYS
