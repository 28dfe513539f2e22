"""The application: `create_app` wires settings, backend, middleware, errors and routes; nothing more.

`python -m service` runs it. Under another server: `uvicorn --factory service.app:create_app`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from promptdial import __version__
from service import examples, problems, routes
from service.exposition import MetricsServer
from service.health import Health
from service.metrics import Metrics
from service.middleware import BodyGuard, Observation
from service.settings import Settings
from service.shortcut import Shortcut
from service.tracing import Tracing, open_tracing
from service.wiring import Backend, Service

logger = logging.getLogger(__name__)

BODY_PATHS = frozenset({routes.GENERATE_PATH})


def create_app(
    settings: Settings | None = None, backend: Backend | None = None, metrics: Metrics | None = None
) -> FastAPI:
    """An application that serves `backend`, or the bundle that the settings name, loaded when it starts.

    Raises TracingError where the environment asks for traces that can't be had.
    """
    settings = settings or Settings()
    if settings.log_prompts:
        logger.warning("PROMPTDIAL_LOG_PROMPTS is on: the log holds what clients send and what they get")
    metrics, tracing = metrics or Metrics(), open_tracing()
    health = Health(stall_limit_s=settings.stall_limit_ms / 1000)
    app = FastAPI(
        title="Promptdial",
        version=__version__,
        summary="Short text in, prompts out, at the relevance and length asked for.",
        description=examples.API_DESCRIPTION,
        lifespan=lifespan_of(settings, metrics, tracing, health, backend),
    )
    app.state.health = health
    app.include_router(routes.router)
    if settings.metrics_port is None:
        app.include_router(routes.metrics_router)
    problems.install(app)
    app.add_middleware(Shortcut)
    app.add_middleware(BodyGuard, paths=BODY_PATHS, max_bytes=settings.max_body_bytes)
    app.add_middleware(Observation, metrics=metrics, tracing=tracing)  # added last: the outermost
    app.openapi = lambda: openapi_of(app)  # type: ignore[method-assign]
    return app


def lifespan_of(
    settings: Settings, metrics: Metrics, tracing: Tracing | None, health: Health, backend: Backend | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Start the service before the listener opens, and end it after the last answer."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as stack:
            if tracing is not None:
                stack.callback(tracing.close)
            if settings.metrics_port is not None:
                server = MetricsServer(settings.host, settings.metrics_port, metrics.render)
                stack.callback(server.close)
            service = Service(settings, backend or Backend.load(settings), metrics, health)
            app.state.service = service
            stack.callback(service.close)
            await service.start()
            yield

    return lifespan


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """FastAPI's own page plus the schemas of problems and of a stream's events."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        schema["components"]["schemas"].update(examples.extra_schemas())
        service: Service | None = getattr(app.state, "service", None)
        if service is None:
            return schema
        generate = schema["paths"]["/generate"]["post"]
        generate["description"] = examples.description(service.bundle.tasks)
        generate["requestBody"]["content"]["application/json"]["examples"] = examples.requests(
            service.bundle.tasks
        )
        app.openapi_schema = schema
    return app.openapi_schema
