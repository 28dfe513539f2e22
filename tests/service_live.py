"""What the service's tests share: the real application behind a real socket, and a small scripted engine.

The engine stands in where ONNX is not the point: a full queue, a hang, a failed step, a client that leaves.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Literal

import httpx
import uvicorn
from fastapi import FastAPI

from promptdial.engine import Done, Event, Failed, Finished, GenerationRequest, Stats, Timing, Token
from promptdial.errors import EngineError, Overloaded
from promptdial.tokenizer import PromptTokenizer

WAIT_S = 20.0
Behaviour = Literal["answer", "hold", "stick", "fail", "full", "late", "defect", "break"]


class HeldGeneration:
    """The handle of one submitted request."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine

    def cancel(self) -> None:
        """Tell the test."""
        self._engine.cancelled.set()


class ScriptedEngine:
    """Answers every request with the same texts, or does what else `behaviour` says."""

    def __init__(
        self, tokenizer: PromptTokenizer, texts: tuple[str, ...] = ("a fox", "a fox in snow")
    ) -> None:
        self.tokenizer = tokenizer
        self.texts = texts
        self.behaviour: Behaviour = "answer"
        self.ready = True
        self.silent_since: float | None = None
        self.submitted = threading.Event()
        self.cancelled = threading.Event()
        self.requests: list[GenerationRequest] = []
        self._held: list[Callable[[], None]] = []

    @property
    def heartbeat(self) -> float:
        """Now, unless a test let it fall silent."""
        return time.monotonic() if self.silent_since is None else self.silent_since

    def start(self) -> None:
        """Nothing to start."""

    def close(self, *, join_s: float) -> bool:
        """Nothing to end."""
        return True

    @property
    def stats(self) -> Stats:
        """Nothing has happened."""
        nothing: dict[str, Any] = dict.fromkeys((each.name for each in fields(Stats)), 0)
        return Stats(**nothing | {"device": "cpu", "provider": "CPUExecutionProvider"})

    def submit(self, request: GenerationRequest, on_event: Callable[[Event], None]) -> HeldGeneration:
        """Do as the behaviour says."""
        if self.behaviour == "late":
            raise Overloaded("it would take 500 ms with nothing else to do")
        if self.behaviour == "full":
            raise Overloaded("the queue is full", retry_after_s=1.234)
        if self.behaviour == "defect":
            raise ZeroDivisionError("a secret of the server")
        self.requests.append(request)
        self.submitted.set()
        if self.behaviour == "answer":
            self._answer(request, on_event)
        elif self.behaviour == "fail":
            on_event(Failed(EngineError("a secret of the server")))
        elif self.behaviour == "break":
            on_event(Token(0, self.tokenizer.encode(self.texts[0])[0]))
            on_event(Failed(EngineError("a secret of the server")))
        elif self.behaviour == "stick":
            on_event(Token(0, self.tokenizer.encode(self.texts[0])[0]))
        else:
            self._held.append(lambda: self._answer(request, on_event))
        return HeldGeneration(self)

    def release(self) -> None:
        """Answer what was held."""
        while self._held:
            self._held.pop()()

    def _answer(self, request: GenerationRequest, on_event: Callable[[Event], None]) -> None:
        for candidate in range(request.n):
            ids = self.tokenizer.encode(self.texts[candidate % len(self.texts)])
            for token_id in ids[: request.max_tokens]:
                on_event(Token(candidate, token_id))
            on_event(Finished(candidate, "stop" if len(ids) <= request.max_tokens else "length"))
        on_event(Done(Timing(queue_s=0.001, prefill_s=0.002, decode_s=0.003)))


class LiveServer(uvicorn.Server):
    """A server on a free port of this machine that says when it listens."""

    def __init__(self, app: FastAPI, shutdown_timeout_s: int | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                port=0,
                lifespan="on",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=shutdown_timeout_s,
            )
        )
        self.listening: Future[int] = Future()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, then tell the port, or why there is none."""
        try:
            await super().startup()
            self.listening.set_result(self.servers[0].sockets[0].getsockname()[1])
        except BaseException as error:
            self.listening.set_exception(error)
            raise


@contextmanager
def live(app: FastAPI, shutdown_timeout_s: int | None = None) -> Iterator[httpx.Client]:
    """A client of the application, served on a real socket, through its whole lifespan."""
    server = LiveServer(app, shutdown_timeout_s)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        port = server.listening.result(WAIT_S)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        assert not thread.is_alive()


def http_post(body: dict[str, Any]) -> bytes:
    """A request to /generate as bytes, for tests that hold the connection themselves."""
    content = json.dumps(body).encode()
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"Connection: close\r\nContent-Type: application/json\r\n\r\n" + content
