"""Says at the start of a consumer what its servers may lose."""

from __future__ import annotations

from collections.abc import Iterator

from django_srq import operations
from django_srq.exceptions import SRQError
from django_srq.operations.losses import keeps_no_file, may_evict
from django_srq.queue.safe_redis_queue import SafeRedisQueue


def possible_losses(queue: SafeRedisQueue, seconds: float) -> Iterator[tuple[str, ...]]:
    """What the server of a queue, which has just answered, may lose: log messages with their arguments.

    None where the server refuses to tell, or does not within so many seconds.
    """
    try:
        info = queue.link.call(operations.info(), queue=queue.alias, timeout=seconds)
    except SRQError:
        return
    if keeps_no_file(info):
        yield "the server has no append-only file: a restart loses items server=%s", queue.link.address
    if may_evict(info):
        yield "the server may evict items server=%s maxmemory-policy=%s", queue.link.address, info["maxmemory_policy"]
