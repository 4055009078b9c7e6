"""Takes items and calls their handlers: a supervisor and its child processes, or one process alone."""

from __future__ import annotations

from django_srq.consumer.consumer import Consumer, Cut
from django_srq.consumer.databases import close_connections
from django_srq.consumer.handler import adapted, is_asynchronous, with_fresh_connections
from django_srq.consumer.plan import Plan
from django_srq.consumer.probes import Heartbeat
from django_srq.consumer.source import Source, StopConsuming
from django_srq.consumer.supervisor import Supervisor

__all__ = [
    "Consumer",
    "Cut",
    "Heartbeat",
    "Plan",
    "Source",
    "StopConsuming",
    "Supervisor",
    "adapted",
    "close_connections",
    "is_asynchronous",
    "with_fresh_connections",
]
