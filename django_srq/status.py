"""One snapshot of all queues and their servers: what the page, the JSON and ``srq_status`` show.

Each server is read in one round trip, all of them side by side. Nothing is written to Redis, and nothing is raised: a
server that does not answer and a queue that is misconfigured are findings.

``Snapshot.to_dict()`` is stable. Moments are ISO 8601 in UTC, durations seconds, sizes bytes; null is not known.

=========  ============================================================================================================
at         when it was read, by this process's clock
level      ``error``, ``warning`` or ``ok``: that of the worst finding
sentence   the verdict over all, in the active language
findings   the worst first: ``kind`` (of ``verdicts.LEVELS``), ``level`` (also ``note``), ``queue`` or ``server`` it
           is about (else null), ``text`` and ``advice`` in the active language, ``command`` that the advice means
queues     in the order of the settings: ``queue``, ``server``, ``state`` (kind of its worst finding, or ``ok``),
           ``level``, ``ready``, ``in_flight``, ``delayed``, ``dead``, ``oldest_wait``, ``consumers`` (live ones),
           ``paused`` (null, or ``by``, ``reason``, ``since``, ``until``), ``totals`` (counter to number),
           ``rates`` (``in`` and ``out``: items put and acked per minute, over the last five)
servers    ``server``, ``up``, ``down_since`` (as far as this process knows), ``type``, ``version``, ``memory``,
           ``memory_limit``, ``latency`` (of the reading)
=========  ============================================================================================================
"""

from __future__ import annotations

import datetime as dt
import logging
import math
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from django.utils.formats import localize
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from django_srq import conf, operations, verdicts
from django_srq.clock import monotonic
from django_srq.conf import Configuration, QueueConfig, Target
from django_srq.connections import masked
from django_srq.exceptions import SRQError
from django_srq.operations import Call, Command, Counts, Keys
from django_srq.registry import link_to
from django_srq.series import Series, series_of
from django_srq.verdicts import Attendance, Finding, Pause

logger = logging.getLogger("django_srq.status")

SEEN = 15.0  # seconds for which a consumer counts as live after it was seen, or three leases if that is longer
MINUTES = 60  # of the time series that come with a snapshot
ALL_HOURS = 14 * 24
NOTABLY = 1.1  # times as many put as acked: the queue grows
BLIND = 3600.0  # seconds for which it is said that scripts may not ask for the run of the server
GRACE = 0.05  # seconds that a reading may take beyond its time limit before it is given up

# Since when this process has known a server to be down; forgotten when it answers.
_down_since: dict[Target, dt.datetime] = {}


@dataclass(frozen=True)
class Consumer:
    """A consumer as it described itself to a queue; what an older or newer version does not tell is empty."""

    id: str
    seen: float | None  # seconds since it was last heard of
    live: bool
    about: Mapping[str, Any]


@dataclass(frozen=True)
class QueueReport:
    """One queue; the numbers are None where it could not be read."""

    alias: str
    server: str  # its address without user and password; empty where the settings are wrong
    state: str = "ok"  # the kind of its worst finding, its server's errors included
    ready: int | None = None
    in_flight: int | None = None
    delayed: int | None = None
    dead: int | None = None
    oldest_wait: float | None = None  # seconds; None also when nothing is ready
    consumers: int | None = None  # live ones
    paused: Pause | None = None
    totals: Mapping[str, int] = field(default_factory=dict)  # monotonic counters
    buckets: Mapping[str, int] = field(default_factory=dict)  # of the histograms, see series.py
    series: Series = field(default_factory=Series)
    attendants: Sequence[Consumer] = ()  # the live ones and those not heard of for a while

    @property
    def level(self) -> str:
        return verdicts.LEVELS.get(self.state, "ok")

    @property
    def state_label(self) -> str:
        return str(verdicts.STATES[self.state])

    @property
    def oldest_wait_label(self) -> str:
        return "" if self.oldest_wait is None else verdicts.span(self.oldest_wait)

    @property
    def rates(self) -> tuple[float, float]:
        """Items put, and items acked, per minute."""
        return self.series.rates

    @property
    def outlook(self) -> str:
        """What becomes of the ready items at these rates: a time to empty, or "growing"; in the active language."""
        put, acked = self.rates
        if not self.ready or (put == 0 and acked == 0):
            return ""
        if acked > put:
            return _("empty in %s") % verdicts.span(self.ready / (acked - put) * 60)
        return _("growing") if put > acked * NOTABLY else ""


