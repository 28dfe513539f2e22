"""The data card: what the episodes hold, by task, modality, length and relevance, real and made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from training.episodes import Episode
from training.sources import credit

LENGTHS = ((1, 9), (10, 19), (20, 39), (40, 69), (70, 99), (100, 10_000))
RELEVANCES = ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.01))


def render(episodes: Sequence[Episode], labels: str = "") -> str:
    """The card as Markdown; `labels` tells what relevance was labelled with, unless it was the scorer alone."""
    head = ["# Data card", "", f"{len(episodes)} episodes. {labels}".rstrip()]
    parts = [*head, *_origins(episodes), *_coverage(episodes)]
    return "\n".join([*parts, *_sources(episodes)]) + "\n"


def source_rows(episodes: Sequence[Episode]) -> list[dict[str, object]]:
    """Sources with licence, rows and the credit to give, most rows first; what model cards state.

    `by_rule`: rows whose output is not the source's text, but composed by rule about it.
    """
    counts = Counter((episode.source, episode.licence) for episode in episodes)
    by_rule = Counter((e.source, e.licence) for e in episodes if e.origin == "generated")
    return [
        {
            "source": source,
            "licence": licence,
            "rows": rows,
            "by_rule": by_rule[source, licence],
            "attribution": credit(source),
        }
        for (source, licence), rows in counts.most_common()
    ]


def _origins(episodes: Sequence[Episode]) -> list[str]:
    counts = Counter((episode.origin, episode.method, episode.split) for episode in episodes)
    methods = sorted({(origin, method) for origin, method, _ in counts})
    lines = ["", "## Origin", "", "| origin | method | train | validation |", "|---|---|---:|---:|"]
    for origin, method in methods:
        lines.append(
            f"| {origin} | {method} | {counts[origin, method, 'train']} | {counts[origin, method, 'validation']} |"
        )
    return lines


def _coverage(episodes: Sequence[Episode]) -> list[str]:
    counts = Counter(
        (e.task, e.modality, slot(LENGTHS, e.words), slot(RELEVANCES, e.relevance), e.origin == "real")
        for e in episodes
    )
    headings = [f"{low:.1f}-{min(high, 1.0):.1f}" for low, high in RELEVANCES]
    lines = ["", "## Coverage", "", "Rows by relevance achieved, as real + made by rule.", ""]
    lines += [
        "| task | modality | words | " + " | ".join(headings) + " |",
        "|---|---|---|" + "---:|" * len(headings),
    ]
    for task, modality, length in sorted({key[:3] for key in counts}):
        cells = [
            f"{counts[task, modality, length, r, True]} + {counts[task, modality, length, r, False]}"
            for r in range(len(RELEVANCES))
        ]
        low, high = LENGTHS[length]
        span = f"{low}-{high}" if length < len(LENGTHS) - 1 else f"{low} and more"
        lines.append(f"| {task} | {modality} | {span} | " + " | ".join(cells) + " |")
    return lines


def slot(bounds: Sequence[tuple[float, float]], value: float) -> int:
    """The index of the range that a value falls into."""
    return max(index for index, (low, _) in enumerate(bounds) if value >= low)


def _sources(episodes: Sequence[Episode]) -> list[str]:
    lines = ["", "## Sources", "", "| source | licence | rows | credit |", "|---|---|---:|---|"]
    lines += [
        f"| {row['source']} | {row['licence']} | {row['rows']} | {row['attribution']} |"
        for row in source_rows(episodes)
    ]
    return lines
