"""The views for machines: ``include("django_srq.urls")``.

All but ``live`` need a bearer token, or staff who may view queues.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from django_srq import conf, status
from django_srq.exceptions import ConfigurationError
from django_srq.status import access
from django_srq.status.prometheus import OPEN_METRICS, TEXT, exposition
from django_srq.status.reports import Snapshot

View = Callable[[HttpRequest], HttpResponse]


def _guarded(view: View) -> View:
    only_read = require_safe(view)

    @login_not_required  # for Django's LoginRequiredMiddleware, which would send a program with the token to the login
    @never_cache
    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        if not _has_token(request) and not (request.user.is_staff and access.may(request, "view")):
            if request.user.is_authenticated:
                return HttpResponse(status=403)
            return HttpResponse(status=401, headers={"WWW-Authenticate": 'Bearer realm="django_srq"'})
        try:
            return only_read(request)
        except ConfigurationError as wrong:  # ALLOW cannot be loaded, so no permission is known
            return JsonResponse({"level": "error", "sentence": str(wrong)}, status=503)

    return guarded


def _has_token(request: HttpRequest) -> bool:
    token = conf.load().admin.token
    scheme, _space, given = request.headers.get("Authorization", "").partition(" ")
    return token is not None and scheme.lower() == "bearer" and constant_time_compare(given.strip(), token)


def _snapshot(request: HttpRequest, minutes: int = status.MINUTES) -> Snapshot:
    return status.snapshot(None if _has_token(request) else access.visible_queues(request), minutes=minutes)


@_guarded
def status_json(request: HttpRequest) -> HttpResponse:
    """The whole snapshot, as docs/reference/status-json.md describes it; 503 when a server cannot be reached."""
    snapshot = _snapshot(request)
    return JsonResponse(snapshot.to_dict(), status=503 if snapshot.unreachable else 200)


@_guarded
def health(request: HttpRequest) -> HttpResponse:
    """The verdict, for monitoring: 200 unless its level is error; warnings do not count. Otherwise 503.

    Not for the probes of a web process: they would take it out of service when the consumers of a queue are gone.
    """
    snapshot = _snapshot(request, minutes=0)
    said = {"level": snapshot.level, "sentence": snapshot.sentence}
    return JsonResponse(said, status=503 if snapshot.level == "error" else 200)


@login_not_required
@never_cache
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """200 as long as this process answers, for the probes of a web process: needs no token, and asks no server."""
    return HttpResponse("ok\n", content_type="text/plain; charset=utf-8")


@_guarded
def metrics(request: HttpRequest) -> HttpResponse:
    """Metrics for Prometheus. The counters are stored in the queues, so that any process may be scraped."""
    openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
    text = exposition(_snapshot(request, minutes=0), openmetrics=openmetrics)
    return HttpResponse(text, content_type=OPEN_METRICS if openmetrics else TEXT)