@dataclass(frozen=True)
class ServerReport:
    """One server; what INFO tells is empty or None where it did not answer, or does not tell us."""

    address: str
    down_since: dt.datetime | None = None  # as far as this process knows
    type: str = ""
    version: str = ""
    memory: int | None = None  # bytes
    memory_limit: int | None = None  # bytes; None: no limit
    latency: float | None = None  # seconds that the reading took

    @property
    def latency_ms(self) -> float | None:
        return None if self.latency is None else self.latency * 1000


@dataclass(frozen=True)
class Snapshot:
    at: dt.datetime
    queues: Sequence[QueueReport]
    servers: Sequence[ServerReport]
    findings: Sequence[Finding]  # the worst first

    @property
    def level(self) -> str:
        """That of the worst finding; with mere notes all is well."""
        worst = self.findings[0].level if self.findings else "ok"
        return "ok" if worst == "note" else worst

    @property
    def unreachable(self) -> list[str]:
        """The servers that could not be reached, and the queues that their server refuses to us."""
        return [one.server or one.queue or "" for one in self.findings if one.kind in verdicts.UNREACHABLE]

    @property
    def sentence(self) -> str:
        """The verdict over all, in the active language."""
        if self.level == "ok":
            return self.all_well
        more = sum(finding.level != "note" for finding in self.findings) - 1
        if not more:
            return str(self.findings[0])
        rest = ngettext("(%s more)", "(%s more)", more) % localize(more)
        return f"{self.findings[0]} {rest}"

    @property
    def all_well(self) -> str:
        if not self.queues:
            return _("No queue is configured: add one to SRQ_QUEUES.")
        if len(self.queues) == 1:
            return _("The queue %s is well.") % verdicts.readable(self.queues[0].alias)
        return _("All %s queues are well.") % localize(len(self.queues))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, as the module's docstring describes them."""
        return {
            "at": _iso(self.at),
            "level": self.level,
            "sentence": self.sentence,
            "findings": [_finding_data(finding) for finding in self.findings],
            "queues": [queue_data(queue) for queue in self.queues],
            "servers": [_server_data(server) for server in self.servers],
        }


def snapshot(
    aliases: Collection[str] | None = None, *, timeout: float | None = None, minutes: int = MINUTES, hours: int = 0
) -> Snapshot:
    """Read all queues, or those of the aliases. timeout: seconds for all servers together; by default SRQ_ADMIN's.

    minutes, hours: how much of the time series is read.
    """
    loaded = conf.load()
    chosen = [alias for alias in loaded.of_queue if aliases is None or alias in aliases]
    readings = [_Reading(target, configs, minutes, hours) for target, configs in by_server(loaded, chosen).items()]
    read_all(readings, loaded.admin.timeout if timeout is None else timeout)
    findings = list(verdicts.misconfigured(loaded.general))
    queues: dict[str, QueueReport] = {}
    youngest = _youngest(readings)
    for reading in readings:
        findings += reading.findings
        for config, counts in zip(reading.configs, reading.counts, strict=True):
            report, found = _report(config, counts, reading, youngest)
            blocking = [finding for finding in reading.findings if finding.level == "error"]
            queues[config.alias] = replace(report, state=_worst([*found, *blocking]))
            findings += found
    for alias in chosen:
        if alias not in queues:
            queues[alias] = QueueReport(alias, "", "misconfigured")
            findings += verdicts.misconfigured(loaded.of_queue[alias], alias)
    return Snapshot(
        at=_now(),
        queues=[queues[alias] for alias in chosen],
        servers=[reading.report for reading in readings],
        findings=sorted(findings, key=lambda finding: verdicts.SEVERITY[finding.kind]),
    )


# -- reading


