"""The endpoints. Each is thin: validate, hand over, describe."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse

from promptdial.engine import available_cpus
from promptdial.support import TaskSupport
from service import examples
from service.context import RequestContext
from service.generation import Run
from service.schemas import (
    GenerateRequest,
    GenerateResponse,
    LengthRange,
    ModelDescription,
    ModelLimits,
    Status,
    StreamDone,
    Target,
    TaskDescription,
    TaskList,
    TimingMs,
    Usage,
)
from service.streaming import EventStream, encode
from service.wiring import Service

GENERATE_PATH = "/generate"

router = APIRouter()
metrics_router = APIRouter()  # apart: metrics may have a port of their own


@router.post(
    GENERATE_PATH,
    summary="Write prompts for an input",
    description=examples.GENERATE_DESCRIPTION,
    response_model=GenerateResponse,
    responses=examples.GENERATE_RESPONSES,
    tags=["generate"],
)
async def generate(
    body: Annotated[GenerateRequest, Body(openapi_examples=examples.GENERATE_EXAMPLES)], request: Request
) -> Response:
    """Write candidates, best first, or stream them."""
    service = Service.of(request)
    context = RequestContext.of(request.scope)
    if body.task in service.bundle.tasks:
        context.task = body.task
    if service.settings.log_prompts:
        context.details["input"] = body.input
    plan = service.planner.plan(body, context.received)
    service.health.require_ready()  # nothing is awaited from here to the submission: no signal comes between
    run = service.generator.start(plan, request.receive, streamed=body.stream)
    context.phases = run.phases
    try:
        await (run.begun() if body.stream else run.finished())
    except BaseException:
        run.close()
        raise
    if body.stream:
        keep_alive_s = service.settings.keep_alive_ms / 1000
        return EventStream(
            run, service.generator.token_bytes, lambda: conclude(service, context, run), keep_alive_s
        )
    run.close()
    answer = conclude(service, context, run)
    del answer["ranking"]
    answer["candidates"] = [run.candidates[index].model_dump() for index in run.ranking]
    return AnswerResponse(answer)


class AnswerResponse(JSONResponse):
    """The answer, which was put together from checked parts: it isn't checked again, as FastAPI would."""

    def render(self, content: Any) -> bytes:
        """Compact JSON in UTF-8."""
        return encode(content).encode()


def conclude(service: Service, context: RequestContext, run: Run) -> dict[str, Any]:
    """What is said of a finished run besides its candidates, counted and noted for the log."""
    service.answered(run)
    plan, timing = run.plan, run.timing
    assert timing is not None
    target = Target(relevance=plan.command.relevance, length=plan.command.length, clamped=bool(plan.clamped))
    usage = Usage(prompt_tokens=len(plan.work.prompt), completion_tokens=run.generated)
    timing_ms = TimingMs(
        queue_ms=milliseconds(timing.queue_s),
        prefill_ms=milliseconds(timing.prefill_s),
        decode_ms=milliseconds(timing.decode_s),
        score_ms=milliseconds(run.score_s),
        total_ms=milliseconds(time.monotonic() - context.received),
    )
    context.counts.update(n=plan.work.n, **usage.model_dump())
    context.details.update(timing_ms.model_dump())
    if service.settings.log_prompts:
        context.details["texts"] = [run.candidates[index].text for index in run.ranking]
    return StreamDone(
        id=context.request_id,
        model=service.model_id,
        task=plan.command.task,
        seed=plan.work.seed,
        target=target,
        ranking=run.ranking,
        usage=usage,
        timing=timing_ms,
    ).model_dump()


def milliseconds(seconds: float) -> float:
    """Rounded to a microsecond."""
    return round(seconds * 1000, 3)


@router.get("/tasks", summary="What can be asked for", tags=["describe"])
async def tasks(request: Request) -> TaskList:
    """All tasks of the bundle, with an example input for each."""
    service = Service.of(request)
    return TaskList(tasks=[describe_task(service, name) for name in service.bundle.tasks])


def describe_task(service: Service, name: str) -> TaskDescription:
    """One task as `/tasks` shows it."""
    task = service.bundle.tasks[name]
    support = service.bundle.support.of(name)
    return TaskDescription(
        name=name,
        description=task.description,
        input_hint=task.input_hint,
        example=task.example,
        modality=task.modality,
        modalities=service.planner.modalities(task),
        length=None if support is None else length_range(support),
    )


def length_range(support: TaskSupport) -> LengthRange:
    """Words of a task's rows, and what can be asked for."""
    low, high = support.lengths
    return LengthRange(low=low, p05=support.p05, p50=support.usual, p95=support.p95, high=high)


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


@metrics_router.get("/metrics", summary="Prometheus metrics", response_class=Response, tags=["health"])
async def metrics(request: Request) -> Response:
    """Text exposition of all `promptdial_*` metrics."""
    return Response(Service.of(request).metrics.render(), media_type=CONTENT_TYPE_LATEST)
