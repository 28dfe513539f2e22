"""The process around the application: uvicorn, signals, exit codes.

Exit code 0: SIGTERM or Ctrl-C; readiness goes red and new requests get a 503, admitted ones are answered, then
the process leaves. A second signal 2 s or more after the first ends the waiting.
1: the bundle, the device or traces can't be had. 2: a setting is wrong. 3: the address can't be listened on, or the
first request, the service's own, failed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from pydantic import ValidationError

from promptdial.errors import PromptdialError
from service.app import create_app
from service.health import Health
from service.logs import configure_logging
from service.metrics import Metrics
from service.settings import Settings, describe_invalid, unknown_variables
from service.wiring import Backend

logger = logging.getLogger("service")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
KEEP_ALIVE_S = 75
# The terminal's Ctrl-C reaches make and the server, and make passes its own on: one wish, two signals.
SAME_WISH_S = 2.0
SWITCH_S = 0.001  # after which a thread gives the interpreter up: the engine must not wait long for HTTP's
TICK_S = 0.1  # how often a wait looks whether the exit is forced; uvicorn's own pace


class Server(uvicorn.Server):
    """uvicorn that turns readiness red first, takes a repeated signal for the same wish and exits with 0.

    uvicorn's own handler forces the exit at a second Ctrl-C, and raises the signals again after the
    shutdown, so that the process seems killed.
    """

    def __init__(
        self, config: uvicorn.Config, health: Health, drain_delay_s: float, shutdown_timeout_s: float
    ) -> None:
        super().__init__(config)
        self.health = health
        self.drain_delay_s = drain_delay_s
        self.shutdown_timeout_s = shutdown_timeout_s
        self._asked_to_exit_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a signal well after the first one stops waiting for requests in flight."""
        now = time.monotonic()
        if self._asked_to_exit_at is None:
            self._asked_to_exit_at = now
            self.health.draining = True
            self.should_exit = True
        elif now - self._asked_to_exit_at >= SAME_WISH_S:
            self.force_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle both signals; afterwards ignore them, for the process is about to leave anyway."""
        for signum in SIGNALS:
            signal.signal(signum, self.handle_exit)
        try:
            yield
        finally:
            for signum in SIGNALS:
                signal.signal(signum, signal.SIG_IGN)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new work with a 503 while admitted work ends, then close the listener and leave."""
        begun = time.monotonic()
        forcing = asyncio.create_task(self.cut_off_when_forced())
        await self.linger()
        left = self.shutdown_timeout_s - (time.monotonic() - begun)
        self.config.timeout_graceful_shutdown = max(0, math.ceil(left))
        await super().shutdown(sockets)
        forcing.cancel()
        if self.force_exit:  # uvicorn leaves it out then, and with it the engine's end
            await self.lifespan.shutdown()

    async def linger(self) -> None:
        """Keep the listener open for the drain delay and for admitted requests; less when forced."""
        begun = time.monotonic()
        while not self.force_exit:
            waited = time.monotonic() - begun
            if waited >= self.shutdown_timeout_s and waited >= self.drain_delay_s:
                return
            if waited >= self.drain_delay_s and not self.health.in_flight():
                return
            await asyncio.sleep(TICK_S)

    async def cut_off_when_forced(self) -> None:
        """End the requests in flight once that is wished; each says so to its client."""
        while not self.force_exit:
            await asyncio.sleep(TICK_S)
        for task in list(self.server_state.tasks):
            task.cancel()
        await asyncio.sleep(TICK_S)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()  # of clients that don't read


def main(metrics: Metrics | None = None) -> int:
    """Load, serve, drain. Returns the exit code. `metrics`: of another kind than the service's."""
    try:
        settings = Settings()
    except ValidationError as error:
        print(f"promptdial can't start, settings are wrong:\n{describe_invalid(error)}", file=sys.stderr)
        return 2
    sys.setswitchinterval(SWITCH_S)
    configure_logging(settings.log_level)
    logger.info("settings", extra={"fields": settings.model_dump(mode="json")})
    for name in unknown_variables(os.environ):
        logger.warning("the variable %s sets nothing; is it typed right?", name)
    try:
        backend = Backend.load(settings)
        app = create_app(settings, backend, metrics)
    except PromptdialError as error:
        logger.critical("can't start: %s", error, extra={"fields": {"code": error.code}})
        return 1
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    drain_delay_s, timeout_s = settings.drain_delay_ms / 1000, settings.shutdown_timeout_ms / 1000
    Server(config, app.state.health, drain_delay_s, timeout_s).run()
    return 0
