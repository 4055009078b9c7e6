"""Warnings of a consumer when it begins: how its servers may lose items."""

from __future__ import annotations

from collections.abc import Iterator

from django_srq import operations
from django_srq.exceptions import SRQError
from django_srq.operations.losses import keeps_no_file, may_evict
from django_srq.queue.safe_redis_queue import SafeRedisQueue


def possible_losses(queue: SafeRedisQueue, seconds: float) -> Iterator[tuple[str, ...]]:
    """How the server of a queue may lose items: log messages with their arguments. The server has just answered a call.

    There are none if the server refuses to tell, or does not answer within so many seconds.
    """
    try:
        info = queue.link.call(operations.info(), queue=queue.alias, timeout=seconds)
    except SRQError:
        return
    if keeps_no_file(info):
        yield "the server has no append-only file: a restart loses items server=%s", queue.link.address
    if may_evict(info):
        yield "the server may evict items server=%s maxmemory-policy=%s", queue.link.address, info["maxmemory_policy"]
