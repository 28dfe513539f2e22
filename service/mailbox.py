"""From other threads to the event loop, with one wake-up for all that was posted before it came to look.

The engine tells of a token of every running sequence in one step. A wake-up for each would cost more than the
tokens do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class Mailbox:
    """Calls posted functions on the event loop that it was made on, in order."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._posts: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._woken = False

    def post(self, receive: Callable[[Any], None], item: object) -> None:
        """Have `receive(item)` called on the loop. From any thread; never waits."""
        self._posts.append((receive, item))
        if not self._woken:  # else the loop will look after this append: it resets the flag first
            self._woken = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        while self._posts:
            receive, item = self._posts.popleft()
            receive(item)
