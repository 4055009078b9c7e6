"""One snapshot of all queues and their servers: what the page, the JSON and ``srq_status`` show.

Each server is read in one round trip, all of them at the same time. Nothing is written to Redis, and nothing is raised:
a server that does not answer and a queue that is misconfigured are findings.

``Snapshot.to_dict()`` is stable: docs/reference/status-json.md describes its fields.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from django_srq import conf
from django_srq.conf import QueueConfig
from django_srq.operations import HOURS, Counts
from django_srq.status import verdicts
from django_srq.status.failures import failures_of
from django_srq.status.reading import ServerReading, by_server, read_all, seconds_since, utc_now
from django_srq.status.reports import ConsumerInfo, QueueReport, Snapshot
from django_srq.status.series import RECENT, series_of
from django_srq.status.tasks import is_of_tasks
from django_srq.status.verdicts import Attendance, Finding

SEEN = 15.0  # seconds for which a consumer is live after it was last seen; or three leases, if that is longer
MINUTES = 60  # of the time series that come with a snapshot
ALL_HOURS = HOURS  # as many as the server keeps


def snapshot(
    aliases: Collection[str] | None = None, *, timeout: float | None = None, minutes: int = MINUTES, hours: int = 0
) -> Snapshot:
    """Read all queues, or those of the aliases. timeout: seconds for all servers together; by default SRQ_ADMIN's.

    minutes, hours: how much of the time series is read; at least the minutes that the verdict needs.
    """
    minutes = max(minutes, RECENT + 1)
    loaded = conf.load()
    chosen = [alias for alias in loaded.of_queue if aliases is None or alias in aliases]
    readings = [ServerReading(target, configs, minutes, hours) for target, configs in by_server(loaded, chosen).items()]
    read_all(readings, loaded.admin.timeout if timeout is None else timeout)
    findings = list(verdicts.misconfigured(loaded.general))
    queues: dict[str, QueueReport] = {}
    youngest = _youngest(readings)
    for reading in readings:
        findings += reading.findings
        for report, found in _reports(reading, youngest):
            queues[report.alias] = report
            findings += found
    for alias in chosen:
        if alias not in queues:
            queues[alias] = QueueReport(alias, "", "misconfigured")
            findings += verdicts.misconfigured(loaded.of_queue[alias], alias)
    return Snapshot(
        at=utc_now(),
        queues=[queues[alias] for alias in chosen],
        servers=[reading.report for reading in readings],
        findings=sorted(findings, key=lambda finding: verdicts.SEVERITY[finding.kind]),
    )


def _reports(reading: ServerReading, youngest: Mapping[str, float]) -> Iterator[tuple[QueueReport, list[Finding]]]:
    """The reports of the queues of a server, each with its findings."""
    blocking = [finding for finding in reading.findings if finding.level == "error"]
    for config, counts in zip(reading.configs, reading.counts, strict=True):
        report, found = _report(config, counts, reading, youngest)
        worst = _worst([*found, *blocking])
        yield replace(report, state=worst.kind, grave=worst.grave) if worst else report, found


def _report(
    config: QueueConfig, counts: Counts | Exception | None, reading: ServerReading, youngest: Mapping[str, float]
) -> tuple[QueueReport, list[Finding]]:
    report = QueueReport(config.alias, reading.address, tasks=is_of_tasks(config))
    if counts is None:
        return report, []
    if isinstance(counts, Exception):
        return report, [verdicts.unreadable(config, counts)]
    consumers = _consumers(config, counts, youngest)
    attendance = _attendance(counts, consumers)
    waiting_since = counts.oldest if counts.ready else None
    oldest_wait = max(0.0, (counts.at - waiting_since).total_seconds()) if waiting_since else None
    series = series_of(counts, minutes=reading.minutes, hours=reading.hours)
    report = replace(
        report,
        ready=counts.ready,
        in_flight=counts.in_flight,
        delayed=counts.delayed,
        retrying=counts.retrying,
        dead=counts.dead,
        done=counts.results if is_of_tasks(config) else None,
        oldest_wait=oldest_wait,
        consumers=attendance.live,
        paused=verdicts.pause_of(counts),
        totals=counts.stats,
        buckets=counts.buckets,
        sums=counts.sums,
        series=series,
        attendants=consumers,
        failures=failures_of(counts, series),
    )
    findings = list(verdicts.of_queue(config, counts, attendance, report.paused, oldest_wait, report.failures))
    hour = series.minutes[-MINUTES:]
    if len(hour) == MINUTES and (back := sum(minute.recovered for minute in hour)):
        findings.append(verdicts.recovered(config.alias, back))
    return report, findings


def _consumers(config: QueueConfig, counts: Counts, youngest: Mapping[str, float]) -> list[ConsumerInfo]:
    """The consumers that the queue knows, the one seen last first."""
    limit = max(3 * config.lease, SEEN)
    found = [
        ConsumerInfo(name, seen, seen is not None and seen <= limit, about if isinstance(about, Mapping) else {})
        for name, about in counts.consumers.items()
        for seen in [youngest.get(name)]
    ]
    return sorted(found, key=lambda consumer: math.inf if consumer.seen is None else consumer.seen)


def _attendance(counts: Counts, consumers: Sequence[ConsumerInfo]) -> Attendance:
    heard = [consumer for consumer in consumers if consumer.seen is not None]
    # Claims do the housekeeping and write down its time, at most once a second.
    claimed = seconds_since(counts, counts.meta.get("kept"))
    silences = [consumer.seen for consumer in heard if consumer.seen is not None]
    return Attendance(
        live=sum(consumer.live for consumer in consumers),
        silence=min([*silences, *([] if claimed is None else [claimed])], default=None),
        last=_process_of(heard[0].about) if heard else "",
    )


def _process_of(about: object) -> str:
    return f"{about.get('host')}, pid {about.get('pid')}" if isinstance(about, Mapping) else ""


def _youngest(readings: Iterable[ServerReading]) -> dict[str, float]:
    """Seconds since each consumer was seen by any queue: while busy, it reports only to the queue of its item."""
    ages: dict[str, float] = {}
    for counts in (counts for reading in readings for counts in reading.counts if isinstance(counts, Counts)):
        for consumer, about in counts.consumers.items():
            age = seconds_since(counts, about.get("seen")) if isinstance(about, Mapping) else None
            if age is not None:
                ages[consumer] = min(age, ages.get(consumer, age))
    return ages


def _worst(findings: Iterable[Finding]) -> Finding | None:
    notable = [finding for finding in findings if finding.level != "note"]
    return min(notable, key=lambda finding: verdicts.SEVERITY[finding.kind], default=None)
