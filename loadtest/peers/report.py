"""From samples to `peers.json`, `peers.md` and `peers.png`."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from loadtest.peers.catalogue import ENGINES, OURS

FIGURES = ("first_ms", "token_ms", "tokens_per_s", "peak_rss_mb", "other_cpus")
FASTER_IS_MORE = {"tokens_per_s"}
RATIOS = (("first_ms", 1), ("token_ms", 1), ("tokens_per_s", 8), ("tokens_per_s", 16))


def summarize(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and spreads by engine and number of sequences, and how ours compare at equal weight bits."""
    sessions = [line for line in lines if line["kind"] == "session"]
    if not sessions:
        raise ValueError("there are no samples: run `python -m loadtest.peers run` first")
    samples = [line for line in lines if line["kind"] == "sample"]
    engines: dict[str, Any] = {}
    for line in lines:
        if line["kind"] == "engine":
            engines[line["engine"]] = {key: line[key] for key in line if key not in ("kind", "engine")}
    for name, engine in engines.items():
        engine["sequences"] = _figures([s for s in samples if s["engine"] == name])
    failures = {line["engine"]: line["why"] for line in lines if line["kind"] == "failure"}
    bandwidth: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for size, speed in sample["bandwidth_gb_s"].items():
            bandwidth[size].append(speed)
    report = {
        **{key: sessions[-1][key] for key in sessions[-1] if key not in ("kind", "commit")},
        "commits": sorted({str(session["commit"]) for session in sessions}),
        "rounds": sum(line["kind"] == "round" for line in lines),
        "bandwidth_gb_s": {f"{size} MB": _spread(speeds) for size, speeds in bandwidth.items()},
        "engines": engines,
        "not_measured": {n: why for n, why in failures.items() if not engines.get(n, {}).get("sequences")},
        "failed_in_part": {n: why for n, why in failures.items() if engines.get(n, {}).get("sequences")},
    }
    report["floor_ms"] = _floors(engines, bandwidth)
    report["ratios"] = _ratios(engines, report["floor_ms"])
    return report


def _figures(samples: list[dict[str, Any]]) -> dict[str, Any]:
    by_batch: dict[str, Any] = {}
    for batch in sorted({sample["sequences"] for sample in samples}):
        rows = [sample for sample in samples if sample["sequences"] == batch]
        found = {figure: [row[figure] for row in rows if row[figure] is not None] for figure in FIGURES}
        by_batch[str(batch)] = {figure: _spread(values) for figure, values in found.items() if values}
    return by_batch


def _spread(values: list[float]) -> dict[str, float]:
    median, least, most = statistics.median(values), min(values), max(values)
    return {"median": round(median, 3), "min": round(least, 3), "max": round(most, 3), "count": len(values)}


def _floors(engines: dict[str, Any], bandwidth: dict[str, list[float]]) -> dict[str, float]:
    """Milliseconds to read our weights once, at the probed size nearest to them."""
    floors = {}
    for name, engine in engines.items():
        if engine["bytes_per_step"] and bandwidth:
            size = min(bandwidth, key=lambda mb: abs(int(mb) * 1e6 - engine["bytes_per_step"]))
            floors[name] = round(engine["bytes_per_step"] / statistics.median(bandwidth[size]) / 1e6, 3)
    return floors


def _ratios(engines: dict[str, Any], floors: dict[str, float]) -> list[dict[str, Any]]:
    """Ours over the best peer's with the same bits, figure by figure, and over the floor."""
    rows: list[dict[str, Any]] = []
    for name, ours in engines.items():
        if not name.startswith(OURS):
            continue
        for figure, batch in RATIOS:
            mine = _median(ours, figure, batch)
            peers = {
                peer: value
                for peer, engine in engines.items()
                if engine["bits"] == ours["bits"] and not peer.startswith(OURS)
                if (value := _median(engine, figure, batch)) is not None
            }
            if mine is None or not peers:
                continue
            best = (max if figure in FASTER_IS_MORE else min)(peers, key=lambda peer: peers[peer])
            ratio = round(mine / peers[best], 3)
            rows.append(
                {"engine": name, "figure": figure, "sequences": batch, "best_peer": best, "ratio": ratio}
            )
        token_ms = _median(ours, "token_ms", 1)
        if token_ms is not None and name in floors:
            over = round(token_ms / floors[name], 3)
            rows.append(
                {"engine": name, "figure": "token_ms", "sequences": 1, "best_peer": "floor", "ratio": over}
            )
    return rows


