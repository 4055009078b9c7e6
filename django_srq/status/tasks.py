"""Tasks for people: what a queue of tasks holds, with the name and the arguments instead of the JSON. Does no I/O.

Everything here comes from the redacted text of a payload, so that it shows nothing which the payload does not show.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django_srq.conf import QueueConfig
from django_srq.operations import ItemView, TaskView
from django_srq.operations.delivery import Delivery
from django_srq.operations.identifiers import from_milliseconds
from django_srq.queue.envelope import is_envelope
from django_srq.queue.masking import MASK
from django_srq.status.redaction import decoded_shown, payload_shown

LONGEST_NAME = 200  # characters of the path of a task
# The beginning of an envelope that was cut off, as the tasks of this package write it.
_BEGINNING = re.compile(rb'\{"task":\s?"([\w.]{1,%d})"' % LONGEST_NAME)
_CLAIMED = re.compile(r"@(\d+)")
_GROUP = re.compile(r"(?P<task>\S+\.\S+): (?P<error>.+)", re.DOTALL)  # see shared/lifecycle.lua
# How django.tasks calls the states of an item.
STATUSES = {"ready": "READY", "delayed": "READY", "in_flight": "RUNNING", "dead": "FAILED"}


@dataclass(frozen=True)
class TaskShown:
    """A task and its arguments, as a call."""

    name: str  # its dotted path; "" when the payload does not tell
    text: str  # such as "welcome(1, full=False)"; or why the arguments are not shown
    args: list[Any] | None = None  # None: not shown
    kwargs: Mapping[str, Any] | None = field(default=None)

    def cut(self, characters: int) -> str:
        return self.text if len(self.text) <= characters else self.text[: characters - 1] + "…"


def is_of_tasks(config: QueueConfig) -> bool:
    """Whether the queue is for tasks. The payload of an item never decides that."""
    return config.tasks != ""


def task_shown(config: QueueConfig, data: bytes, size: int) -> TaskShown:
    """size: bytes of the whole payload. data is shorter if that is too large: its beginning, or nothing."""
    shown = payload_shown(config, data, size)
    if len(data) < size:
        beginning = _BEGINNING.match(data)
        name = beginning[1].decode() if beginning else ""
        return TaskShown(name, f"{short(name)}(…)" if name else shown.cut(LONGEST_NAME))
    try:
        envelope = json.loads(shown.text)
    except ValueError:
        return TaskShown("", shown.cut(LONGEST_NAME))
    if not is_envelope(envelope):
        return TaskShown("", shown.cut(LONGEST_NAME))
    name, args, kwargs = envelope["task"][:LONGEST_NAME], envelope["args"], envelope["kwargs"]
    return TaskShown(name, f"{short(name)}({', '.join(_arguments(args, kwargs))})", args, kwargs)


def short(name: str) -> str:
    """The name of a task without its module."""
    return name.rpartition(".")[2]


def value_shown(alias: str, value: Any) -> str:
    """What a task returned, redacted as payloads are; in one line, as Python writes it."""
    shown = decoded_shown(alias, value)
    try:
        return written(json.loads(shown.text))
    except ValueError:
        return shown.note or shown.text


@dataclass(frozen=True)
class DoneTask(ItemView):
    """A task that is done and whose result is kept, as people look at it."""

    outcome: Mapping[str, Any] = field(default_factory=dict)  # as stored

    @property
    def status(self) -> str:
        return str(self.outcome.get("s", ""))

    @property
    def successful(self) -> bool:
        return self.status == "SUCCESSFUL"


def done_task(view: TaskView, *, largest: int) -> DoneTask:
    """largest: bytes of a payload; of a larger one, only the beginning is kept."""
    payload, outcome = view.payload or b"", (view.result or {}).get("outcome", {})
    claimed = _CLAIMED.search(view.token)
    errors = list(view.errors)
    if failed := outcome.get("e"):
        ended = view.at and round(view.at.timestamp() * 1000)
        consumer, started = view.token.partition("/")[0], int(claimed[1]) if claimed else None
        number = view.deliveries if view.token else 0  # a task that was cancelled did not fail in a delivery
        errors.insert(0, {**failed, "time": ended, "delivery": number, "consumer": consumer, "started": started})
    delivery = Delivery(
        token=view.token,
        deliveries=view.deliveries,
        crashes=view.crashes,
        priority=view.headers.get("priority", 0),
        headers=view.headers.get("headers", {}),
        put_at=from_milliseconds(view.headers["time"]) if "time" in view.headers else None,
        state="done",
        when=view.at,
        error=errors[0] if errors else None,
        errors=errors,
    )
    return DoneTask(
        view.uid,
        payload[:largest],
        len(payload),
        delivery,
        consumer=view.token.partition("/")[0],
        claimed_at=from_milliseconds(int(claimed[1])) if claimed else None,
        outcome=outcome,
    )


def status_of(item: ItemView) -> str:
    """The status of a task, as django.tasks calls it."""
    return item.status if isinstance(item, DoneTask) else STATUSES[item.delivery.state]


def value_data(config: QueueConfig, item: ItemView) -> Any:
    """What a task returned, redacted, as data; None also when it did not succeed, or is not shown."""
    if not isinstance(item, DoneTask) or not item.successful:
        return None
    try:
        return json.loads(decoded_shown(config.alias, item.outcome.get("r")).text)
    except ValueError:
        return None


def returned(config: QueueConfig, item: ItemView) -> str:
    """What a task returned, as ``value_shown``; "" when it did not succeed."""
    return value_shown(config.alias, item.outcome.get("r")) if isinstance(item, DoneTask) and item.successful else ""


def task_of_group(name: str) -> tuple[str, str]:
    """The task and the error of a group of failed items; ("", name) when the group is not of a task."""
    found = _GROUP.fullmatch(name)
    return (found["task"], found["error"]) if found else ("", name)


def _arguments(args: list[Any], kwargs: Mapping[str, Any]) -> Iterator[str]:
    yield from map(written, args)
    for name, value in kwargs.items():
        yield f"{name}={written(value)}"


def written(value: Any) -> str:
    """A value of JSON as Python writes it. What is masked has no quotes, so that nobody takes it for the value."""
    if value == MASK:
        return MASK
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name!r}: {written(part)}' for name, part in value.items())}}}"
    return repr(value)
