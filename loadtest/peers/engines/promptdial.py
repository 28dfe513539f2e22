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
from promptdial.engine.request import Event, Token

PACKAGES = ("onnxruntime", "numpy")
FILE = "decoder.onnx"
DETAILS = "decoder.json"
SLOTS = 16
CALIBRATION_PROMPTS = 16
GREEDY = Sampling(temperature=0.0)


def convert(checkpoint: Path, model: Path, precision: str) -> None:
    """The decoder's graph as an export writes it, without the export's long measure of parity."""
    import onnx  # noqa: PLC0415

    from export.calibration import calibrate  # noqa: PLC0415
    from export.checkpoint import read_checkpoint  # noqa: PLC0415
    from export.graph import build_decoder  # noqa: PLC0415

    read = read_checkpoint(checkpoint)
    end, vocabulary = read.tokenizer.end_id, read.architecture.vocabulary
    made = prompts(CALIBRATION_PROMPTS, Workload().prompt_tokens, vocabulary, len(read.tokenizer.special_ids))
    steps = calibrate(read.model, [(prompt, []) for prompt in made])
    forbidden = sorted(read.tokenizer.special_ids - {end})
    graph = build_decoder(read.weights(), read.architecture, forbidden, precision, calibration=steps)
    model.mkdir(parents=True, exist_ok=True)
    onnx.save_model(graph, str(model / FILE))
    details = {"architecture": asdict(read.architecture), "end_id": end}
    (model / DETAILS).write_text(json.dumps(details), encoding="utf-8")


def load(model: Path, variant: str, precision: str, threads: int) -> Runner:
    """The engine, warm."""
    details = json.loads((model / DETAILS).read_text(encoding="utf-8"))
    architecture = Architecture(**details["architecture"])
    decoder = Decoder(model / FILE, architecture, threads=threads, slots=SLOTS)
    engine = Engine(decoder, details["end_id"], max_running=SLOTS)
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
