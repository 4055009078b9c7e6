"""An exporter of OpenTelemetry's SDK that writes to a file, and handlers for processes of srq_consume."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult


class ToFile(SpanExporter):
    """Appends spans to the file SRQ_TEST_SPANS, as lines of JSON."""

    def export(self, spans):
        with Path(os.environ["SRQ_TEST_SPANS"]).open("a") as file:
            file.write("".join(f"{span.to_json(indent=None)}\n" for span in spans))
        return SpanExportResult.SUCCESS


def begin(**_kwargs: object) -> None:
    """Sets a provider whose spans wait for longer than any test takes: they come only when they are flushed."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(ToFile(), schedule_delay_millis=600_000))
    trace.set_tracer_provider(provider)


def handle(payload: str) -> None:
    with trace.get_tracer("shop").start_as_current_span("inner") as span:
        span.set_attribute("threads", sorted(thread.name for thread in threading.enumerate()))
    if payload == "fail":
        raise LookupError("no such order")
