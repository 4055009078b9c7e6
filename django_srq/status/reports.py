"""The parts of a snapshot: plain data, and their JSON."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.utils.formats import localize
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from django_srq.status import verdicts
from django_srq.status.failures import Failures
from django_srq.status.series import Series
from django_srq.status.verdicts import Finding, Pause

_SETTINGS = "SRQ_QUEUES, SRQ_DEFAULTS or SRQ_ADMIN"
NOTABLY = 1.1  # a queue grows if this many times as many items are put as acked


@dataclass(frozen=True)
class ConsumerInfo:
    """A consumer, as it describes itself to a queue. Another version may not tell all of it."""

    id: str
    seen: float | None  # seconds since it was last seen
    live: bool
    about: Mapping[str, Any]


@dataclass(frozen=True)
class QueueReport:
    """One queue. The numbers are None if it could not be read."""

    alias: str
    server: str  # its address without user and password; empty if the settings are wrong
    state: str = "ok"  # the kind of its worst finding, errors of its server included
    ready: int | None = None
    in_flight: int | None = None
    delayed: int | None = None
    retrying: int | None = None  # of the delayed ones: those that wait to be tried again after an error
    dead: int | None = None
    done: int | None = None  # tasks whose results are kept; None also for a queue that is not for tasks
    oldest_wait: float | None = None  # seconds; None also when nothing is ready
    consumers: int | None = None  # live ones
    paused: Pause | None = None
    totals: Mapping[str, int] = field(default_factory=dict)  # monotonic counters
    buckets: Mapping[str, int] = field(default_factory=dict)  # of the histograms, see series.py
    sums: Mapping[str, int] = field(default_factory=dict)  # of the times (ms) in them
    series: Series = field(default_factory=Series)
    attendants: Sequence[ConsumerInfo] = ()  # the live ones, and those that were not seen for a while
    failures: Failures = field(default_factory=Failures)  # among the latest deliveries
    tasks: bool = False  # whether the queue is for tasks
    grave: bool = False  # its worst finding is an error, whatever its kind usually is

    @property
    def level(self) -> str:
        return "error" if self.grave else verdicts.LEVELS.get(self.state, "ok")

    @property
    def state_label(self) -> str:
        return str(verdicts.QUEUE_STATES[self.state])

    @property
    def scheduled(self) -> int | None:
        """Of the delayed items, those that were put for later or postponed without an error."""
        return None if self.delayed is None or self.retrying is None else max(0, self.delayed - self.retrying)

    @property
    def oldest_wait_label(self) -> str:
        return "" if self.oldest_wait is None else verdicts.span(self.oldest_wait)

    @property
    def rates(self) -> tuple[float, float]:
        """Items put, and items acked, per minute."""
        return self.series.rates

    @property
    def outlook(self) -> str:
        """Where these rates lead: the time until the queue is empty, "growing", or ""; in the active language."""
        put, acked = self.rates
        if not self.ready or (put == 0 and acked == 0):
            return ""
        if acked > put:
            return _("empty in %s") % verdicts.span(self.ready / (acked - put) * 60)
        return _("growing") if put > acked * NOTABLY else ""


@dataclass(frozen=True)
class ServerReport:
    """One server. The fields from INFO are empty or None if it did not answer, or refuses INFO."""

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
        """The level of the worst finding, but "ok" if there are only notes."""
        worst = self.findings[0].level if self.findings else "ok"
        return "ok" if worst == "note" else worst

    @property
    def unreachable(self) -> list[str]:
        """The servers that could not be reached, and the queues that their server does not let us read."""
        return [
            finding.server or finding.queue or "" for finding in self.findings if finding.kind in verdicts.UNREACHABLE
        ]

    @property
    def misconfigured(self) -> list[str]:
        """The queues, or their servers, whose settings are wrong."""
        found = [finding for finding in self.findings if finding.kind == "misconfigured"]
        return list(dict.fromkeys(finding.queue or finding.server or _SETTINGS for finding in found))

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
            return _("No queue is configured. Add one to SRQ_QUEUES.")
        if len(self.queues) == 1:
            return _("The queue %s is healthy.") % verdicts.readable(self.queues[0].alias)
        return _("All %s queues are healthy.") % localize(len(self.queues))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, as docs/reference/status-json.md describes them."""
        return {
            "at": iso(self.at),
            "level": self.level,
            "sentence": self.sentence,
            "findings": [_finding_data(finding) for finding in self.findings],
            "queues": [queue_data(queue) for queue in self.queues],
            "servers": [_server_data(server) for server in self.servers],
        }


def queue_data(queue: QueueReport) -> dict[str, Any]:
    """One queue, as in ``to_dict``."""
    pause = queue.paused
    return {
        "queue": queue.alias,
        "server": queue.server,
        "state": queue.state,
        "level": queue.level,
        "ready": queue.ready,
        "in_flight": queue.in_flight,
        "delayed": queue.delayed,
        "retrying": queue.retrying,
        "dead": queue.dead,
        "oldest_wait": _rounded(queue.oldest_wait, 3),
        "consumers": queue.consumers,
        "paused": pause
        and {"by": pause.by, "reason": pause.reason, "since": iso(pause.since), "until": iso(pause.until)},
        "totals": dict(queue.totals),
        "rates": None if queue.ready is None else _rates(queue),
        "failure_ratio": _rounded(queue.failures.share, 4),
        "tasks": queue.tasks,
        "done": queue.done,
    }


def _rates(queue: QueueReport) -> dict[str, float | None]:
    return {name: _rounded(rate, 3) for name, rate in zip(("in", "out"), queue.rates, strict=True)}


def _rounded(value: float | None, places: int) -> float | None:
    return None if value is None else round(value, places)


def _server_data(server: ServerReport) -> dict[str, Any]:
    return {
        "server": server.address,
        "up": server.down_since is None,
        "down_since": iso(server.down_since),
        "type": server.type,
        "version": server.version,
        "memory": server.memory,
        "memory_limit": server.memory_limit,
        "latency": _rounded(server.latency, 6),
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


def iso(moment: dt.datetime | None) -> str | None:
    """ISO 8601 in UTC, to the millisecond."""
    return (
        None if moment is None else moment.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
