"""What all views of the status view share: permissions, errors, the frame of a page and its links."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import django
from django.contrib.admin import AdminSite
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from django_srq import conf
from django_srq.conf import QueueConfig
from django_srq.exceptions import ConfigurationError
from django_srq.models import QueueStatus
from django_srq.status import access, verdicts

View = Callable[..., HttpResponse]
EVERY = 5  # seconds between two updates of a page
LONGEST_SEARCH = 200  # characters
LIVE = "X-SRQ-Live"  # header of a request for only the part of the page that is updated
# The permission and the label of each action.
ACTIONS = {
    "requeue": ("requeue", gettext_lazy("Requeue")),
    "run_now": ("requeue", gettext_lazy("Run now")),
    "run_again": ("requeue", gettext_lazy("Run again")),
    "cancel": ("drop", gettext_lazy("Cancel tasks")),
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
    "done": gettext_lazy("Finished"),
    "all": gettext_lazy("All except items in flight"),
}


class NotFound(Exception):
    """There is no such queue or item. The message is a sentence for the user."""


class BadRequest(Exception):
    """The request cannot be carried out. The message tells the user why."""


class Frame:
    """Views in an admin site."""

    def __init__(self, site: AdminSite) -> None:
        self.site = site

    def guarded(self, view: View, *methods: str) -> View:
        """The view for users with the permission to view queues. Its NotFound and BadRequest become pages."""
        allowed = {"GET": ["GET", "HEAD"], "POST": ["POST"]}
        known = [method for kind in methods or ("GET",) for method in allowed[kind]]

        @wraps(view)
        def checked(request: HttpRequest, **arguments: Any) -> HttpResponse:
            if not access.may(request, "view"):
                raise PermissionDenied
            if request.method not in known:
                return HttpResponseNotAllowed(known)
            try:
                return view(request, **arguments)
            except NotFound as missing:
                return self.said(request, _("Not found"), str(missing), 404)
            except BadRequest as bad:
                return self.said(request, _("This cannot be done"), str(bad), 400)
            except ConfigurationError as wrong:  # ALLOW cannot be loaded, so no permission is known
                return self.said(request, _("Invalid settings"), verdicts.readable(wrong), 503)

        return self.site.admin_view(checked)

    def said(self, request: HttpRequest, title: str, sentence: str, code: int) -> HttpResponse:
        return self.render(request, "sentence", title, {"sentence": sentence}, status=code)

    def render(
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
        live = LIVE in request.headers
        return TemplateResponse(
            request,
            f"admin/django_srq/{template}.html",
            {
                **({} if live else self.site.each_context(request)),
                "base": "admin/django_srq/live.html" if live else "admin/django_srq/base.html",
                "title": title,
                "opts": QueueStatus._meta,
                "crumbs": [] if template == "overview" else self._crumbs(alias if crumb else None),
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

    def _crumbs(self, alias: str | None) -> list[tuple[str, str]]:
        """The links to the pages above: the overview, and that of the queue."""
        overview = self.url("changelist"), str(capfirst(QueueStatus._meta.verbose_name_plural))
        return [overview] if alias is None else [overview, (self.url("change", alias), alias)]

    def url(self, name: str, *arguments: str, **query: str) -> str:
        quoted = [quote(argument) for argument in arguments]
        found = reverse(f"{self.site.name}:django_srq_queuestatus_{name}", args=quoted)
        return f"{found}?{urlencode(query)}" if query else found

    def known(self, request: HttpRequest, quoted: str) -> tuple[str, QueueConfig | None]:
        """The alias of a queue that the user may view, and its configuration, or None where that is wrong.

        quoted: the alias as the admin writes keys in URLs. Raises NotFound or PermissionDenied.
        """
        alias = unquote(quoted)
        loaded = conf.load()
        if alias not in loaded.of_queue:
            known = conf.suggestion(alias, access.visible_queues(request))
            raise NotFound(f"{_('There is no queue %s.') % verdicts.readable(alias)} {known}")
        if not access.may(request, "view", alias):
            raise PermissionDenied
        wrong = loaded.general or loaded.of_queue[alias]
        return alias, None if wrong else loaded.queues[alias]


def searched_text(asked: Mapping[str, str]) -> str:
    return asked.get("q", "").strip()[:LONGEST_SEARCH]


def page_number(text: str | None, last: int) -> int:
    """The number of a page, limited to 1 … last; 1 for anything that is no number."""
    try:
        return max(1, min(int(text or 1), last))
    except ValueError:
        return 1
