"""One question to an endpoint with the chat protocol of OpenAI, asked until it is answered or can't be.

Overload (429), server errors, timeouts, broken connections and broken bodies are tried again, with exponential backoff
and jitter; `Retry-After` is kept to by all requests. A refused key, model or path stops the run: no retry would help.
An answer that doesn't end is cut off by the deadline or by its size. Every attempt is counted by its outcome.

An answer may come whole or streamed, whichever was asked for (`transformers serve` always streams); a stream counts as
whole only once it has told its finish reason.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
from aiohttp.connector import Connection

from training.errors import TrainingError
from training.teacher import replies
from training.teacher.journal import Answer
from training.teacher.pace import Pace, backoff, retry_after
from training.teacher.replies import BrokenReply, Reply

log = logging.getLogger(__name__)

LARGEST_BODY = 1 << 20  # bytes
LARGEST_HEAD = 100 * 1024  # bytes; gateways send more than the 8 KiB that aiohttp takes by itself
FATAL = {401, 402, 403, 404}
RETRIED = {408, 409, 425, 429}
KEPT_ALIVE_S = 3.0  # uvicorn closes a connection after 5 s without a request
FAILURES_IN_A_ROW = 20  # requests given up without one answer between them: the endpoint is gone

Result = TypeVar("Result")


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

    def client(self) -> aiohttp.ClientSession:
        """Connections for all workers of an event loop, as many as are in use at a time; the caller closes it.

        Redirects are not followed and cookies not kept: one that names a machine would send all workers there.
        """
        try:
            given = urlsplit(self.url)
            proxy = _proxy(given)
        except ValueError as error:
            raise TrainingError(f"{self.url} is no URL: {error}") from error
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key and not given.username else {}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=KEPT_ALIVE_S,
                ssl=httpx.create_ssl_context(),  # SSL_CERT_FILE, SSL_CERT_DIR or certifi's authorities
            ),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),  # none: _attempt() has the deadline
            proxy=proxy,  # trust_env would look it up in a thread for each request
            response_class=_Response,
            max_line_size=LARGEST_HEAD,
            max_field_size=LARGEST_HEAD,
        )

    async def ask(self, client: aiohttp.ClientSession, body: dict[str, Any]) -> Answer:
        """The answer to one request. Raises Unanswered, or TrainingError when asking on makes no sense."""
        estimate = estimated_tokens(body)
        answer = await self._insist(estimate, lambda: self._answer(client, body))
        self.pace.correct(answer.prompt_tokens + answer.completion_tokens - estimate)
        return answer

    async def models(self, client: aiohttp.ClientSession) -> list[dict[str, Any]]:
        """What the endpoint says of its models. Raises as `ask` does."""
        return await self._insist(0, lambda: self._models(client))

    async def _insist(self, estimate: int, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """One attempt after another, as long as failing may pass."""
        for number in range(1, self.attempts + 1):
            await self.pace.wait(estimate)
            try:
                result = await attempt()
            except _Again as failure:
                self.outcomes[failure.outcome] += 1
                if failure.wait_s is not None:
                    self.pace.pause(failure.wait_s)
                if number == self.attempts:
                    raise Unanswered(failure.outcome) from failure
                if failure.wait_s is None:
                    await asyncio.sleep(backoff(number, self.backoff_s, self.longest_backoff_s, self.rng))
            else:
                self.outcomes["200"] += 1
                return result
        raise AssertionError("the last attempt returns or raises")

    async def _answer(self, client: aiohttp.ClientSession, body: dict[str, Any]) -> Answer:
        reply = await self._attempt(client, "POST", "/chat/completions", body)
        try:
            return replies.answer(body, reply)
        except BrokenReply as error:
            raise _Again("broken body") from error

    async def _models(self, client: aiohttp.ClientSession) -> list[dict[str, Any]]:
        reply = await self._attempt(client, "GET", "/models")
        try:
            return [dict(each) for each in json.loads(reply.content)["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise _Again("broken body") from error

    async def _attempt(
        self, client: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Reply:
        try:
            async with asyncio.timeout(self.timeout_s):
                status, headers, reply = await self._send(client, method, path, body)
        except TimeoutError as error:
            raise _Again("timeout") from error
        except aiohttp.NonHttpUrlClientError as error:
            raise TrainingError(f"{self.url} is no URL of http:// or https://") from error
        except aiohttp.InvalidURL as error:
            raise TrainingError(f"{self.url} is no URL: {error.__cause__ or error}") from error
        except aiohttp.ClientError as error:
            raise self._unreached(error) from error
        except ValueError as error:  # a name that no host can have, a key that no header can hold
            raise TrainingError(f"{self.url} can't be asked: {error}") from error
        if status in RETRIED or status >= 500:
            raise _Again(str(status), retry_after(headers.get("Retry-After")))
        if status in FATAL:
            self.outcomes[str(status)] += 1
            raise TrainingError(
                f"{self.url} answered {status}: {reply.content[:300].decode(errors='replace')}"
            )
        if status != 200:
            self.outcomes[str(status)] += 1
            raise Unanswered(f"{status}: {reply.content[:200].decode(errors='replace')}")
        return reply

    def _unreached(self, error: BaseException) -> Exception:
        """What to raise for an attempt without an answer: a certificate that nobody vouches for won't get better."""
        cause = error.__cause__ or error.__context__  # aiohttp's own errors of TLS lack the reason
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return TrainingError(
                    f"the certificate of {self.url} can't be verified ({cause.verify_message}): "
                    "SSL_CERT_FILE can name a file with the certificate of its authority"
                )
            if isinstance(cause, ssl.SSLError):
                return _Again("TLS")
            cause = cause.__cause__ or cause.__context__
        return _Again("TLS" if self._left_in_handshake(error) else "connection")

    def _left_in_handshake(self, error: BaseException) -> bool:
        """Whether the server took a connection for TLS and closed it before TLS was there."""
        return (
            self.url.startswith("https:")
            and isinstance(error, aiohttp.ClientConnectorError)
            and isinstance(error.os_error, ConnectionError)
            and not isinstance(error.os_error, ConnectionRefusedError)
        )

    async def _send(
        self, client: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any] | None
    ) -> tuple[int, Mapping[str, str], Reply]:
        """Status, headers and body; a body without end is given up at LARGEST_BODY, that of a server error unread."""
        sent = time.monotonic()
        url = self.url.rstrip("/") + path
        async with client.request(method, url, json=body, allow_redirects=False) as response:
            if response.status >= 500:
                return response.status, response.headers, Reply(b"", [], False)
            content = bytearray()
            arrivals = []
            async for part in response.content.iter_any():
                content += part
                arrivals.append((len(content), time.monotonic() - sent))
                if len(content) > LARGEST_BODY:
                    raise _Again("endless body")
            streamed = response.headers.get("Content-Type", "").startswith("text/event-stream")
            return response.status, response.headers, Reply(bytes(content), arrivals, streamed)


