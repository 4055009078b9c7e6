"""The views for machines: ``include("django_srq.urls")``. For staff who may look at queues, or with a bearer token."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import wraps

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache

from django_srq import access, conf, status
from django_srq.exceptions import ConfigurationError
from django_srq.series import BUCKETS, bucket_limit
from django_srq.status import QueueReport, Snapshot

View = Callable[[HttpRequest], HttpResponse]
TEXT = "text/plain; version=0.0.4; charset=utf-8"  # of Prometheus
# What is true now, and how it is read of a queue.
GAUGES: dict[str, tuple[str, Callable[[QueueReport], float | None]]] = {
    "srq_ready": ("Items that wait to be taken.", lambda queue: queue.ready),
    "srq_in_flight": ("Items that a consumer has in hand.", lambda queue: queue.in_flight),
    "srq_delayed": ("Items that are not due yet.", lambda queue: queue.delayed),
    "srq_dead": ("Items that were set aside.", lambda queue: queue.dead),
    "srq_oldest_age_seconds": ("Age of the oldest ready item.", lambda queue: queue.oldest_wait or 0),
    "srq_consumers": ("Live consumers.", lambda queue: queue.consumers),
    "srq_paused": ("1 while the queue is paused.", lambda queue: int(queue.paused is not None)),
}
COUNTERS = {
    "put": "Items put.",
    "delivered": "Deliveries.",
    "acked": "Items acked.",
    "failed": "Deliveries that failed.",
    "recovered": "Deliveries that were taken back: their consumer died, or their leases ended.",
    "crashed": "Deliveries that ended with the consumer's death.",
    "dead": "Items set aside.",
    "requeued": "Dead items made ready again.",
    "released": "Deliveries given back unstarted.",
    "dropped": "Items deleted one by one.",
    "purged": "Items purged.",
}
HISTOGRAMS = {
    "srq_process_seconds": ("run", "Time from a delivery to its ack."),
    "srq_wait_seconds": ("wait", "Time until the first delivery."),
}


def _guarded(view: View) -> View:
    @never_cache
    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        if not _has_token(request) and not (request.user.is_staff and access.may(request, "view")):
            if request.user.is_authenticated:
                return HttpResponse(status=403)
            return HttpResponse(status=401, headers={"WWW-Authenticate": 'Bearer realm="django_srq"'})
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        try:
            return view(request)
        except ConfigurationError as wrong:  # of ALLOW, so that nobody knows who may
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
    """All that is known, as ``status.py`` describes it; 503 when a server cannot be reached."""
    snapshot = _snapshot(request)
    return JsonResponse(snapshot.to_dict(), status=503 if snapshot.unreachable else 200)


@_guarded
def health(request: HttpRequest) -> HttpResponse:
    """Whether all is well, a warning or two aside; 503 when not."""
    snapshot = _snapshot(request, minutes=0)
    said = {"level": snapshot.level, "sentence": snapshot.sentence}
    return JsonResponse(said, status=503 if snapshot.level == "error" else 200)


@_guarded
def live(request: HttpRequest) -> HttpResponse:
    """That this process answers; asks no server."""
    return HttpResponse("ok\n", content_type="text/plain; charset=utf-8")


@_guarded
def metrics(request: HttpRequest) -> HttpResponse:
    """For Prometheus, from counters that lie in the queues: any process may be asked."""
    return HttpResponse("\n".join([*_lines(_snapshot(request, minutes=0)), ""]), content_type=TEXT)


def _lines(snapshot: Snapshot) -> Iterator[str]:
    read = [queue for queue in snapshot.queues if queue.ready is not None]
    yield from _family("srq_up", "gauge", "1 when the queue could be read.")
    yield from (f"srq_up{_label(queue)} {int(queue.ready is not None)}" for queue in snapshot.queues)
    for name, (text, value) in GAUGES.items():
        yield from _family(name, "gauge", text)
        yield from (f"{name}{_label(queue)} {value(queue):.15g}" for queue in read)
    for counter, text in COUNTERS.items():
        yield from _family(f"srq_{counter}_total", "counter", text)
        yield from (f"srq_{counter}_total{_label(queue)} {queue.totals.get(counter, 0)}" for queue in read)
    for name, (kind, text) in HISTOGRAMS.items():
        yield from _family(name, "histogram", text)
        for queue in read:
            yield from _histogram(name, kind, queue)


def _family(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _histogram(name: str, kind: str, queue: QueueReport) -> Iterator[str]:
    """Buckets and count; no sum, which nobody keeps."""
    below = 0
    for e in range(BUCKETS - 1):
        below += queue.buckets.get(f"{kind}{e}", 0)
        yield f"{name}_bucket{_label(queue, f'{bucket_limit(e):g}')} {below}"
    below += queue.buckets.get(f"{kind}{BUCKETS - 1}", 0)
    yield f"{name}_bucket{_label(queue, '+Inf')} {below}"
    yield f"{name}_count{_label(queue)} {below}"


def _label(queue: QueueReport, limit: str = "") -> str:
    alias = json.dumps(queue.alias, ensure_ascii=False)  # escapes quotes, backslashes and line feeds as Prometheus does
    return f'{{queue={alias},le="{limit}"}}' if limit else f"{{queue={alias}}}"
