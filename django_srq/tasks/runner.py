"""Runs the tasks of a queue in a consumer: what ``consumer/runner.py`` asks for."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from django.dispatch import Signal
from django.tasks import TaskContext, TaskResult, TaskResultStatus, task_backends
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultMismatch
from django.tasks.signals import task_finished, task_started
from django.utils import timezone
from django.utils.json import normalize_json

from django_srq import conf, operations, signals
from django_srq.consumer.handler import is_asynchronous
from django_srq.consumer.logged_errors import ErrorView
from django_srq.consumer.runner import EARLIER_ERRORS, Exhausted, Outcome, TaskTimeout, Unrunnable, Verdict
from django_srq.exceptions import PayloadTooLarge, SRQError
from django_srq.queue import failure
from django_srq.queue.backoff import Backoff, delay_after
from django_srq.queue.item import Item
from django_srq.queue.masking import Secrets
from django_srq.queue.safe_redis_queue import SafeRedisQueue
from django_srq.registry import Queue, queues
from django_srq.runtime.completion import is_pending
from django_srq.tasks import envelope, results
from django_srq.tasks.task import SRQTask


@dataclass(slots=True)
class Attempt:
    """An attempt at a task: from its beginning until the server has been told of its end."""

    task: SRQTask
    result: TaskResult[
        ..., Any
    ]  # the same one in all signals and calls of the attempt: making one takes longer than a signal
    sender: type  # of the signals: the class of the task's backend
    discarded: BaseException | None = None  # the Discard that the task raised


class TaskRunner:
    """Runs the tasks of one queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue, self._config = queue, queue.config
        # Of the signals, by the alias of the backend. Django makes a backend for each context, so for each attempt.
        self._senders: dict[str, type] = {}
        self._view = ErrorView(queue.config.log_messages, Secrets(conf.load().admin.redact))

    # -- before the run

    def begin(self, item: Item) -> None:
        call = envelope.read(item.payload)
        try:
            task = call.task()
            sender = self._sender(call.backend)
        except (InvalidTask, InvalidTaskBackend) as error:
            raise Unrunnable(f"{call.path} cannot be run here: {error}") from error
        item.attempt = Attempt(task, results.running(call, item, task), sender)
        if task.max_attempts is not None and item.deliveries > task.max_attempts:
            item.attempt.result.worker_ids.pop()  # this delivery is no attempt
            raise Exhausted(f"the last of {task.max_attempts} attempts was cut short: its process died or was stopped")

    def _sender(self, backend: str) -> type:
        if backend not in self._senders:
            self._senders[backend] = type(task_backends[backend])
        return self._senders[backend]

    def max_attempts(self, item: Item) -> int | None:
        return _attempt(item).task.max_attempts

    def time_limit(self, item: Item) -> float | None:
        return _attempt(item).task.timeout

    def is_asynchronous(self, item: Item) -> bool:
        return is_asynchronous(_attempt(item).task.func)

    # -- the run

    def run(self, item: Item) -> Any:
        attempt = _attempt(item)
        task, result = attempt.task, attempt.result
        _send(task_started, attempt)
        context: list[Any] = [TaskContext(task_result=result)] if task.takes_context else []
        value = task.func(*context, *result.args, **result.kwargs)
        return value if is_pending(value) else normalize_json(value)

    def outcome(self, item: Item, value: Any, seconds: float) -> Outcome:
        attempt, limit = _attempt(item), self._config.max_payload_bytes
        value = normalize_json(value)
        encoded = results.encode_success(value)
        if limit is not None and len(encoded) > limit:
            raise PayloadTooLarge(
                f"queue {self._config.alias!r}: the return value of {attempt.task.module_path} takes {len(encoded)} "
                f"bytes, the limit is {limit}; return a reference to it instead, or raise MAX_PAYLOAD_BYTES"
            )
        object.__setattr__(attempt.result, "_return_value", value)
        return self._outcome(attempt.task, encoded, valued=value is not None)

    def discarded(self, item: Item, error: BaseException) -> Outcome:
        attempt = _attempt(item)
        attempt.discarded = error
        return self._outcome(attempt.task, results.encode_failure(error), valued=True)

    def verdict(self, item: Item, error: BaseException) -> Verdict:
        consumer = item.token.rpartition("/")[0]
        record = failure.describe(error, consumer=consumer, keep=EARLIER_ERRORS)
        if item.attempt is None or failure.is_rejection(error) or isinstance(error, Exhausted):
            return Verdict(bury=True, error=record)
        attempt = _attempt(item)
        backoff = attempt.task.backoff or self._config.backoff
        if isinstance(error, TaskTimeout) and not isinstance(backoff, Backoff):
            # Asked before each run, not after the failure: a function of the project would be called in vain.
            backoff = self._config.backoff
        answers = _Answers(attempt, error, backoff)
        delay = delay_after(error, answers, item.deliveries)
        most = attempt.task.max_attempts or self._config.max_deliveries
        return Verdict(delay, most, bury=answers.final, error=record)

    # -- after the run

    def acked(self, item: Item, outcome: Outcome, removed: bool) -> None:
        attempt = _attempt(item)
        if not removed:
            return  # it was settled before, and task_finished sent then
        if attempt.discarded is not None:
            attempt.result.errors.append(results.error_of(attempt.discarded))
            self._finish_failed(attempt, attempt.discarded)
        else:
            _finish(attempt, TaskResultStatus.SUCCESSFUL)

    def failed(self, item: Item, error: BaseException, state: str | None) -> None:
        if state == "dead" and item.attempt is not None:
            attempt = _attempt(item)
            if item.deliveries == 1 or not self._read_errors(attempt):
                attempt.result.errors.append(results.error_of(error))
            self._finish_failed(attempt, error)

    def stub(self) -> bytes:
        return self._kept(self._config.results_ttl, results.encode_success(None))

    # --

    def _outcome(self, task: SRQTask, encoded: bytes, *, valued: bool) -> Outcome:
        kept = self._kept(self._config.results_ttl if task.result_ttl is None else task.result_ttl, encoded)
        return Outcome(kept, valued=valued and kept != b"")

    def _kept(self, ttl: float, encoded: bytes) -> bytes:
        return operations.kept(ttl, self._config.results_most, encoded)

    def _read_errors(self, attempt: Attempt) -> bool:
        """Give the result of a dead task the errors of all attempts, which only the server knows."""
        try:
            stored = _result_of_dead(self._queue, attempt.result.id)
        except SRQError:  # this one is known in any case
            return False
        if stored is not None:
            attempt.result.errors[:] = stored.errors
        return stored is not None

    def _finish_failed(self, attempt: Attempt, error: BaseException) -> None:
        """Send task_finished while the error is being handled, so that receivers find it in ``sys.exc_info``."""
        raised_at, token = error.__traceback__, _view.set(self._view)
        try:
            raise error
        except BaseException as raised:
            if raised is not error:  # a signal interrupted this
                raise
            BaseException.with_traceback(error, raised_at)  # without the frame of this function
            _finish(attempt, TaskResultStatus.FAILED)
        finally:
            _view.reset(token)


