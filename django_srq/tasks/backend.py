"""SRQBackend: the backend of ``django.tasks`` that keeps its tasks in the queues of this package."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from django.core import checks
from django.tasks import Task, TaskResult
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued

from django_srq import conf, operations
from django_srq.exceptions import ConfigurationError, OutcomeUnknown, SRQError
from django_srq.operations.identifiers import new_uid
from django_srq.queue import instrumentation, puts
from django_srq.queue.calls import batches, send
from django_srq.queue.instrumentation import Puts
from django_srq.queue.serializers import JSON
from django_srq.registry import Queue, queues
from django_srq.signals import Announcement
from django_srq.tasks import commits, results
from django_srq.tasks.commits import Databases, OfThread
from django_srq.tasks.envelope import decorated, envelope
from django_srq.tasks.task import SRQTask, arguments_of
from django_srq.transport.sansio import Steps, async_method, run, sync_method
from django_srq.values import is_uid

ID_MOST = 64  # characters of a task's id
_json = JSON()


class SRQBackend(BaseTaskBackend):
    """Keeps tasks in the queues of this package; ``srq_consume`` runs them. A task is run at least once.

    A backend holds no state: Django makes one for each thread. Its methods raise the errors of ``put``, such as
    QueueUnavailable and OutcomeUnknown.
    """

    task_class = SRQTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    # -- enqueue

    @sync_method
    def enqueue(  # type: ignore[override]
        self, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Steps[TaskResult[..., Any]]:
        """Enqueue a task, or have it enqueued when all open transactions of this thread have committed.

        Of which databases, ON_COMMIT says, or ``on_commit`` of the task. If one of these transactions rolls back, the
        task is not enqueued. Until the commit, ``get_result`` does not know it.
        """
        (result,) = yield from self._enqueue(task, [(args, kwargs)])
        return result

    @sync_method
    def enqueue_many(
        self, task: Task[..., Any], calls: Iterable[Mapping[str, Any] | tuple[Any, ...]]
    ) -> Steps[list[TaskResult[..., Any]]]:
        """Enqueue a task for each of the calls; the results in their order.

        They are put in batches of up to 1,000, each in one round trip and entirely or not at all. After an error,
        ``put`` of the error has the ids of those that are in the queue, and ``in_doubt`` of those that may be.

        :param task: the task.
        :param calls: the arguments of each: a dict of keyword arguments, or a tuple of positional ones.
        """
        return (yield from self._enqueue(task, [arguments_of(call) for call in calls]))

    def validate_task(self, task: Task[..., Any]) -> None:
        super().validate_task(task)
        if not self.queues and task.queue_name not in self.queue_aliases():
            raise InvalidTask(f"Queue '{task.queue_name}' is not valid for backend.")

    def _enqueue(
        self, task: Task[..., Any], calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]]
    ) -> Steps[list[TaskResult[..., Any]]]:
        self.validate_task(task)
        _require_name(task)
        queue = _queue_of(task)
        waiting: list[Any] = []
        if databases := self._databases_of(task):
            waiting = yield OfThread(commits.in_transaction, databases)
        step: Any = "prepare" if waiting else "put"
        watch = Puts(queue.alias, step, None).begin() if instrumentation.installed else None
        enqueuing = self._prepare(queue, task, calls, watch.headers if watch else None)
        if waiting:
            if watch:
                watch.end(enqueuing.single, enqueuing.ids)
            yield OfThread(commits.after, waiting, lambda: self._put_after_commit(enqueuing), self._robust)
            return enqueuing.results
        steps = self._put(enqueuing)
        states = yield from (watch.over(steps, enqueuing.single, enqueuing.ids) if watch else steps)
        return (yield from self._with_existing(enqueuing, states, calls))

    def _prepare(
        self,
        queue: Queue,
        task: Task[..., Any],
        calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]],
        headers: Mapping[str, str] | None,
    ) -> _Enqueuing:
        """Check and serialise everything: after an error here, nothing has changed."""
        terms = puts.terms_of(queue, 0, task.run_after, int(task.priority), headers, None, own=False)
        unique = getattr(task, "unique", False)
        made, payloads = [], []
        for args, kwargs in calls:
            uid = _marked(new_uid(), queue.alias)
            at = int(uid[:8] + uid[9:13], 16)
            result = results.ready(task, uid, args, kwargs, at)
            payload = puts.dumped(queue, envelope(task, result.args, result.kwargs, at=at if unique else None))
            # As the worker will read them: JSON makes texts of all keys.
            read = _json.loads(payload)
            object.__setattr__(result, "args", read["args"])
            object.__setattr__(result, "kwargs", read["kwargs"])
            if unique:
                object.__setattr__(result, "id", _named(read, queue.alias))
            made.append(result)
            payloads.append(payload)
        ids = [result.id for result in made]
        prepared = list(puts.batches(queue, ids, payloads, terms, own=unique, replaces_dead=unique))
        return _Enqueuing(queue, task, made, ids, prepared)

    def _put(self, enqueuing: _Enqueuing) -> Steps[list[str]]:
        """Send what is prepared, and the signals of the tasks that were added; the states of the others."""
        queue, ids = enqueuing.queue, enqueuing.ids
        try:
            if len(ids) == 1:
                states = yield from puts.add(queue, [enqueuing.batches[0][1]], ids, None)
            else:
                states = yield from puts.send_all(queue, enqueuing.batches, len(ids), None)
        except SRQError as error:
            if isinstance(error, OutcomeUnknown):
                error.in_doubt = error.in_doubt or ids
                if error.advice:
                    error.args = (str(error).replace(error.advice, _advice(error.in_doubt)),)
            yield from self._announce(enqueuing.results[: len(error.put)])
            raise
        yield from self._announce(result for result, state in zip(enqueuing.results, states, strict=True) if not state)
        return states

    def _announce(self, added: Iterable[TaskResult[..., Any]]) -> Steps[None]:
        for result in added:
            yield Announcement(task_enqueued, type(self), task_result=result)

    def _put_after_commit(self, enqueuing: _Enqueuing) -> None:
        steps = self._put(enqueuing)
        if instrumentation.installed:
            watch = Puts(enqueuing.queue.alias, "send", None).begin()
            steps = watch.over(steps, enqueuing.single, enqueuing.ids)
        try:
            run(steps)
        except SRQError as error:
            later = "" if self._robust else "; what waited for the commit behind it is not enqueued either"
            error.args = (f"{error}; {_after_commit(error, enqueuing)}{later}",)
            raise

    def _with_existing(
        self,
        enqueuing: _Enqueuing,
        states: Sequence[str],
        calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]],
    ) -> Steps[list[TaskResult[..., Any]]]:
        """The results; of a unique task that was there already, the result of that one."""
        found = enqueuing.results
        there = [i for i, state in enumerate(states) if state]
        if there:
            views = yield from views_of(enqueuing.queue, [enqueuing.ids[i] for i in there])
            for i, view in zip(there, views, strict=True):
                if view is not None:
                    found[i] = results.result_of(view)
                else:  # it has ended meanwhile, and no result of it is kept
                    (found[i],) = yield from self._enqueue(enqueuing.task, [calls[i]])
        return found

    # -- results

    @sync_method
    def get_result(self, result_id: str) -> Steps[TaskResult[..., Any]]:
        """The result of a task, in one round trip.

        :param result_id: the id of the result.
        :raises TaskResultDoesNotExist: the id is not known; the task waits for a commit, or was deleted, or its result
            is not kept any longer.
        :raises TaskResultMismatch: the task cannot be imported here.
        """
        uid = str(result_id)
        for queue in self._places(uid):
            (view,) = yield from views_of(queue, [uid])
            if view is not None:
                return results.result_of(view)
        raise TaskResultDoesNotExist(uid)

    @sync_method
    def cancel(self, result_id: str) -> Steps[bool]:
        """Take a task that is ready, or waits for its time, out of its queue; return whether this call did.

        Its result is FAILED, with the error TaskCancelled. A task that runs, or has ended, is left alone.

        :param result_id: the id of the result.
        """
        uid = str(result_id)
        for queue in self._places(uid):
            kept = operations.kept(queue.config.results_ttl, queue.config.results_most, results.cancelled())
            if (yield from send(queue, operations.cancel(queue.keys, uid, kept))):
                return True
        return False

    aenqueue = async_method(enqueue)  # type: ignore[assignment, arg-type]
    aenqueue_many = async_method(enqueue_many)
    aget_result = async_method(get_result)  # type: ignore[arg-type]
    acancel = async_method(cancel)

    def _places(self, uid: str) -> Iterator[Queue]:
        """The queues where the task may be: first the one that its uid names."""
        if is_uid(uid) and len(uid) <= ID_MOST:
            for alias in sorted(self.queue_aliases(), key=lambda alias: _mark(alias) != uid[15:18]):
                yield queues[alias]

    # -- configuration

    def queue_aliases(self) -> list[str]:
        """The aliases of the queues that tasks of this backend may be in."""
        loaded = conf.load()
        if self.queues:
            return [alias for alias in loaded.of_queue if alias in self.queues]
        return [alias for alias, config in loaded.queues.items() if config.tasks == self.alias and not config.handler]

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        return [
            checks.Warning(problem.message, hint=problem.hint, id=problem.id)
            for problem in conf.not_installed(self.alias)
        ]

    def _databases_of(self, task: Task[..., Any]) -> Databases:
        chosen: Databases | None = getattr(task, "on_commit", None)
        return self._on_commit if chosen is None else chosen

    @cached_property
    def _on_commit(self) -> Databases:
        chosen: Databases = conf.task_option(self.alias, self.options, "ON_COMMIT", True)
        return chosen

    @cached_property
    def _robust(self) -> bool:
        """Whether an error of a put after the commit is logged, and not raised."""
        chosen: bool = conf.task_option(self.alias, self.options, "ROBUST", False)
        return chosen


class _Enqueuing(NamedTuple):
    """Tasks that are to be put: checked and serialised."""

    queue: Queue
    task: Task[..., Any]
    results: list[TaskResult[..., Any]]
    ids: list[str]
    batches: list[puts.Batch]

    @property
    def single(self) -> list[Any]:
        """The call of a single task, as integrations want it."""
        return [self.batches[0][1]] if len(self.ids) == 1 else []


def _require_name(task: Task[..., Any]) -> None:
    """InvalidTask when a worker could not find the task by its path."""
    if task.func.__module__ == "__main__":
        raise InvalidTask(f"{task.module_path}: no worker can import __main__. Move the task to a module.")
    if decorated(task) is None:
        raise InvalidTask(
            f"{task.module_path} is not this task, and a worker looks for it under this name. "
            "Decorate the function itself, at module level."
        )


def _queue_of(task: Task[..., Any]) -> Queue:
    queue = queues[task.queue_name]
    config = queue.config
    if config.serializer != "json":
        raise ConfigurationError(f"{config.where}['SERIALIZER'] must be 'json', as the queue is for tasks.")
    if config.handler:
        raise ConfigurationError(f"{config.where} has a HANDLER, so the queue is not for tasks.")
    return queue


def views_of(queue: Queue, ids: Sequence[str]) -> Steps[list[operations.TaskView | None]]:
    found: list[operations.TaskView | None] = []
    for batch in batches(ids):
        rest = batch
        while rest:  # a reply that would be too large ends early
            views = yield from send(queue, operations.results(queue.keys, rest))
            found += views
            rest = rest[len(views) :]
    return found


# -- ids: UUIDs whose 12 bits rand_a (in version 8, custom_b) tell the queue


@lru_cache(maxsize=1024)
def _mark(alias: str) -> str:
    return f"{zlib.crc32(alias.encode()) & 0xFFF:03x}"


def _marked(uid: str, alias: str) -> str:
    return f"{uid[:15]}{_mark(alias)}{uid[18:]}"


def _named(payload: Mapping[str, Any], alias: str) -> str:
    """The id of a unique task: always the same for the same task, arguments and backend (RFC 9562, version 8)."""
    work = [payload["task"], payload["args"], payload["kwargs"], payload.get("backend")]
    digits = hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-8{_mark(alias)}-{variant}{digits[17:20]}-{digits[20:32]}"


# -- messages


def _advice(in_doubt: Sequence[str]) -> str:
    """What to do after a lost reply; that of a put does not apply, as nobody enqueues a task by its id."""
    if len(in_doubt) > 1:
        return "they may be enqueued: ask get_result for each id of in_doubt before you enqueue it again"
    return f"it may be enqueued: ask get_result({in_doubt[0]!r}) before you enqueue it again"


def _after_commit(error: SRQError, enqueuing: _Enqueuing) -> str:
    """What became of the transaction and the tasks, when the put after the commit failed."""
    ids, path = enqueuing.ids, enqueuing.task.module_path
    tasks = f"{len(ids)} tasks {path}" if len(ids) > 1 else f"the task {path} ({ids[0]})"
    if len(ids) > 1:
        return f"the transaction is committed, but not all of {tasks} are enqueued"
    if isinstance(error, OutcomeUnknown):
        return f"the transaction is committed, but {tasks} may not be enqueued"
    return f"the transaction is committed, but {tasks} is not enqueued: enqueue it again"
