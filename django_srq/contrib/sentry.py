"""An integration for Sentry's SDK: ``sentry_sdk.init(…, integrations=[SRQIntegration()])``.

Events and transactions of an item have tags with its queue and uid. Payloads are in none of them, unless an option says
so: the local variables of the frames are left out too, as they hold the payload.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from django_srq.exceptions import Discard, RetryLater
from django_srq.queue import failure, instrumentation
from django_srq.queue.instrumentation import Handling, PutEnd, Puts, Settled
from django_srq.queue.item import Item
from django_srq.signals import consumer_stopped

try:
    import sentry_sdk
    from sentry_sdk.integrations import Integration
    from sentry_sdk.scope import add_global_event_processor, use_isolation_scope, use_scope
    from sentry_sdk.utils import event_from_exception
except ImportError as error:
    raise ImportError("django_srq.contrib.sentry needs Sentry's SDK: pip install 'django-srq[sentry]'") from error

if TYPE_CHECKING:
    from sentry_sdk._types import Event, Hint
    from sentry_sdk.tracing import Span

ORIGIN = "auto.queue.django_srq"
SYSTEM = "django_srq"
HIDDEN = "[…]"
PAYLOAD_MOST = 4096  # characters
TRACE, BAGGAGE = "sentry-trace", "baggage"  # the headers that carry a trace


class SRQIntegration(Integration):
    """Reports items that are dead, and traces puts and handlers."""

    identifier = "django_srq"
    origin = ORIGIN

    def __init__(self, *, every_failure: bool = False, payloads: bool = False, propagate_traces: bool = True) -> None:
        """every_failure: report each failed delivery (the level is "warning" while the item will be tried again).

        The default is one event for an item, when it is dead: until then nobody has to act, and an item may fail 25
        times. payloads: add the payload and the frames' local variables, redacted as in the status view.
        propagate_traces: put the trace into the items' headers, which makes each item some 400 bytes larger.
        """
        self.every_failure, self.payloads, self.propagate_traces = every_failure, payloads, propagate_traces

    @staticmethod
    def setup_once() -> None:
        instrumentation.install(_watch)
        add_global_event_processor(_without_ours)
        consumer_stopped.connect(_flush, dispatch_uid="django_srq.contrib.sentry")


def _integration() -> SRQIntegration | None:
    """The integration of the current client, if it has one."""
    return sentry_sdk.get_client().get_integration(SRQIntegration)


def _flush(**_kwargs: object) -> None:
    if _integration() is not None:
        sentry_sdk.flush()


class _Watch(instrumentation.Integration):
    def flush(self) -> None:
        _flush()

    def put(self, puts: Puts) -> PutEnd | None:
        integration = _integration()
        if integration is None or puts.step == "send":
            return None
        span = _publishing(puts.queue)
        if integration.propagate_traces and TRACE not in puts.headers:
            _add_trace(puts.headers, span)
        return None if span is None else lambda error: _end_publishing(span, puts, error)

    def handle(self, handling: Handling) -> Any:
        integration = _integration()
        if integration is None:
            return super().handle(handling)
        handling.notes[self] = handled = _Handled(handling, integration)
        return handled

    def settled(self, queue: str, ended: Sequence[Settled], began: int, handling: Handling | None) -> None:
        handled: _Handled | None = handling.notes.get(self) if handling is not None else None
        if handled is not None:
            for end in ended:
                handled.report(end)


_watch = _Watch()


# -- puts


def _publishing(queue: str) -> Span | None:
    """A span for a put, if a transaction is under way."""
    parent = sentry_sdk.get_current_span()
    if parent is None:
        return None
    span = parent.start_child(op="queue.publish", name=queue, origin=ORIGIN)
    span.set_data("messaging.system", SYSTEM)
    span.set_data("messaging.destination.name", queue)
    return span


def _add_trace(headers: dict[str, str], span: Span | None) -> None:
    added = dict(sentry_sdk.get_current_scope().iter_trace_propagation_headers(span=span))
    if trace := added.get(TRACE):
        headers[TRACE] = trace
    if baggage := added.get(BAGGAGE):  # beside what another tracer has there
        headers[BAGGAGE] = ",".join(filter(None, [headers.get(BAGGAGE), baggage]))


def _end_publishing(span: Span, puts: Puts, error: BaseException | None) -> None:
    if puts.batch:
        span.set_data("messaging.batch.message_count", len(puts.uids))
    else:
        span.set_data("messaging.message.id", puts.uids[0] if puts.uids else None)
        span.set_data("messaging.message.body.size", puts.size)
    span.set_status("internal_error" if error else "ok")
    span.finish()


# -- handlers


class _Handled:
    """A call of a handler: a transaction in scopes of its own, which are used again when an item is reported."""

    def __init__(self, handling: Handling, integration: SRQIntegration) -> None:
        self._handling, self._integration = handling, integration
        self._stack = ExitStack()

    def __enter__(self) -> None:
        handling = self._handling
        self._scope = self._stack.enter_context(sentry_sdk.isolation_scope())
        self._current = sentry_sdk.get_current_scope()
        self._scope.clear_breadcrumbs()
        self._scope.set_tag("queue", handling.queue)
        self._scope.add_event_processor(self._clean)
        single = None if handling.batch else handling.items[0]
        if single:
            self._scope.set_tag("uid", single.uid)
        transaction = sentry_sdk.continue_trace(
            dict(single.headers) if single else {},
            op="queue.process",
            name=handling.queue,
            source="task",
            origin=ORIGIN,
        )
        self._transaction = self._stack.enter_context(
            sentry_sdk.start_transaction(
                transaction, custom_sampling_context={"queue": handling.queue, "items": len(handling.items)}
            )
        )
        for name, value in _messaging(handling, single):
            self._transaction.set_data(name, value)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        self._transaction.set_status(_status(error))
        self._stack.close()

    def report(self, end: Settled) -> None:
        """Send an event about an item that failed, unless another delivery may mend it."""
        integration, error = self._integration, end.error
        is_last = end.state == "dead"
        if error is None or not (is_last or (integration.every_failure and end.outcome in ("failed", "lost"))):
            return
        with use_isolation_scope(self._scope), use_scope(self._current):
            event, hint = event_from_exception(
                (type(error), error, failure.traceback_of(error)),
                client_options=sentry_sdk.get_client().options,
                mechanism={"type": SYSTEM, "handled": False},
            )
            event["level"] = "error" if is_last else "warning"
            event["transaction"] = self._handling.queue
            event["contexts"] = {"trace": self._transaction.get_trace_context(), "item": self._facts(end)}
            event["tags"] = {"uid": end.item.uid or "", "outcome": end.outcome}
            sentry_sdk.capture_event(event, hint=hint)

    def _facts(self, end: Settled) -> dict[str, Any]:
        facts = {"queue": self._handling.queue, "uid": end.item.uid, "deliveries": end.item.deliveries}
        facts |= {"outcome": end.outcome, "state": end.state}
        if self._integration.payloads:
            facts["payload"] = _payload(self._handling.queue, end.item)
        return facts

    def _clean(self, event: Event, hint: Hint) -> Event:
        if event.get("type") != "transaction":
            _redact(event, variables=self._integration.payloads)
        return event


def _messaging(handling: Handling, single: Item | None) -> Iterator[tuple[str, Any]]:
    yield "messaging.system", SYSTEM
    yield "messaging.destination.name", handling.queue
    if single is None:
        yield "messaging.batch.message_count", len(handling.items)
        return
    yield "messaging.message.id", single.uid
    yield "messaging.message.retry.count", single.deliveries - 1
    yield "messaging.message.body.size", handling.sizes[0]
    if single.enqueued_at:
        waited = dt.datetime.now(dt.UTC) - single.enqueued_at
        yield "messaging.message.receive.latency", max(0.0, waited.total_seconds() * 1000)


def _status(error: BaseException | None) -> str:
    if error is None or issubclass(type(error), Discard):
        return "ok"
    return "aborted" if issubclass(type(error), RetryLater) else "internal_error"


def _payload(queue: str, item: Item) -> Any:
    from django_srq.status.redaction import decoded_shown  # late: the settings may be what imports this module

    return decoded_shown(queue, item.payload).cut(PAYLOAD_MOST)


# -- what an event may contain


def _redact(event: Any, *, variables: bool) -> None:
    """Redact the texts of an event, as the status view does. variables: keep the frames' local variables, redacted."""
    _strip(event, lambda frame: not variables)
    try:
        _redact_texts(event)
    except Exception:  # such as wrong settings: then nothing says what is secret
        _hide_texts(event)


