"""What a running service consists of: made from the settings, started and ended by the app's lifespan."""

from __future__ import annotations

import gc
import logging
import time
from dataclasses import dataclass, field

import onnxruntime
from starlette.requests import Request

from promptdial import __version__
from promptdial.bundle import Bundle, load_bundle
from promptdial.engine import Engine as OnnxEngine
from service.generation import Engine, Generator, Run, Scorer
from service.health import Health
from service.metrics import Metrics, StepSizes
from service.planning import Planner
from service.schemas import GenerateRequest
from service.settings import Settings

logger = logging.getLogger(__name__)

WARM_UP_TOKENS = 8
JOIN_S = 1.0  # an engine's step takes a tenth of it at most, so a thread that goes on for longer hangs


@dataclass(frozen=True)
class Backend:
    """What answers need besides HTTP: slow to load, and apt to be missing."""

    bundle: Bundle
    engine: Engine
    scorer: Scorer
    sizes: StepSizes = field(default_factory=StepSizes)

    @classmethod
    def load(cls, settings: Settings) -> Backend:
        """Read the bundle. Raises BundleError or DeviceError with a text for whoever starts the service."""
        bundle = load_bundle(settings.bundle)
        sizes = StepSizes()
        engine = OnnxEngine.from_bundle(
            bundle,
            threads=settings.threads,
            device=settings.device,
            slots=settings.slots,
            queue_limit=settings.queue_limit,
            pause=settings.prefill_pause,
            capacity=settings.kv_positions,
            on_step=sizes,
        )
        return cls(bundle, engine, bundle.scorer(), sizes)


@dataclass
class Service:
    """All parts, wired, on the event loop that they will run on. Routes find it with `Service.of`."""

    settings: Settings
    backend: Backend
    metrics: Metrics
    health: Health
    planner: Planner = field(init=False)
    generator: Generator = field(init=False)

    def __post_init__(self) -> None:
        engine, tokenizer = self.backend.engine, self.bundle.tokenizer()
        self.planner = Planner(self.bundle, tokenizer, self.settings)
        self.generator = Generator(tokenizer, engine, self.backend.scorer, self.metrics)
        self.health.engine = engine
        self.health.in_flight = lambda: self.generator.in_flight
        self._expose(engine)

    def _expose(self, engine: Engine) -> None:
        """Let the metrics know what there is to tell of."""
        metrics = self.metrics
        metrics.expect(self.bundle.tasks)
        metrics.engine.stats = lambda: engine.stats
        metrics.engine.heartbeat = lambda: engine.heartbeat
        metrics.engine.ready = lambda: self.health.unready() is None
        metrics.batch_size.add(self.backend.sizes)
        metrics.set_build_info(
            version=__version__,
            bundle=self.bundle.name,
            bundle_version=self.bundle.version,
            precision=self.bundle.precision,
            device=self.settings.device,
            onnxruntime=onnxruntime.__version__,
        )

    @classmethod
    def of(cls, request: Request) -> Service:
        """The service that a request came to."""
        service = request.app.state.service
        assert isinstance(service, cls)
        return service

    @property
    def bundle(self) -> Bundle:
        """The bundle that is served."""
        return self.backend.bundle

    @property
    def model_id(self) -> str:
        """How answers name the bundle."""
        return f"{self.bundle.name}@{self.bundle.version}"

    def answered(self, run: Run) -> None:
        """Count an answer, and expect later outputs to be as long as this one for its words."""
        self.generator.count(run)
        for index, candidate in run.candidates.items():
            if candidate.finish_reason == "stop":
                self.planner.learn(candidate.achieved_length, len(run.tokens[index]))

    async def start(self) -> None:
        """Start the engine and answer one request, so that no client pays for first-time work."""
        self.backend.engine.start()
        task = next(iter(self.bundle.tasks.values()))
        timeout_ms = self.settings.max_request_timeout_ms
        request = GenerateRequest(
            task=task.name, input=task.example, max_tokens=WARM_UP_TOKENS, timeout_ms=timeout_ms
        )
        run = self.generator.start(self.planner.plan(request, time.monotonic()), counted=False)
        try:
            await run.finished()
        finally:
            run.close()
        gc.collect()
        gc.freeze()  # what is loaded stays: later collections skip it instead of pausing a request for it
        logger.info("ready", extra={"fields": {"model": self.model_id, "precision": self.bundle.precision}})

    def close(self) -> None:
        """Fail what is left in the engine and end the threads."""
        self.health.draining = True
        if not self.backend.engine.close(join_s=JOIN_S):
            logger.error("the engine's thread hangs; leaving without it")
        self.generator.close()
