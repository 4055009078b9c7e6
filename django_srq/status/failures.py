"""How many of the latest deliveries of a queue failed, and of which error. Does no I/O.

A delivery has ended when its item was acked, failed, or was recovered because its consumer died or its lease ended; it
has failed unless the item was acked. Deliveries that a handler ended with RetryLater are left out: they count neither
as ended nor as failed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _

from django_srq.operations import Counts
from django_srq.status.redaction import redacted_text
from django_srq.status.series import RECENT, Period, Series
from django_srq.status.tasks import task_of_group

ENOUGH = 10  # ended deliveries; of fewer ones, the share of failures says little
MANY, NEARLY_ALL = 20, 90  # percent of failures: from here on a warning, an error
COVERED = 0.05  # as many items as this share of the failures must have known errors, to name the main one
_FINGERPRINT = re.compile(r"(?:\S+\.)?(?P<type>[^\s.:]+) [^:]*:(?P<function>[^:]+)")  # see queue/failure.py


@dataclass(frozen=True)
class Failures:
    """The deliveries that ended in the running minute and the RECENT minutes before it."""

    ended: int = 0
    failed: int = 0
    error: str = ""  # of which more than half of the items failed, in the active language; "": none, or not known

    @property
    def share(self) -> float | None:
        return self.failed / self.ended if self.ended else None

    @property
    def percent(self) -> int:
        """The share as people see it: 100 only when all failed."""
        percent = round(100 * (self.share or 0))
        return percent if percent < 100 or self.failed == self.ended else 99

    @property
    def level(self) -> str:
        if self.ended < ENOUGH or self.percent < MANY:
            return "ok"
        return "error" if self.percent >= NEARLY_ALL else "warning"


def failures_of(counts: Counts, series: Series) -> Failures:
    recent = series.minutes[-RECENT - 1 :]
    failed = sum(max(0, period.failed - period.postponed) + period.recovered for period in recent)
    ended = failed + sum(period.acked for period in recent)
    return Failures(ended, failed, _named(_main_group(counts, recent, failed)))


def _main_group(counts: Counts, recent: Sequence[Period], failed: int) -> str:
    """The error of more than half of the items that failed lately, as far as that is certain; else "".

    Known are the errors of the items that are retrying or dead. Of a group of dead items it is known only how many they
    are in all, and that some of them died lately.
    """
    deaths = sum(period.dead for period in recent)
    known = counts.retrying + deaths + sum(period.recovered for period in recent)
    if known < COVERED * failed:
        return ""
    lately = [min(group.dead, deaths) for group in counts.failing]
    for group, died in zip(counts.failing, lately, strict=True):
        others = sum(lately) - died + counts.failing_rest
        certain = group.retrying + min(died, max(0, deaths - others))
        if certain * 2 > known:
            return group.name
    return ""


def _named(group: str) -> str:
    """The error of a group: its class, and the function that raised it; or the text with which an item was failed."""
    if group in ("", "other"):
        return ""
    task, error = task_of_group(group)
    if raised := _FINGERPRINT.fullmatch(error):
        named = _("%(error)s in %(function)s") % {"error": raised["type"], "function": raised["function"]}
    else:
        named = redacted_text(error)
    return f"{task}: {named}" if task else named
