"""Every error as an RFC 9457 problem (`application/problem+json`) with a stable `code` and the request id.

Errors of the service itself, next to those of `promptdial.errors`:

PromptdialError
├── MalformedBody          400 malformed_body           not UTF-8, not JSON
├── BodyTooLarge           413 body_too_large
├── UnsupportedMediaType   415 unsupported_media_type
└── InvalidRequest
    ├── NotAvailableYet    422 not_available_yet        a field that a later version will obey
    ├── TimeoutTooShort    422 timeout_too_short        an idle engine wouldn't make it either
    └── OutOfSupport
        └── TargetsOutOfSupport                        names every target that is outside

What is raised on purpose keeps its text. Anything else is logged with its traceback and answered with one
fixed text.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from promptdial.errors import InvalidRequest, OutOfSupport, PromptdialError
from service.context import RequestContext
from service.schemas import GenerateRequest

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
encode = json.JSONEncoder(separators=(",", ":")).encode
INTERNAL_CODE = "internal_error"
INTERNAL_DETAIL = "Something went wrong on the server. The log has the details under this request id."
# Where Python's own phrase differs between its versions, or there is none.
TITLES = {413: "Content Too Large", 422: "Unprocessable Content", 499: "Client Closed Request"}
MAX_ERRORS_SHOWN = 16
MAX_NAME_SHOWN = 64


class MalformedBody(PromptdialError):
    """A body that can't be read at all."""

    status = 400
    code = "malformed_body"


class BodyTooLarge(PromptdialError):
    """More bytes than `max_body_bytes`."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaType(PromptdialError):
    """A body that isn't declared as JSON in UTF-8."""

    status = 415
    code = "unsupported_media_type"


class NotAvailableYet(InvalidRequest):
    """A field of the interface that this version doesn't obey."""

    code = "not_available_yet"


class TimeoutTooShort(InvalidRequest):
    """A request that can't be done within its `timeout_ms`, however long the client waits before it."""

    code = "timeout_too_short"


class TargetsOutOfSupport(OutOfSupport):
    """Targets that the training data doesn't hold. `messages`: why, by field; at least one."""

    def __init__(self, messages: Mapping[str, str]) -> None:
        super().__init__("; ".join(messages.values()), next(iter(messages)))
        self.messages = dict(messages)


class ProblemResponse(JSONResponse):
    """JSON in ASCII: it can carry anything a client sent, half a surrogate pair in a field's name too."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        """Everything beyond ASCII is escaped."""
        return encode(content).encode("ascii")


def problem(
    scope: Scope,
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[Mapping[str, Any]] = (),
    retry_after_s: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The response; its code is also noted for metrics and log."""
    context = RequestContext.of(scope)
    context.code, context.problem_status = code, status
    body: dict[str, Any] = {
        "type": f"urn:promptdial:problem:{code}",
        "title": TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": context.request_id,
    }
    if errors:
        body["errors"] = list(errors)
    sent_headers = dict(headers or {})
    if retry_after_s is not None:
        body["retry_after_ms"] = max(1, math.ceil(retry_after_s * 1000))
        sent_headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return ProblemResponse(body, status, sent_headers)


def of_error(scope: Scope, error: PromptdialError) -> JSONResponse:
    """The problem of an error that was raised on purpose. A 500 keeps its text to the log."""
    if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("request failed: %s: %s", error.code, error, exc_info=error)
        return problem(scope, error.status, error.code, INTERNAL_DETAIL)
    messages: Mapping[str, str] = {}
    if isinstance(error, TargetsOutOfSupport):
        messages = error.messages
    elif isinstance(error, InvalidRequest) and error.field is not None:
        messages = {error.field: str(error)}
    errors = [{"field": field, "code": error.code, "message": text} for field, text in messages.items()]
    retry_after_s: float | None = getattr(error, "retry_after_s", None)
    return problem(scope, error.status, error.code, str(error), errors=errors, retry_after_s=retry_after_s)


def of_defect(scope: Scope, error: Exception) -> JSONResponse:
    """The problem of an error that nobody foresaw: traceback to the log, fixed text to the client."""
    logger.error("unexpected error: %s", type(error).__name__, exc_info=error)
    return problem(scope, HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_CODE, INTERNAL_DETAIL)


def install(app: FastAPI) -> None:
    """Answer the application's errors with problems."""
    app.add_exception_handler(PromptdialError, _on_promptdial_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_promptdial_error(request: Request, error: Exception) -> Response:
    return of_error(request.scope, cast(PromptdialError, error))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Unknown paths and methods; and bodies that the JSON parser gave up on (too deep, numbers too long)."""
    http_error = cast(HTTPException, error)
    status = http_error.status_code
    details = {
        HTTPStatus.BAD_REQUEST: (MalformedBody.code, "the body can't be read as JSON"),
        HTTPStatus.NOT_FOUND: (
            "not_found",
            f"there is nothing at {request.url.path}; /docs lists what there is",
        ),
        HTTPStatus.METHOD_NOT_ALLOWED: (
            "method_not_allowed",
            f"{request.method} is not possible at {request.url.path}; /docs lists what is",
        ),
    }
    code, detail = details.get(HTTPStatus(status), ("http_error", str(http_error.detail)))
    return problem(request.scope, status, code, detail, headers=http_error.headers)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    """Name every wrong field and why; values are not echoed, they may be somebody's text."""
    found = cast(RequestValidationError, error).errors()
    if found[0]["type"] == "json_invalid":
        detail = f"the body is not valid JSON: {found[0]['ctx']['error']} at character {found[0]['loc'][-1]}"
        return problem(request.scope, MalformedBody.status, MalformedBody.code, detail)
    errors = [_field_error(item) for item in found[:MAX_ERRORS_SHOWN]]
    detail = "; ".join(f"{item['field'] or 'body'}: {item['message']}" for item in errors)
    return problem(request.scope, InvalidRequest.status, InvalidRequest.code, detail, errors=errors)


def _field_error(item: Mapping[str, Any]) -> dict[str, str | None]:
    """One of pydantic's errors in this interface's words."""
    path = [str(part)[:MAX_NAME_SHOWN] for part in item["loc"] if part != "body"]
    message = item["msg"][:1].lower() + item["msg"][1:]
    if not path:
        message = "the body must be one JSON object" if item["type"] != "missing" else "the body is empty"
    elif item["type"] == "extra_forbidden":
        message = f"there is no such field; the fields are {', '.join(GenerateRequest.model_fields)}"
    elif item["type"] == "missing":
        message = "this field is required"
    elif item["type"] == "string_too_short":
        message = "this text is empty"
    return {"field": ".".join(path) or None, "code": item["type"], "message": message}
