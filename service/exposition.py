"""`/metrics` on a port of its own (`PROMPTDIAL_METRICS_PORT`), so that the main one can be public.

In threads of its own: a scrape waits for nobody on the event loop, and is answered while that is stuck.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CONTENT_TYPE_LATEST

logger = logging.getLogger(__name__)

PATH = "/metrics"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a scraper that hangs holds up no exit

    def server_bind(self) -> None:
        """Without the look-up of this machine's name, which may take as long as a DNS server is away."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds that a connection may be silent for

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes aren't logged."""


class MetricsServer:
    """Listens from its making on. Raises OSError where it can't."""

    def __init__(self, host: str, port: int, render: Callable[[], bytes]) -> None:
        self._render = render
        server = _Server6 if ":" in host else _Server
        try:
            self._server = server((host, port), _Handler)
        except OSError as error:
            logger.critical(
                "can't listen for metrics on %s port %s (%s): set PROMPTDIAL_METRICS_PORT to a free port",
                *(host, port, error.strerror),
            )
            raise
        self._server.set_app(self._answer)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        logger.info("metrics at %s", self.url)

    @property
    def url(self) -> str:
        """Where they are."""
        name, port = self._server.server_name, self._server.server_port
        return f"http://{f'[{name}]' if ':' in name else name}:{port}{PATH}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [f"there is only {PATH} here\n".encode()]
        body = self._render()
        headers = [("Content-Type", CONTENT_TYPE_LATEST), ("Content-Length", str(len(body)))]
        start_response("200 OK", headers)
        return [body]