class _Reading:
    """What one server says of itself and of its queues; filled in by ``read`` and ``conclude``."""

    def __init__(self, target: Target, configs: Sequence[QueueConfig], minutes: int, hours: int) -> None:
        self.target, self.configs = target, configs
        self.minutes, self.hours = minutes, hours
        self.address = masked(target.url)
        self.outcome: list[Any] | Exception | None = None
        self.counts: list[Counts | Exception | None] = [None] * len(configs)  # None: the server did not answer
        self.findings: list[Finding] = []
        self.report = ServerReport(self.address)

    def read(self, timeout: float) -> None:
        """One round trip; whatever goes wrong becomes the outcome."""
        started = monotonic()
        try:
            link = link_to(self.configs[0])
            self.address = link.address
            asked: list[tuple[str, Call[Any] | Command[Any]]] = [("", operations.info())]
            asked += [(config.alias, self._counts(config)) for config in self.configs]
            replies = link.look(asked, timeout=timeout)
            self.outcome = [monotonic() - started, *replies]
        except SRQError as error:
            self.outcome = error
        except Exception as error:
            logger.exception("cannot read server=%s", self.address)
            self.outcome = error

    def _counts(self, config: QueueConfig) -> Call[Counts]:
        return operations.counts(Keys(config.prefix), minutes=self.minutes, hours=self.hours)

    def conclude(self, timeout: float) -> None:
        outcome = self.outcome  # read may still be under way
        if outcome is None:
            outcome = TimeoutError(_("no answer within %s s") % localize(timeout))
        if isinstance(outcome, Exception):
            since = _down_since.setdefault(self.target, _now())
            known = (_now() - since).total_seconds()
            self.report = ServerReport(self.address, down_since=since)
            self.findings = [verdicts.unreachable(self.address, [c.alias for c in self.configs], outcome, known)]
            return
        _down_since.pop(self.target, None)
        latency, info, *self.counts = outcome
        self.findings = []
        if isinstance(info, Exception):
            self.findings.append(verdicts.uninformed(self.address, info))
            info = {}
        self.report = _server_report(self.address, info, latency)
        at = next((counts.at for counts in self.counts if isinstance(counts, Counts)), _now())
        self.findings += verdicts.of_server(self.address, info, at)
        asked = zip(self.configs, self.counts, strict=True)
        if blind := [config.alias for config, counts in asked if _is_blind(counts)]:
            self.findings.append(verdicts.unknown_run(self.address, blind))


def _is_blind(counts: Counts | Exception | None) -> bool:
    """Whether a script was refused, not long ago, to learn the run of the server."""
    since = _since(counts, counts.meta.get("no_run")) if isinstance(counts, Counts) else None
    return since is not None and since < BLIND


def by_server(loaded: Configuration, aliases: Iterable[str]) -> dict[Target, list[QueueConfig]]:
    """The queues that can be read, by server; a queue's own time limit does not make it another one."""
    found: dict[Target, list[QueueConfig]] = {}
    for alias in aliases:
        if not loaded.general and not loaded.of_queue[alias]:
            config = loaded.queues[alias]
            found.setdefault(replace(config.target, timeout=0), []).append(config)
    return found


class Reading(Protocol):
    """What is asked of one server."""

    def read(self, timeout: float) -> None:
        """Ask, in a thread of its own; raises nothing."""

    def conclude(self, timeout: float) -> None:
        """Make what there is of it, when the time is over; ``read`` may still be under way."""


def read_all(readings: Sequence[Reading], timeout: float) -> None:
    # Threads, so that several dead servers, and a name server that does not answer, cost the time of one.
    threads = [threading.Thread(target=one.read, args=[timeout], name="srq-status", daemon=True) for one in readings]
    deadline = monotonic() + timeout + GRACE
    for thread in threads:
        thread.start()
    for thread, reading in zip(threads, readings, strict=True):
        thread.join(max(0, deadline - monotonic()))
        reading.conclude(timeout)


# -- reporting


def _report(
    config: QueueConfig, counts: Counts | Exception | None, reading: _Reading, youngest: Mapping[str, float]
) -> tuple[QueueReport, list[Finding]]:
    report = QueueReport(config.alias, reading.address)
    if counts is None:
        return report, []
    if isinstance(counts, Exception):
        return report, [verdicts.unreadable(config, counts)]
    consumers = _consumers(config, counts, youngest)
    attendance = _attendance(counts, consumers)
    waiting_since = counts.oldest if counts.ready else None
    oldest_wait = max(0.0, (counts.at - waiting_since).total_seconds()) if waiting_since else None
    report = replace(
        report,
        ready=counts.ready,
        in_flight=counts.in_flight,
        delayed=counts.delayed,
        dead=counts.dead,
        oldest_wait=oldest_wait,
        consumers=attendance.live,
        paused=verdicts.pause_of(counts),
        totals=counts.stats,
        buckets=counts.buckets,
        series=series_of(counts, minutes=reading.minutes, hours=reading.hours),
        attendants=consumers,
    )
    findings = list(verdicts.of_queue(config, counts, attendance, report.paused, oldest_wait))
    if back := sum(minute.recovered for minute in report.series.minutes[-MINUTES:]):
        findings.append(verdicts.recovered(config.alias, back))
    return report, findings


