"""The model card: what a bundle was made from, how well it does and what it can't do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LIMITS_OF_USE = """
It writes English prompts for image and video generators and for design templates. It was trained on the
texts named above and on nothing else (what stands under "composed by rule" was written by a program about the
source's texts: docs/training.md in the repository): it has no knowledge of the world beyond them, repeats
their style, and can invent or drop what the input asked for. It doesn't filter what it is given or what it
writes. The relevance that is reported is the cosine of two sentence embeddings (all-MiniLM-L6-v2); a high
value is not a judgement of quality, and a copy of the input scores 1.
"""


def model_card(manifest: Mapping[str, Any]) -> str:
    """Markdown for ``MODEL_CARD.md``; training's own ``notes`` are put in as they are."""
    sizes, training = manifest["architecture"], manifest.get("training", {})
    parts = [
        f"# {manifest['name']}",
        f"A GPT-2 of {sizes['parameters'] / 1e6:.1f}M parameters ({sizes['layers']} layers of "
        f"{sizes['width']}, "
        f"vocabulary {sizes['vocabulary']}, {sizes['positions']} positions), trained with upside-down "
        f"reinforcement learning to write prompts at a wanted relevance and length. "
        f"Weights: {manifest['decoder']['precision']}. Exported {manifest['created']}.",
        "## Data",
        _data(manifest.get("data", [])),
        "## Training",
        _pairs({name: value for name, value in training.items() if name != "earlier"}),
        _earlier(training.get("earlier", {})),
        str(manifest.get("notes", "")).strip(),
    ]
    parts += ["## What was measured", _pairs(manifest.get("metrics", {}))]
    parts += ["Parity of the exported graph:", _pairs(manifest["parity"])]
    parts += ["## What it can't do", LIMITS_OF_USE.strip()]
    parts += [
        "## Scorer",
        "`scorer.onnx` is all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0), converted to int8.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _data(sources: Sequence[Mapping[str, Any]]) -> str:
    if not sources:
        return "None recorded: this checkpoint doesn't say what it was trained on."
    lines = [
        "| source | rows | of them composed by rule | licence | attribution |",
        "|---|---:|---:|---|---|",
    ]
    for row in sources:
        cells = (
            row.get("source", ""),
            row.get("rows", ""),
            row.get("by_rule", ""),
            row.get("licence", ""),
            row.get("attribution", ""),
        )
        lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def _earlier(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each run and mean that the last one goes back to; all of each is in bundle.json."""
    if not records:
        return ""
    lines = [
        "What that goes back to, the earliest first (recipes and data are in `bundle.json`):",
        "",
        "| id | from | steps | tokens at most | hours | commit |",
        "|---|---|---:|---:|---:|---|",
    ]
    for name, record in records.items():
        shares = record.get("mean", {record.get("init", "unknown"): 1})
        start = " + ".join(each if share == 1 else f"{share:.0%} of {each}" for each, share in shares.items())
        effort = [str(record.get(key, "")) for key in ("steps", "tokens_at_most", "hours")]
        lines.append("| " + " | ".join((name, start, *effort, str(record.get("commit", ""))[:9])) + " |")
    return "\n".join(lines)


def _pairs(values: Mapping[str, Any], depth: int = 0) -> str:
    """Nested values as a list; what is long or a list of records stays in bundle.json."""
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines.append(f"{'  ' * depth}- {name}:")
            lines.append(_pairs(value, depth + 1))
        elif isinstance(value, list) and (
            len(value) > 8 or any(isinstance(item, dict | list) for item in value)
        ):
            lines.append(f"{'  ' * depth}- {name}: {len(value)} entries, in `bundle.json`")
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            lines.append(f"{'  ' * depth}- {name}: {shown}")
    return "\n".join(line for line in lines if line)
