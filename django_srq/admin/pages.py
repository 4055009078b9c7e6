"""The pages of the status view. Reads are bounded and change nothing; each change is a POST with its own permission."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import django
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import quote, unquote
from django.contrib.contenttypes.models import ContentType
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.formats import localize
from django.utils.http import urlencode
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from django_srq import conf, status
from django_srq.admin import batches, charts, rows
from django_srq.admin.batches import BulkAction, Selection
from django_srq.admin.forms import PauseForm, PutForm
from django_srq.conf import QueueConfig
from django_srq.exceptions import ConfigurationError, OutcomeUnknown, SRQError
from django_srq.models import QueueStatus
from django_srq.operations import STATES, DeliveryRef
from django_srq.registry import Queue, queues
from django_srq.status import QueueReport, access, browse, verdicts

View = Callable[..., HttpResponse]
EVERY = 5  # seconds between two updates of a page
ENTRIES = 50  # of what people did, on a page
SAMPLES = 5  # items on a page that asks for confirmation
LIVE = "X-SRQ-Live"  # the header of a request that wants only the part of the page that changes
# After or before an item, by its score as the server writes it, and its uid: see page.lua.
_PLACE = re.compile(r"[ab]-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,2})? [!-~]{1,128}")
# The permission of each action, and what it is called.
ACTIONS = {
    "requeue": ("requeue", gettext_lazy("Requeue")),
    "drop": ("drop", gettext_lazy("Drop")),
    "release": ("release", gettext_lazy("Return to queue")),
    "purge": ("purge", gettext_lazy("Purge")),
    "pause": ("pause", gettext_lazy("Pause")),
    "resume": ("pause", gettext_lazy("Resume")),
    "put": ("put", gettext_lazy("Put an item")),
}
STATE_LABELS = {
    "ready": gettext_lazy("Ready"),
    "in_flight": gettext_lazy("In flight"),
    "delayed": gettext_lazy("Delayed"),
    "dead": gettext_lazy("Dead"),
    "all": gettext_lazy("All but what is in flight"),
}


class NotFound(Exception):
    """No such queue or item; the text says so in a sentence."""


class BadRequest(Exception):
    """What was asked for cannot be done; the text says why."""


class Pages:
    """The pages, in an admin site."""

    def __init__(self, site: AdminSite, overview: View) -> None:
        self.site = site
        self._overview = overview

    def urls(self) -> list[URLPattern]:
        name = "django_srq_queuestatus_{}".format
        # Aliases as the admin writes keys in URLs; "change" is where the admin looks for the page of an object.
        return [
            path("", self._page(self._overview), name=name("changelist")),
            path("consumers/", self._page(self.consumers), name=name("consumers")),
            path("activity/", self._page(self.activity), name=name("activity")),
            path("find/", self._page(self.find), name=name("find")),
            path("operation/", self._page(self.operation, "POST"), name=name("operation")),
            path("queue/<str:alias>/", self._page(self.queue), name=name("change")),
            path("queue/<str:alias>/item/", self._page(self.item), name=name("item")),
            path("queue/<str:alias>/<str:action>/", self._page(self.act, "GET", "POST"), name=name("act")),
        ]

    def _page(self, view: View, *methods: str) -> View:
        """The view, for those who may look at queues; what it does not find, or refuses, is said on a page."""
        allowed = {"GET": ["GET", "HEAD"], "POST": ["POST"]}
        known = [method for kind in methods or ("GET",) for method in allowed[kind]]

        @wraps(view)
        def guarded(request: HttpRequest, **arguments: Any) -> HttpResponse:
            if not access.may(request, "view"):
                raise PermissionDenied
            if request.method not in known:
                return HttpResponseNotAllowed(known)
            try:
                return view(request, **arguments)
            except NotFound as missing:
                return self._said(request, _("Not found"), str(missing), 404)
            except BadRequest as bad:
                return self._said(request, _("This cannot be done"), str(bad), 400)
            except ConfigurationError as wrong:  # of ALLOW, so that nobody knows who may
                return self._said(request, _("Wrong settings"), verdicts.readable(wrong), 503)

        return self.site.admin_view(guarded)

    def _said(self, request: HttpRequest, title: str, sentence: str, code: int) -> HttpResponse:
        return self._render(request, "sentence", title, {"sentence": sentence}, status=code)

    def _render(
        self,
        request: HttpRequest,
        template: str,
        title: str,
        context: Mapping[str, Any],
        *,
        alias: str | None = None,
        crumb: str = "",
        status: int = 200,
    ) -> TemplateResponse:
        meta = QueueStatus._meta
        overview = str(capfirst(meta.verbose_name_plural))
        home = reverse(f"{self.site.name}:django_srq_queuestatus_changelist")
        crumbs = [] if template == "overview" else [(home, overview)]
        if alias is not None and crumb:
            crumbs.append((self.url("change", alias), alias))
        live = LIVE in request.headers
        return TemplateResponse(
            request,
            f"admin/django_srq/{template}.html",
            {
                **({} if live else self.site.each_context(request)),
                "base": "admin/django_srq/live.html" if live else "admin/django_srq/base.html",
                "title": title,
                "opts": meta,
                "crumbs": crumbs,
                "crumb": crumb or title,
                "breadcrumbs_are_a_list": django.VERSION >= (6, 1),
                "every": EVERY,
                "alias": alias,
                "read_only": conf.load().admin.read_only,
                "uses_unfold": hasattr(self.site, "get_sidebar_list"),
                **context,
            },
            status=status,
        )

    def url(self, name: str, *arguments: str, **query: str) -> str:
        quoted = [quote(argument) for argument in arguments]
        found = reverse(f"{self.site.name}:django_srq_queuestatus_{name}", args=quoted)
        return f"{found}?{urlencode(query)}" if query else found

    # -- all queues

    def overview(self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None) -> HttpResponse:
        snapshot = status.snapshot(access.visible_queues(request))
        context = {
            "snapshot": snapshot,
            "reports": [(report, charts.sparkline(report.series)) for report in snapshot.queues],
            **(extra_context or {}),
        }
        return self._render(request, "overview", str(capfirst(QueueStatus._meta.verbose_name_plural)), context)

    def consumers(self, request: HttpRequest) -> HttpResponse:
        snapshot = status.snapshot(access.visible_queues(request), minutes=0)
        context = {"snapshot": snapshot, "consumers": rows.consumers(snapshot)}
        return self._render(request, "consumers", _("Consumers"), context)

    def activity(self, request: HttpRequest) -> HttpResponse:
        entries = _entries().filter(object_id__in=access.visible_queues(request))
        page = _page_number(request.GET.get("page"), -(-entries.count() // ENTRIES))
        shown = entries.select_related("user")[(page - 1) * ENTRIES : page * ENTRIES + 1]
        context = {"entries": shown[:ENTRIES], "page": page, "more": len(shown) > ENTRIES}
        return self._render(request, "activity", _("Activity"), context)

    def find(self, request: HttpRequest) -> HttpResponse:
        uid = request.GET.get("uid", "").strip()
        found, silent = browse.places_of(uid, access.visible_queues(request)) if _may_be_uid(uid) else ([], [])
        if len(found) == 1:
            return HttpResponseRedirect(self.url("item", found[0], uid=uid))
        return self._render(request, "find", _("Find an item"), {"uid": uid, "found": found, "silent": silent})

    # -- one queue

    def queue(self, request: HttpRequest, alias: str) -> HttpResponse:
        alias, config = self._known(request, alias)
        state = request.GET.get("state", "ready")
        if state not in STATES:
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
            "tabs": [(name, STATE_LABELS[name], getattr(report, name)) for name in STATES],
            "charts": charts.charts_of(report.series, chosen),
            "ranges": [(name, label, name == chosen) for name, label in charts.RANGES.items()],
            "range": chosen,
            **(self._listed(request, config, report, state, may) if config and report.ready is not None else {}),
        }
        return self._render(request, "queue", alias, context, alias=alias)

    def _listed(
        self, request: HttpRequest, config: QueueConfig, report: QueueReport, state: str, may: Mapping[str, bool]
    ) -> dict[str, Any]:
        """The tab of a state: for dead items their groups, unless one is chosen, or all."""
        asked = request.GET
        group, text = asked.get("group", ""), asked.get("q", "").strip()[:200]
        try:
            if state == "dead" and not group and not text and "all" not in asked:
                groups = rows.groups(browse.groups_of(config))
                return {"groups": groups, "actions": _actions(state, may)}
            listing = browse.page_of(
                config, state, anchor=_anchor(asked), group=group, text=text, payloads=may["view_payload"]
            )
        except SRQError as error:
            return {"trouble": verdicts.readable(error)}
        kept = {name: asked[name] for name in ("group", "q", "all", "range") if name in asked}
        return {
            "listing": listing,
            "rows": [
                rows.row(config, one, listing.at, payloads=may["view_payload"], report=report) for one in listing.items
            ],
            "group": group,
            "text": text,
            "actions": _actions(state, may),
            "kept": kept,
            **self._turns(report.alias, state, listing, kept, filtered=bool(group or text)),
        }

    def _turns(
        self, alias: str, state: str, listing: Any, kept: Mapping[str, str], *, filtered: bool
    ) -> dict[str, str | int]:
        """The links to the page before and after this one."""
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
        alias, config = self._known(request, alias)
        uid = request.GET.get("uid", "")
        if config is None:
            raise NotFound(_("The queue %s is misconfigured.") % verdicts.readable(alias))
        may = access.rights(request, alias)
        try:
            one = browse.item_of(config, uid) if _may_be_uid(uid) else None
        except SRQError as error:
            trouble = {"trouble": verdicts.readable(error), "uid": uid}
            return self._render(request, "item", _("Item"), trouble, alias=alias, crumb=verdicts.readable(uid))
        if one is None:
            words = {"uid": verdicts.readable(uid), "queue": verdicts.readable(alias)}
            raise NotFound(_("%(queue)s has no item %(uid)s: it is settled, was dropped, or never was there.") % words)
        context = {
            "uid": uid,
            "item": rows.detail(config, one, _entries_of(alias, uid), payloads=may["view_payload"]),
            "actions": _actions(one.delivery.state, may, whole=False),
            "state_label": STATE_LABELS[one.delivery.state],
        }
        return self._render(request, "item", _("Item"), context, alias=alias, crumb=uid)

    # -- changes

    def act(self, request: HttpRequest, alias: str, action: str) -> HttpResponse:
        """Ask for confirmation, and with it carry out."""
        alias, config = self._known(request, alias)
        if action not in ACTIONS:
            raise BadRequest(_("There is no action %s.") % verdicts.readable(action))
        if not access.may(request, ACTIONS[action][0], alias):
            raise PermissionDenied
        if config is None:
            raise BadRequest(_("The queue %s is misconfigured.") % verdicts.readable(alias))
        confirmed = request.method == "POST" and "confirmed" in request.POST
        try:
            if action in ("pause", "resume"):
                return self._pause(request, queues[alias], action, confirmed)
            if action == "put":
                return self._put(request, queues[alias], confirmed)
            return self._to_items(request, queues[alias], action, confirmed)
        except SRQError as error:
            if isinstance(error, OutcomeUnknown):
                self._record(request, alias, f"{action.capitalize()}: sent, and whether it was done is not known")
            context = {"sentence": verdicts.readable(error)}
            return self._render(request, "sentence", str(ACTIONS[action][1]), context, alias=alias, crumb="!")

    def _pause(self, request: HttpRequest, queue: Queue, action: str, confirmed: bool) -> HttpResponse:
        if action == "resume" and confirmed:
            was = queue.resume()
            self._record(request, queue.alias, "Resumed" if was else "Resumed, but it was not paused")
            return self._done(request, queue.alias, _("The queue is handed out again."))
        (report,) = status.snapshot([queue.alias], minutes=0).queues
        form = PauseForm(request.POST if confirmed else None, present=report.paused)
        if action == "pause" and form.is_valid():
            reason, until = form.cleaned_data["reason"], form.cleaned_data["until"]
            if until is not None and timezone.is_naive(until):  # of a site without time zones
                until = timezone.make_aware(until)
            queue.pause(reason, by=request.user.get_username(), until=until)
            said = f"Paused{f', until {until:%Y-%m-%d %H:%M %Z}' if until else ''}{f': {reason}' if reason else ''}"
            self._record(request, queue.alias, said)
            return self._done(
                request, queue.alias, _("The queue is paused: what is in flight goes on, nothing more is taken.")
            )
        context = {"action": action, "form": form, "report": report}
        return self._confirm(request, queue.alias, action, context)

    def _put(self, request: HttpRequest, queue: Queue, confirmed: bool) -> HttpResponse:
        form = PutForm(request.POST if confirmed else None, raw=queue.config.serializer == "raw")
        if form.is_valid():
            try:
                uid = queue.put(form.cleaned_data["payload"], delay=form.cleaned_data["delay"] or 0)
            except (SRQError, ValueError) as error:
                form.add_error(None, str(error))
            else:
                self._record(request, queue.alias, f"Put an item: {uid}")
                return self._done(request, queue.alias, _("The item was put: %s") % uid)
        return self._confirm(request, queue.alias, "put", {"action": "put", "form": form})

    def _to_items(self, request: HttpRequest, queue: Queue, action: str, confirmed: bool) -> HttpResponse:
        asked = request.POST if request.method == "POST" else request.GET
        state = asked.get("state", "")
        if state not in batches.STATES[action]:
            raise BadRequest(_("This action does not fit items that are %s.") % verdicts.readable(state or "–"))  # noqa: RUF001
        if "uid" in asked and action != "purge":  # which is of a whole state, with the queue's name
            chosen = [_held(text) for text in dict.fromkeys(asked.getlist("uid"))]
            if len(chosen) > batches.MOST_CHOSEN:
                raise BadRequest(_("At most %s items can be chosen.") % localize(batches.MOST_CHOSEN))
            return self._to_chosen(request, queue, action, state, chosen, confirmed)
        if action == "drop" and state == "ready":
            raise BadRequest(_("Choose items, or purge the queue."))
        if "everything" not in asked and "group" not in asked and "q" not in asked:
            raise BadRequest(_("No item was chosen."))
        payloads = access.may(request, "view_payload", queue.alias)
        scope = Selection(
            action, queue.alias, state, asked.get("group", ""), asked.get("q", "").strip()[:200], payloads
        )
        return self._to_all(request, queue, scope, confirmed)

    def _to_chosen(
        self,
        request: HttpRequest,
        queue: Queue,
        action: str,
        state: str,
        chosen: Sequence[DeliveryRef],
        confirmed: bool,
    ) -> HttpResponse:
        if confirmed:
            flags = batches.carry_out(action, queue, state, chosen)
            done = [one.uid for one, flag in zip(chosen, flags, strict=True) if flag]
            self._record(request, queue.alias, _what(action, state, len(done), done))
            return self._done(request, queue.alias, _outcome(action, len(done), len(chosen) - len(done)), state)
        context = {
            "action": action,
            "state": state,
            "count": len(chosen),
            "chosen": [f"{one.uid} {one.token}".strip() for one in chosen],
            "samples": [one.uid for one in chosen[:SAMPLES]],
            "lone": action == "requeue" and self._is_lonely(queue.alias),
        }
        return self._confirm(request, queue.alias, action, context)

    def _to_all(self, request: HttpRequest, queue: Queue, scope: Selection, confirmed: bool) -> HttpResponse:
        (report,) = status.snapshot([queue.alias], minutes=0).queues
        if report.ready is None:
            raise BadRequest(_("The queue cannot be read."))
        anywhere = "ready" if scope.state == "all" else scope.state
        sample = browse.page_of(queue.config, anywhere, group=scope.group, text=scope.text, payloads=scope.payloads)
        count = self._count(scope, report, queue)
        if confirmed and scope.action == "purge" and request.POST.get("name") != queue.alias:
            confirmed = False
        if confirmed:
            # Written down before it begins: what happens to the first batch may not be known.
            operation = self._recorded(request, BulkAction.begin(scope, count or len(sample.items), sample.at))
            return self._step(request, queue, operation)
        context = {
            "action": scope.action,
            "state": scope.state,
            "scope": scope,
            "count": count,
            "samples": [one.uid for one in sample.items[:SAMPLES]],
            "lone": scope.action == "requeue" and not report.consumers,
            "typed_wrong": request.POST.get("name"),
        }
        return self._confirm(request, queue.alias, scope.action, context)

    def _count(self, scope: Selection, report: QueueReport, queue: Queue) -> int | None:
        """How many items it is about; None where only looking at all of them would tell."""
        if scope.text:
            return None
        if scope.group:
            return sum(group.count for group in browse.groups_of(queue.config) if group.name == scope.group)
        states = ("ready", "delayed", "dead") if scope.state == "all" else (scope.state,)
        return sum(getattr(report, state) or 0 for state in states)

    def _is_lonely(self, alias: str) -> bool:
        (report,) = status.snapshot([alias], minutes=0).queues
        return not report.consumers

    def operation(self, request: HttpRequest) -> HttpResponse:
        """Go on with an operation by one batch, or stop it."""
        try:
            operation = BulkAction.unsigned(request.POST.get("operation", ""))
        except (signing.BadSignature, TypeError):
            raise BadRequest(_("This operation is not known, or too old to go on with.")) from None
        scope = operation.scope
        if scope.alias not in queues:
            raise NotFound(_("There is no queue %s.") % verdicts.readable(scope.alias))
        if not access.may(request, scope.action, scope.alias):
            raise PermissionDenied
        if "stop" in request.POST:
            self._stopped(request, operation)
            said = _("Stopped.") + " " + _outcome(scope.action, operation.done, operation.gone)
            return self._done(request, scope.alias, said, scope.state)
        return self._step(request, queues[scope.alias], operation)

    def _step(self, request: HttpRequest, queue: Queue, operation: BulkAction) -> HttpResponse:
        scope = operation.scope
        trouble = ""
        try:
            operation = batches.carry_on(operation, queue)
        except SRQError as error:
            trouble = verdicts.readable(error)
        else:
            operation = self._recorded(request, operation)
        if operation.over and LIVE not in request.headers:
            return self._done(request, scope.alias, _outcome(scope.action, operation.done, operation.gone), scope.state)
        context = {
            "operation": operation,
            "action": scope.action,
            "state": scope.state,
            "action_label": ACTIONS[scope.action][1],
            "trouble": trouble,
            "outcome": _outcome(scope.action, operation.done, operation.gone),
            "state_for_link": "ready" if scope.state == "all" else scope.state,
        }
        return self._render(request, "operation", str(ACTIONS[scope.action][1]), context, alias=scope.alias, crumb="…")

    def _recorded(self, request: HttpRequest, operation: BulkAction) -> BulkAction:
        """One entry for all batches, so that it is there also when the next one never comes."""
        scope = operation.scope
        about = f" of {scope.group}" if scope.group else f" with {scope.text!r}" if scope.text else ""
        said = _what(scope.action, scope.state, operation.done, []) + about + ("" if operation.over else ", so far")
        if operation.entry and _entries().filter(pk=operation.entry, user=request.user).update(change_message=said):
            return operation
        return replace(operation, entry=self._record(request, scope.alias, said).pk)

    def _stopped(self, request: HttpRequest, operation: BulkAction) -> None:
        """The entry keeps its number: the page that stops may be older than the last batch."""
        under_way = _entries().filter(pk=operation.entry, user=request.user, change_message__endswith=", so far")
        for entry in under_way:
            entry.change_message = entry.change_message.removesuffix(", so far") + ", stopped"
            entry.save(update_fields=["change_message"])

    # -- what they have in common

    def _known(self, request: HttpRequest, quoted: str) -> tuple[str, QueueConfig | None]:
        """The alias of a queue that the user may look at, and its configuration unless that is wrong."""
        alias = unquote(quoted)
        loaded = conf.load()
        if alias not in loaded.of_queue:
            known = conf.suggestion(alias, access.visible_queues(request))
            raise NotFound(f"{_('There is no queue %s.') % verdicts.readable(alias)} {known}")
        if not access.may(request, "view", alias):
            raise PermissionDenied
        wrong = loaded.general or loaded.of_queue[alias]
        return alias, None if wrong else loaded.queues[alias]

    def _confirm(self, request: HttpRequest, alias: str, action: str, context: Mapping[str, Any]) -> HttpResponse:
        label = str(ACTIONS[action][1])
        more = {"action_label": label, "state_label": STATE_LABELS.get(str(context.get("state")), "")}
        return self._render(request, "confirm", label, {**context, **more}, alias=alias, crumb=label)

    def _done(self, request: HttpRequest, alias: str, said: str, state: str = "ready") -> HttpResponse:
        messages.success(request, f"{verdicts.readable(alias)}: {said}")
        return HttpResponseRedirect(self.url("change", alias, state="ready" if state == "all" else state))

    def _record(self, request: HttpRequest, alias: str, said: str) -> LogEntry:
        """Who did what: in English, as a record that many may read."""
        return LogEntry.objects.create(
            user=request.user,  # type: ignore[misc]  # whoever changes something is logged in
            content_type=ContentType.objects.get_for_model(QueueStatus),
            object_id=alias,
            object_repr=alias[:200],
            action_flag=CHANGE,
            change_message=said,
        )


def _entries() -> Any:
    return LogEntry.objects.filter(content_type=ContentType.objects.get_for_model(QueueStatus))


def _entries_of(alias: str, uid: str) -> Any:
    """What was done to an item: those whose list of uids has it."""
    named = Q(change_message__endswith=f" {uid}") | Q(change_message__contains=f" {uid}, ")
    return _entries().filter(named, object_id=alias).select_related("user")[:ENTRIES]


def _actions(state: str, may: Mapping[str, bool], *, whole: bool = True) -> list[tuple[str, object]]:
    """What the user may do to items of a state."""
    return [
        (action, ACTIONS[action][1])
        for action, states in batches.STATES.items()
        if state in states and may[action] and action != "purge"
    ]


def _held(text: str) -> DeliveryRef:
    """As the list's checkboxes name an item: its uid, and the token of what is in hand."""
    uid, _space, token = text.partition(" ")
    if not _may_be_uid(uid) or not token.isprintable():
        raise BadRequest(_("%s is no item.") % verdicts.readable(text))
    return DeliveryRef(uid, token)