def _consumers(config: QueueConfig, counts: Counts, youngest: Mapping[str, float]) -> list[Consumer]:
    """Those that are known of the queue, the one heard of last first."""
    limit = max(3 * config.lease, SEEN)
    found = [
        Consumer(name, seen, seen is not None and seen <= limit, about if isinstance(about, Mapping) else {})
        for name, about in counts.consumers.items()
        for seen in [youngest.get(name)]
    ]
    return sorted(found, key=lambda one: math.inf if one.seen is None else one.seen)


def _attendance(counts: Counts, consumers: Sequence[Consumer]) -> Attendance:
    heard = [one for one in consumers if one.seen is not None]
    # The housekeeping that goes with claims leaves its time, at most once a second.
    claimed = _since(counts, counts.meta.get("kept"))
    silences = [one.seen for one in heard if one.seen is not None]
    return Attendance(
        live=sum(one.live for one in consumers),
        silence=min([*silences, *([] if claimed is None else [claimed])], default=None),
        last=_place(heard[0].about) if heard else "",
    )


def _place(about: object) -> str:
    return f"{about.get('host')}, pid {about.get('pid')}" if isinstance(about, Mapping) else ""


def _youngest(readings: Iterable[_Reading]) -> dict[str, float]:
    """The seconds since each consumer was seen by any queue: while busy it reports to the queue of its item only."""
    ages: dict[str, float] = {}
    for counts in (counts for reading in readings for counts in reading.counts if isinstance(counts, Counts)):
        for consumer, about in counts.consumers.items():
            age = _since(counts, about.get("seen")) if isinstance(about, Mapping) else None
            if age is not None:
                ages[consumer] = min(age, ages.get(consumer, age))
    return ages


def _worst(findings: Iterable[Finding]) -> str:
    kinds = [finding.kind for finding in findings if finding.level != "note"]
    return min(kinds, key=lambda kind: verdicts.SEVERITY[kind], default="ok")


def _server_report(address: str, info: Mapping[str, str], latency: float) -> ServerReport:
    # Valkey says redis_version too, the one that it is compatible with.
    kind = info.get("server_name") or ("redis" if "redis_version" in info else "")
    return ServerReport(
        address,
        type=kind,
        version=info.get(f"{kind}_version", ""),
        memory=int(info["used_memory"]) if "used_memory" in info else None,
        memory_limit=int(info.get("maxmemory", 0)) or None,
        latency=latency,
    )


def _since(counts: Counts, milliseconds: Any) -> float | None:
    """Seconds since then, both by the server's clock; None when it is no number."""
    try:
        return counts.at.timestamp() - float(milliseconds) / 1000
    except (TypeError, ValueError, OverflowError):
        return None


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


# -- plain data


def queue_data(queue: QueueReport) -> dict[str, Any]:
    """One queue as ``to_dict`` has it."""
    pause = queue.paused
    return {
        "queue": queue.alias,
        "server": queue.server,
        "state": queue.state,
        "level": queue.level,
        "ready": queue.ready,
        "in_flight": queue.in_flight,
        "delayed": queue.delayed,
        "dead": queue.dead,
        "oldest_wait": queue.oldest_wait,
        "consumers": queue.consumers,
        "paused": pause
        and {"by": pause.by, "reason": pause.reason, "since": _iso(pause.since), "until": _iso(pause.until)},
        "totals": dict(queue.totals),
        "rates": None if queue.ready is None else dict(zip(("in", "out"), queue.rates, strict=True)),
    }


def _server_data(server: ServerReport) -> dict[str, Any]:
    return {
        "server": server.address,
        "up": server.down_since is None,
        "down_since": _iso(server.down_since),
        "type": server.type,
        "version": server.version,
        "memory": server.memory,
        "memory_limit": server.memory_limit,
        "latency": server.latency,
    }


def _finding_data(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "level": finding.level,
        "queue": finding.queue,
        "server": finding.server,
        "text": finding.text,
        "advice": finding.advice,
        "command": finding.command,
    }


def _iso(moment: dt.datetime | None) -> str | None:
    return (
        None if moment is None else moment.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
