"""The events of the items that a worker handles, as log records and signals."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from django.dispatch import Signal

from django_srq import signals
from django_srq.consumer.logged_errors import ExcInfo, LoggedError, in_one_line
from django_srq.consumer.worker.job import BuriedJob, FailedJob, FinishedJob, Job
from django_srq.exceptions import RetryLater
from django_srq.queue import failure, instrumentation
from django_srq.queue.item import Item
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.runtime.guarded_log import guarded

logger = guarded("django_srq.consumer")


# The words of each record are constant, as collectors group records by them: no template has a name of an outcome as an
# argument. Each begins like this, and goes on with what is known of the end; that of a task has its name, too.
_ITEM = "queue=%s uid=%s deliveries=%d duration=%.3f"
_TASK = "queue=%s uid=%s task=%s deliveries=%d duration=%.3f"


class _Ending(NamedTuple):
    """How the log tells of an item whose handler did not succeed."""

    level: int
    template: str


_ACKED = f"acked {_ITEM}"
_DISCARDED = f"discarded {_ITEM} reason=%s"
_RETRIED = _Ending(logging.WARNING, f"failed, will be tried again {_ITEM} state=%s error=%s reason=%s")
_POSTPONED = _Ending(logging.INFO, f"postponed by its handler {_ITEM} state=%s error=%s reason=%s")
_DEAD = _Ending(logging.ERROR, f"failed, now dead {_ITEM} state=%s error=%s reason=%s")
# Another consumer has the item, or will get it. The server did not keep this error: only the log has it.
_LOST = _Ending(logging.WARNING, f"failed after its lease was lost {_ITEM} state=%s error=%s reason=%s")
NAME_MOST = 200  # characters of a task's name
_BURIED = "payload cannot be decoded, item set aside queue=%s uid=%s deliveries=%d state=%s error=%s reason=%s"


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
            self._log_discarded(done, job.subscription.errors.reason(done.discarded))
        elif logger.isEnabledFor(logging.INFO):
            self._log(logging.INFO, _ACKED, done, outcome="acked")
        if signals.item_acked.receivers:
            self._send(signals.item_acked, job.subscription.queue, item=done.item, duration=done.seconds)
        if done.handling is not None:
            done.handling.settled(done.item, None, done.error, removed=removed)

    def failed(self, failed: FailedJob, state: str | None, logged: LoggedError, *, first: bool = True) -> None:
        """state: the state that the item went to; None: none, as its lease was lost.

        first: no other item of the batch has failed with the same error. The traceback is logged once, and for each
        item that is dead.
        """
        error = failed.error
        level, template = ending = _ending(error, state)
        if logger.isEnabledFor(level):
            words = {"state": state or "lost", "error": logged.type, "reason": logged.reason}
            shown = ending is not _POSTPONED and (first or ending is _DEAD)
            info = logged.exc_info if shown else None
            self._log(level, template, failed, *words.values(), exc_info=info, outcome="failed", **words)
        about = {"item": failed.item, "duration": failed.seconds, "error": error, "state": state}
        self._send(signals.item_failed, failed.job.subscription.queue, **about)
        if state == "dead":
            self._dead(failed.job, error)
        if failed.handling is not None:
            failed.handling.settled(failed.item, state, error, removed=False)

    def buried(self, buried: BuriedJob, logged: LoggedError) -> None:
        job, error = buried
        if logger.isEnabledFor(logging.ERROR):
            words = {"state": "dead", "error": logged.type, "reason": logged.reason}
            about = {
                "queue": job.subscription.queue.alias,
                "uid": job.found.uid,
                "deliveries": job.found.delivery.deliveries,
                **words,
            }
            self._handle(logging.ERROR, _BURIED, tuple(about.values()), logged.exc_info, {**about, "outcome": "failed"})
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

    # -- the log

    def _log_discarded(self, done: FinishedJob, reason: str) -> None:
        if logger.isEnabledFor(logging.WARNING):
            self._log(logging.WARNING, _DISCARDED, done, reason, outcome="discarded", reason=reason)

    def _log(
        self,
        level: int,
        template: str,
        end: FinishedJob | FailedJob,
        *args: str,
        exc_info: ExcInfo | None = None,
        outcome: str,
        error: str | None = None,
        state: str | None = None,
        reason: str | None = None,
    ) -> None:
        subscription, uid, deliveries = end.job.subscription, end.item.uid, end.item.deliveries
        queue = subscription.queue.alias
        fields = {
            "queue": queue,
            "uid": uid,
            "deliveries": deliveries,
            "duration": end.seconds,
            "outcome": outcome,
            "error": error,
            "state": state,
            "reason": reason,
        }
        given: tuple[Any, ...] = (queue, uid, deliveries, end.seconds, *args)
        if subscription.runner is not None:
            fields["task"] = name = task_name(end.item.payload)
            template, given = template.replace(_ITEM, _TASK), (queue, uid, name, *given[2:])
        self._handle(level, template, given, exc_info, fields)

    def _handle(
        self, level: int, template: str, args: tuple[Any, ...], exc_info: ExcInfo | None, fields: dict[str, Any]
    ) -> None:
        # Not logger._log, which inspects the stack each time; tracers extend makeRecord.
        record = logger.makeRecord(logger.name, level, __file__, 0, template, args, exc_info, "_log")
        # Like extra=, which would also check each name against the record's attributes.
        record.__dict__.update(fields, consumer=self._consumer)
        logger.handle(record)


def task_name(payload: Any) -> str:
    """The name of the task in the payload of an item, in one line; "" if there is none."""
    name = payload.get("task") if isinstance(payload, dict) else None
    return in_one_line(name, NAME_MOST) if isinstance(name, str) else ""


def _ending(error: BaseException, state: str | None) -> _Ending:
    if state is None:
        return _LOST
    if state == "dead":
        return _DEAD
    return _POSTPONED if issubclass(type(error), RetryLater) else _RETRIED
