"""The pages of the status view. They change nothing, and each reads a limited amount."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from django_srq import status
from django_srq.admin import batches, charts, log, rows
from django_srq.admin.frame import (
    ACTIONS,
    STATE_LABELS,
    BadRequest,
    Frame,
    NotFound,
    page_number,
    searched_text,
)
from django_srq.conf import QueueConfig
from django_srq.exceptions import SRQError
from django_srq.models import QueueStatus
from django_srq.operations import STATES
from django_srq.status import QueueReport, access, browse, verdicts
from django_srq.status.tasks import is_of_tasks
from django_srq.values import UID, is_uid

# The anchor after (a) or before (b) an item, given by its score as the server writes it, and its uid: see page.lua.
_ANCHOR = re.compile(r"[ab]-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,2})? " + UID)

_MOMENT = re.compile(r"[0-9]{1,15}(\.[0-9]{1,20})?")  # ms


class Pages(Frame):
    """The views that only show something."""

    def overview(self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None) -> HttpResponse:
        snapshot = status.snapshot(access.visible_queues(request))
        context = {
            "snapshot": snapshot,
            "reports": [(report, charts.sparkline(report.series)) for report in snapshot.queues],
            **(extra_context or {}),
        }
        return self.render(request, "overview", str(capfirst(QueueStatus._meta.verbose_name_plural)), context)

    def consumers(self, request: HttpRequest) -> HttpResponse:
        snapshot = status.snapshot(access.visible_queues(request), minutes=0)
        context = {"snapshot": snapshot, "consumers": rows.consumers(snapshot)}
        return self.render(request, "consumers", _("Consumers"), context)

    def activity(self, request: HttpRequest) -> HttpResponse:
        entries = log.entries().filter(object_id__in=access.visible_queues(request))
        page = page_number(request.GET.get("page"), -(-entries.count() // log.ENTRIES))
        shown = entries.select_related("user")[(page - 1) * log.ENTRIES : page * log.ENTRIES + 1]
        context = {"entries": shown[: log.ENTRIES], "page": page, "more": len(shown) > log.ENTRIES}
        return self.render(request, "activity", _("Activity"), context)

    def find(self, request: HttpRequest) -> HttpResponse:
        uid = request.GET.get("uid", "").strip()
        found, silent = browse.places_of(uid, access.visible_queues(request)) if is_uid(uid) else ([], [])
        if len(found) == 1:
            return HttpResponseRedirect(self.url("item", found[0], uid=uid))
        return self.render(request, "find", _("Find an item"), {"uid": uid, "found": found, "silent": silent})

    def queue(self, request: HttpRequest, alias: str) -> HttpResponse:
        alias, config = self.known(request, alias)
        state = request.GET.get("state", "ready")
        of_tasks = config is not None and is_of_tasks(config)
        states = (*STATES, "done") if of_tasks else STATES
        if state not in states:
            raise BadRequest(_("There is no state %s.") % verdicts.readable(state))
        chosen = request.GET.get("range", "hour")
        chosen = chosen if chosen in charts.RANGES else "hour"
        snapshot = status.snapshot([alias], hours=status.ALL_HOURS)
        (report,) = snapshot.queues
        may = access.rights(request, alias)
        context = {
            "snapshot": snapshot,
            "report": report,
            "may": may,
            "state": state,
            "state_label": STATE_LABELS[state],
            "tabs": [(name, STATE_LABELS[name], getattr(report, name)) for name in states],
            "of_tasks": of_tasks,
            "charts": charts.charts_of(report.series, chosen),
            "ranges": [(name, label, name == chosen) for name, label in charts.RANGES.items()],
            "range": chosen,
            **(self._listed(request, config, report, state, may) if config and report.ready is not None else {}),
        }
        return self.render(request, "queue", alias, context, alias=alias)

    def _listed(
        self, request: HttpRequest, config: QueueConfig, report: QueueReport, state: str, may: Mapping[str, bool]
    ) -> dict[str, Any]:
        """The tab of a state. Failed items are in groups, unless the user chose a group, all items or a search."""
        asked = request.GET
        if state == "done":
            return self._done(request, config, may)
        group, text = asked.get("group", ""), searched_text(asked)
        grouped = not group and not text and not {"all", "at"} & asked.keys()
        groups = None
        try:
            if grouped and (state == "dead" or (state == "delayed" and report.retrying)):
                groups = rows.groups(browse.groups_of(config, state))
            if state == "dead" and groups is not None:
                return {"groups": groups, "actions": _actions(config, state, may)}
            listing = browse.page_of(
                config, state, anchor=_anchor(asked), group=group, text=text, payloads=may["view_payload"]
            )
        except SRQError as error:
            return {"trouble": verdicts.readable(error)}
        kept = {name: asked[name] for name in ("group", "q", "all", "range") if name in asked}
        return {
            "groups": groups,
            "listing": listing,
            "rows": [
                rows.row(config, item, listing.at, payloads=may["view_payload"], report=report)
                for item in listing.items
            ],
            "group": group,
            "as_tasks": is_of_tasks(config) and may["view_payload"],
            "text": text,
            "actions": _actions(config, state, may),
            "kept": kept,
            **self._turns(report.alias, state, listing, kept, filtered=bool(group or text)),
        }

    def _done(self, request: HttpRequest, config: QueueConfig, may: Mapping[str, bool]) -> dict[str, Any]:
        """The tab of the tasks that are done, newest first."""
        before = _score(request.GET.get("before", ""))
        try:
            page = browse.done_of(config, before)
        except SRQError as error:
            return {"trouble": verdicts.readable(error)}
        turns = {}
        if before is not None:
            turns["newest"] = self.url("change", config.alias, state="done")
        if page.before is not None:
            turns["following"] = self.url("change", config.alias, state="done", before=repr(page.before))
        return {
            "done": rows.done(config, page.tasks, timezone.now(), payloads=may["view_payload"]),
            "actions": _actions(config, "done", may),
            **turns,
        }

    def _turns(
        self, alias: str, state: str, listing: Any, kept: Mapping[str, str], *, filtered: bool
    ) -> dict[str, str | int]:
        """The links to the previous and the next page, and which items this page covers."""
        here = {"state": state, **kept}
        turns: dict[str, str | int] = {"last_looked": listing.first + listing.looked, "first_looked": listing.first + 1}
        if listing.anchor:
            turns["following"] = self.url("change", alias, **here, at=listing.anchor)
        if listing.first and not filtered and listing.items:
            first = listing.items[0]
            when = first.delivery.when
            before = str(max(0, listing.first - browse.PAGE))
            if state != "ready" and when is not None:
                before = f"b{first.score} {first.uid}"
            turns["previous"] = self.url("change", alias, **here, at=before)
        return turns

    def item(self, request: HttpRequest, alias: str) -> HttpResponse:
        alias, config = self.known(request, alias)
        uid = request.GET.get("uid", "")
        if config is None:
            raise NotFound(_("The queue %s is misconfigured.") % verdicts.readable(alias))
        may = access.rights(request, alias)
        try:
            found = browse.item_of(config, uid) if is_uid(uid) else None
        except SRQError as error:
            trouble = {"trouble": verdicts.readable(error), "uid": uid}
            return self.render(request, "item", _("Item"), trouble, alias=alias, crumb=verdicts.readable(uid))
        if found is None:
            words = {"uid": verdicts.readable(uid), "queue": verdicts.readable(alias)}
            raise NotFound(_("%(queue)s has no item %(uid)s. It was acked or deleted, or it never existed.") % words)
        item = rows.detail(config, found, log.entries_of(alias, uid), payloads=may["view_payload"])
        context = {
            "uid": uid,
            "item": item,
            "of_tasks": is_of_tasks(config),
            "actions": _actions(config, item.state, may),
            "state_label": STATE_LABELS[item.state],
        }
        return self.render(request, "item", _("Item"), context, alias=alias, crumb=uid)


def _actions(config: QueueConfig, state: str, may: Mapping[str, bool]) -> list[tuple[str, object]]:
    """The actions that the user may take on items of a state."""
    of_tasks = is_of_tasks(config)
    return [
        (action, ACTIONS[action][1])
        for action, states in batches.TAKES.items()
        if state in states
        and may[ACTIONS[action][0]]
        and action != "purge"
        and (of_tasks or action not in batches.OF_TASKS)
    ]


def _score(text: str) -> float | None:
    """Where a page of tasks that are done begins; None for anything that is no moment."""
    return float(text) if _MOMENT.fullmatch(text) else None


def _anchor(asked: Mapping[str, str]) -> str:
    """Where the page begins: a position or an anchor. Anything else means the beginning."""
    at = asked.get("at", "")
    if at.isascii() and at.isdecimal():
        return at[:15]
    if _ANCHOR.fullmatch(at):
        return at
    return str((page_number(asked.get("page"), 10**9) - 1) * browse.PAGE)
