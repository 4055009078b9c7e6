"""The actions of the status view that only queues of tasks have: running tasks again, and cancelling them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from django_srq import operations
from django_srq.operations import TaskView
from django_srq.operations.identifiers import uid_time
from django_srq.registry import Queue


def run_again(queue: Queue, uids: Sequence[str]) -> list[bool]:
    """Put tasks that are done once more, with the same arguments. Returns for each whether it was put.

    Each is a new task, and the result of the former one stays. Only a unique task keeps its uid, which is made from its
    arguments: its result goes, as when a program enqueues it once more.
    """
    done = [view for view in _views(queue, uids) if view.state == "done"]
    for own, views in groupby(sorted(done, key=_is_unique), _is_unique):
        for (priority, headers), alike in groupby(sorted(views, key=_terms), _terms):
            chosen = list(alike)
            queue.put_many(
                [_payload(view) for view in chosen],
                uids=[view.uid for view in chosen] if own else None,
                priority=priority,
                headers=dict(headers),
            )
    put = {view.uid for view in done}
    return [uid in put for uid in uids]


def cancel(queue: Queue, uids: Sequence[str]) -> list[bool]:
    """Take tasks that are ready or delayed out of the queue; their results say that they were cancelled."""
    from django_srq.tasks import results  # needs Django 6.0, as queues of tasks do

    kept = operations.kept(queue.config.results_ttl, queue.config.results_most, results.cancelled())
    return [queue.link.call(operations.cancel(queue.keys, uid, kept), queue=queue.alias) for uid in uids]


def _views(queue: Queue, uids: Sequence[str]) -> Iterator[TaskView]:
    """What is known of these uids, in as many calls as the size of the replies takes."""
    while uids:
        found = queue.link.call(operations.results(queue.keys, uids), queue=queue.alias)
        yield from filter(None, found)
        uids = uids[len(found) :]


def _payload(view: TaskView) -> Any:
    payload = json.loads(view.payload or b"null")
    options = payload.get("options") if isinstance(payload, dict) else None
    if isinstance(options, dict) and "at" in options:  # when a unique task was enqueued, as its uid does not say it
        options["at"] = round(time.time() * 1000)
    return payload


def _is_unique(view: TaskView) -> bool:
    return uid_time(view.uid) is None


def _terms(view: TaskView) -> tuple[int, list[tuple[str, str]]]:
    return view.headers.get("priority", 0), sorted(view.headers.get("headers", {}).items())
