"""What is known of one request while it is under way: kept in its ASGI scope, read by log and metrics."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.types import Scope

from service.metrics import UNKNOWN_TASK

ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
SCOPE_KEY = "promptdial.request"


class Phase(NamedTuple):
    """A part of a request's time, in seconds of `time.monotonic`."""

    name: str
    begun: float
    ended: float


def header(scope: Scope, name: bytes) -> str | None:
    """A request header's value, the first where it was sent several times; `name` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


@dataclass
class RequestContext:
    """One request. `received` is in seconds of `time.monotonic`; `details` go into the log line.

    `counts` of candidates and tokens go there too, and into the trace. `phases` tells where the time went.
    """

    request_id: str
    received: float
    task: str = UNKNOWN_TASK  # from the closed set of the bundle's tasks: it becomes a label
    code: str | None = None  # of the problem it was answered with, or that ended its stream
    problem_status: int | None = None  # of the same; a stream's own status was sent before
    counts: dict[str, int] = field(default_factory=dict)
    details: dict[str, object] = field(default_factory=dict)
    phases: Callable[[], Sequence[Phase]] = tuple

    @classmethod
    def open(cls, scope: Scope) -> RequestContext:
        """Begin a request: its id is the client's, if harmless in a header and a log, or a new one."""
        given = header(scope, b"x-request-id") or ""
        request_id = given if ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
        context = cls(request_id, time.monotonic())
        scope[SCOPE_KEY] = context
        return context

    @classmethod
    def of(cls, scope: Scope) -> RequestContext:
        """The request that a scope belongs to."""
        context = scope[SCOPE_KEY]
        assert isinstance(context, cls)
        return context
