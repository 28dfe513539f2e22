"""Pure-ASGI middleware: what happens around every request, with nothing between the app and a disconnect.

`Observation` gives a request its id, counts and logs it, and answers defects. `BodyGuard` reads the body and
checks its type, size and encoding before anything is parsed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from email.message import Message as MimeMessage
from functools import lru_cache

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptdial.errors import Cancelled, PromptdialError, Unavailable
from service import problems
from service.context import RequestContext, header
from service.health import RETRY_AFTER_S
from service.logs import current_request_id
from service.metrics import Metrics, outcome_of
from service.tracing import Tracing

logger = logging.getLogger("service.access")

COUNTED_PATH = "/generate"
QUIET_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
# Past the queue: what these took is the service's latency. Refusals take next to nothing and would hide it.
TIMED_OUTCOMES = frozenset({"ok", "timeout", "error"})
REFUSALS = frozenset({"invalid", "overloaded", "unavailable"})


class Observation:
    """Request id in and out; a log line, a count and a span per request; an answer to what nobody foresaw."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self.app = app
        self.metrics = metrics
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = RequestContext.open(scope)
        token = current_request_id.set(context.request_id)
        counted = scope["path"] == COUNTED_PATH
        trace = self.tracing.begin(scope, context) if self.tracing is not None and counted else None
        if trace is not None:
            context.details["trace_id"] = trace.trace_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", context.request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # by the server: the time for requests in flight is up
            if not status:
                ended = Unavailable("the server shut down before the request was done", RETRY_AFTER_S)
                await problems.of_error(scope, ended)(scope, receive, send_with_id)
            # The task ends by itself: raised on, this would be a traceback in uvicorn's log.
        except Exception as error:
            if status:  # too late for another answer: let the server cut the connection
                raise
            await problems.of_defect(scope, error)(scope, receive, send_with_id)
        finally:
            outcome = outcome_of(context.problem_status or status)
            if trace is not None and self.tracing is not None:
                self.tracing.end(trace, context, status, outcome)
            seconds = time.monotonic() - context.received
            if counted:
                self._count(context, outcome, seconds)
                context.details |= {"task": context.task, "outcome": outcome}
            log_access(scope, context, status, seconds)
            current_request_id.reset(token)

    def _count(self, context: RequestContext, outcome: str, seconds: float) -> None:
        self.metrics.requests.labels(context.task, outcome).inc()
        if outcome in TIMED_OUTCOMES:
            self.metrics.request_seconds.observe(seconds)
        if outcome in REFUSALS and context.code is not None:
            self.metrics.rejected.labels(context.code).inc()
        if outcome == "cancelled":
            self.metrics.cancelled.inc()


def log_access(scope: Scope, context: RequestContext, status: int, seconds: float) -> None:
    """One line per request; its id is the log's own."""
    level = logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO
    if not logger.isEnabledFor(level):
        return
    fields: dict[str, object] = {
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "duration_ms": round(seconds * 1000, 3),
    }
    if context.code is not None:
        fields["code"] = context.code
    logger.log(level, "request", extra={"fields": fields | context.counts | context.details})


class BodyGuard:
    """Takes the body of a POST to `paths` only as JSON, in UTF-8, up to a size; hands it on in one piece."""

    def __init__(self, app: ASGIApp, paths: frozenset[str], max_bytes: int) -> None:
        self.app = app
        self.paths = paths
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self.paths:
            await self.app(scope, receive, send)
            return
        try:
            check_media_type(header(scope, b"content-type"))
            body = await self._read(scope, receive)
            check_encoding(body)
        except PromptdialError as error:
            await problems.of_error(scope, error)(scope, receive, send)
            return
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body. Stops reading where the limit is passed, announced or not."""
        announced = header(scope, b"content-length") or "0"
        if announced.isdecimal() and int(announced) > self.max_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Cancelled("the client went away before its request was complete")
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > self.max_bytes:
                raise self._too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _too_large(self) -> problems.BodyTooLarge:
        return problems.BodyTooLarge(
            f"the body is larger than {self.max_bytes} bytes, the most that is taken"
        )


def check_media_type(content_type: str | None) -> None:
    """Raise UnsupportedMediaType unless it says JSON, and UTF-8 if it names a charset."""
    if content_type is None:
        raise problems.UnsupportedMediaType(
            "the Content-Type header is missing; send 'Content-Type: application/json'"
        )
    if not is_json(content_type):
        raise problems.UnsupportedMediaType(
            "the Content-Type of the body is not taken here; send 'Content-Type: application/json', in UTF-8"
        )


@lru_cache(maxsize=64)  # clients send one of a few
def is_json(content_type: str) -> bool:
    """Whether a Content-Type says JSON, in UTF-8 if it names a charset."""
    parsed = MimeMessage()
    parsed["Content-Type"] = content_type
    charset = str(parsed.get_param("charset", "")).lower()
    return parsed.get_content_type() == "application/json" and charset in {"", "utf-8", "utf8"}


def check_encoding(body: bytes) -> None:
    """Raise MalformedBody for bytes that aren't UTF-8, saying where."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"the body is not valid UTF-8: byte 0x{body[error.start]:02x} at position {error.start}"
        raise problems.MalformedBody(detail) from None
