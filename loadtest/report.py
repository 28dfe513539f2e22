"""A run as one JSON and one HTML file; the page holds its plots itself and loads nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadtest.peers.comparison import say
from loadtest.plots import drawn
from loadtest.records import FORMULAS

MISSED, INTERRUPTED = 3, 130
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1320px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: .6em 0 1.4em; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .65em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.words td { white-space: normal; text-align: left; }
.wide { overflow-x: auto; }
.plots { display: flex; flex-wrap: wrap; gap: 1em; }
.plots figure { margin: 0; flex: 1 1 420px; max-width: 640px; }
.plots svg { width: 100%; height: auto; }
.no { color: #b00020; font-weight: 600; }
.yes { color: #1b7f3b; font-weight: 600; }
"""
COLUMNS = {
    "step": ("name",),
    "offered/s": ("offered_per_s",),
    "sent": ("sent",),
    "ok": ("ok",),
    "refused": ("refused",),
    "errors": ("errors",),
    "achieved/s": ("achieved_per_s",),
    "goodput/s": ("goodput_per_s",),
    "goodput": ("goodput",),
    "p50": ("latency_ms", "p50"),
    "p90": ("latency_ms", "p90"),
    "p99": ("latency_ms", "p99"),
    "p99.9": ("latency_ms", "p99.9"),
    "first token p50": ("first_token_ms", "p50"),
    "p99 ": ("first_token_ms", "p99"),
    "between p50": ("inter_token_ms", "p50"),
    "p99  ": ("inter_token_ms", "p99"),
    "lateness p99": ("lateness_ms", "p99"),
    "CPU service": ("cpu", "service"),
    "generator": ("cpu", "generator"),
    "others": ("cpu", "others"),
}


def write(result: dict[str, Any], folder: Path) -> None:
    """`report.json` and `report.html` in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    full = result | {"formulas": FORMULAS}
    (folder / "report.json").write_text(json.dumps(full, indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(page(full), encoding="utf-8")


def tell(result: dict[str, Any], folder: Path) -> int:
    """Say where the report is, which conditions were missed and what went wrong; the exit code."""
    say(f"report: {folder / 'report.html'}, {folder / 'report.json'}")
    missed = [each for each in result["slo"] if not each["met"]]
    for each in missed:
        value = "not measured" if each["value"] is None else f"{each['value']:g}"
        say(f"SLO missed: {each['condition']} ({each['step']}: {value})")
    if result.get("trouble"):
        say(result["trouble"])
        return 1
    if result["interrupted"]:
        return INTERRUPTED
    return MISSED if missed else 0


def page(result: dict[str, Any]) -> str:
    """The whole page."""
    plots = "".join(f"<figure>{svg}</figure>" for svg in drawn(result).values())
    title = f"Promptdial under load: {result['kind']}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"{_headline(result)}{_verdicts(result['slo'])}<div class=plots>{plots}</div>"
        f"<h2>Steps</h2><p>Milliseconds; CPU in cores.</p><div class=wide>{_steps(result['steps'])}</div>"
        f"{_kinds(result['steps'])}{_retries(result.get('retry_after'))}"
        f"<h2>What the figures belong to</h2>{_pairs(_flat(result['context']))}"
        f"<h2>Options and workload</h2>{_pairs(_flat(result['options']) | _flat(result['workload']))}"
        f"<h2>Formulas</h2>{_pairs(result['formulas'])}</body></html>\n"
    )


def _headline(result: dict[str, Any]) -> str:
    knee, context = result["knee"], result["context"]
    lines = []
    if result["interrupted"]:
        lines.append("<span class=no>The run was interrupted; this is what was measured until then.</span>")
    if result.get("trouble"):
        lines.append(f"<span class=no>{escape(result['trouble'])}</span>")
    if knee and knee["rate_per_s"]:
        failed = knee["failed_at_per_s"]
        beyond = f", not at {failed:g}" if failed else "; no rate failed, so it may lie higher"
        lines.append(
            f"<b>Knee: {knee['rate_per_s']:g} requests/s</b>{beyond} ({escape(knee['definition'])})."
        )
    elif knee:
        lines.append(f"<b>No knee:</b> no rate held ({escape(knee['definition'])}).")
    hardware = context["hardware"]
    lines.append(
        f"{escape(str(context['bundle']))} on {hardware['cores']} cores of {escape(hardware['cpu'])}, "
        f"{context['threads']} threads, commit {escape(str(context['commit']))}, {escape(context['started'])}; "
        f"{escape(context['shared'])}."
    )
    return "".join(f"<p>{line}</p>" for line in lines)


def _verdicts(verdicts: Sequence[dict[str, Any]]) -> str:
    if not verdicts:
        return ""
    rows = [
        (
            escape(each["condition"]),
            escape(each["step"]),
            _number(each["value"]),
            "<span class=yes>met</span>" if each["met"] else "<span class=no>missed</span>",
        )
        for each in verdicts
    ]
    return "<h2>SLO</h2>" + _table(("condition", "step", "measured", ""), rows)


def _steps(steps: Sequence[dict[str, Any]]) -> str:
    return _table(COLUMNS, ([_number(_at(step, path)) for path in COLUMNS.values()] for step in steps))


def _kinds(steps: Sequence[dict[str, Any]]) -> str:
    kinds = sorted({kind for step in steps for kind in step["kinds"]})
    rows = (
        [
            escape(step["name"]),
            *(_number(step["kinds"].get(kind, 0)) for kind in kinds),
            _number(step.get("unsent")),
        ]
        for step in steps
    )
    return "<h2>Answers by kind</h2><div class=wide>" + _table(("step", *kinds, "unsent"), rows) + "</div>"


def _retries(found: dict[str, Any] | None) -> str:
    if not found or not found["by_load"]:
        return ""
    rows = (
        [
            escape(when or "all"),
            *(_number(each[name]) for name in ("polled", "right", "too_short", "too_long", "right_share")),
            *(_number(each[name]) for name in ("obeyed", "admitted", "admitted_share")),
        ]
        for when, each in (*found["by_load"].items(), ("all", found["all"]))
    )
    heads = (
        "",
        "polled",
        "right",
        "too short",
        "too long",
        "share right",
        "obeyed",
        "admitted",
        "share admitted",
    )
    return f"<h2>retry_after_ms</h2><p>{escape(found['definition'])}</p>" + _table(heads, rows)


def _pairs(values: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in values.items()
    )
    return f"<table class=words>{rows}</table>"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _at(step: dict[str, Any], path: Sequence[str]) -> Any:
    value: Any = step
    for name in path:
        value = (value or {}).get(name)
    return value


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return escape(value)
    return f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Heads are escaped here, cells by whoever makes them."""
    head = "".join(f"<th>{escape(name.strip())}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
