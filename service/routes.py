"""The endpoints. Each is thin: validate, hand over, describe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Body, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Receive

from promptdial.engine import available_cpus
from promptdial.errors import Cancelled
from service import examples
from service.context import RequestContext
from service.generation import Answer, Plan
from service.schemas import (
    GenerateRequest,
    GenerateResponse,
    LengthRange,
    ModelDescription,
    ModelLimits,
    Status,
    Target,
    TaskDescription,
    TaskList,
    TimingMs,
    Usage,
)
from service.wiring import Service

router = APIRouter()
T = TypeVar("T")


@router.post(
    "/generate",
    summary="Write prompts for an input",
    description=examples.GENERATE_DESCRIPTION,
    responses=examples.PROBLEM_RESPONSES,
    tags=["generate"],
)
async def generate(
    body: Annotated[GenerateRequest, Body(openapi_examples=examples.GENERATE_EXAMPLES)], request: Request
) -> GenerateResponse:
    """Write candidates, best first."""
    service = Service.of(request)
    context = RequestContext.of(request.scope)
    if body.task in service.bundle.tasks:
        context.task = body.task
    service.health.require_ready()
    plan = service.generator.plan(body, context.received)
    answer = await unless_disconnected(request.receive, service.generator.run(plan))
    service.generator.count(plan, answer)
    response = respond(service.model_id, context, plan, answer)
    context.details.update(
        n=body.n,
        prompt_tokens=response.usage.prompt_tokens,
        completion_tokens=response.usage.completion_tokens,
        **response.timing.model_dump(),
    )
    return response


def respond(model_id: str, context: RequestContext, plan: Plan, answer: Answer) -> GenerateResponse:
    """The answer as it travels."""
    timing = answer.timing
    return GenerateResponse(
        id=context.request_id,
        model=model_id,
        task=plan.command.task,
        seed=plan.work.seed,
        target=Target(
            relevance=plan.command.relevance, length=plan.command.length, clamped=bool(plan.clamped)
        ),
        candidates=answer.candidates,
        usage=Usage(prompt_tokens=len(plan.work.prompt), completion_tokens=answer.completion_tokens),
        timing=TimingMs(
            queue_ms=milliseconds(timing.queue_s),
            prefill_ms=milliseconds(timing.prefill_s),
            decode_ms=milliseconds(timing.decode_s),
            score_ms=milliseconds(answer.score_s),
            total_ms=milliseconds(time.monotonic() - context.received),
        ),
    )


def milliseconds(seconds: float) -> float:
    """Rounded to a microsecond."""
    return round(seconds * 1000, 3)


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; when the client leaves first, the work is cancelled and Cancelled raised.

    This is the request's only listener on `receive`; nothing polls: a disconnect is acted on when it comes.
    """
    working = asyncio.create_task(work)
    listening = asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("the client went away")
        return working.result()
    finally:
        listening.cancel()
        working.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


@router.get("/tasks", summary="What can be asked for", tags=["describe"])
async def tasks(request: Request) -> TaskList:
    """All tasks of the bundle, with an example input for each."""
    service = Service.of(request)
    return TaskList(tasks=[describe_task(service, name) for name in service.bundle.tasks])


def describe_task(service: Service, name: str) -> TaskDescription:
    """One task as `/tasks` shows it."""
    task = service.bundle.tasks[name]
    median, ends = service.bundle.support.default_length(name), service.bundle.support.length_range(name)
    return TaskDescription(
        name=name,
        description=task.description,
        input_hint=task.input_hint,
        example=task.example,
        modality=task.modality,
        modalities=service.generator.modalities(task),
        length=None if median is None or ends is None else LengthRange(p05=ends[0], p50=median, p95=ends[1]),
    )


@router.get("/model", summary="What answers", tags=["describe"])
async def model(request: Request) -> ModelDescription:
    """The bundle: limits, trained support, calibration, metrics, and its training data with licences."""
    service = Service.of(request)
    bundle, settings, manifest = service.bundle, service.settings, service.bundle.manifest
    return ModelDescription(
        id=service.model_id,
        name=bundle.name,
        version=bundle.version,
        created=manifest.get("created"),
        precision=bundle.precision,
        device=settings.device,
        threads=settings.threads or available_cpus(),
        architecture=manifest["architecture"],
        tasks=list(bundle.tasks),
        modalities=list(bundle.format.modalities),
        limits=ModelLimits(
            **manifest["limits"],
            max_n=settings.max_n,
            max_timeout_ms=settings.max_request_timeout_ms,
            max_body_bytes=settings.max_body_bytes,
        ),
        sampling=manifest["sampling"],
        **{key: manifest.get(key, {}) for key in ("support", "calibration", "metrics", "parity", "training")},
        data=manifest.get("data", []),
    )


@router.get("/livez", summary="Is the process alive", responses={503: {"model": Status}}, tags=["health"])
async def livez(request: Request, response: Response) -> Status:
    """200 while the engine's loop turns; 503 when it hangs and the process should be replaced."""
    return status_of(Service.of(request).health.stalled(), response)


@router.get("/readyz", summary="Does it take work", responses={503: {"model": Status}}, tags=["health"])
async def readyz(request: Request, response: Response) -> Status:
    """200 while requests are taken; 503 before the first, after a failed step and while shutting down."""
    return status_of(Service.of(request).health.unready(), response)


def status_of(trouble: str | None, response: Response) -> Status:
    """200, or 503 with the reason."""
    if trouble is None:
        return Status(status="ok")
    response.status_code = 503
    return Status(status="unavailable", reason=trouble)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response, tags=["health"])
async def metrics(request: Request) -> Response:
    """Text exposition of all `promptdial_*` metrics."""
    return Response(Service.of(request).metrics.render(), media_type=CONTENT_TYPE_LATEST)
