"""Items as text for people, and as data for programs: redacted as in the status view.

Text from the server is shown without control characters, so that no payload and no message can control the terminal.
"""

from __future__ import annotations

import datetime as dt
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.template.defaultfilters import filesizeformat

from django_srq.conf import QueueConfig
from django_srq.management.printing import escaped
from django_srq.management.report import aligned, local
from django_srq.operations import ItemView
from django_srq.queue.item import Item
from django_srq.status.redaction import headers_shown, payload_shown, redacted_text
from django_srq.status.reports import iso
from django_srq.status.tasks import DoneTask, is_of_tasks, returned, status_of, task_shown, value_data
from django_srq.status.verdicts import readable, span, stored_moment

LONGEST = 200  # characters of an error or a payload in a list, where no terminal cuts it
SHORT = 60  # characters of a task's call, where its error or return value follows
LEAST = 12  # columns for that; a narrower terminal leaves out the time, then the state

# -- a line for each item


def lines(config: QueueConfig, items: Sequence[ItemView], at: dt.datetime, width: int | None) -> Iterator[str]:
    """A table. width: columns of the terminal; None: there is none."""
    rows = [("UID", "STATE", "TIME"), *((escaped(item.uid), _state(item), _time(item, at)) for item in items)]
    texts = ["ERROR OR PAYLOAD", *(_text(config, item) for item in items)]
    padded = aligned(rows, words=range(3))
    kept = 3
    while width is not None and kept > 1 and len("  ".join(padded[0][:kept])) + 2 + LEAST > width:
        kept -= 1
    for row, text in zip(padded, texts, strict=True):
        line = "  ".join([*row[:kept], text])
        yield line if width is None else cut(line, width)


def cut(text: str, width: int) -> str:
    """The text, or its beginning with "…", in at most so many columns of a terminal."""
    columns = [2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text]
    if sum(columns) <= width:
        return text
    end = used = 0
    while used + columns[end] < width:
        used += columns[end]
        end += 1
    return f"{text[:end]}…"


def _state(item: ItemView) -> str:
    return "retrying" if item.delivery.retrying else item.delivery.state.replace("_", " ")


def _time(item: ItemView, at: dt.datetime) -> str:
    state, when = item.delivery.state, item.delivery.when
    if state == "delayed" and when is not None:
        return f"in {span((when - at).total_seconds())}" if when > at else "due"
    since = {"dead": when, "done": when, "in_flight": item.claimed_at}.get(state, _put_at(item))
    return "-" if since is None else f"{span(max(0.0, (at - since).total_seconds()))} ago"


def _text(config: QueueConfig, item: ItemView) -> str:
    if item.delivery.state in ("dead", "delayed") and (failures := errors(item)):
        task = f"{_content(config, item, SHORT)}: " if is_of_tasks(config) else ""
        return escaped(cut(task + _in_short(failures[0]), LONGEST))
    if isinstance(item, DoneTask):
        return escaped(cut(f"{_content(config, item, SHORT)}: {_outcome(config, item)}", LONGEST))
    return escaped(_content(config, item, LONGEST))


def _content(config: QueueConfig, item: ItemView, characters: int) -> str:
    """The payload in a list; of a task, its name and arguments."""
    if is_of_tasks(config):
        return task_shown(config, item.payload, item.size).cut(characters)
    return payload_shown(config, item.payload, item.size).cut(characters)


def _in_short(error: Mapping[str, Any]) -> str:
    return " ".join(f"{error['type'].rpartition('.')[2]}: {error['message']}".split())


def _outcome(config: QueueConfig, task: DoneTask) -> str:
    failures = errors(task)
    return returned(config, task) if task.successful else _in_short(failures[0]) if failures else task.status


# -- all that is known of an item


def details(config: QueueConfig, item: ItemView) -> Iterator[str]:
    for name, value in _facts(config, item):
        yield f"{name:<12}{escaped(value)}"
    for name, value in headers_shown(item.delivery.headers):
        yield f"{'header':<12}{escaped(f'{name}: {value}')}"
    shown = payload_shown(config, item.payload, item.size)
    yield f"{'payload':<12}{filesizeformat(item.size)}"
    yield from _indented("\n".join(filter(None, [shown.note, shown.text])))
    failures = errors(item)
    for number, error in enumerate(failures, 1):
        yield ""
        yield f"error {number} of {len(failures)}, {escaped(', '.join(_circumstances(error)))}"
        title = f"{error['type']}: {error['message']}" if error["message"] else error["type"]
        yield from _indented(error["traceback"] or title)