def _redact_texts(event: Any) -> None:
    from django_srq.status.redaction import redacted, redacted_text

    for frame in _frames(event):
        if "vars" in frame:
            frame["vars"] = redacted(frame["vars"])
    for holder, name in _texts(event):
        holder[name] = redacted_text(str(holder[name]))
    for holder, name in _data(event):
        holder[name] = redacted(holder[name])


def _hide_texts(event: Any) -> None:
    _strip(event, lambda frame: True)
    for holder, name in (*_texts(event), *_data(event)):
        holder[name] = HIDDEN


def _texts(event: Any) -> Iterator[tuple[Any, str]]:
    for value in _values(event, "exception"):
        if value.get("value"):
            yield value, "value"
    for entry in (event, event.get("logentry") or {}, *_values(event, "breadcrumbs")):
        yield from ((entry, name) for name in ("message", "formatted") if entry.get(name))


def _data(event: Any) -> Iterator[tuple[Any, str]]:
    for entry in (event.get("logentry") or {}, *_values(event, "breadcrumbs"), event):
        yield from ((entry, name) for name in ("params", "data", "extra") if entry.get(name))


def _values(event: Any, name: str) -> Sequence[Any]:
    return (event.get(name) or {}).get("values") or ()


def _frames(event: Any) -> Iterator[dict[str, Any]]:
    for value in (*_values(event, "exception"), *_values(event, "threads"), event):
        yield from (value.get("stacktrace") or {}).get("frames") or ()


def _strip(event: Any, chosen: Callable[[dict[str, Any]], bool]) -> None:
    for frame in _frames(event):
        if chosen(frame):
            frame.pop("vars", None)


def _without_ours(event: Event, hint: Hint) -> Event | None:
    """For all events: our own frames have no local variables, and the record of a failure makes no second event."""
    if _integration() is None:
        return event
    _strip(event, lambda frame: failure.is_ours(frame.get("abs_path")))
    return None if _is_about_a_delivery(hint.get("log_record")) else event


def _is_about_a_delivery(record: logging.LogRecord | None) -> bool:
    """Whether the record tells of an error that ``settled`` reports. That a process died, only the log tells."""
    return record is not None and record.name == "django_srq.consumer" and hasattr(record, "deliveries")
