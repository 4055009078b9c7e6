"""Spans by OpenTelemetry's conventions for messaging: ``DjangoSRQInstrumentor().instrument()``.

======================  ========  ======================================================================================
span                    kind      covers
======================  ========  ======================================================================================
``send orders``         PRODUCER  a put; its context goes with the items. CLIENT: the put after the commit
``create orders``       PRODUCER  the call of put_on_commit; its context goes with the item
``receive orders``      CLIENT    a get that took items; linked to their contexts
``process orders``      CONSUMER  the call of a handler; linked to the items' contexts, and a child of a single item's
``ack orders``, …       CLIENT    the settlement: ack, fail or release; a child of the handler's span if there is one
======================  ========  ======================================================================================

Items that srq_consume claims have no span ``receive``: it claims them before a handler asks for them. A span that fails
has its error as an event; messages and tracebacks are redacted as in the status view. No span has a payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django_srq.exceptions import Discard, RetryLater
from django_srq.queue import failure, instrumentation
from django_srq.queue.failure import name_of, text_of
from django_srq.queue.instrumentation import Handling, Integration, PutEnd, Puts, Settled
from django_srq.queue.item import Item
from django_srq.signals import consumer_stopped
from django_srq.version import __version__

try:
    from opentelemetry import context as contexts
    from opentelemetry import propagate, trace
    from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError as error:
    raise ImportError(
        "django_srq.contrib.opentelemetry needs OpenTelemetry's API: pip install 'django-srq[opentelemetry]'"
    ) from error

SYSTEM = "django_srq"
SCHEMA = "https://opentelemetry.io/schemas/1.27.0"
FLUSH = 5000  # milliseconds for the last spans of a process that ends
TRACE, BAGGAGE = "traceparent", "baggage"
OPERATIONS = {"acked": "ack", "discarded": "ack", "released": "release"}  # any other outcome: fail


class DjangoSRQInstrumentor:
    """Has puts, gets and handlers traced from ``instrument`` to ``uninstrument``."""

    _tracing: _Tracing | None = None  # of the process

    def instrument(self, *, tracer_provider: TracerProvider | None = None, **_options: object) -> None:
        """Call it once, such as in the settings or in ``AppConfig.ready``. tracer_provider: default: the global one.

        Spans are made by the provider that is there when they begin. So a provider that is set later, such as by a
        receiver of ``consumer_started`` in each process of srq_consume, is used from then on.
        """
        self.uninstrument()
        DjangoSRQInstrumentor._tracing = _Tracing(tracer_provider)
        instrumentation.install(DjangoSRQInstrumentor._tracing)
        consumer_stopped.connect(DjangoSRQInstrumentor._tracing.flush, dispatch_uid=__name__)

    def uninstrument(self, **_options: object) -> None:
        if DjangoSRQInstrumentor._tracing is not None:
            instrumentation.uninstall(DjangoSRQInstrumentor._tracing)
            consumer_stopped.disconnect(dispatch_uid=__name__)
        DjangoSRQInstrumentor._tracing = None

    @property
    def is_instrumented_by_opentelemetry(self) -> bool:
        return DjangoSRQInstrumentor._tracing is not None


class _Tracing(Integration):
    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self._tracer = trace.get_tracer("django_srq", __version__, provider, SCHEMA)

    def flush(self, **_kwargs: object) -> None:
        """Export the spans of a process that is about to end. The API has no name for that, but the SDK has."""
        flush = getattr(self._provider or trace.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            flush(FLUSH)

    # -- puts

    def put(self, puts: Puts) -> PutEnd:
        operation = "create" if puts.step == "prepare" else "send"
        kind = SpanKind.CLIENT if puts.step == "send" else SpanKind.PRODUCER
        span = self._span(puts.queue, operation, operation, kind)
        if TRACE not in puts.headers:  # else the caller chose the context
            carrier: dict[str, str] = {}
            propagate.inject(carrier, trace.set_span_in_context(span))
            if baggage := carrier.pop(BAGGAGE, None):  # beside what another tracer has there
                carrier[BAGGAGE] = ",".join(filter(None, [puts.headers.get(BAGGAGE), baggage]))
            puts.headers.update(carrier)

        def end(error: BaseException | None) -> None:
            if puts.batch:
                span.set_attribute("messaging.batch.message_count", len(puts.uids))
            elif puts.uids:
                span.set_attribute("messaging.message.id", puts.uids[0])
            if puts.size is not None:
                span.set_attribute("messaging.message.body.size", puts.size)
            _note_error(span, error)
            span.end()

        return end

    # -- gets and settlements

    def received(self, queue: str, items: Sequence[Item], began: int) -> None:
        span = self._span(queue, "receive", "receive", SpanKind.CLIENT, links=_links(items), start_time=began)
        _name_items(span, items, batch=len(items) > 1)
        span.end()

    def settled(self, queue: str, ended: Sequence[Settled], began: int, handling: Handling | None) -> None:
        handled: _Handled | None = handling.notes.get(self) if handling else None
        operations: dict[str, list[Settled]] = {}
        for end in ended:
            operations.setdefault(OPERATIONS.get(end.outcome, "fail"), []).append(end)
        for operation, ends in operations.items():
            items = [end.item for end in ends]
            context = handled.context if handled else None
            span = self._span(
                queue, operation, "settle", SpanKind.CLIENT, context=context, links=_links(items), start_time=began
            )
            _name_items(span, items, batch=len(items) > 1)
            span.set_attribute("messaging.django_srq.outcome", ",".join(dict.fromkeys(end.outcome for end in ends)))
            span.end()

    # -- handlers

    def handle(self, handling: Handling) -> _Handled:
        handling.notes[self] = handled = _Handled(self, handling)
        return handled

    def process(self, handling: Handling, parent: contexts.Context) -> Span:
        links = _links(handling.items)
        span = self._span(handling.queue, "process", "process", SpanKind.CONSUMER, context=parent, links=links)
        _name_items(span, handling.items, batch=handling.batch)
        if not handling.batch:
            span.set_attribute("messaging.message.body.size", handling.sizes[0])
            span.set_attribute("messaging.django_srq.deliveries", handling.items[0].deliveries)
        return span

    def _span(self, queue: str, operation: str, kind_of_operation: str, kind: SpanKind, **options: Any) -> Span:
        attributes = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": operation,
            "messaging.operation.type": kind_of_operation,
            "messaging.destination.name": queue,
        }
        return self._tracer.start_span(f"{operation} {queue}", kind=kind, attributes=attributes, **options)


class _Handled:
    """The span of a call of a handler, which is the current one meanwhile."""

    def __init__(self, tracing: _Tracing, handling: Handling) -> None:
        self._tracing, self._handling = tracing, handling
        self.context: contexts.Context | None = None  # for the spans of the settlement

    def __enter__(self) -> None:
        handling = self._handling
        single = None if handling.batch else handling.items[0]
        parent = propagate.extract(single.headers, contexts.Context()) if single else contexts.Context()
        self._span = self._tracing.process(handling, parent)
        self._token = contexts.attach(trace.set_span_in_context(self._span, parent))
        self.context = trace.set_span_in_context(NonRecordingSpan(self._span.get_span_context()), contexts.Context())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        contexts.detach(self._token)
        try:
            if error is not None and not issubclass(type(error), RetryLater | Discard):
                _note_error(self._span, error)
        finally:
            self._span.end()


def _links(items: Sequence[Item]) -> list[Link]:
    """Links to the contexts in which items were put."""
    extracted = [trace.get_current_span(propagate.extract(item.headers, contexts.Context())) for item in items]
    return [Link(span.get_span_context()) for span in extracted if span.get_span_context().is_valid]


def _name_items(span: Span, items: Sequence[Item], *, batch: bool) -> None:
    if batch:
        span.set_attribute("messaging.batch.message_count", len(items))
    elif items[0].uid:
        span.set_attribute("messaging.message.id", items[0].uid)


def _note_error(span: Span, error: BaseException | None) -> None:
    if error is None or not span.is_recording():
        return
    message = _redacted(text_of(error))
    span.add_event(
        "exception",
        {
            "exception.type": name_of(error),
            "exception.message": message,
            "exception.stacktrace": _redacted(failure.printed(error)),
        },
    )
    span.set_attribute("error.type", name_of(error))
    span.set_status(Status(StatusCode.ERROR, message))


def _redacted(text: str) -> str:
    from django_srq.status.redaction import redacted_text  # late: the settings may be what imports this module

    return redacted_text(text)
