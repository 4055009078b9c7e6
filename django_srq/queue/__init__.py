"""The queue itself, without Django settings: ``SafeRedisQueue``, and the types of its arguments and results."""

from django_srq.queue.backoff import Backoff
from django_srq.queue.item import Item
from django_srq.queue.rate import Rate
from django_srq.queue.safe_redis_queue import SafeRedisQueue

__all__ = ["Backoff", "Item", "Rate", "SafeRedisQueue"]
