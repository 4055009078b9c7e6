"""Charts as SVG, drawn on the server: they need no script. The stylesheet has their colours and dashes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from django.template.defaultfilters import date as date_filter
from django.utils import timezone
from django.utils.formats import localize
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from django_srq.status import MINUTES
from django_srq.status.series import COUNTERS, Period, Series
from django_srq.status.verdicts import span

WIDTH, HEIGHT = 600, 100  # units of the SVG, stretched to the room on the page
SPARK_WIDTH, SPARK_HEIGHT, SPARK_POINTS = 60, 16, 30

Value = float | None
# Name in the stylesheet, label, and how the value is read from a period.
COUNTS = (
    ("put", gettext_lazy("put"), lambda period: period.put),
    ("acked", gettext_lazy("acked"), lambda period: period.acked),
    ("failed", gettext_lazy("failed"), lambda period: period.failed),
    ("recovered", gettext_lazy("recovered"), lambda period: period.recovered),
)
TIMES = (
    ("wait", gettext_lazy("wait, median"), lambda period: period.wait_p50),
    ("wait95", gettext_lazy("wait, 95 %"), lambda period: period.wait_p95),
    ("run", gettext_lazy("run, median"), lambda period: period.run_p50),
    ("run95", gettext_lazy("run, 95 %"), lambda period: period.run_p95),
)
RANGES = {"hour": gettext_lazy("60 minutes"), "day": gettext_lazy("24 hours"), "fortnight": gettext_lazy("14 days")}
DAY = 24  # hours
STEP = 3  # hours per point of the chart of 14 days


@dataclass(frozen=True)
class Chart:
    title: str
    svg: SafeString
    legend: Sequence[tuple[str, str, str]]  # name in the stylesheet, label, total of counts or last known time
    start: str
    end: str
    top: str  # the greatest value that is drawn


def charts_of(series: Series, chosen: str) -> list[Chart]:
    """Two charts: how many items were put, acked and so on, and how long they took. chosen: a key of RANGES."""
    if chosen == "hour":
        periods, each, form = list(series.minutes[-MINUTES:]), _("per minute"), "TIME_FORMAT"
    elif chosen == "day":
        periods, each, form = list(series.hours[-DAY:]), _("per hour"), "TIME_FORMAT"
    else:
        periods, each, form = _joined(series.hours, STEP), _("per 3 hours"), "SHORT_DATE_FORMAT"
    counts = _chart(_("Items %s") % each, COUNTS, periods, form, lambda value: str(localize(round(value))), total=True)
    times = _chart(_("Time per item"), TIMES, periods, form, duration)
    return [counts, times]


def duration(seconds: float) -> str:
    if seconds < 1:
        return _("%s ms") % localize(round(seconds * 1000))
    return _("%s s") % localize(round(seconds, 1)) if seconds < 60 else span(seconds)


def sparkline(series: Series) -> SafeString:
    """Items put (line) and acked (area) in the last hour, without the running minute. The table has the numbers."""
    minutes = series.minutes[-2 * SPARK_POINTS - 1 : -1]
    puts = [first.put + second.put for first, second in zip(minutes[::2], minutes[1::2], strict=False)]
    acks = [first.acked + second.acked for first, second in zip(minutes[::2], minutes[1::2], strict=False)]
    top = max([*puts, *acks], default=0)
    if not top:
        return SafeString("")
    area = "".join(_lines(acks, top, SPARK_WIDTH, SPARK_HEIGHT))
    line = "".join(_lines(puts, top, SPARK_WIDTH, SPARK_HEIGHT))
    return format_html(
        '<svg class="srq-spark" viewBox="0 0 {0} {1}" aria-hidden="true"><path d="{2}V{1}H0"/><path d="{3}"/></svg>',
        SPARK_WIDTH,
        SPARK_HEIGHT,
        area,
        line,
    )


def _joined(hours: Sequence[Period], n: int) -> list[Period]:
    """Join each n hours into one period: counts are added, and the highest of the times is taken."""

    def highest(name: str, part: Sequence[Period]) -> Value:
        return max((value for period in part if (value := getattr(period, name)) is not None), default=None)

    parts = [hours[i : i + n] for i in range(len(hours) % n, len(hours), n)]
    return [
        Period(
            part[0].start,
            *(sum(getattr(period, name) for period in part) for name in COUNTERS),
            *(highest(name, part) for name in ("wait_p50", "wait_p95", "run_p50", "run_p95")),
        )
        for part in parts
    ]


def _chart(
    title: str,
    lines: Iterable[tuple[str, object, Callable[[Period], Value]]],
    periods: Sequence[Period],
    form: str,
    shown: Callable[[float], str],
    *,
    total: bool = False,
) -> Chart:
    # The legend includes the running period, the lines do not: they would always fall at their end.
    drawn = [(name, str(label), [read(period) for period in periods]) for name, label, read in lines]
    closed = periods[:-1]
    top = max((value for _name, _label, values in drawn for value in values[:-1] if value is not None), default=0) or 0
    legend = [(name, label, _sum_up(values, shown, total)) for name, label, values in drawn]
    paths = [(name, "".join(_lines(values[:-1], top, WIDTH, HEIGHT))) for name, _label, values in drawn if any(values)]
    spoken = ", ".join(f"{label}: {value}" for _name, label, value in legend)
    svg = format_html(
        '<svg viewBox="0 -2 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>',
        WIDTH,
        HEIGHT + 4,
        f"{title}: {spoken}",
        format_html_join("", '<path class="srq-{}" d="{}"/>', paths),
    )
    start, end = (_moment(closed[0].start, form), _moment(closed[-1].start, form)) if closed else ("", "")
    return Chart(title, svg, legend, start, end, shown(top) if top else "")


def _sum_up(values: Sequence[Value], shown: Callable[[float], str], total: bool) -> str:
    """The total of counts, or the last known one of times."""
    known = [value for value in values if value is not None]
    if total:
        return shown(sum(known))
    return shown(known[-1]) if known else "–"  # noqa: RUF001


def _lines(values: Sequence[Value], top: float, width: int, height: int) -> Iterable[str]:
    """The commands of an SVG path, which is interrupted where a value is missing."""
    step = width / max(1, len(values) - 1)
    heights = [None if value is None else round(height - (value / top * height if top else 0)) for value in values]
    pen = "M"
    for i, (before, y, after) in enumerate(zip([None, *heights], heights, [*heights[1:], None], strict=False)):
        if y is None:
            pen = "M"
        elif not before == y == after:  # a point within a level line is left out
            yield f"{pen}{i * step:.0f} {y}"
            if before is after is None:
                yield "h1"  # a single point would be invisible
            pen = "L"


def _moment(moment: dt.datetime, form: str) -> str:
    return date_filter(timezone.localtime(moment) if timezone.is_aware(moment) else moment, form)