class _Response(aiohttp.ClientResponse):
    """A response that closes its connection if it is a server error.

    Some servers do so themselves a moment after (uvicorn, when the application raised), and a request that is sent
    meanwhile would be lost. ClientResponse.close() comes too late: a response whose body came with its head has given
    the connection back when `start` returns.
    """

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Read the head."""
        transport = connection.transport
        await super().start(connection)
        if self.status >= 500 and transport is not None:
            transport.close()
        return self


def _proxy(url: SplitResult) -> str | None:
    """The proxy that the environment names for a URL (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY)."""
    named = getproxies()
    proxy = named.get(url.scheme) or named.get("all")
    if not proxy or proxy_bypass(url.hostname or "") or proxy_bypass(url.netloc.rpartition("@")[2]):
        return None
    scheme, _, rest = proxy.rpartition("://")
    if scheme not in ("", "http", "https"):
        raise TrainingError(f"the environment names a proxy of {scheme}: only those of HTTP can be used")
    return f"{scheme or 'http'}://{rest}"


def estimated_tokens(body: dict[str, Any]) -> int:
    """About what a request will take: its prompt, and all that the answer may have."""
    return replies.prompt_tokens(body) + int(body["max_tokens"])


def gone(failures: int, how: str, url: str) -> TrainingError:
    """The error that ends a run after so many failures in a row."""
    return TrainingError(
        f"{failures} requests in a row failed, the last with {how!r}; is {url} up? "
        "What was answered is kept: the same command goes on"
    )