def _may_be_uid(text: str) -> bool:
    return 0 < len(text) <= 128 and text.isascii() and text.isprintable() and " " not in text


def _anchor(asked: Mapping[str, str]) -> str:
    """Where a page begins; whatever is no such place is the beginning."""
    at = asked.get("at", "")
    if at.isascii() and at.isdecimal():
        return at[:15]
    if _PLACE.fullmatch(at):
        return at
    return str((_page_number(asked.get("page"), 10**9) - 1) * browse.PAGE)


def _page_number(text: str | None, last: int) -> int:
    """A number of a page, brought into its range."""
    try:
        return max(1, min(int(text or 1), last))
    except ValueError:
        return 1


def _what(action: str, state: str, n: int, uids: Sequence[str]) -> str:
    verb = {"requeue": "Requeued", "drop": "Dropped", "release": "Returned to the queue", "purge": "Purged"}[action]
    names = ", ".join(uids[:100]) + (", …" if len(uids) > 100 else "")
    return f"{verb} {n} item{'' if n == 1 else 's'} ({state.replace('_', ' ')}){f': {names}' if names else ''}"


def _outcome(action: str, done: int, gone: int) -> str:
    said = {
        "requeue": ngettext("%s item is ready again.", "%s items are ready again.", done),
        "release": ngettext("%s item is ready again.", "%s items are ready again.", done),
        "drop": ngettext("%s item was deleted.", "%s items were deleted.", done),
        "purge": ngettext("%s item was deleted.", "%s items were deleted.", done),
    }[action] % localize(done)
    if not gone:
        return said
    words = {"n": localize(gone), "all": localize(done + gone)}
    missing = ngettext("%(n)s of %(all)s was already gone.", "%(n)s of %(all)s were already gone.", gone) % words
    return f"{said} {missing}"
