"""Items, groups and consumers as rows of the status view's tables: the templates only have to print their fields."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.admin.models import LogEntry
from django.template.defaultfilters import filesizeformat
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from django_srq.conf import QueueConfig
from django_srq.operations import ErrorGroup, ItemView
from django_srq.queue.item import Item
from django_srq.status import ConsumerInfo, QueueReport, Snapshot
from django_srq.status.redaction import Shown, headers_shown, payload_shown, redacted_text
from django_srq.status.tasks import (
    DoneTask,
    TaskShown,
    is_of_tasks,
    returned,
    status_of,
    task_of_group,
    task_shown,
)
from django_srq.status.verdicts import readable, span, stored_moment

PREVIEW = 100  # characters


@dataclass(frozen=True)
class Failure:
    """An error of an item."""

    type: str
    message: str
    traceback: str
    at: dt.datetime | None
    consumer: str


@dataclass(frozen=True)
class ItemRow:
    uid: str
    chosen_as: str  # value of the checkbox: the uid and, in flight, the token
    position: int  # from 1 on
    preview: str
    task: TaskShown | None  # None: the queue is not for tasks, or this user may not view payloads
    size: str
    put_at: dt.datetime | None
    priority: int
    deliveries: int
    crashes: int
    when: dt.datetime | None
    failure: Failure | None
    consumer: str
    process: str  # of the consumer: host and process id
    running: str  # for how long it has been in flight
    left: str  # time until its lease ends, or until it is due
    age: str
    dead_for: str


@dataclass(frozen=True)
class DoneRow:
    """A task that is done and whose result is kept."""

    uid: str
    task: TaskShown | None  # None: this user may not view payloads
    successful: bool
    value: str  # what it returned; "" when it failed, or this user may not view payloads
    failure: Failure | None
    ended: dt.datetime | None
    ago: str
    took: str
    deliveries: int


@dataclass(frozen=True)
class Attempt:
    """A delivery of a task."""

    number: str
    began: dt.datetime | None
    consumer: str
    took: str
    outcome: str
    level: str  # as of a finding; "" while it runs
    failure: Failure | None


@dataclass(frozen=True)
class GroupRow:
    name: str
    task: str  # "" in a queue that is not for tasks
    title: str
    count: int
    first: dt.datetime
    last: dt.datetime
    example: str
    failure: Failure | None


@dataclass(frozen=True)
class Detail:
    state: str
    shown: Shown | None  # None: this user may not view payloads
    size: str
    headers: Sequence[tuple[str, str]]
    facts: Sequence[tuple[str, object]]
    timeline: Sequence[tuple[dt.datetime | None, str]]
    failure: Failure | None  # of the last error
    earlier: Sequence[Failure]  # the errors before it, newest first
    chosen_as: str
    task: TaskShown | None = None
    attempts: Sequence[Attempt] = ()  # of a task, newest first
    value: str = ""  # what the task returned; "" when there is nothing to show


@dataclass(frozen=True)
class ConsumerRow:
    """A consumer, from its entries in all its queues."""

    id: str
    queues: Sequence[str]
    host: str
    pid: str
    version: str
    threads: str
    since: dt.datetime | None
    seen: str
    state: str
    live: bool
    in_hand: Sequence[tuple[str, str]]  # uid, and for how long


def row(config: QueueConfig, item: ItemView, at: dt.datetime, *, payloads: bool, report: QueueReport) -> ItemRow:
    delivery = item.delivery
    entries = {consumer.id: consumer.about for consumer in report.attendants}
    # A child is not registered itself, but its id begins with that of its supervisor, which is.
    about = entries.get(item.consumer) or entries.get(item.consumer.rpartition(".")[0], {})
    put_at = Item(item.uid, None, delivery).enqueued_at
    of_tasks = is_of_tasks(config)
    return ItemRow(
        uid=item.uid,
        chosen_as=_chosen_as(item),
        position=(item.position or 0) + 1,
        preview=payload_shown(config, item.payload, item.size).cut(PREVIEW) if payloads and not of_tasks else "",
        task=task_shown(config, item.payload, item.size) if payloads and of_tasks else None,
        size=filesizeformat(item.size),
        put_at=put_at,
        priority=delivery.priority,
        deliveries=delivery.deliveries,
        crashes=delivery.crashes,
        when=delivery.when,
        failure=failure(delivery.error),
        consumer=readable(item.consumer),
        process=f"{readable(about['host'])}, {readable(about.get('pid', ''))}" if "host" in about else "",
        running=_span(item.claimed_at, at),
        left=_span(at, delivery.when) or _("elapsed"),
        age=_span(put_at, at) or span(0),
        dead_for=_span(delivery.when, at),
    )


def done(config: QueueConfig, tasks: Iterable[DoneTask], at: dt.datetime, *, payloads: bool) -> list[DoneRow]:
    return [
        DoneRow(
            uid=task.uid,
            task=task_shown(config, task.payload, task.size) if payloads else None,
            successful=task.successful,
            value=returned(config, task) if payloads else "",
            failure=None if task.successful else failure(task.error),
            ended=task.delivery.when,
            ago=_span(task.delivery.when, at) or span(0),
            took=_took(task.claimed_at, task.delivery.when),
            deliveries=task.delivery.deliveries,
        )
        for task in tasks
    ]


def _attempts(item: ItemView) -> Iterator[Attempt]:
    """The deliveries of a task, newest first."""
    number = str(item.delivery.deliveries)
    if item.holder is not None:
        yield Attempt(number, item.claimed_at, readable(item.consumer), "", _("running"), "", None)
    elif isinstance(item, DoneTask) and item.successful:
        took = _took(item.claimed_at, item.delivery.when)
        yield Attempt(number, item.claimed_at, readable(item.consumer), took, _("successful"), "ok", None)
    for error in item.errors:
        began, ended = stored_moment(error.get("started")), stored_moment(error.get("time"))
        outcome, level = (_("postponed"), "warning") if error.get("postponed") else (_("failed"), "error")
        consumer, number = readable(error.get("consumer", "")), readable(error.get("delivery") or "–")  # noqa: RUF001
        yield Attempt(number, began, consumer, _took(began, ended), outcome, level, failure(error))


def _took(start: dt.datetime | None, end: dt.datetime | None) -> str:
    """How long a delivery took: more exactly than other durations, as tasks take less than a second."""
    if start is None or end is None or end < start:
        return ""
    seconds = (end - start).total_seconds()
    return span(seconds) if seconds >= 60 else _("%s s") % number_format(seconds, decimal_pos=3 if seconds < 1 else 1)


def groups(found: Iterable[ErrorGroup]) -> list[GroupRow]:
    return [
        GroupRow(
            group.name,
            readable(task),
            readable(error) if error != "other" else _("other errors"),
            group.count,
            group.first,
            group.last,
            group.example if group.error else "",
            failure(group.error),
        )
        for group in found
        for task, error in [task_of_group(group.name)]
    ]


def failure(error: Mapping[str, Any] | None) -> Failure | None:
    if not error:
        return None
    return Failure(
        readable(error.get("type", "")),
        redacted_text(str(error.get("message", ""))),
        redacted_text(str(error.get("traceback", ""))),
        stored_moment(error.get("time")),
        readable(error.get("consumer", "")),
    )


def detail(config: QueueConfig, item: ItemView, entries: Iterable[LogEntry], *, payloads: bool) -> Detail:
    delivery = item.delivery
    return Detail(
        state=delivery.state,
        shown=payload_shown(config, item.payload, item.size) if payloads else None,
        size=filesizeformat(item.size),
        headers=headers_shown(delivery.headers),
        facts=[*_status(config, item), *_facts(item)],
        timeline=_timeline(item, entries),
        failure=failure(delivery.error),
        earlier=[earlier for error in delivery.errors[1:] if (earlier := failure(error))],
        chosen_as=_chosen_as(item),
        **_of_task(config, item, payloads=payloads),
    )


def _of_task(config: QueueConfig, item: ItemView, *, payloads: bool) -> dict[str, Any]:
    if not is_of_tasks(config):
        return {}
    return {
        "task": task_shown(config, item.payload, item.size) if payloads else None,
        "attempts": list(_attempts(item)),
        "value": returned(config, item) if payloads else "",
    }


def consumers(snapshot: Snapshot) -> list[ConsumerRow]:
    """All consumers that any queue knows, the live ones first."""
    known: dict[str, list[tuple[str, ConsumerInfo]]] = {}
    for report in snapshot.queues:
        for consumer in report.attendants:
            known.setdefault(consumer.id, []).append((report.alias, consumer))
    visible = [report.alias for report in snapshot.queues]
    found = [_attendant(name, entries, visible, snapshot.at) for name, entries in known.items()]
    return sorted(found, key=lambda consumer: (not consumer.live, consumer.id))


def _attendant(
    name: str, entries: Sequence[tuple[str, ConsumerInfo]], visible: Collection[str], at: dt.datetime
) -> ConsumerRow:
    # Each queue has an entry of the consumer: the one written last is up to date.
    _alias, latest = min(entries, key=lambda entry: float("inf") if entry[1].seen is None else entry[1].seen)
    about = latest.about
    written = max((info.about for _alias, info in entries), key=lambda about: _number(about.get("seen")))
    in_hand = list(_in_hand(written))
    served = about.get("queues")
    names = served if isinstance(served, list) else [alias for alias, _info in entries]
    return ConsumerRow(
        id=readable(name),
        queues=[readable(queue) for queue in names if queue in visible],
        host=readable(about.get("host", "")),
        pid=readable(about.get("pid", "")),
        version=readable(about.get("version", "")),
        threads=readable(about.get("threads", "")),
        since=stored_moment(about.get("since")),
        seen="" if latest.seen is None else span(latest.seen),
        state=_state_of(latest, written, bool(in_hand)),
        live=latest.live,
        in_hand=[(readable(uid), _span(since, at)) for uid, since in in_hand],
    )


def _state_of(info: ConsumerInfo, about: Mapping[str, Any], busy: bool) -> str:
    said = "lost" if not info.live else str(about.get("state") or ("busy" if busy else ""))
    words = {
        "lost": pgettext("state of a consumer", "lost"),
        "idle": pgettext("state of a consumer", "idle"),
        "busy": pgettext("state of a consumer", "busy"),
        "stopping": pgettext("state of a consumer", "stopping"),
        "": pgettext("state of a consumer", "live"),
    }
    return words.get(said) or readable(said)


def _in_hand(part: object) -> Iterator[tuple[str, dt.datetime | None]]:
    """The items in hand that a consumer's entry names, at any depth: of each child, or of the consumer itself."""
    if isinstance(part, Mapping):
        if isinstance(part.get("uid"), str):
            yield part["uid"], stored_moment(part.get("since"))
        else:
            for value in part.values():
                yield from _in_hand(value)
    elif isinstance(part, list):
        for value in part:
            yield from _in_hand(value)


