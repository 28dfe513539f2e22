"""Spans of requests, sent to an OpenTelemetry collector over OTLP (HTTP, protobuf); the extra `trace`.

On where the standard variables name a collector, `OTEL_EXPORTER_OTLP_ENDPOINT` or `_TRACES_ENDPOINT`; the
others of OpenTelemetry (headers, sampler, service name, …) are obeyed too. Off, SDK and exporter aren't imported and a
request pays for one comparison.

A request is a span, `POST /generate`, in the caller's trace if it sent a `traceparent`. Its children `queue`,
`prefill`, `decode` and `score` are written when it is over, from the times that were measured anyway. Ended
spans wait in a bounded queue for a thread that sends them: where the collector is away, they are dropped.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import Scope

from promptdial import __version__
from promptdial.errors import PromptdialError
from service.context import RequestContext

if TYPE_CHECKING:
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
FLUSH_S = 2.0  # for the last spans when the service ends; a collector that is away delays that by no more


class TracingError(PromptdialError):
    """Traces were asked for and can't be sent."""

    code = "tracing_unavailable"


def endpoint(environment: Mapping[str, str]) -> str | None:
    """The collector that the environment names, or None where it asks for no traces."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if "otlp" not in environment.get("OTEL_TRACES_EXPORTER", "otlp").split(","):
        return None
    return next((environment[name] for name in ENDPOINTS if environment.get(name)), None)


def open_tracing() -> Tracing | None:
    """As the environment says. Raises TracingError where it asks for what can't be had."""
    if endpoint(os.environ) is None:
        return None
    protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), PROTOCOL)
    if protocol != PROTOCOL:
        raise TracingError(
            f"the environment asks for traces by {protocol!r}, and only {PROTOCOL!r} is spoken here: "
            f"set {PROTOCOLS[1]}={PROTOCOL} and give the collector's HTTP port, 4318 by default"
        )
    try:
        return Tracing()
    except ImportError as error:
        raise TracingError(
            f"{ENDPOINTS[1]} asks for traces, and OpenTelemetry isn't installed ({error}): "
            "install the extra, promptdial[trace], unset the variable, or set OTEL_SDK_DISABLED=true"
        ) from error


@dataclass(frozen=True)
class Trace:
    """The span of a request under way."""

    span: Span
    epoch_ns: int  # when `time.monotonic` was 0

    @property
    def trace_id(self) -> str:
        """In hexadecimal, as in a `traceparent`."""
        return format(self.span.get_span_context().trace_id, "032x")

    def at(self, monotonic_s: float) -> int:
        """Nanoseconds of the epoch."""
        return self.epoch_ns + round(monotonic_s * 1e9)


class Tracing:
    """Makes spans and sends them. Raises ImportError without the extra."""

    def __init__(self) -> None:
        # Imported here, since the service does without.
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        ours = Resource.create({"service.name": "promptdial", "service.version": __version__})
        self._provider = TracerProvider(
            resource=ours.merge(OTELResourceDetector().detect()),  # what the environment says wins
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("promptdial", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._api = trace

    def begin(self, scope: Scope, context: RequestContext) -> Trace:
        """Open the span of a request, as a child of the caller's, if it told of one."""
        headers = Headers(scope=scope)
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        epoch_ns = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            f"{scope['method']} {scope['path']}",
            self._propagator.extract(carrier),
            self._api.SpanKind.SERVER,
            {
                "http.request.method": scope["method"],
                "http.route": scope["path"],
                "promptdial.request_id": context.request_id,
            },
            start_time=epoch_ns + round(context.received * 1e9),
        )
        return Trace(span, epoch_ns)

    def end(self, trace: Trace, context: RequestContext, status: int, outcome: str) -> None:
        """Close it, and write its children."""
        span = trace.span
        if not span.is_recording():
            return
        inside = self._api.set_span_in_context(span)
        for phase in context.phases():
            child = self._tracer.start_span(phase.name, inside, start_time=trace.at(phase.begun))
            child.end(trace.at(phase.ended))
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("promptdial.task", context.task)
        span.set_attribute("promptdial.outcome", outcome)
        for name, value in context.counts.items():
            span.set_attribute(f"promptdial.{name}", value)
        if context.code is not None:
            span.set_attribute("error.type", context.code)
        if (context.problem_status or status or 500) >= 500:
            span.set_status(self._api.StatusCode.ERROR)
        span.end(trace.at(time.monotonic()))

    def close(self) -> None:
        """Send what is left, for as long as that takes, but no longer than FLUSH_S."""
        flushing = threading.Thread(target=self._provider.shutdown, name="flush-traces", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)
