"""Who did what in the status view, as entries of the admin's log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Q
from django.http import HttpRequest

from django_srq.admin.batches import BulkAction
from django_srq.models import QueueStatus

ENTRIES = 50  # on a page
VERBS = {
    "requeue": "Requeued",
    "run_now": "Run now:",
    "run_again": "Run again:",
    "cancel": "Cancelled",
    "drop": "Dropped",
    "release": "Returned",
    "purge": "Purged",
}


def entries() -> Any:
    return LogEntry.objects.filter(content_type=ContentType.objects.get_for_model(QueueStatus))


def entries_of(alias: str, uid: str) -> Any:
    """The entries that list the uid: what people did to this item."""
    named = Q(change_message__endswith=f" {uid}") | Q(change_message__contains=f" {uid}, ")
    return entries().filter(named, object_id=alias).select_related("user")[:ENTRIES]


def sentence(action: str, state: str, n: int, uids: Sequence[str]) -> str:
    verb = VERBS[action]
    names = ", ".join(uids[:100]) + (", …" if len(uids) > 100 else "")
    return f"{verb} {n} item{'' if n == 1 else 's'} ({state.replace('_', ' ')}){f': {names}' if names else ''}"


def record(request: HttpRequest, alias: str, said: str) -> LogEntry:
    """Log what the user did, always in English: people of any language read the log."""
    return LogEntry.objects.create(
        user=request.user,  # type: ignore[misc]  # a user with a permission is logged in
        content_type=ContentType.objects.get_for_model(QueueStatus),
        object_id=alias,
        object_repr=alias[:200],
        action_flag=CHANGE,
        change_message=said,
    )


def record_progress(request: HttpRequest, bulk: BulkAction) -> BulkAction:
    """Log all batches in one entry, which each batch updates: it is true even if no further batch comes."""
    scope = bulk.scope
    chosen = f" of {scope.group}" if scope.group else f" with {scope.text!r}" if scope.text else ""
    said = sentence(scope.action, scope.state, bulk.done, []) + chosen + ("" if bulk.over else ", so far")
    if bulk.entry and entries().filter(pk=bulk.entry, user=request.user).update(change_message=said):
        return bulk
    return replace(bulk, entry=record(request, scope.alias, said).pk)


def record_stop(request: HttpRequest, bulk: BulkAction) -> None:
    """Mark the entry as stopped, but keep its count: the page with the button may be older than the last batch."""
    under_way = entries().filter(pk=bulk.entry, user=request.user, change_message__endswith=", so far")
    for entry in under_way:
        entry.change_message = entry.change_message.removesuffix(", so far") + ", stopped"
        entry.save(update_fields=["change_message"])