def _status(config: QueueConfig, item: ItemView) -> Iterator[tuple[str, object]]:
    if is_of_tasks(config):
        yield _("Status"), status_of(item)


def _facts(item: ItemView) -> Iterator[tuple[str, object]]:
    delivery = item.delivery
    yield _("Deliveries"), delivery.deliveries
    if delivery.crashes:
        yield _("Crashes"), delivery.crashes
    if delivery.priority:
        yield _("Priority"), delivery.priority
    if delivery.state == "ready":
        yield _("Items ahead"), item.position if item.position is not None else _("more than 1,000")
    if item.holder is not None:
        yield _("Consumer"), readable(item.consumer)
        yield _("Lease until"), delivery.when
    if delivery.state == "delayed":
        yield _("Due"), delivery.when
    if delivery.state == "done":
        yield _("Finished"), delivery.when
        yield _("Took"), _took(item.claimed_at, delivery.when) or "–"  # noqa: RUF001


def _timeline(item: ItemView, entries: Iterable[LogEntry]) -> list[tuple[dt.datetime | None, str]]:
    delivery = item.delivery
    known: list[tuple[dt.datetime | None, str]] = [(Item(item.uid, None, delivery).enqueued_at, _("put"))]
    if item.consumer:
        words = {"n": delivery.deliveries, "consumer": readable(item.consumer)}
        known.append((item.claimed_at, _("delivery %(n)s, to %(consumer)s") % words))
    for error in reversed(delivery.errors):  # events of the same moment keep this order
        words = {"n": error.get("delivery", "?"), "error": readable(error.get("type", ""))}
        failed = _("delivery %(n)s failed: %(error)s") if words["n"] else "%(error)s"  # 0: it was cancelled
        known.append((stored_moment(error.get("time")), failed % words))
    if delivery.state == "dead":
        known.append((delivery.when, _("set aside as dead")))
    if delivery.state == "done":
        known.append((delivery.when, _("finished")))
    known += [(entry.action_time, f"{entry.user}: {readable(entry.change_message)}") for entry in entries]
    # Events of unknown time come first: the put, whose time may be unknown, is the first event.
    return sorted(known, key=lambda event: (event[0] is not None, event[0] or _BEGINNING))


_BEGINNING = dt.datetime.min.replace(tzinfo=dt.UTC)


def _chosen_as(item: ItemView) -> str:
    return f"{item.uid} {item.holder.token}" if item.holder else item.uid


def _span(start: dt.datetime | None, end: dt.datetime | None) -> str:
    if start is None or end is None or end < start:
        return ""
    return span((end - start).total_seconds())


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
