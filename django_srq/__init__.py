"""A crash-safe FIFO queue on Redis or Valkey, as a Django app."""

from __future__ import annotations

from django_srq.exceptions import (
    ConfigurationError,
    Discard,
    DuplicateItem,
    InvalidArgument,
    LayoutError,
    OutcomeUnknown,
    PayloadError,
    PayloadTooLarge,
    QueueFull,
    QueueUnavailable,
    Reject,
    RetryLater,
    SRQError,
    UnknownQueue,
)
from django_srq.queue.item import Item
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.registry import default_queue, queues
from django_srq.version import __version__

__all__ = [
    "ConfigurationError",
    "Discard",
    "DuplicateItem",
    "InvalidArgument",
    "Item",
    "LayoutError",
    "OutcomeUnknown",
    "PayloadError",
    "PayloadTooLarge",
    "QueueFull",
    "QueueUnavailable",
    "Reject",
    "RetryLater",
    "SRQError",
    "SafeRedisQueue",
    "UnknownQueue",
    "__version__",
    "default_queue",
    "queues",
]
