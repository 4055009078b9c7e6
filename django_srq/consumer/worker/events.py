"""The events of the items that a worker handles, as log records and signals."""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import Signal

from django_srq import signals
from django_srq.consumer.log import guarded
from django_srq.consumer.worker.job import FailedJob, FinishedJob, Job
from django_srq.exceptions import PayloadError, RetryLater
from django_srq.queue import failure, instrumentation
from django_srq.queue.item import Item
from django_srq.queue.safe_redis_queue import SafeRedisQueue

logger = guarded("django_srq.consumer")


class Events:
    def __init__(self, consumer: str) -> None:
        self._consumer = consumer

    def started(self, job: Job, item: Item) -> None:
        if signals.item_started.receivers:  # usually there are none
            self._send(signals.item_started, job.subscription.queue, item=item)

    def acked(self, done: FinishedJob, removed: bool) -> None:
        """removed: whether this ack removed the item; if not, the item was settled before."""
        job = done.job
        if not removed:
            logger.warning("item was already settled queue=%s uid=%s", job.subscription.queue.alias, job.found.uid)
        elif done.discarded is not None:
            self._log(logging.WARNING, "discarded", done, reason=done.discarded)
        else:
            self._log(logging.INFO, "acked", done)
        if signals.item_acked.receivers:
            self._send(signals.item_acked, job.subscription.queue, item=done.item, duration=done.seconds)
        if done.handling is not None:
            done.handling.settled(done.item, None, done.error, removed=removed)

    def failed(self, failed: FailedJob, state: str | None) -> None:
        """state: the state that the item went to; None: none, as its lease was lost."""
        error = failed.error
        level = logging.INFO if issubclass(type(error), RetryLater) and state != "dead" else logging.ERROR
        self._log(level, "failed", failed, error=error, state=state or "lost")
        about = {"item": failed.item, "duration": failed.seconds, "error": error, "state": state}
        self._send(signals.item_failed, failed.job.subscription.queue, **about)
        if state == "dead":
            self._dead(failed.job, error)
        if failed.handling is not None:
            failed.handling.settled(failed.item, state, error, removed=False)

    def buried(self, job: Job, error: PayloadError) -> None:
        queue = job.subscription.queue
        logger.error("payload cannot be decoded, item set aside queue=%s uid=%s", queue.alias, job.found.uid)
        self._dead(job, error)
        if instrumentation.installed:
            item = Item(job.found.uid, None, job.found.delivery)
            alias, size = job.subscription.queue.alias, len(job.found.payload)
            instrumentation.unreadable(alias, item, size, error)

    def _dead(self, job: Job, error: BaseException) -> None:
        evidence = {"type": type(error).__name__, "message": failure.text_of(error)}
        self._send(signals.item_dead, job.subscription.queue, uid=job.found.uid, evidence=evidence)

    def _send(self, signal: Signal, queue: SafeRedisQueue, **about: Any) -> None:
        signals.send(signal, type(queue), queue=queue.alias, consumer=self._consumer, **about)

    def _log(
        self, level: int, outcome: str, end: FinishedJob | FailedJob, *, error: BaseException | None = None, **more: str
    ) -> None:
        if not logger.isEnabledFor(level):
            return
        name = type(error).__name__ if error else None
        if name:
            more["error"] = name
        queue, uid, deliveries = end.job.subscription.queue.alias, end.item.uid, end.item.deliveries
        record = logger.makeRecord(  # not logger._log, which inspects the stack each time; tracers extend makeRecord
            logger.name,
            level,
            __file__,
            0,
            "%s queue=%s uid=%s deliveries=%d duration=%.3f%s",
            (outcome, queue, uid, deliveries, end.seconds, "".join([f" {key}={value}" for key, value in more.items()])),
            (type(error), error, error.__traceback__) if error and logger.isEnabledFor(logging.DEBUG) else None,
            "_log",
        )
        record.__dict__.update(  # like extra=, which would also check each name against the record's attributes
            queue=queue,
            uid=uid,
            deliveries=deliveries,
            duration=end.seconds,
            consumer=self._consumer,
            outcome=outcome,
            error=name,
        )
        logger.handle(record)