def _median(engine: dict[str, Any], figure: str, batch: int) -> float | None:
    spread = engine["sequences"].get(str(batch), {}).get(figure)
    return None if spread is None else float(spread["median"])


def markdown(report: dict[str, Any]) -> str:
    """The table, with what the figures belong to."""
    machine, workload = report["hardware"], report["workload"]
    speeds = ", ".join(
        f"{size}: {speed['median']:.0f} ({speed['min']:.0f}–{speed['max']:.0f})"
        for size, speed in report["bandwidth_gb_s"].items()
    )
    lines = [
        "# Engines on one CPU",
        "",
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(report['cpu_flags'])}); "
        f"{report['parameters'] / 1e6:.1f}M parameters, vocabulary {report['vocabulary']:,}, random weights; "
        f"{workload['threads']} threads, prompt {workload['prompt_tokens']}, {workload['new_tokens']} new tokens, "
        f"greedy. Medians of {report['rounds']} rounds (least–most). Commit {', '.join(report['commits'])}.",
        f"Read bandwidth, GB/s: {speeds}.",
        "",
        "| engine | bits | first token ms | ms/token | tokens/s at 1 | at 8 | at 16 | peak RSS MB at 16 "
        "| same first token |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in _order(report["engines"]):
        engine = report["engines"][name]
        cells = [_cell(engine, "first_ms", 1, 1), _cell(engine, "token_ms", 1, 2)]
        cells += [_cell(engine, "tokens_per_s", batch, 0) for batch in (1, 8, 16)]
        cells += [_cell(engine, "peak_rss_mb", 16, 0), engine["same_first_token"]]
        lines.append(f"| {name} | {engine['bits']} | {' | '.join(cells)} |")
    lines += ["", *[f"- {name}: floor {floor} ms a token" for name, floor in report["floor_ms"].items()]]
    lines += [
        f"- {row['engine']}, {row['figure']} at {row['sequences']}: {row['ratio']} × {row['best_peer']}"
        for row in report["ratios"]
    ]
    lines += [f"- not measured, {name}: {why}" for name, why in report["not_measured"].items()]
    lines += [f"- failed in part, {name}: {why}" for name, why in report["failed_in_part"].items()]
    return "\n".join(lines) + "\n"


def _order(engines: dict[str, Any]) -> list[str]:
    names = [engine.name for engine in ENGINES]
    return sorted(engines, key=names.index)


def _cell(engine: dict[str, Any], figure: str, batch: int, digits: int) -> str:
    spread = engine["sequences"].get(str(batch), {}).get(figure)
    if spread is None:
        return "–"
    return f"{spread['median']:.{digits}f} ({spread['min']:.{digits}f}–{spread['max']:.{digits}f})"


def plot(report: dict[str, Any], path: Path) -> None:
    """Time per token of one sequence, and tokens/s of 16; bars from the least to the most."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    names = [name for name in reversed(_order(report["engines"])) if report["engines"][name]["sequences"]]
    figure, axes = pyplot.subplots(
        1, 2, figsize=(11, 0.4 * len(names) + 1.5), sharey=True, layout="constrained"
    )
    sides = (("token_ms", "1", "ms per token, 1 sequence"), ("tokens_per_s", "16", "tokens/s, 16 sequences"))
    for axis, (key, batch, title) in zip(axes, sides, strict=True):
        for place, name in enumerate(names):
            spread = report["engines"][name]["sequences"].get(batch, {}).get(key)
            if spread is not None:
                errors = [[spread["median"] - spread["min"]], [spread["max"] - spread["median"]]]
                colour = "tab:orange" if name.startswith(OURS) else "tab:blue"
                axis.barh(place, spread["median"], xerr=errors, color=colour)
        axis.set_title(title)
        axis.set_yticks(range(len(names)), names)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write_report(lines: list[dict[str, Any]], out: Path) -> None:
    """All three files."""
    out.mkdir(parents=True, exist_ok=True)
    report = summarize(lines)
    (out / "peers.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (out / "peers.md").write_text(markdown(report), encoding="utf-8")
    plot(report, out / "peers.png")
