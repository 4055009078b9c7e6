"""Reads queues and judges them, without HTML: for the page, the JSON, the metrics and ``srq_status``."""

from django_srq.status.reports import ConsumerInfo, QueueReport, ServerReport, Snapshot, queue_data
from django_srq.status.snapshots import ALL_HOURS, MINUTES, SEEN, snapshot

__all__ = [
    "ALL_HOURS",
    "MINUTES",
    "SEEN",
    "ConsumerInfo",
    "QueueReport",
    "ServerReport",
    "Snapshot",
    "queue_data",
    "snapshot",
]
