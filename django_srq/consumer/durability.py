"""Says at the start of a consumer what its servers may lose."""

from __future__ import annotations

import logging

from django_srq import operations
from django_srq.exceptions import SRQError
from django_srq.losses import keeps_no_file, may_evict
from django_srq.queue import SafeRedisQueue

logger = logging.getLogger("django_srq.consumer")


def warn_of_losses(queue: SafeRedisQueue, seconds: float) -> None:
    """Look at the server of a queue, which has just answered; one that refuses to tell is left alone."""
    try:
        info = queue.link.call(operations.info(), queue=queue.label, timeout=seconds)
    except SRQError:
        return
    if keeps_no_file(info):
        logger.warning("server keeps no append-only file, its end loses items server=%s", queue.link.address)
    if may_evict(info):
        policy = info["maxmemory_policy"]
        logger.warning("server may drop items server=%s maxmemory-policy=%s", queue.link.address, policy)
