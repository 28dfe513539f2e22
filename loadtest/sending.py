"""Sending one request and noting what became of it.

With aiohttp, since the generator shares its cores with what it measures: it takes a fraction of what httpx takes, whose
pool looks at every connection for each request, so that most of a burst would wait in the generator.
"""

from __future__ import annotations

import asyncio
import json
import time
from http import HTTPStatus
from typing import Any

import aiohttp

from loadtest.records import Record
from loadtest.workload import Request

PATIENCE_S = 10.0  # for an answer, beyond the deadline that the request gave the service
IDLE_S = 3.0  # that a connection is kept for; servers close them after 5 s and more
TOKEN, DONE, ERROR = b"event: token\n", b"event: done\ndata: ", b"event: error\ndata: "
JSON_TYPE = {"Content-Type": "application/json"}


class Sender:
    """One HTTP client for a whole run, made in the loop that it sends in.

    Times are counted from `zero`, a moment of `time.perf_counter`.
    """

    def __init__(self, url: str, timeout_ms: int, *, keep_alive: bool = True) -> None:
        kept: dict[str, Any] = {"keepalive_timeout": IDLE_S} if keep_alive else {"force_close": True}
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, **kept), timeout=aiohttp.ClientTimeout()
        )
        self._url = f"{url.rstrip('/')}/generate"
        self._patience_s = timeout_ms / 1000 + PATIENCE_S
        self.zero = time.perf_counter()

    def restart(self) -> None:
        """Count from this moment."""
        self.zero = time.perf_counter()

    def now(self) -> float:
        """Seconds since `zero`."""
        return time.perf_counter() - self.zero

    async def close(self) -> None:
        """End the connections."""
        await self._client.close()

    async def send(self, request: Request, record: Record, request_id: str | None = None) -> None:
        """Send, wait for the end, and fill the record in. Raises nothing but CancelledError."""
        headers = JSON_TYPE if request_id is None else JSON_TYPE | {"X-Request-ID": request_id}
        record.sent_s = self.now()
        try:
            async with asyncio.timeout(self._patience_s):
                await self._exchange(request, record, headers)
        except TimeoutError:
            record.outcome, record.kind = "error", "no answer in time"
        except aiohttp.ClientConnectorError:
            record.outcome, record.kind = "error", "not connected"
        except aiohttp.ClientError as error:
            record.outcome, record.kind = "error", f"cut off: {type(error).__name__}"
        finally:
            record.ended_s = self.now()

    async def _exchange(self, request: Request, record: Record, headers: dict[str, str]) -> None:
        async with self._client.post(self._url, data=request.body, headers=headers) as response:
            if request.streamed and response.status == HTTPStatus.OK:
                await self._read_stream(response, record)
                return
            answer = _object(await response.read())
        record.answered(response.status, answer)
        record.tokens = answer.get("usage", {}).get("completion_tokens", 0)

    async def _read_stream(self, response: aiohttp.ClientResponse, record: Record) -> None:
        """Note when tokens come, by counting their events: parsing each would cost more than the server does."""
        answer, read = bytearray(), 0
        last: float | None = None
        async for part in response.content.iter_any():
            now = self.now()
            answer += part
            new = answer.count(TOKEN, max(0, read - len(TOKEN) + 1))
            read = len(answer)
            for _ in range(new):
                if last is None:
                    record.first_token_s = now
                else:
                    record.gaps_ms.append((now - last) * 1000)
                last = now
        conclude_stream(bytes(answer), record)


def conclude_stream(answer: bytes, record: Record) -> None:
    """The outcome by a stream's last event."""
    if (place := answer.rfind(DONE)) >= 0:
        record.outcome, record.kind = "ok", "200"
        told = _object(answer[place + len(DONE) :])
        record.tokens = told.get("usage", {}).get("completion_tokens", 0)
    elif (place := answer.rfind(ERROR)) >= 0:
        told = _object(answer[place + len(ERROR) :])
        record.outcome, record.kind = "error", f"stream: {told.get('code', 'error')}"
    else:
        record.outcome, record.kind = "error", "stream without an end"


def _object(content: bytes) -> dict[str, Any]:
    """A JSON object, or an empty one for anything else."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
