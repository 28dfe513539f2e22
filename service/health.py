"""Whether the service is alive and whether it takes work, from the engine's own heartbeat."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from promptdial.errors import Unavailable
from service.generation import Engine

RETRY_AFTER_S = 1.0


@dataclass
class Health:
    """Red as soon as `draining` is set, before the listener closes: a load balancer can look elsewhere."""

    engine: Engine | None = None  # None until the lifespan has started one
    stall_limit_s: float = 10.0
    in_flight: Callable[[], int] = lambda: 0  # admitted requests that aren't over
    draining: bool = False

    def stalled(self) -> str | None:
        """Why the process should be replaced, or None: a loop that stopped turning stays stopped."""
        if self.engine is None:
            return None
        silent_s = time.monotonic() - self.engine.heartbeat
        if silent_s > self.stall_limit_s:
            return f"the engine has been silent for {silent_s:.0f} s"
        return None

    def unready(self) -> str | None:
        """Why no work is taken, or None."""
        if self.draining:
            return "the server is shutting down"
        if self.engine is None or not self.engine.ready:
            return "the engine is not ready"
        return self.stalled()

    def require_ready(self) -> None:
        """Raise Unavailable when no work is taken."""
        reason = self.unready()
        if reason is not None:
            raise Unavailable(reason, RETRY_AFTER_S)
