"""How weights came to be: the record of every run and mean on the way to them, each once.

A record is what `train` or `average` notes of itself, under `training` in `promptdial.json`. It names what it started
from by an id, and under `earlier` it carries the records behind it, so that a model card can state all of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from training import checkpoint

Record = dict[str, Any]

EARLIER = "earlier"
FROM_SCRATCH = "from scratch"


def start(path: Path | None) -> tuple[str, dict[str, Record]]:
    """What a run from these weights is to name as its start, and the records behind that by id."""
    if path is None:
        return FROM_SCRATCH, {}
    record: Record = dict(checkpoint.read_details(path).get("training") or {})
    if not record:
        return f"weights of {path.name}", {}
    earlier = record.pop(EARLIER, {})
    text = json.dumps(record, sort_keys=True)
    found = hashlib.sha256(text.encode()).hexdigest()[:8]
    return found, {**earlier, found: record}


def mean(shares: Iterable[tuple[Path, float]]) -> Record:
    """The record of a mean of weights."""
    named: dict[str, float] = {}
    earlier: dict[str, Record] = {}
    for path, share in shares:
        name, records = start(path)
        named[name] = round(named.get(name, 0.0) + share, 6)
        earlier |= records
    return {"mean": named, EARLIER: earlier}