def _facts(config: QueueConfig, item: ItemView) -> Iterator[tuple[str, str]]:
    delivery = item.delivery
    since = f" since {local(delivery.when)}" if delivery.state in ("dead", "done") and delivery.when else ""
    yield "uid", item.uid
    yield "queue", config.alias
    if is_of_tasks(config):
        task = task_shown(config, item.payload, item.size)
        yield "task", task.name or "unknown"
        yield "call", task.text
        yield "status", status_of(item)
    yield "state", _state(item) + since
    if put_at := _put_at(item):
        yield "put", local(put_at)
    if delivery.state == "delayed" and delivery.when:
        yield "due", local(delivery.when)
    if delivery.state == "ready":
        yield "ahead", f"{item.position:,} items" if item.position is not None else "more than 1,000 items"
    if item.consumer:
        yield "consumer", item.consumer + (f" since {local(item.claimed_at)}" if item.claimed_at else "")
    if delivery.state == "in_flight" and delivery.when:
        yield "lease until", local(delivery.when)
    yield "deliveries", f"{delivery.deliveries:,}"
    if delivery.crashes:
        yield "crashes", f"{delivery.crashes:,}"
    if delivery.priority:
        yield "priority", str(delivery.priority)
    if isinstance(item, DoneTask) and item.successful:
        yield "returned", returned(config, item)


def _circumstances(error: Mapping[str, Any]) -> Iterator[str]:
    if error["delivery"] != 0:  # of a task that was cancelled
        yield f"delivery {'?' if error['delivery'] is None else error['delivery']}"
    if moment := error["time"]:
        yield local(moment)
    if error["consumer"]:
        yield error["consumer"]


def _indented(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"  {escaped(line)}"


# -- data


def data(config: QueueConfig, item: ItemView) -> dict[str, Any]:
    """The JSON of an item, as docs/reference/commands.md describes it."""
    delivery = item.delivery
    moments = {state: delivery.when if delivery.state == state else None for state in ("delayed", "in_flight", "dead")}
    shown = payload_shown(config, item.payload, item.size)
    return {
        "queue": config.alias,
        "uid": item.uid,
        "state": delivery.state,
        "retrying": delivery.retrying,
        "put": iso(_put_at(item)),
        "due": iso(moments["delayed"]),
        "lease_until": iso(moments["in_flight"]),
        "dead_since": iso(moments["dead"]),
        "deliveries": delivery.deliveries,
        "crashes": delivery.crashes,
        "priority": delivery.priority,
        "consumer": item.consumer or None,
        "claimed": iso(item.claimed_at),
        "headers": dict(headers_shown(delivery.headers)),
        "size": item.size,
        "payload": None if shown.note else _plain(shown.text),
        "payload_note": shown.note or None,
        "errors": [{**error, "time": iso(error["time"]), "started": iso(error["started"])} for error in errors(item)],
        **_task_data(config, item),
    }


def _task_data(config: QueueConfig, item: ItemView) -> dict[str, Any]:
    """The fields of a task; null in a queue that is not for tasks."""
    of_tasks, done = is_of_tasks(config), isinstance(item, DoneTask)
    return {
        "task": task_shown(config, item.payload, item.size).name or None if of_tasks else None,
        "status": status_of(item) if of_tasks else None,
        "finished": iso(item.delivery.when) if done else None,
        "return_value": value_data(config, item) if done else None,
    }


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # the text of raw bytes
        return text


def errors(item: ItemView) -> list[dict[str, Any]]:
    """The errors of an item that are known, newest first, all with the same keys."""
    return [_error(error) for error in item.errors or filter(None, [item.error])]


def _error(error: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": readable(error.get("type", "")),
        "message": redacted_text(str(error.get("message", ""))),
        "time": stored_moment(error.get("time")),
        "delivery": error.get("delivery"),
        "consumer": readable(error.get("consumer", "")) or None,
        "traceback": redacted_text(str(error.get("traceback", ""))) or None,
        "started": stored_moment(error.get("started")),
    }


def _put_at(item: ItemView) -> dt.datetime | None:
    return Item(item.uid, None, item.delivery).enqueued_at


def unknown(uid: str) -> str:
    """What a command says of a uid that names no item."""
    return f"no item {uid!r}: it was handled or deleted, or was never put"
