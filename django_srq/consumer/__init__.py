"""The consumer: takes items and calls their handlers, in a supervisor's child processes or in one process alone."""

from __future__ import annotations

from django_srq.consumer.databases import close_connections
from django_srq.consumer.handler import adapt, is_asynchronous, with_fresh_connections
from django_srq.consumer.in_process import Cut, InProcessConsumer
from django_srq.consumer.options import ConsumerOptions
from django_srq.consumer.probes import Heartbeat
from django_srq.consumer.processes.supervisor import Supervisor
from django_srq.consumer.subscription import StopConsuming, Subscription

__all__ = [
    "ConsumerOptions",
    "Cut",
    "Heartbeat",
    "InProcessConsumer",
    "StopConsuming",
    "Subscription",
    "Supervisor",
    "adapt",
    "close_connections",
    "is_asynchronous",
    "with_fresh_connections",
]
