"""The argparse types of the commands: numbers, durations, sizes and times."""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Callable
from typing import TypeVar

from django.utils import timezone

from django_srq.notation import bytes_in, seconds_in
from django_srq.values import Numbers

N = TypeVar("N", int, float)


def number_in(numbers: Numbers[N], advice: str = "") -> Callable[[str], N]:
    """The argparse type of a number of this range. advice: what the message says besides."""

    def parse(text: str) -> N:
        try:
            return numbers.parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {numbers.described}, not {text!r}{advice}") from None

    return parse


def memory(text: str) -> int:
    """The argparse type of an amount of memory in bytes, such as ``200MB``; a number without a unit is MiB."""
    try:
        return bytes_in(f"{text}M" if text.isdecimal() else text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a size such as 200M or 1G (a bare number is MiB), not {text!r}"
        ) from None


def duration(text: str) -> dt.timedelta:
    """The argparse type of a duration: ``90s``, ``30m``, ``2h``, ``7d``, ``1h30m``."""
    found = _duration(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"must be a duration such as 90s, 30m, 2h, 7d or 1h30m, not {text!r}")
    return found


def moment(text: str) -> dt.datetime | dt.timedelta:
    """The argparse type of a duration or an ISO 8601 time, which is in the project's time zone unless it names one."""
    found = _duration(text) or _moment(text)
    if found is None:
        raise argparse.ArgumentTypeError(
            "must be a time such as 2026-01-31T12:00 or 2026-01-31T12:00+01:00, or a duration such as 30m, "
            f"not {text!r}"
        )
    return found


def _duration(text: str) -> dt.timedelta | None:
    try:
        found = dt.timedelta(seconds=seconds_in(text))
    except (ValueError, OverflowError):
        return None
    return found if found < dt.timedelta(days=36500) else None


def _moment(text: str) -> dt.datetime | None:
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    if timezone.is_aware(found):
        return found
    return timezone.make_aware(found, timezone.get_default_timezone())
