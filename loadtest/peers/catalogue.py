"""The engines that are compared, and where each finds its environment and its model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).parent / "requirements"
OURS = "promptdial"


@dataclass(frozen=True)
class Engine:
    """One row of the comparison.

    ``bits`` of most weights put it beside its equals. ``environment`` names a file of ``requirements/`` and a
    folder of ``.venv-peers/``; empty, it is the environment that runs the comparison.
    """

    name: str
    module: str
    precision: str
    bits: int
    environment: str = ""
    variant: str = ""

    @property
    def model(self) -> str:
        """Folder of the converted model; variants share it."""
        return f"{self.module}-{self.precision}"

    def python(self, environments: Path) -> Path:
        """The interpreter that runs this engine."""
        return (
            environments / self.environment / "bin" / "python" if self.environment else Path(sys.executable)
        )


ENGINES = (
    Engine("promptdial int8", OURS, "int8", 8),
    Engine("promptdial int8 throughput", OURS, "int8", 8, variant="throughput"),
    Engine("promptdial int4", OURS, "int4", 4),
    Engine("promptdial int4 throughput", OURS, "int4", 4, variant="throughput"),
    Engine("promptdial fp32", OURS, "fp32", 32),
    Engine("openvino continuous int8", "openvino", "int8", 8, "openvino", "continuous"),
    Engine("openvino continuous int4", "openvino", "int4", 4, "openvino", "continuous"),
    Engine("openvino pipeline int8", "openvino", "int8", 8, "openvino", "pipeline"),
    Engine("openvino pipeline int4", "openvino", "int4", 4, "openvino", "pipeline"),
    Engine("llama.cpp Q8_0", "llamacpp", "q8_0", 8, "llamacpp"),
    Engine("llama.cpp Q4_0", "llamacpp", "q4_0", 4, "llamacpp"),
    Engine("ctranslate2 int8", "ctranslate2", "int8", 8, "ctranslate2"),
    Engine("optimum fp32", "optimum", "fp32", 32, "optimum"),
    Engine("optimum int8", "optimum", "int8", 8, "optimum"),
    Engine("transformers fp32", "transformers", "fp32", 32),
    Engine("transformers bf16", "transformers", "bf16", 16),
)


def chosen(only: str | None) -> tuple[Engine, ...]:
    """Engines whose name contains one of the comma-separated parts; all of them by default."""
    if only is None:
        return ENGINES
    parts = [part.strip() for part in only.split(",")]
    found = tuple(engine for engine in ENGINES if any(part in engine.name for part in parts))
    if not found:
        raise ValueError(f"no engine has {only!r} in its name; they are {', '.join(e.name for e in ENGINES)}")
    return found
