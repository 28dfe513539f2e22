"""One question to an endpoint with the chat protocol of OpenAI, asked until it is answered or can't be.

Overload (429), server errors, timeouts, broken connections and broken bodies are tried again, with exponential backoff
and jitter; `Retry-After` is kept to by all requests. A refused key, model or path stops the run: no retry would help.
An answer that doesn't end is cut off by the deadline or by its size. Every attempt is counted by its outcome.

Answers are asked for whole. A server that streams them nevertheless (`transformers serve` does) is understood; a
stream counts as whole only once it has told its finish reason.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from training.errors import TrainingError
from training.teacher.journal import Answer, request_key
from training.teacher.pace import Pace, backoff, retry_after

log = logging.getLogger(__name__)

LARGEST_BODY = 1 << 20  # bytes
FATAL = {401, 402, 403, 404}
RETRIED = {408, 409, 425, 429}
_LINE_END = re.compile(r"\r\n|\n|\r")  # of server-sent events; str.splitlines has more


class Unanswered(Exception):
    """One request failed for good; the text says how."""


class _Again(Exception):
    """An attempt failed in a way that may pass: `outcome` for the count, `wait_s` if the server said how long."""

    def __init__(self, outcome: str, wait_s: float | None = None) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.wait_s = wait_s


@dataclass
class Endpoint:
    """Where to ask and how stubbornly. `outcomes` counts attempts: `200`, `429`, `timeout`, `broken body`, ..."""

    url: str
    api_key: str | None
    pace: Pace
    timeout_s: float = 120.0
    attempts: int = 6
    backoff_s: float = 1.0
    longest_backoff_s: float = 60.0
    rng: random.Random = field(default_factory=random.Random)
    outcomes: Counter[str] = field(default_factory=Counter)

    def client(self, concurrency: int) -> httpx.AsyncClient:
        """A connection pool for this endpoint; the caller closes it."""
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        return httpx.AsyncClient(headers=headers, limits=limits, timeout=None)  # ask() has the deadline

    async def ask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
        """The answer to one request. Raises Unanswered, or TrainingError when asking on makes no sense."""
        estimate = estimated_tokens(body)
        for attempt in range(1, self.attempts + 1):
            await self.pace.wait(estimate)
            try:
                answer = await self._attempt(client, body)
            except _Again as failure:
                self.outcomes[failure.outcome] += 1
                if failure.wait_s is not None:
                    self.pace.pause(failure.wait_s)
                if attempt == self.attempts:
                    raise Unanswered(failure.outcome) from failure
                if failure.wait_s is None:
                    await asyncio.sleep(backoff(attempt, self.backoff_s, self.longest_backoff_s, self.rng))
            else:
                self.outcomes["200"] += 1
                self.pace.correct(answer.prompt_tokens + answer.completion_tokens - estimate)
                return answer
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
        try:
            async with asyncio.timeout(self.timeout_s):
                status, headers, content = await self._post(client, body)
        except TimeoutError as error:
            raise _Again("timeout") from error
        except httpx.InvalidURL as error:
            raise TrainingError(f"{self.url} is no URL: {error}") from error
        except httpx.UnsupportedProtocol as error:
            raise TrainingError(f"{self.url}: {error}") from error
        except httpx.HTTPError as error:
            raise self._unreached(error) from error
        if status in RETRIED or status >= 500:
            raise _Again(str(status), retry_after(headers.get("Retry-After")))
        if status in FATAL:
            self.outcomes[str(status)] += 1
            raise TrainingError(f"{self.url} answered {status}: {content[:300].decode(errors='replace')}")
        if status != 200:
            self.outcomes[str(status)] += 1
            raise Unanswered(f"{status}: {content[:200].decode(errors='replace')}")
        streamed = headers.get("Content-Type", "").startswith("text/event-stream")
        return _parsed(body, content, _assembled if streamed else json.loads)

    def _unreached(self, error: BaseException) -> Exception:
        """What to raise for an attempt without an answer: a certificate that nobody vouches for won't get better."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return TrainingError(
                    f"the certificate of {self.url} can't be verified ({cause.verify_message}): "
                    "SSL_CERT_FILE can name a file with the certificate of its authority"
                )
            if isinstance(cause, ssl.SSLError):
                return _Again("TLS")
            cause = cause.__cause__ or cause.__context__
        return _Again("connection")

    async def _post(
        self, client: httpx.AsyncClient, body: dict[str, Any]
    ) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body; a body without end is given up at LARGEST_BODY."""
        url = self.url.rstrip("/") + "/chat/completions"
        async with client.stream("POST", url, json=body) as response:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > LARGEST_BODY:
                    raise _Again("endless body")
            return response.status_code, response.headers, bytes(content)


def estimated_tokens(body: dict[str, Any]) -> int:
    """About what a request will take: its prompt, and all that the answer may have."""
    return _prompt_tokens(body) + int(body["max_tokens"])


def _prompt_tokens(body: dict[str, Any]) -> int:
    """Four characters a token."""
    return sum(len(message["content"]) for message in body["messages"]) // 4


def _parsed(body: dict[str, Any], content: bytes, read: Callable[[bytes], Any]) -> Answer:
    """The answer in a body. Where the server counts no tokens, four characters are one."""
    try:
        data = read(content)
        choice = data["choices"][0]
        usage = data.get("usage")
        text = "" if choice["message"]["content"] is None else _text(choice["message"]["content"])
        given = usage or {"prompt_tokens": _prompt_tokens(body), "completion_tokens": -(-len(text) // 4)}
        return Answer(
            request_key(body),
            text,
            str(choice.get("finish_reason") or "unknown"),
            int(given.get("prompt_tokens") or 0),
            int(given.get("completion_tokens") or 0),
            str(data.get("model") or body["model"]),
            datetime.now(UTC).isoformat(timespec="seconds"),
            counted=bool(usage),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Again("broken body") from error


def _assembled(content: bytes) -> dict[str, Any]:
    """Server-sent events of a streamed answer, as the body of a whole one. ValueError if the end is missing."""
    whole: dict[str, Any] = {}
    parts, finish_reason = [], None
    for line in _LINE_END.split(content.decode()):
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise ValueError(f"the stream broke off: {event['error']}")
        whole |= {name: event[name] for name in ("model", "usage") if event.get(name)}
        for choice in event["choices"][:1]:  # the last event may hold usage alone
            parts.append(_text(choice["delta"].get("content") or ""))
            finish_reason = choice.get("finish_reason") or finish_reason
    if finish_reason is None:
        raise ValueError("the stream ended without a finish reason")
    return whole | {"choices": [{"message": {"content": "".join(parts)}, "finish_reason": finish_reason}]}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"content is {type(value).__name__}")
    return value.encode(errors="replace").decode()  # half a surrogate pair, which JSON can hold, is no text
