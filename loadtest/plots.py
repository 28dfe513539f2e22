"""The figures of a report, each as an SVG for the page itself: nothing is loaded from anywhere."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.retries import FLOOR_S, SHARE
from loadtest.sweep import HOLDS

Steps = Sequence[dict[str, Any]]
PERCENTILES = ("p50", "p90", "p99", "p99.9")
NINES = (0.5, 0.9, 0.99, 0.999)


def drawn(result: dict[str, Any]) -> dict[str, str]:
    """Title → SVG, of every figure that the result holds something for."""
    steps = sorted(
        (step for step in result["steps"] if step["offered_per_s"]), key=lambda step: step["offered_per_s"]
    )
    figures: dict[str, Callable[[Axes], None]] = {}
    if steps:
        figures["Offered against achieved rate"] = lambda axes: _rates(axes, steps, result["knee"])
        figures["Latency by offered rate"] = lambda axes: _latencies(axes, steps)
        figures["Latency by percentile"] = lambda axes: _curves(axes, steps)
        figures["What became of the requests"] = lambda axes: _outcomes(axes, steps)
        figures["Streams: first token and between tokens"] = lambda axes: _streams(axes, steps)
    points = result.get("retry_after", {}).get("points", [])
    if points:
        figures["Refusals: when the service said to come back"] = lambda axes: _retries(axes, points)
    return {title: _svg(title, draw) for title, draw in figures.items()}


def _svg(title: str, draw: Callable[[Axes], None]) -> str:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": title, "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue().partition("<svg")[1] + stream.getvalue().partition("<svg")[2]


def _values(steps: Steps, *path: str) -> list[float]:
    """A figure of each step; NaN, which isn't drawn, where it has none."""
    found = []
    for step in steps:
        value: Any = step
        for name in path:
            value = value[name]
        found.append(math.nan if value is None else float(value))
    return found


def _rates(axes: Axes, steps: Steps, knee: dict[str, Any] | None) -> None:
    offered = _values(steps, "offered_per_s")
    axes.plot(offered, offered, color="0.7", linestyle="--", label="offered")
    axes.plot(offered, _values(steps, "achieved_per_s"), marker="o", label="achieved (ok)")
    axes.plot(offered, _values(steps, "goodput_per_s"), marker="s", markersize=4, label="goodput")
    if knee and knee["rate_per_s"]:
        rate = knee["rate_per_s"]
        axes.axvline(rate, color="tab:red", alpha=0.6, label=f"knee: {rate:g}/s ({HOLDS:.0%} good)")
    axes.set(xlabel="offered requests/s", ylabel="answers/s", ylim=(0, None))
    axes.legend(fontsize=8)


def _latencies(axes: Axes, steps: Steps) -> None:
    offered = _values(steps, "offered_per_s")
    for name in PERCENTILES:
        axes.plot(offered, _values(steps, "latency_ms", name), marker="o", markersize=4, label=name)
    axes.set(xlabel="offered requests/s", ylabel="latency of ok answers, ms", yscale="log")
    axes.legend(fontsize=8)


def _curves(axes: Axes, steps: Steps) -> None:
    """One line a held step: solid from the intended, dashed from the actual send time."""
    shown = [step for step in steps if not step.get("searching") and step["curve"]] or list(steps)
    for step in shown:
        if not step["curve"]:
            continue
        nines = [-math.log10(1 - share) for share, _, _ in step["curve"]]
        (line,) = axes.plot(
            nines,
            [latency for _, latency, _ in step["curve"]],
            label=f"{step['name']} ({step['offered_per_s']:g}/s)",
        )
        axes.plot(nines, [service for *_, service in step["curve"]], color=line.get_color(), linestyle=":")
    axes.set(xlabel="percentile", ylabel="ms (dotted: from the actual send time)", yscale="log")
    axes.set_xticks([-math.log10(1 - share) for share in NINES], [f"p{share * 100:g}" for share in NINES])
    if axes.lines:
        axes.legend(fontsize=8)


def _outcomes(axes: Axes, steps: Steps) -> None:
    names = [f"{step['offered_per_s']:g}" for step in steps]
    places = range(len(steps))
    late = [step["ok"] - step["good"] for step in steps]
    parts = {
        "good": ([step["good"] for step in steps], "tab:green"),
        "ok, but later": (late, "tab:olive"),
        "refused": ([step["refused"] for step in steps], "tab:blue"),
        "errors": ([step["errors"] for step in steps], "tab:red"),
        "left": ([step["left"] for step in steps], "0.7"),
    }
    below = [0.0] * len(steps)
    for label, (counts, colour) in parts.items():
        shares = [count / max(1, step["sent"]) for count, step in zip(counts, steps, strict=True)]
        if any(shares):
            axes.bar(places, shares, bottom=below, label=label, color=colour)
        below = [base + share for base, share in zip(below, shares, strict=True)]
    axes.set_xticks(places, names, rotation=60 if len(names) > 8 else 0, fontsize=8)
    axes.set(xlabel="offered requests/s", ylabel="share of the requests sent", ylim=(0, 1.02))
    if axes.patches:
        axes.legend(fontsize=8, loc="lower left")


def _streams(axes: Axes, steps: Steps) -> None:
    offered = _values(steps, "offered_per_s")
    for kind, label, colour in (
        ("first_token_ms", "first token", "tab:blue"),
        ("inter_token_ms", "between tokens", "tab:orange"),
    ):
        axes.plot(offered, _values(steps, kind, "p50"), marker="o", color=colour, label=f"{label}, p50")
        axes.plot(
            offered,
            _values(steps, kind, "p99"),
            marker="^",
            color=colour,
            linestyle="--",
            label=f"{label}, p99",
        )
    axes.set(xlabel="offered requests/s", ylabel="ms", yscale="log")
    axes.legend(fontsize=8)


def _retries(axes: Axes, points: Sequence[Sequence[Any]]) -> None:
    """Said against waited, with the band of right ones; those that nobody was admitted after lie at the top."""
    waited = [point for point in points if point[1] is not None]
    most = max([*(point[0] for point in points), *(point[1] for point in waited), 200.0]) * 1.1
    line = [most * step / 100 for step in range(101)]
    room = [max(SHARE * value, FLOOR_S * 1000) for value in line]
    axes.fill_between(
        line,
        [max(0.0, value - each) for value, each in zip(line, room, strict=True)],
        [value + each for value, each in zip(line, room, strict=True)],
        color="tab:green",
        alpha=0.15,
        label="right",
    )
    for when in dict.fromkeys(point[3] for point in points):
        chosen = [point for point in waited if point[3] == when]
        axes.scatter([point[1] for point in chosen], [point[0] for point in chosen], s=12, label=when)
    axes.set(xlabel="waited until admitted, ms", ylabel="said, ms", xlim=(0, most), ylim=(0, most))
    axes.legend(fontsize=8)
