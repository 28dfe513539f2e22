"""Bundle -> report: `python -m training evaluate BUNDLE [--against OTHER] [--pairs FILE] [--write] [--blind FILE]`.

Writes `report.html`, `report.md`, `report.json`, `answers.jsonl` and the plots; `--write` puts the calibration and the
figures into the bundle.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from export.bundle import update_manifest
from promptdial.bundle import Bundle, load_bundle
from promptdial.relevance import load_scorer
from training.episodes import Episode, read_episodes
from training.evaluation import comparison, fluency, report, steering, subjects
from training.evaluation.evaluation import Evaluation, evaluate
from training.evaluation.plan import Scope, plan
from training.evaluation.subjects import Subject, digest
from training.train import loss_of

log = logging.getLogger(__name__)

KEPT = "generated.partial.jsonl"
LOSS_ROWS = 300


def run(args: argparse.Namespace) -> None:
    """Evaluate as the command line says."""
    bundle = load_bundle(args.bundle)
    other = load_bundle(args.against) if args.against else None
    scope = Scope(args.inputs, args.cell_inputs, args.seeds)
    episodes = None if args.pairs else read_episodes(args.episodes, "validation")
    cases = plan(bundle, _subjects(args.pairs, episodes, [bundle, *([other] if other else [])]), scope)
    out: Path = args.out or Path("runs/evaluation") / bundle.name
    out.mkdir(parents=True, exist_ok=True)
    scorer = load_scorer(args.bundle)

    def evaluated(each: Bundle) -> Evaluation:
        return evaluate(each, cases, scorer, args.threads, out / KEPT, _loss(each, episodes))

    found, against = evaluated(bundle), evaluated(other) if other else None
    paired = comparison.compare(found, against) if against else []
    source = str(args.pairs.name) if args.pairs else "validation episodes"
    report.write(out, found, scope, source, against, paired)
    if args.blind:
        fluency.write_sheet(args.blind, found)
    if args.write:
        update_manifest(args.bundle, metrics=found.metrics(), calibration=steering.calibrate(found.cells))
    (out / KEPT).unlink(missing_ok=True)
    log.info("wrote %s", out / "report.html")


def _subjects(pairs: Path | None, episodes: list[Episode] | None, bundles: list[Bundle]) -> list[Subject]:
    """Inputs that every one of the bundles can read."""
    found = _of_pairs(pairs, bundles[0]) if pairs else subjects.from_episodes(episodes or [])
    for bundle in bundles:
        kept = subjects.usable(found, bundle)
        if len(kept) < len(found):
            log.info("%s can't take %d of %d inputs", bundle.name, len(found) - len(kept), len(found))
        found = kept
    return found


def _of_pairs(path: Path, bundle: Bundle) -> list[Subject]:
    return subjects.from_pairs(path, tuple(bundle.tasks), tuple(bundle.format.modalities))


def _loss(bundle: Bundle, episodes: list[Episode] | None) -> float | None:
    """Of the same rows for every bundle; a file of pairs has no commands to compute it with."""
    if episodes is None:
        return None
    return loss_of(bundle.path, sorted(episodes, key=lambda e: digest(e.task, e.input, e.output))[:LOSS_ROWS])
