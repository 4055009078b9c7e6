"""Results of tasks: the ``TaskResult`` of what the server knows of an item, and the outcomes that are stored."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.tasks import Task, TaskResult, TaskResultStatus
from django.tasks.base import TaskError
from django.tasks.exceptions import TaskResultMismatch
from django.utils import timezone

from django_srq.consumer.runner import Exhausted, Unrunnable
from django_srq.operations.identifiers import from_milliseconds, uid_time
from django_srq.queue import failure
from django_srq.queue.item import Item
from django_srq.queue.serializers import JSON
from django_srq.tasks.envelope import TaskCall, read
from django_srq.tasks.exceptions import TaskCancelled, path_of
from django_srq.tasks.task import imported, of_call

if TYPE_CHECKING:
    from django_srq import operations

_EXHAUSTED = f"{Exhausted.__module__}.{Exhausted.__qualname__}"
UNKNOWN = "unknown"  # stands for the consumer of an attempt of which nothing is kept any more
_json = JSON()
_TIME = re.compile(r"@(\d+)")
_NOTHING = b'{"s":"SUCCESSFUL","r":null}'
_STATUSES = {
    "ready": TaskResultStatus.READY,
    "delayed": TaskResultStatus.READY,
    "in_flight": TaskResultStatus.RUNNING,
    "dead": TaskResultStatus.FAILED,
}


# -- what is stored when a task has ended


def encode_success(value: Any) -> bytes:
    """The outcome of a task that returned this value. ValueError when JSON cannot hold it."""
    return _NOTHING if value is None else b'{"s":"SUCCESSFUL","r":' + _json.dumps(value).encode() + b"}"


def encode_failure(error: BaseException) -> bytes:
    """The outcome of a task that has failed for good, and is not dead."""
    record = _json.loads(failure.describe(error))
    kept = {name: record[name] for name in ("type", "message", "traceback") if name in record}
    return _json.dumps({"s": "FAILED", "e": kept}).encode()


def cancelled() -> bytes:
    return encode_failure(TaskCancelled("the task was cancelled before it ran"))


# -- what is read


def ready(
    task: Task[..., Any], uid: str, args: Sequence[Any], kwargs: Mapping[str, Any], at: int
) -> TaskResult[..., Any]:
    """The result of a task that is being enqueued. at: now (ms)."""
    call = TaskCall("", list(args), dict(kwargs), task.backend)
    return _result(task, uid, call, TaskResultStatus.READY, from_milliseconds(at))


def running(call: TaskCall, item: Item, task: Task[..., Any]) -> TaskResult[..., Any]:
    """The result of a task that a consumer is about to run. The errors of earlier attempts are not known there."""
    worker, started = _claim(item.token)
    uid = str(item.uid)
    return _result(
        task,
        uid,
        call,
        TaskResultStatus.RUNNING,
        _enqueued_at(uid, call, item.enqueued_at),
        starts=[started],
        workers=_padded([worker], item.deliveries),
    )


def result_of(view: operations.TaskView) -> TaskResult[..., Any]:
    """The result of a task, from what the server knows of its item.

    TaskResultMismatch when the item is no task, or a task that cannot be imported here.
    """
    try:
        call = read(_payload(view))
        task = of_call(imported(call.path), call)
    except Unrunnable as error:
        raise TaskResultMismatch(f"{view.uid}: {error}") from error
    put_at = from_milliseconds(view.headers["time"]) if "time" in view.headers else None
    outcome: Mapping[str, Any] = (view.result or {}).get("outcome", {})
    records = list(reversed(view.errors))
    # A delivery that found the attempts used up was none itself.
    begun = [record for record in records if record.get("type") != _EXHAUSTED]
    errors = [*map(_error, records), *([_error(outcome["e"])] if "e" in outcome else [])]
    workers = [record.get("consumer") or UNKNOWN for record in begun]
    starts = [_moment(record.get("started") or record.get("time")) for record in begun]
    if view.token and view.state in ("in_flight", "done"):
        worker, started = _claim(view.token)
        workers.append(worker)
        starts.append(started)
    result = _result(
        task,
        view.uid,
        call,
        TaskResultStatus(outcome["s"]) if view.state == "done" else _STATUSES[view.state],
        _enqueued_at(view.uid, call, put_at),
        starts=starts,
        finished=view.at if view.state in ("dead", "done") else None,
        errors=errors,
        workers=_padded(workers, view.deliveries - len(records) + len(begun)),
    )
    if "r" in outcome:
        object.__setattr__(result, "_return_value", outcome["r"])
    return result


def error_of(error: BaseException) -> TaskError:
    """The error of an attempt that has failed just now."""
    return _error(_json.loads(failure.describe(error)))


def _enqueued_at(uid: str, call: TaskCall, put_at: dt.datetime | None) -> dt.datetime | None:
    """As the uid says; of a unique task, as its payload says; else when it was put."""
    at = call.options.get("at")
    return from_milliseconds(at) if isinstance(at, int) else uid_time(uid) or put_at


def _result(
    task: Task[..., Any],
    uid: str,
    call: TaskCall,
    status: TaskResultStatus,
    enqueued_at: dt.datetime | None,
    *,
    starts: Sequence[dt.datetime | None] = (),
    finished: dt.datetime | None = None,
    errors: Sequence[TaskError] = (),
    workers: Sequence[str] = (),
) -> TaskResult[..., Any]:
    """starts: of the attempts that are known, the last one last."""
    return TaskResult(
        task=task,
        id=uid,
        status=status,
        enqueued_at=_shown(enqueued_at),
        started_at=_shown(starts[0]) if starts else None,
        last_attempted_at=_shown(starts[-1]) if starts else None,
        finished_at=_shown(finished),
        args=call.args,
        kwargs=call.kwargs,
        backend=call.backend,
        errors=list(errors),
        worker_ids=list(workers),
    )


def _payload(view: operations.TaskView) -> Any:
    try:
        return None if view.payload is None else _json.loads(view.payload)
    except ValueError:
        return None


def _claim(token: str) -> tuple[str, dt.datetime | None]:
    """Of a token (consumer/number@time…): the consumer, and when it took the item."""
    consumer, _, rest = token.partition("/")
    time = _TIME.search(rest)
    return consumer or UNKNOWN, from_milliseconds(int(time[1])) if time else None


def _moment(milliseconds: Any) -> dt.datetime | None:
    return from_milliseconds(milliseconds) if isinstance(milliseconds, int | float) else None


def _shown(moment: dt.datetime | None) -> dt.datetime | None:
    """As Django shows times: without a time zone where the project uses none."""
    if moment is None or settings.USE_TZ:
        return moment
    return timezone.make_naive(moment, timezone.get_default_timezone())


def _error(record: Mapping[str, Any]) -> TaskError:
    name = str(record.get("type", "Failed"))
    text = record.get("traceback") or f"{name}: {record.get('message', '')}"
    return TaskError(exception_class_path=path_of(name), traceback=text)


def _padded(workers: list[str], attempts: int) -> list[str]:
    """As many as there were attempts: of those before the last ten, the consumer is not known any more.

    An item that was requeued counts its attempts anew, and still has its errors.
    """
    return [UNKNOWN] * (attempts - len(workers)) + workers[max(len(workers) - attempts, 0) :]
