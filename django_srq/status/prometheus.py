"""Metrics in the text format of Prometheus."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from django_srq.operations import BUCKETS
from django_srq.status.reports import QueueReport, Snapshot
from django_srq.status.series import bucket_limit

TEXT = "text/plain; version=0.0.4; charset=utf-8"  # content type of Prometheus
# Help text, and how the value is read from the report of a queue.
GAUGES: dict[str, tuple[str, Callable[[QueueReport], float | None]]] = {
    "srq_ready": ("Items that wait to be taken.", lambda queue: queue.ready),
    "srq_in_flight": ("Items delivered and not settled yet.", lambda queue: queue.in_flight),
    "srq_delayed": ("Items that are not due yet.", lambda queue: queue.delayed),
    "srq_dead": ("Items set aside after too many deliveries or crashes.", lambda queue: queue.dead),
    "srq_oldest_age_seconds": ("Age of the oldest ready item.", lambda queue: queue.oldest_wait or 0),
    "srq_consumers": ("Live consumers.", lambda queue: queue.consumers),
    "srq_paused": ("1 while the queue is paused, else 0.", lambda queue: int(queue.paused is not None)),
}
COUNTERS = {
    "put": "Items put.",
    "delivered": "Deliveries.",
    "acked": "Items acked.",
    "failed": "Deliveries that failed.",
    "recovered": "Deliveries recovered because their consumer died or their lease ended.",
    "crashed": "Deliveries that ended with the consumer's death.",
    "dead": "Items set aside as dead.",
    "requeued": "Dead items made ready again.",
    "released": "Deliveries given back unstarted.",
    "dropped": "Items deleted one by one.",
    "purged": "Items purged.",
}
HISTOGRAMS = {
    "srq_process_seconds": ("run", "Time from a delivery to its ack."),
    "srq_wait_seconds": ("wait", "Time until the first delivery."),
}


def lines(snapshot: Snapshot) -> Iterator[str]:
    read = [queue for queue in snapshot.queues if queue.ready is not None]
    yield from _family("srq_up", "gauge", "1 if the queue could be read, else 0.")
    yield from (f"srq_up{_label(queue)} {int(queue.ready is not None)}" for queue in snapshot.queues)
    for name, (text, value) in GAUGES.items():
        yield from _family(name, "gauge", text)
        yield from (f"{name}{_label(queue)} {value(queue):.15g}" for queue in read)
    for counter, text in COUNTERS.items():
        yield from _family(f"srq_{counter}_total", "counter", text)
        yield from (f"srq_{counter}_total{_label(queue)} {queue.totals.get(counter, 0)}" for queue in read)
    for name, (kind, text) in HISTOGRAMS.items():
        yield from _family(name, "histogram", text)
        for queue in read:
            yield from _histogram(name, kind, queue)


def _family(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _histogram(name: str, kind: str, queue: QueueReport) -> Iterator[str]:
    """Buckets and count. There is no sum, because the queue keeps none."""
    below = 0
    for e in range(BUCKETS - 1):
        below += queue.buckets.get(f"{kind}{e}", 0)
        yield f"{name}_bucket{_label(queue, f'{bucket_limit(e):g}')} {below}"
    below += queue.buckets.get(f"{kind}{BUCKETS - 1}", 0)
    yield f"{name}_bucket{_label(queue, '+Inf')} {below}"
    yield f"{name}_count{_label(queue)} {below}"


def _label(queue: QueueReport, limit: str = "") -> str:
    alias = json.dumps(queue.alias, ensure_ascii=False)  # escapes quotes, backslashes and line feeds as Prometheus does
    return f'{{queue={alias},le="{limit}"}}' if limit else f"{{queue={alias}}}"
