"""`POST /generate` past FastAPI: to the same route function, without what is done for every kind of route before it.

Routing, dependencies and two validations cost more than a refusal does, and the engine waits for the interpreter
meanwhile. What isn't valid goes on to FastAPI, whose errors name each field: there is one place that words them.
"""

from __future__ import annotations

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptdial.errors import PromptdialError
from service import problems
from service.routes import GENERATE_PATH, generate
from service.schemas import GenerateRequest


class Shortcut:
    """Answers valid requests to `generate`. The body has to come in one piece, as BodyGuard hands it on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != GENERATE_PATH:
            await self.app(scope, receive, send)
            return
        message = await receive()
        try:
            body = GenerateRequest.model_validate_json(message["body"])
        except ValidationError:
            pending: list[Message] = [message]

            async def replay() -> Message:
                return pending.pop() if pending else await receive()

            await self.app(scope, replay, send)
            return
        response: Response
        try:
            response = await generate(body, Request(scope, receive))
        except PromptdialError as error:
            response = problems.of_error(scope, error)
        await response(scope, receive, send)
