"""How fast to ask: requests and tokens a minute, and silence while the server has asked for it."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_WAIT_S = 600.0


class Pace:
    """Token buckets for requests and tokens that hold one second's worth, and a common pause."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """None sets no limit."""
        self.per_minute = (requests_per_minute, tokens_per_minute)
        self._rates = [rate / 60 if rate else None for rate in (requests_per_minute, tokens_per_minute)]
        self._free_at = [0.0, 0.0]
        self._quiet_until = 0.0

    async def wait(self, tokens: int) -> None:
        """Sleep until one request of about `tokens` tokens may be sent."""
        now = time.monotonic()
        start = now
        for i, amount in enumerate((1, tokens)):
            if (rate := self._rates[i]) is not None:
                free = max(self._free_at[i], now - 1)
                start = max(start, free)
                self._free_at[i] = free + amount / rate
        await asyncio.sleep(max(0.0, start - now))
        while (left := self._quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def correct(self, tokens: int) -> None:
        """Add tokens that a request took beyond its estimate (or give back, if negative)."""
        if (rate := self._rates[1]) is not None:
            self._free_at[1] += tokens / rate

    def pause(self, seconds: float) -> None:
        """Send nothing for so long: the server's `Retry-After` is meant for all requests."""
        self._quiet_until = max(self._quiet_until, time.monotonic() + min(seconds, LONGEST_WAIT_S))


def backoff(attempt: int, base: float, longest: float, rng: random.Random) -> float:
    """Seconds before attempt 1, 2, ...: doubling, and anywhere between half and whole of that."""
    return min(longest, base * 2.0 ** (attempt - 1)) * rng.uniform(0.5, 1.0)


def retry_after(header: str | None) -> float | None:
    """Seconds from a `Retry-After` header, which may be a number or a date; None if there is none to be read."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else None
