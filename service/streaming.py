"""An answer as server-sent events: `token`, `candidate`, then `done` or `error`.

A response of our own, on bare ASGI: a stream costs one task and, for all tokens of an engine's step, one send.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from promptdial.engine import Finished, Token
from promptdial.errors import PromptdialError, Unavailable
from service import problems
from service.generation import Complete, News, Run
from service.health import RETRY_AFTER_S
from service.pieces import TextPieces

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE = b": keep-alive\n\n"
encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def event(name: str, data: str) -> str:
    """One server-sent event; `data` is JSON, so it holds no line break."""
    return f"event: {name}\ndata: {data}\n\n"


class EventStream(Response):
    """Sends a run's news as they come. `done` gives the last event's data, once the run is finished."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        run: Run,
        token_bytes: list[bytes],
        done: Callable[[], dict[str, Any]],
        keep_alive_s: float,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.run = run
        self.done = done
        self.keep_alive_s = keep_alive_s
        self.pieces = [TextPieces(token_bytes) for _ in range(run.plan.work.n)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything; what fails on the way becomes the last event."""
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            await self._send_news(send)
            last = event("done", encode(self.done()))
        except PromptdialError as error:
            last = error_event(problems.of_error(scope, error))
        except asyncio.CancelledError:  # by the server: the time for requests in flight is up
            ended = Unavailable("the server shut down before the request was done", RETRY_AFTER_S)
            last = error_event(problems.of_error(scope, ended))
        except Exception as error:
            last = error_event(problems.of_defect(scope, error))
        finally:
            self.run.close()
        await send({"type": "http.response.body", "body": last.encode(), "more_body": False})

    async def _send_news(self, send: Send) -> None:
        """Until the run is over. Raises what it failed with."""
        loop, run = asyncio.get_running_loop(), self.run
        sent, rung = loop.time(), False

        def ring() -> (
            None
        ):  # a clock of milliseconds may do so before its time, so this is told and not computed
            nonlocal rung
            rung = True
            run.wake()

        alarm = loop.call_at(sent + self.keep_alive_s, ring)
        try:
            while True:
                over = run.over
                body = "".join(self._render(run.news.popleft()) for _ in range(len(run.news))).encode()
                now = loop.time()
                if rung:  # no timer per token: this one is set anew only when it went off
                    rung = False
                    body = body or (KEEP_ALIVE if now - sent >= self.keep_alive_s else b"")
                    alarm = loop.call_at((now if body else sent) + self.keep_alive_s, ring)
                if body:
                    sent = now
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                if over:
                    break
                if not (run.news or run.over or rung):
                    await run.changed()
        finally:
            alarm.cancel()
        if run.error is not None:
            raise run.error

    def _render(self, news: News) -> str:
        match news:
            case Token(candidate, token_id):
                return self._piece(candidate, self.pieces[candidate].add(token_id))
            case Finished(candidate, _):
                return self._piece(candidate, self.pieces[candidate].end())
            case Complete(index, candidate):
                return event("candidate", encode({"candidate": index, **candidate.model_dump()}))

    def _piece(self, candidate: int, text: str) -> str:
        return event("token", encode({"candidate": candidate, "text": text})) if text else ""


def error_event(problem: Response) -> str:
    """A problem after the stream began, when its status can't be sent any more."""
    return event("error", bytes(problem.body).decode("ascii"))
