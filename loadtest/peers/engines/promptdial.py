"""Our engine over the exported decoder: requests are submitted at once, tokens counted as their events come."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

from loadtest.peers.worker import Generated, Runner
from loadtest.peers.workload import Workload, prompts
from promptdial.bundle import Architecture
from promptdial.engine import Engine, GenerationRequest, Sampling
from promptdial.engine.decoder import Decoder
from promptdial.engine.engine import PAUSE
from promptdial.engine.request import Event, Token

PACKAGES = ("onnxruntime", "numpy")
DETAILS = "decoder.json"
SLOTS = 16
THROUGHPUT_PAUSE = 64.0  # steps: prompts of a burst are read before any of them goes on
CALIBRATION_PROMPTS = 16
GREEDY = Sampling(temperature=0.0)


def convert(checkpoint: Path, model: Path, precision: str) -> None:
    """The decoder's files as an export writes them, without the export's long measure of parity."""
    from export.calibration import calibrate  # noqa: PLC0415
    from export.checkpoint import read_checkpoint  # noqa: PLC0415
    from export.graph import QUANTIZED  # noqa: PLC0415
    from export.storage import write_decoder  # noqa: PLC0415

    read = read_checkpoint(checkpoint)
    end, vocabulary = read.tokenizer.end_id, read.architecture.vocabulary
    made = prompts(CALIBRATION_PROMPTS, Workload().prompt_tokens, vocabulary, len(read.tokenizer.special_ids))
    steps = calibrate(read.model, [(prompt, []) for prompt in made]) if precision in QUANTIZED else None
    forbidden = sorted(read.tokenizer.special_ids - {end})
    model.mkdir(parents=True, exist_ok=True)
    files = write_decoder(model, read.weights(), read.architecture, forbidden, precision, steps)
    details = {"architecture": asdict(read.architecture), "end_id": end, "files": files}
    (model / DETAILS).write_text(json.dumps(details), encoding="utf-8")


def read_model(model: Path) -> tuple[tuple[Path, Path | None], Architecture, int]:
    """A converted model: the graphs of steps and of prompts, the sizes, and the id of the end."""
    details = json.loads((model / DETAILS).read_text(encoding="utf-8"))
    files = details["files"]
    prefill = model / files["prefill"] if "prefill" in files else None
    return (model / files["file"], prefill), Architecture(**details["architecture"]), details["end_id"]


def load(model: Path, variant: str, precision: str, threads: int) -> Runner:
    """The engine, warm."""
    (steps, prefill), architecture, end_id = read_model(model)
    decoder = Decoder(steps, architecture, threads=threads, slots=SLOTS, prefill=prefill)
    pause = THROUGHPUT_PAUSE if variant == "throughput" else PAUSE
    engine = Engine(decoder, end_id, max_running=SLOTS, pause=pause)
    engine.start()
    return EngineRunner(engine)


class EngineRunner:
    """Submits one request per prompt."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        """The first token of all sequences comes with the last one's ``Token`` event."""
        waiting = set(range(len(prompts)))
        first: list[float] = []

        def seen(place: int, event: Event) -> None:
            if isinstance(event, Token) and place in waiting:
                waiting.discard(place)
                if not waiting:
                    first.append(time.perf_counter() - started)

        started = time.perf_counter()
        submitted = [
            self._engine.submit(
                GenerationRequest(tuple(prompt), max_tokens=new_tokens, sampling=GREEDY),
                partial(seen, place),
            )
            for place, prompt in enumerate(prompts)
        ]
        results = [generation.result() for generation in submitted]
        total = time.perf_counter() - started
        return Generated([result.candidates[0][0] for result in results], first[0] if first else None, total)
