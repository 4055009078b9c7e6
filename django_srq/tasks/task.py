"""SRQTask: a task with the options of this package; and how a worker finds a task by its path."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, DEFAULT_TASK_QUEUE_NAME, Task, TaskResult
from django.tasks.base import DEFAULT_TASK_PRIORITY, TASK_MAX_PRIORITY, TASK_MIN_PRIORITY
from django.tasks.exceptions import InvalidTask
from django.utils.inspect import is_module_level_function
from django.utils.module_loading import import_string

from django_srq.consumer.runner import Unrunnable
from django_srq.exceptions import ConfigurationError, shown
from django_srq.queue.backoff import Backoff
from django_srq.queue.failure import name_of, text_of
from django_srq.runtime.interruption import is_interruption
from django_srq.tasks.envelope import TaskCall
from django_srq.values import COUNTS, DELAYS, SECONDS, Numbers

_FIXED = {"func", "takes_context"}  # fields that ``using`` does not change
T = TypeVar("T", bound="Task[..., Any]")
# Seconds until the next attempt, or None: there is none.
BackoffFunction = Callable[[BaseException, "TaskResult[..., Any]"], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SRQTask(Task):  # type: ignore[type-arg]
    """A task whose backend is ``SRQBackend``. ``@task`` of Django 6.1 takes its options, and ``using`` does on both.

    :param max_attempts: how often it is run at most; None: MAX_DELIVERIES of its queue.
    :param backoff: how long it waits after a failed attempt: a ``Backoff``, a dict of its arguments, or a function at
        module level that gets the exception and the task's result, and returns seconds, or None for no more attempts.
        None: BACKOFF of its queue.
    :param timeout: seconds that an attempt may take: then its process is killed, and the attempt has failed. None:
        TIME_LIMIT of its queue.
    :param unique: while a task with the same arguments is ready or running, ``enqueue`` returns the result of that one.
    :param result_ttl: seconds for which the result is kept, 0 for none; None: RESULT_TTL of the backend.
    :param on_commit: the transactions whose end ``enqueue`` awaits, as in ON_COMMIT of the backend; None: that one.
    """

    # The same as in Django 6.1; in 6.0 they have no defaults.
    priority: int = DEFAULT_TASK_PRIORITY
    backend: str = DEFAULT_TASK_BACKEND_ALIAS
    queue_name: str = DEFAULT_TASK_QUEUE_NAME
    run_after: dt.datetime | None = None

    max_attempts: int | None = None
    backoff: Backoff | BackoffFunction | None = None
    timeout: float | None = None
    unique: bool = False
    result_ttl: float | None = None
    on_commit: bool | str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, read in _READERS.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, read(value))
        Task.__post_init__(self)  # super() does not work in a dataclass with slots

    def using(self, **changes: Any) -> SRQTask:
        """The task with other options; None leaves an option as it is.

        :param changes: ``priority``, ``queue_name``, ``run_after``, ``backend``, and the options of this class.
        """
        if unknown := changes.keys() - {field.name for field in fields(self)} | changes.keys() & _FIXED:
            raise TypeError(f"using() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def enqueue_many(self, calls: Iterable[Mapping[str, Any] | tuple[Any, ...]]) -> list[TaskResult[..., Any]]:
        """Enqueue a task for each of the calls, in batches of up to 1,000; the results in their order.

        :param calls: the arguments of each: a dict of keyword arguments, or a tuple of positional ones.
        """
        backend: Any = self.get_backend()
        if hasattr(backend, "enqueue_many"):
            return backend.enqueue_many(self, calls)  # type: ignore[no-any-return]
        return [self.enqueue(*args, **kwargs) for args, kwargs in map(arguments_of, calls)]

    async def aenqueue_many(self, calls: Iterable[Mapping[str, Any] | tuple[Any, ...]]) -> list[TaskResult[..., Any]]:
        """Await what ``enqueue_many`` does."""
        backend: Any = self.get_backend()
        if hasattr(backend, "aenqueue_many"):
            return await backend.aenqueue_many(self, calls)  # type: ignore[no-any-return]
        return [await self.aenqueue(*args, **kwargs) for args, kwargs in map(arguments_of, calls)]


def arguments_of(call: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments of one of the calls of ``enqueue_many``."""
    if isinstance(call, Mapping):
        return (), dict(call)
    if isinstance(call, tuple):
        return call, {}
    raise TypeError(f"enqueue_many takes a dict or a tuple for each task, not {type(call).__name__}")


