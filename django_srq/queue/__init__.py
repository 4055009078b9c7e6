"""The queue itself, free of Django settings: ``SafeRedisQueue``, and what it takes and gives."""

from django_srq.queue.backoff import Backoff
from django_srq.queue.item import Item
from django_srq.queue.rate import Rate
from django_srq.queue.safe_redis_queue import SafeRedisQueue

__all__ = ["Backoff", "Item", "Rate", "SafeRedisQueue"]
