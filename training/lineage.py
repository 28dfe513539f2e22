"""How weights came to be: the record of every run and mean on the way to them, each once.

A record is what `train` or `average` notes of itself, under `training` in `promptdial.json`. It names what it started
from by an id, and under `earlier` it carries the records behind it, so that a model card can state all of it. Older
checkpoints have each record within the one that it led to; they are read as well.
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
_SHARE = "% of the weights"  # how older checkpoints name the parts of a mean


def start(path: Path | None) -> tuple[str, dict[str, Record]]:
    """What a run from these weights is to name as its start, and the records behind that by id."""
    if path is None:
        return FROM_SCRATCH, {}
    record: Record = dict(checkpoint.read_details(path).get("training") or {})
    if not record:
        return f"weights of {path.name}", {}
    return _flat(record)


def _flat(record: Record) -> tuple[str, dict[str, Record]]:
    """The id of a record, and all that it goes back to with itself, by id."""
    own = dict(record)
    earlier = dict(own.pop(EARLIER, {}))
    shares = {name: own[name] for name in own if name.endswith(_SHARE)}
    if shares:
        own = {"mean": {}}
        for name, part in shares.items():
            found, behind = (part, {}) if isinstance(part, str) else _flat(part)  # weights without a record
            own["mean"][found] = own["mean"].get(found, 0.0) + int(name.removesuffix(_SHARE)) / 100
            earlier |= behind
    elif isinstance(own.get("init"), dict):
        own["init"], behind = _flat(own["init"])
        earlier |= behind
    found = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]
    return found, {**earlier, found: own}


def mean(shares: Iterable[tuple[Path, float]]) -> Record:
    """The record of a mean of weights."""
    named: dict[str, float] = {}
    earlier: dict[str, Record] = {}
    for path, share in shares:
        name, records = start(path)
        named[name] = round(named.get(name, 0.0) + share, 6)
        earlier |= records
    return {"mean": named, EARLIER: earlier}
