"""Takes items and calls their handlers: one process, one item at a time."""

from __future__ import annotations

from django_srq.consumer.consumer import Consumer, Source
from django_srq.consumer.handler import adapted, with_fresh_connections

__all__ = ["Consumer", "Source", "adapted", "with_fresh_connections"]
