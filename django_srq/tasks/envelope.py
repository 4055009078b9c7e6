"""The payload of a task: its path, its arguments, and the options in which it differs from the decorated task.

Imports nothing of ``django.tasks``: a process without tasks can tell that an item is one.
"""

from __future__ import annotations

import datetime as dt
import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from django_srq.consumer.runner import Unrunnable
from django_srq.exceptions import shown
from django_srq.queue.backoff import Backoff
from django_srq.queue.envelope import is_envelope

if TYPE_CHECKING:
    from django.tasks import Task

    from django_srq.tasks.task import SRQTask

DEFAULT_BACKEND = "default"
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_PATH_MOST = 400  # characters
_LATEST = 1 << 53  # ms; JSON holds larger numbers, but no clock shows them
_ELSEWHERE = {"func", "takes_context", "backend"}  # fields of a task that are no options


class TaskCall(NamedTuple):
    """One call of a task, as an item holds it."""

    path: str
    args: list[Any]
    kwargs: dict[str, Any]
    backend: str = DEFAULT_BACKEND
    options: Mapping[str, Any] = {}  # of ``task.using``, as JSON has them; and "at": see enqueued_at in results.py

    def task(self) -> SRQTask:
        """The task, with the options of this call. Unrunnable when there is none of that path, or they are wrong."""
        from django_srq.tasks.task import find, of_call  # needs Django 6.0

        return of_call(find(self.path), self)


def envelope(task: Task[..., Any], args: list[Any], kwargs: dict[str, Any], *, at: int | None = None) -> dict[str, Any]:
    """The payload. at: when the task was enqueued (ms), if its uid does not say so."""
    payload = {"task": task.module_path, "args": args, "kwargs": kwargs}
    if task.backend != DEFAULT_BACKEND:
        payload["backend"] = task.backend
    base = decorated(task)
    options = {} if task is base else _differing(task, base)
    if at is not None:
        options["at"] = at
    if options:
        payload["options"] = options
    return payload


def decorated(task: Task[..., Any]) -> Task[..., Any] | None:
    """The task that its module has under the name of its function; None if there is none, so that it cannot be run."""
    function = task.func
    found = getattr(sys.modules.get(function.__module__), function.__qualname__, None)
    return found if getattr(found, "func", None) is function else None


def read(payload: Any) -> TaskCall:
    """The call that a payload describes. Unrunnable when it describes none."""
    if not is_envelope(payload):
        raise Unrunnable("the payload describes no task: only tasks may be put into a queue of tasks")
    path, backend, options = payload["task"], payload.get("backend", DEFAULT_BACKEND), payload.get("options", {})
    if len(path) > _PATH_MOST or not _PATH.fullmatch(path):
        raise Unrunnable(f"{shown(path)} is no path of a task")
    if not isinstance(backend, str) or not isinstance(options, dict) or not _is_moment(options.get("at", 0)):
        raise Unrunnable(f"{path}: the payload has a wrong backend or wrong options")
    return TaskCall(path, payload["args"], payload["kwargs"], backend, options)


def _is_moment(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LATEST


def _differing(task: Task[..., Any], base: Task[..., Any] | None) -> dict[str, Any]:
    return {
        field.name: _as_json(value)
        for field in fields(task)
        if field.name not in _ELSEWHERE and (value := getattr(task, field.name)) != getattr(base, field.name, None)
    }


def _as_json(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, Backoff):
        return vars(value)
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value
