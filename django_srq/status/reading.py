"""Reads several servers at the same time, within one time limit."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from django.utils.formats import localize
from django.utils.translation import gettext as _

from django_srq import operations
from django_srq.conf import Configuration, QueueConfig, Target
from django_srq.exceptions import SRQError
from django_srq.operations import Call, Command, Counts, Keys
from django_srq.registry import link_to
from django_srq.runtime.clock import monotonic
from django_srq.status import verdicts
from django_srq.status.reports import ServerReport
from django_srq.status.series import MINUTE, RECENT
from django_srq.status.verdicts import Finding
from django_srq.transport.clients import masked

logger = logging.getLogger("django_srq.status")

BLIND = 3600.0  # seconds for which a refused INFO of a script is reported
GRACE = 0.05  # seconds beyond its time limit after which a reading is given up
# When this process first found each server down; deleted when the server answers.
_down_since: dict[Target, dt.datetime] = {}


class ServerReading:
    """The reading of one server and its queues: ``read`` gets the replies, ``conclude`` makes report and findings."""

    def __init__(self, target: Target, configs: Sequence[QueueConfig], minutes: int, hours: int) -> None:
        self.target, self.configs = target, configs
        self.minutes, self.hours = minutes, hours
        self.address = masked(target.url)
        self.outcome: list[Any] | Exception | None = None
        self.counts: list[Counts | Exception | None] = [None] * len(configs)  # None: the server did not answer
        self.findings: list[Finding] = []
        self.report = ServerReport(self.address)

    def read(self, timeout: float) -> None:
        """Read everything in one round trip. An error becomes the outcome."""
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
        recent = (RECENT + 1) * MINUTE
        return operations.counts(Keys(config.prefix), minutes=self.minutes, hours=self.hours, recent=recent)

    def conclude(self, timeout: float) -> None:
        outcome = self.outcome  # once: read may still be under way, and set it
        if outcome is None:
            outcome = TimeoutError(_("no answer within %s s") % localize(timeout))
        if isinstance(outcome, Exception):
            since = _down_since.setdefault(self.target, utc_now())
            known = (utc_now() - since).total_seconds()
            self.report = ServerReport(self.address, down_since=since)
            self.findings = [verdicts.unreachable(self.address, [c.alias for c in self.configs], outcome, known)]
            return
        _down_since.pop(self.target, None)
        latency, info, *self.counts = outcome
        self.findings = []
        if isinstance(info, Exception):
            self.findings.append(verdicts.uninformed(self.address, info))
            info = {}
        self.report = server_report(self.address, info, latency)
        at = next((counts.at for counts in self.counts if isinstance(counts, Counts)), utc_now())
        self.findings += verdicts.of_server(self.address, info, at)
        asked = zip(self.configs, self.counts, strict=True)
        if blind := [config.alias for config, counts in asked if is_blind(counts)]:
            self.findings.append(verdicts.unknown_run(self.address, blind))


def is_blind(counts: Counts | Exception | None) -> bool:
    """Whether the server refused INFO to a script in the last BLIND seconds."""
    since = seconds_since(counts, counts.meta.get("no_run")) if isinstance(counts, Counts) else None
    return since is not None and since < BLIND


def by_server(loaded: Configuration, aliases: Iterable[str]) -> dict[Target, list[QueueConfig]]:
    """The queues with valid settings, by server. Queues that differ only in their time limit have the same server."""
    found: dict[Target, list[QueueConfig]] = {}
    for alias in aliases:
        if not loaded.general and not loaded.of_queue[alias]:
            config = loaded.queues[alias]
            found.setdefault(replace(config.target, timeout=0), []).append(config)
    return found


class Reading(Protocol):
    """A reading of one server, as ``read_all`` carries it out."""

    def read(self, timeout: float) -> None:
        """Ask the server. Runs in a thread of its own, and raises nothing."""

    def conclude(self, timeout: float) -> None:
        """Evaluate the replies so far. ``read`` may still be under way when the time is over."""


def read_all(readings: Sequence[Reading], timeout: float) -> None:
    # Threads, so that several dead servers, or a name server that does not answer, cost the time of one.
    threads = [
        threading.Thread(target=reading.read, args=[timeout], name="srq-status", daemon=True) for reading in readings
    ]
    deadline = monotonic() + timeout + GRACE
    for thread in threads:
        thread.start()
    for thread, reading in zip(threads, readings, strict=True):
        thread.join(max(0, deadline - monotonic()))
        reading.conclude(timeout)


def server_report(address: str, info: Mapping[str, str], latency: float) -> ServerReport:
    # Valkey has redis_version too: the version of Redis that it is compatible with.
    kind = info.get("server_name") or ("redis" if "redis_version" in info else "")
    return ServerReport(
        address,
        type=kind,
        version=info.get(f"{kind}_version", ""),
        memory=int(info["used_memory"]) if "used_memory" in info else None,
        memory_limit=int(info.get("maxmemory", 0)) or None,
        latency=latency,
    )


def seconds_since(counts: Counts, milliseconds: Any) -> float | None:
    """Seconds since a time (ms), both by the server's clock; None when that is no number."""
    try:
        return counts.at.timestamp() - float(milliseconds) / 1000
    except (TypeError, ValueError, OverflowError):
        return None


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
