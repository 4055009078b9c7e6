"""Metrics for Prometheus, in its text format or as OpenMetrics.

``docs/reference/metrics.md`` has a table of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from django_srq.operations import BUCKETS
from django_srq.status.reports import QueueReport, Snapshot
from django_srq.status.series import bucket_limit
from django_srq.version import __version__

TEXT = "text/plain; version=0.0.4; charset=utf-8"  # content types
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# The states of an item, which do not overlap, and how the number of items is read from the report of a queue.
STATES: dict[str, Callable[[QueueReport], int | None]] = {
    "ready": lambda queue: queue.ready,
    "in_flight": lambda queue: queue.in_flight,
    "scheduled": lambda queue: queue.scheduled,
    "retrying": lambda queue: queue.retrying,
    "dead": lambda queue: queue.dead,
}
# Name, help text, and how the value is read from the report of a queue; None: no sample.
GAUGES: tuple[tuple[str, str, Callable[[QueueReport], float | None]], ...] = (
    ("srq_oldest_age_seconds", "For how long the oldest ready item has waited.", lambda queue: queue.oldest_wait or 0),
    (
        "srq_failure_ratio",
        "The share of failures among the deliveries that ended in the last 5 minutes; no sample when none has.",
        lambda queue: queue.failures.share,
    ),
    ("srq_consumers", "Live consumers.", lambda queue: queue.consumers),
    ("srq_paused", "1 while the queue is paused, else 0.", lambda queue: int(queue.paused is not None)),
)
COUNTERS = {
    "put": "Items put.",
    "delivered": "Deliveries.",
    "acked": "Items acked.",
    "failed": "Deliveries that failed, the postponed ones among them.",
    "postponed": "Deliveries that ended with RetryLater.",
    "recovered": "Deliveries recovered because their consumer died or their lease ended.",
    "crashed": "Deliveries that ended with the consumer's death.",
    "dead": "Items set aside as dead.",
    "requeued": "Dead items made ready again.",
    "run_now": "Delayed items made ready before they were due.",
    "released": "Deliveries given back unstarted.",
    "dropped": "Items deleted one by one.",
    "purged": "Items purged.",
}
HISTOGRAMS = {
    "srq_process_seconds": ("run", "Time from a delivery to its ack."),
    "srq_wait_seconds": ("wait", "Time from when an item was ready to its first delivery."),
}
# The queue keeps buckets by powers of two, from 1 ms on. Every second one is enough here: 13, up to 4.7 hours.
LIMITS = range(0, 25, 2)  # exponents

Labels = dict[str, str]
Sample = tuple[str, Labels, float]  # suffix of the name, labels, value


@dataclass(frozen=True)
class Family:
    """The samples of one metric. name: without the suffix ``_total`` or ``_info``."""

    name: str
    kind: str  # as OpenMetrics calls it
    text: str
    samples: Iterable[Sample]

    def lines(self, *, openmetrics: bool) -> Iterator[str]:
        # The older text format names a counter with its suffix, and has no type for facts.
        suffix = {"counter": "_total", "info": "_info"}.get(self.kind, "") if not openmetrics else ""
        kind = "gauge" if suffix == "_info" else self.kind
        yield f"# HELP {self.name}{suffix} {self.text}"
        yield f"# TYPE {self.name}{suffix} {kind}"
        for end, labels, value in self.samples:
            yield f"{self.name}{end}{_written(labels)} {_digits(value)}"


def exposition(snapshot: Snapshot, *, openmetrics: bool) -> str:
    lines = [line for family in families(snapshot) for line in family.lines(openmetrics=openmetrics)]
    return "\n".join([*lines, *(["# EOF"] if openmetrics else []), ""])


def families(snapshot: Snapshot) -> Iterator[Family]:
    read = [queue for queue in snapshot.queues if queue.ready is not None]
    yield Family("srq", "info", "The version of django-srq.", [("_info", {"version": __version__}, 1)])
    yield Family("srq_up", "gauge", "1 if the queue could be read, else 0.", _gauge(snapshot.queues, _is_up))
    yield Family("srq_finding", "gauge", "1 for each finding, notes excepted.", _findings(snapshot))
    states = "Items by state. Each item is in one state; after an error it is retrying and not scheduled."
    yield Family("srq_items", "gauge", states, _by_state(read))
    for name, text, value in GAUGES:
        yield Family(name, "gauge", text, _gauge(read, value))
    for name, text in COUNTERS.items():
        yield Family(f"srq_{name}", "counter", text, _counter(read, name))
    for name, (kind, text) in HISTOGRAMS.items():
        samples = (sample for queue in read for sample in _histogram(queue, kind))
        yield Family(name, "histogram", text, samples)


def _is_up(queue: QueueReport) -> float:
    return int(queue.ready is not None)


def _gauge(queues: Iterable[QueueReport], value: Callable[[QueueReport], float | None]) -> Iterator[Sample]:
    for queue in queues:
        if (known := value(queue)) is not None:
            yield "", {"queue": queue.alias}, known


def _by_state(queues: Iterable[QueueReport]) -> Iterator[Sample]:
    for queue in queues:
        for state, number in STATES.items():
            yield "", {"queue": queue.alias, "state": state}, number(queue) or 0


def _findings(snapshot: Snapshot) -> Iterator[Sample]:
    found = {
        (finding.kind, finding.level, finding.queue or "", finding.server or ""): None  # a set that keeps the order
        for finding in snapshot.findings
        if finding.level != "note"
    }
    for labels in found:
        yield "", dict(zip(("kind", "level", "queue", "server"), labels, strict=True)), 1


def _counter(queues: Iterable[QueueReport], name: str) -> Iterator[Sample]:
    for queue in queues:
        yield "_total", {"queue": queue.alias}, queue.totals.get(name, 0)


def _histogram(queue: QueueReport, kind: str) -> Iterator[Sample]:
    labels = {"queue": queue.alias}
    numbers = [queue.buckets.get(f"{kind}{e}", 0) for e in range(BUCKETS)]
    for e in LIMITS:
        yield "_bucket", {**labels, "le": f"{bucket_limit(e)}"}, sum(numbers[: e + 1])
    yield "_bucket", {**labels, "le": "+Inf"}, sum(numbers)
    yield "_sum", labels, queue.sums.get(f"{kind}_ms", 0) / 1000
    yield "_count", labels, sum(numbers)


def _digits(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def _written(labels: Labels) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items() if value)
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