# What the log may show of the error of the task whose end is being told.
_view: ContextVar[ErrorView | None] = ContextVar("_view", default=None)


def _as_in_our_log(record: logging.LogRecord) -> bool:
    """A filter: Django's record of a failed task shows of the error what our own records show."""
    view = _view.get()
    if view is not None and record.exc_info and record.exc_info[1] is not None:
        record.exc_info = view.of(record.exc_info[1]).exc_info
    return True


logging.getLogger("django.tasks").addFilter(_as_in_our_log)


class _Answers:
    """The backoff of a task as ``delay_after`` takes it. final: a function of the project wants no further attempt."""

    def __init__(self, attempt: Attempt, error: BaseException, backoff: Any) -> None:
        self._attempt, self._error, self._backoff = attempt, error, backoff
        self.final = False

    def delay(self, deliveries: int) -> float:
        if isinstance(self._backoff, Backoff):
            return self._backoff.delay(deliveries)
        seconds = self._backoff(self._error, self._attempt.result)
        self.final = seconds is None
        return 0.0 if seconds is None else seconds


def _result_of_dead(queue: Queue, uid: str) -> TaskResult[..., Any] | None:
    """The result of a task, as the server has it; None if it is not dead any more, or cannot be imported here."""
    (view,) = queue.link.call(operations.results(queue.keys, [uid]), queue=queue.alias)
    try:
        return None if view is None or view.state != "dead" else results.result_of(view)
    except TaskResultMismatch:
        return None


def _tell_of_dead(sender: type, queue: str, uid: str, **_: Any) -> None:
    """Send task_finished for a task that is dead because the process that ran it died.

    The supervisor sees to such a task, and it runs no code of the project: a child sends ``item_dead``.
    """
    config = conf.load().queues.get(queue)
    if config is not None and config.tasks and (result := _result_of_dead(queues[queue], uid)) is not None:
        signals.send(task_finished, type(task_backends[result.backend]), task_result=result)


# Of this sender: an attempt that failed in a living process sends task_finished itself.
signals.item_dead.connect(_tell_of_dead, sender=SafeRedisQueue)


def _attempt(item: Item) -> Attempt:
    return item.attempt  # type: ignore[return-value]


def _finish(attempt: Attempt, status: TaskResultStatus) -> None:
    object.__setattr__(attempt.result, "status", status)
    object.__setattr__(attempt.result, "finished_at", timezone.now())
    _send(task_finished, attempt)


def _send(signal: Signal, attempt: Attempt) -> None:
    signals.send(signal, attempt.sender, task_result=attempt.result)
