"""The actions of the status view. Each is a POST, with a permission, a confirmation and an entry in the admin's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.contrib import messages
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from django.utils.formats import localize
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from django_srq import status
from django_srq.admin import batches, log
from django_srq.admin.batches import BulkAction, Selection
from django_srq.admin.forms import PauseForm, PutForm
from django_srq.admin.frame import (
    ACTIONS,
    LIVE,
    STATE_LABELS,
    BadRequest,
    Frame,
    NotFound,
    searched_text,
)
from django_srq.exceptions import OutcomeUnknown, SRQError
from django_srq.operations import DeliveryRef
from django_srq.queue.places import PURGEABLE
from django_srq.registry import Queue, queues
from django_srq.status import QueueReport, access, browse, verdicts
from django_srq.status.tasks import is_of_tasks
from django_srq.values import is_uid

SAMPLES = 5  # uids on a page that asks for confirmation
MAKES_READY = {"requeue", "run_now", "run_again"}


class Actions(Frame):
    """The views that change queues. Each asks for confirmation first."""

    def act(self, request: HttpRequest, alias: str, action: str) -> HttpResponse:
        """Ask for confirmation of an action on a queue, or carry it out once it is confirmed."""
        alias, config = self.known(request, alias)
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
                log.record(request, alias, f"{action.capitalize()}: sent, but its outcome is unknown")
            context = {"sentence": verdicts.readable(error)}
            return self.render(request, "sentence", str(ACTIONS[action][1]), context, alias=alias, crumb="!")

    def _pause(self, request: HttpRequest, queue: Queue, action: str, confirmed: bool) -> HttpResponse:
        if action == "resume" and confirmed:
            was = queue.resume()
            log.record(request, queue.alias, "Resumed" if was else "Resumed, but it was not paused")
            return self._done(request, queue.alias, _("Consumers take items again."))
        report = _report_of(queue.alias)
        form = PauseForm(request.POST if confirmed else None, present=report.paused)
        if action == "pause" and form.is_valid():
            reason, until = form.cleaned_data["reason"], form.cleaned_data["until"]
            if until is not None and timezone.is_naive(until):  # USE_TZ is False
                until = timezone.make_aware(until)
            queue.pause(reason, by=request.user.get_username(), until=until)
            said = f"Paused{f', until {until:%Y-%m-%d %H:%M %Z}' if until else ''}{f': {reason}' if reason else ''}"
            log.record(request, queue.alias, said)
            return self._done(
                request, queue.alias, _("The queue is paused. Consumers finish the items in flight and take no more.")
            )
        context = {"action": action, "form": form, "report": report}
        return self._confirm(request, queue.alias, action, context)

    def _put(self, request: HttpRequest, queue: Queue, confirmed: bool) -> HttpResponse:
        raw, of_tasks = queue.config.serializer == "raw", is_of_tasks(queue.config)
        form = PutForm(request.POST if confirmed else None, raw=raw, of_tasks=of_tasks)
        if form.is_valid():
            try:
                uid = queue.put(form.cleaned_data["payload"], delay=form.cleaned_data["delay"] or 0)
            except (SRQError, ValueError) as error:
                form.add_error(None, str(error))
            else:
                log.record(request, queue.alias, f"Put an item: {uid}")
                return self._done(request, queue.alias, _("The item %s was put.") % uid)
        return self._confirm(request, queue.alias, "put", {"action": "put", "form": form})

    def _to_items(self, request: HttpRequest, queue: Queue, action: str, confirmed: bool) -> HttpResponse:
        asked = request.POST if request.method == "POST" else request.GET
        state = asked.get("state", "")
        if action in batches.OF_TASKS and not is_of_tasks(queue.config):
            raise BadRequest(_("This action is only available for queues of tasks."))
        if state not in batches.TAKES[action]:
            shown = verdicts.readable(state or "–")  # noqa: RUF001
            raise BadRequest(_("This action is not available for items in the state %s.") % shown)
        if "uid" in asked and action != "purge":  # purge takes a whole state, confirmed with the queue's name
            chosen = [_ref_of(text) for text in dict.fromkeys(asked.getlist("uid"))]
            if len(chosen) > batches.MOST_CHOSEN:
                raise BadRequest(_("At most %s items can be selected.") % localize(batches.MOST_CHOSEN))
            return self._to_chosen(request, queue, action, state, chosen, confirmed)
        if action in ("drop", "cancel") and state == "ready":
            raise BadRequest(_("Select items, or purge the queue."))
        chooses = "group" in asked or "q" in asked
        # Not all delayed items can be run now: those that are scheduled would run before their time.
        if action == "run_again" or (not chooses and (action == "run_now" or "everything" not in asked)):
            raise BadRequest(_("No items selected."))
        payloads = access.may(request, "view_payload", queue.alias)
        scope = Selection(action, queue.alias, state, asked.get("group", ""), searched_text(asked), payloads)
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
            done = [ref.uid for ref, flag in zip(chosen, flags, strict=True) if flag]
            log.record(request, queue.alias, log.sentence(action, state, len(done), done))
            return self._done(request, queue.alias, _outcome(action, len(done), len(chosen) - len(done)), state)
        context = {
            "action": action,
            "state": state,
            "count": len(chosen),
            "chosen": [f"{ref.uid} {ref.token}".strip() for ref in chosen],
            "samples": [ref.uid for ref in chosen[:SAMPLES]],
            "lone": action in MAKES_READY and not _report_of(queue.alias).consumers,
        }
        return self._confirm(request, queue.alias, action, context)

    def _to_all(self, request: HttpRequest, queue: Queue, scope: Selection, confirmed: bool) -> HttpResponse:
        report = _report_of(queue.alias)
        if report.ready is None:
            raise BadRequest(_("The queue cannot be read."))
        tab = _tab_of(scope.state)
        sample = browse.page_of(queue.config, tab, group=scope.group, text=scope.text, payloads=scope.payloads)
        count = self._count(scope, report, queue)
        if confirmed and scope.action == "purge" and request.POST.get("name") != queue.alias:
            confirmed = False
        if confirmed:
            # Logged before it begins: the outcome of the first batch may stay unknown.
            bulk = log.record_progress(request, BulkAction.begin(scope, count or len(sample.items), sample.at))
            return self._step(request, queue, bulk)
        context = {
            "action": scope.action,
            "state": scope.state,
            "scope": scope,
            "count": count,
            "samples": [item.uid for item in sample.items[:SAMPLES]],
            "lone": scope.action in MAKES_READY and not report.consumers,
            "typed_wrong": request.POST.get("name"),
        }
        return self._confirm(request, queue.alias, scope.action, context)

    def _count(self, scope: Selection, report: QueueReport, queue: Queue) -> int | None:
        """How many items are selected; None for a search, where only reading all items would tell."""
        if scope.text:
            return None
        if scope.group:
            groups = browse.groups_of(queue.config, scope.state)
            return sum(group.count for group in groups if group.name == scope.group)
        states = PURGEABLE if scope.state == "all" else (scope.state,)
        return sum(getattr(report, state) or 0 for state in states)

    def operation(self, request: HttpRequest) -> HttpResponse:
        """Carry out the next batch of an operation, or stop it."""
        try:
            bulk = BulkAction.unsigned(request.POST.get("operation", ""))
        except (signing.BadSignature, TypeError):
            raise BadRequest(_("This operation is unknown, or too old to continue.")) from None
        scope = bulk.scope
        if scope.alias not in queues:
            raise NotFound(_("There is no queue %s.") % verdicts.readable(scope.alias))
        if not access.may(request, ACTIONS[scope.action][0], scope.alias):
            raise PermissionDenied
        if "stop" in request.POST:
            log.record_stop(request, bulk)
            said = _("Stopped.") + " " + _outcome(scope.action, bulk.done, bulk.gone)
            return self._done(request, scope.alias, said, scope.state)
        return self._step(request, queues[scope.alias], bulk)

    def _step(self, request: HttpRequest, queue: Queue, bulk: BulkAction) -> HttpResponse:
        scope = bulk.scope
        trouble = ""
        try:
            bulk = batches.carry_on(bulk, queue)
        except SRQError as error:
            trouble = verdicts.readable(error)
        else:
            bulk = log.record_progress(request, bulk)
        if bulk.over and LIVE not in request.headers:
            return self._done(request, scope.alias, _outcome(scope.action, bulk.done, bulk.gone), scope.state)
        context = {
            "operation": bulk,
            "action": scope.action,
            "state": scope.state,
            "action_label": ACTIONS[scope.action][1],
            "trouble": trouble,
            "outcome": _outcome(scope.action, bulk.done, bulk.gone),
            "state_for_link": _tab_of(scope.state),
        }
        return self.render(request, "operation", str(ACTIONS[scope.action][1]), context, alias=scope.alias, crumb="…")

    def _confirm(self, request: HttpRequest, alias: str, action: str, context: Mapping[str, Any]) -> HttpResponse:
        label = str(ACTIONS[action][1])
        more = {"action_label": label, "state_label": STATE_LABELS.get(str(context.get("state")), "")}
        return self.render(request, "confirm", label, {**context, **more}, alias=alias, crumb=label)

    def _done(self, request: HttpRequest, alias: str, said: str, state: str = "ready") -> HttpResponse:
        messages.success(request, f"{verdicts.readable(alias)}: {said}")
        return HttpResponseRedirect(self.url("change", alias, state=_tab_of(state)))


def _report_of(alias: str) -> QueueReport:
    (report,) = status.snapshot([alias], minutes=0).queues
    return report


def _tab_of(state: str) -> str:
    """The state whose items a page shows, of an action on items of this state, or of all."""
    return "ready" if state == "all" else state


def _ref_of(text: str) -> DeliveryRef:
    """The item that a checkbox names: by its uid and, for an item in flight, the token of its delivery."""
    uid, _space, token = text.partition(" ")
    if not is_uid(uid) or not token.isprintable():
        raise BadRequest(_("%s is not a valid uid.") % verdicts.readable(text))
    return DeliveryRef(uid, token)


def _outcome(action: str, done: int, gone: int) -> str:
    said = {
        "requeue": ngettext("%s item is ready again.", "%s items are ready again.", done),
        "run_now": ngettext("%s item is ready.", "%s items are ready.", done),
        "release": ngettext("%s item is ready again.", "%s items are ready again.", done),
        "run_again": ngettext("%s task is ready again.", "%s tasks are ready again.", done),
        "cancel": ngettext("%s task was cancelled.", "%s tasks were cancelled.", done),
        "drop": ngettext("%s item was deleted.", "%s items were deleted.", done),
        "purge": ngettext("%s item was deleted.", "%s items were deleted.", done),
    }[action] % localize(done)
    if not gone:
        return said
    words = {"n": localize(gone), "all": localize(done + gone)}
    missing = ngettext("%(n)s of %(all)s was already gone.", "%(n)s of %(all)s were already gone.", gone) % words
    return f"{said} {missing}"