def imported(path: str) -> Task[..., Any]:
    """The task of that path. Unrunnable when there is none; the text says what helps."""
    try:
        found = import_string(path)
    except BaseException as error:  # a module may raise anything
        if is_interruption(error):
            raise
        raise Unrunnable(
            f"{path} cannot be imported here ({name_of(error)}: {text_of(error)}): was it renamed? "
            "Keep an alias, or requeue after the next deployment"
        ) from error
    if not isinstance(found, Task):
        raise Unrunnable(f"{path} is no task: was its decorator removed? Put it back, or purge its items")
    return found


def find(path: str) -> SRQTask:
    """The same with the options of this package, also if another backend is configured where it was decorated."""
    return as_srq(imported(path))


def as_srq(task: Task[..., Any]) -> SRQTask:
    return task if isinstance(task, SRQTask) else _made(SRQTask, task, {})


def of_call(task: T, call: TaskCall) -> T:
    """The task with the options of the call. Not validated: settings may have changed since the call was enqueued."""
    changes: dict[str, Any] = {}
    known = {field.name for field in fields(task)} - _FIXED - {"backend"}
    try:
        for name, value in call.options.items():
            if name in known:
                # A field that only a later Django has is taken as it is.
                changes[name] = _FROM_JSON[name](value) if name in _FROM_JSON and value is not None else value
    except (TypeError, ValueError, ConfigurationError, InvalidTask) as error:
        raise Unrunnable(f"{call.path}: the payload has wrong options: {text_of(error)}") from error
    if call.backend != task.backend:
        changes["backend"] = call.backend
    return _made(type(task), task, changes) if changes else task


def _made(kind: type[T], task: Task[..., Any], changes: Mapping[str, Any]) -> T:
    """A task of that class with the fields of another, and with these changes, without ``__post_init__``."""
    made = object.__new__(kind)
    for field in fields(kind):
        value = changes[field.name] if field.name in changes else getattr(task, field.name, field.default)
        object.__setattr__(made, field.name, value)
    return made


# -- the values of the options


def _number(name: str, numbers: Numbers[Any], value: Any) -> Any:
    try:
        return numbers.read(value)
    except ValueError:
        raise InvalidTask(f"{name} must be {numbers.described}, or None, not {shown(value)}.") from None


def _backoff(value: Any) -> Any:
    if isinstance(value, Backoff):
        return value
    if isinstance(value, Mapping):
        try:
            return Backoff(**{name: SECONDS.read(v) if isinstance(v, str) else v for name, v in value.items()})
        except (TypeError, ValueError, ConfigurationError) as error:
            raise InvalidTask(f"backoff must be a dict with any of base, factor, max: {text_of(error)}.") from None
    if is_module_level_function(value) and value.__qualname__.isidentifier():
        return value
    raise InvalidTask(f"backoff must be a Backoff, a dict or a function at module level, not {shown(value)}.")


def _unique(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidTask(f"unique must be True or False, not {shown(value)}.")


def _on_commit(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and value):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(alias, str) and alias for alias in value):
        return tuple(value)
    raise InvalidTask(
        f"on_commit must be True, False, an alias of DATABASES, or a list of such, or None, not {shown(value)}."
    )


_READERS: dict[str, Callable[[Any], Any]] = {
    "max_attempts": partial(_number, "max_attempts", COUNTS),
    "backoff": _backoff,
    "timeout": partial(_number, "timeout", SECONDS),
    "unique": _unique,
    "result_ttl": partial(_number, "result_ttl", DELAYS),
    "on_commit": _on_commit,
}


# -- the same in a payload, which anybody may have written


def _priority_in(value: Any) -> int:
    if type(value) is int and TASK_MIN_PRIORITY <= value <= TASK_MAX_PRIORITY:
        return value
    raise InvalidTask(f"priority must be a whole number from -100 to 100, not {shown(value)}.")


def _name_in(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise InvalidTask(f"queue_name must be a text, not {shown(value)}.")


def _backoff_in(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = import_string(value)
        except ImportError:
            return None  # that of the queue
    return _backoff(value)


_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    **_READERS,
    "backoff": _backoff_in,
    "priority": _priority_in,
    "queue_name": _name_in,
    "run_after": dt.datetime.fromisoformat,
}
