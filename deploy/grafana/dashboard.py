"""Writes the Grafana dashboard: what is asked of Prometheus, and how it is shown.

    .venv/bin/python -m deploy.grafana.dashboard

Change it here, not in Grafana: the JSON beside it is provisioned read-only, and a test compares the two. The types
are those of Grafana 10.1; newer versions read them too.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    BigValueTextMode,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Panel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

TARGET = Path(__file__).parent / "dashboards" / "promptdial.json"
SOURCE = DataSourceRef("prometheus", "${datasource}")

HERE = 'instance=~"$instance"'
BY_TASK = f'{HERE}, task=~"$task"'
RATE = "[$__rate_interval]"
LAST = common.ReduceDataOptions().calcs(["lastNotNull"])
QUANTILES = (0.5, 0.9, 0.99)
SERVICE_FAULT = 'outcome=~"error|timeout|unavailable"'

Query = tuple[str, str]  # an expression of Prometheus, and the legend of its series
WIDE, HALF, THIRD, QUARTER = 24, 12, 8, 6  # columns of 24


def rate(metric: str, matchers: str = HERE) -> str:
    """Per second, of a counter, each series."""
    return f"rate(promptdial_{metric}{{{matchers}}}{RATE})"


def total(metric: str, matchers: str = HERE, *, by: str = "") -> str:
    """Per second, of a counter, over instances."""
    return f"sum{f' by ({by}) ' if by else ''}({rate(metric, matchers)})"


def ratio(above: str, below: str) -> str:
    """Of two sums; nothing is shown where the lower one is 0."""
    return f"{above} / ({below} > 0)"


def quantiles(metric: str) -> list[Query]:
    """p50, p90 and p99 of a histogram, over instances."""
    buckets = total(f"{metric}_bucket", by="le")
    return [(f"histogram_quantile({q}, {buckets})", f"p{q * 100:.0f}") for q in QUANTILES]


def mean(metric: str, field: str) -> str:
    """Of what `target_error` counts, by task."""
    matchers = f'{BY_TASK}, field="{field}"'
    return ratio(total(metric, matchers, by="task"), total("target_error_count", matchers, by="task"))


def with_queries(panel: Any, queries: list[Query], *, instant: bool = False, buckets: bool = False) -> Any:
    """A panel's builder with its data."""
    panel.datasource(SOURCE)
    for letter, (expression, legend) in zip("ABCDEFGH", queries, strict=False):
        query = (
            prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(expression).legend_format(legend)
        )
        if instant:
            query.instant()
        if buckets:
            query.format(PromQueryFormat.HEATMAP)
        panel.with_target(query)
    return panel


def lines(
    title: str, queries: list[Query], unit: str, *, text: str = "", width: int = THIRD, stacked: bool = False
) -> Builder[Panel]:
    """Values over time."""
    legend = (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
    )
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .unit(unit)
        .span(width)
        .height(8)
        .min(0)
        .legend(legend)
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(30)
        panel.draw_style(GraphDrawStyle.LINE)
    found: Builder[Panel] = with_queries(panel, queries)
    return found


def number(
    title: str, query: str, unit: str, *, text: str = "", width: int = 4, legend: str = ""
) -> Builder[Panel]:
    """One value of now, or one for each label set."""
    panel = stat.Panel().title(title).description(text).unit(unit).span(width).height(4)
    panel.graph_mode(BigValueGraphMode.NONE).reduce_options(LAST)
    found: Builder[Panel] = with_queries(panel, [(query, legend)], instant=True)
    return found


def label(title: str, query: str, legend: str) -> Builder[Panel]:
    """What the labels of a metric say, whose value is always 1."""
    panel = stat.Panel().title(title).span(QUARTER).height(4).text_mode(BigValueTextMode.NAME)
    panel.graph_mode(BigValueGraphMode.NONE).reduce_options(LAST)
    found: Builder[Panel] = with_queries(panel, [(query, legend)], instant=True)
    return found


def shares(title: str, query: str, legend: str, *, text: str, width: int = HALF) -> Builder[Panel]:
    """Bars from 0 to 1, over the time that is looked at."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(text)
        .unit("percentunit")
        .span(width)
        .height(8)
        .min(0)
        .max(1)
    )
    panel.orientation(VizOrientation.HORIZONTAL).reduce_options(LAST)
    found: Builder[Panel] = with_queries(panel, [(query, legend)], instant=True)
    return found


def distribution(title: str, metric: str, matchers: str, *, text: str, width: int = HALF) -> Builder[Panel]:
    """How many values fell into each bucket, over time."""
    query = f"sum by (le) (increase(promptdial_{metric}_bucket{{{matchers}}}{RATE}))"
    panel = heatmap.Panel().title(title).description(text).span(width).height(8)
    found: Builder[Panel] = with_queries(panel, [(query, "{{le}}")], buckets=True)
    return found


def overview() -> list[Builder[Panel]]:
    """What clients see."""
    errors = ratio(total("requests_total", f"{HERE}, {SERVICE_FAULT}"), total("requests_total"))
    return [
        number("Ready", f"sum(promptdial_ready{{{HERE}}})", "short", text="Instances that take work."),
        number("Requests", total("requests_total"), "reqps"),
        number("Errors", errors, "percentunit", text="Share of error, timeout and unavailable."),
        number("p50", quantiles("request_seconds")[0][0], "s", text="End to end, of what was not refused."),
        number("p99", quantiles("request_seconds")[2][0], "s", text="End to end, of what was not refused."),
        number("Tokens", total("generated_tokens_total"), "short", text="Written per second."),
        lines(
            "Requests by outcome",
            [(total("requests_total", by="outcome"), "{{outcome}}")],
            "reqps",
            stacked=True,
        ),
        lines("Requests by task", [(total("requests_total", by="task"), "{{task}}")], "reqps", stacked=True),
        lines("Errors", [(errors, "errors")], "percentunit", text="Share of error, timeout and unavailable."),
        lines("End to end", quantiles("request_seconds"), "s", text="Of requests that were not refused."),
        lines("Queue", quantiles("queue_seconds"), "s", text="Waiting for the engine."),
        lines(
            "First token", quantiles("time_to_first_token_seconds"), "s", text="From the request's arrival."
        ),
        lines("Between tokens", quantiles("inter_token_seconds"), "s"),
        lines("Prefill", quantiles("prefill_seconds"), "s", text="Reading the prompt."),
        lines(
            "Scoring",
            quantiles("score_seconds"),
            "s",
            text="What measuring relevance adds after the last token.",
        ),
    ]


def saturation() -> list[Builder[Panel]]:
    """How near the limits are."""
    return [
        lines(
            "Queue",
            [
                (f"promptdial_waiting_requests{{{HERE}}}", "{{instance}} waiting"),
                (f"promptdial_queue_limit{{{HERE}}}", "{{instance}} limit"),
            ],
            "short",
        ),
        lines(
            "Rows of the KV cache",
            [
                (f"promptdial_kv_slots_used{{{HERE}}}", "{{instance}} used"),
                (f"promptdial_kv_slots{{{HERE}}}", "{{instance}} all"),
            ],
            "short",
        ),
        lines("Running requests", [(f"promptdial_running_requests{{{HERE}}}", "{{instance}}")], "short"),
        lines(
            "Mean batch size",
            [(ratio(total("batch_size_sum"), total("batch_size_count")), "sequences")],
            "short",
            text="Sequences in a decode step.",
        ),
        distribution("Batch size", "batch_size", HERE, text="Decode steps by their sequences.", width=THIRD),
        lines(
            "Tokens",
            [(total("prompt_tokens_total"), "read"), (total("generated_tokens_total"), "written")],
            "short",
            text="Per second.",
        ),
        lines(
            "Refused and left",
            [(total("rejected_total", by="reason"), "{{reason}}"), (total("cancelled_total"), "client left")],
            "reqps",
        ),
        lines("Engine's steps", [(total("engine_steps_total", by="instance"), "{{instance}}")], "ops"),
        lines(
            "Engine's heartbeat",
            [(f"promptdial_engine_heartbeat_age_seconds{{{HERE}}}", "{{instance}}")],
            "s",
            text="Since the loop last turned; under 0.2 s while it is well.",
        ),
    ]


def steering() -> list[Builder[Panel]]:
    """Whether the dials do what they say."""
    counted, over = f"target_error_count{{{BY_TASK}}}", "[$__range]"

    def share(metric: str) -> str:
        above = f"sum by (task, field) (increase(promptdial_{metric}_total{{{BY_TASK}}}{over}))"
        return ratio(above, f"sum by (task, field) (increase(promptdial_{counted}{over}))")

    panels: list[Builder[Panel]] = []
    for field, unit in (("relevance", "short"), ("length", "short")):
        said = "Cosine" if field == "relevance" else "Words"
        panels += [
            lines(
                f"Target and achieved: {field}",
                [
                    (mean("target_sum_total", field), "{{task}} target"),
                    (mean("achieved_sum_total", field), "{{task}} achieved"),
                ],
                unit,
                text=f"{said}: means of the best candidates.",
                width=HALF,
            ),
            distribution(
                f"Error of {field}",
                "target_error",
                f'{BY_TASK}, field="{field}"',
                text=f"{said}: achieved minus target.",
            ),
        ]
    return [
        *panels,
        shares(
            "Targets met",
            share("target_hits"),
            "{{task}} {{field}}",
            text="Within 0.1 cosine, or 20 % of the words, over the time that is looked at.",
        ),
        shares(
            "Targets clamped",
            share("clamped_targets"),
            "{{task}} {{field}}",
            text="Moved into the trained support, over the time that is looked at.",
        ),
    ]


def host() -> list[Builder[Panel]]:
    """The process."""
    return [
        lines(
            "CPU",
            [
                (f"rate(process_cpu_seconds_total{{{HERE}}}{RATE})", "{{instance}} all"),
                (rate("score_cpu_seconds_total"), "{{instance}} scoring"),
                (f"promptdial_engine_threads{{{HERE}}}", "{{instance}} decoder's threads"),
            ],
            "short",
            text="Cores that are kept busy.",
        ),
        lines("Memory", [(f"process_resident_memory_bytes{{{HERE}}}", "{{instance}}")], "bytes"),
        lines(
            "Threads and files",
            [
                (f"process_threads{{{HERE}}}", "{{instance}} threads"),
                (f"process_open_fds{{{HERE}}}", "{{instance}} open files"),
            ],
            "short",
        ),
        number(
            "Up for",
            f"time() - process_start_time_seconds{{{HERE}}}",
            "s",
            legend="{{instance}}",
            width=QUARTER,
        ),
        number("On the CPU by fallback", f"sum(promptdial_cpu_fallback{{{HERE}}})", "short", width=QUARTER),
        label("Runs on", f"promptdial_engine_provider{{{HERE}}}", "{{instance}} {{provider}}"),
        label(
            "Serves",
            f"promptdial_build_info{{{HERE}}}",
            "{{version}} {{bundle}}@{{bundle_version}} {{precision}}",
        ),
    ]


def choice(name: str, query: str) -> dashboard.QueryVariable:
    """A variable whose values are a label's."""
    return (
        dashboard.QueryVariable(name)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(VariableOption(True, ["All"], ["$__all"]))
    )


def build() -> str:
    """The dashboard's JSON."""
    board = (
        dashboard.Dashboard("Promptdial")
        .uid("promptdial")
        .tags(["promptdial"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(choice("instance", "label_values(promptdial_ready, instance)"))
        .with_variable(choice("task", "label_values(promptdial_target_error_count, task)"))
    )
    numbers = count(1)
    rows = {"Overview": overview(), "Saturation": saturation(), "Steering": steering(), "Host": host()}
    for title, panels in rows.items():
        board.with_row(dashboard.Row(title).id(next(numbers)))
        for panel in panels:
            panel.id(next(numbers))  # type: ignore[attr-defined]
            board.with_panel(panel)
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def expressions(board: str) -> list[tuple[str, str]]:
    """Title and expression of every query of a dashboard's JSON."""
    panels = json.loads(board)["panels"]
    return [(panel["title"], query["expr"]) for panel in panels for query in panel.get("targets", [])]


if __name__ == "__main__":
    TARGET.write_text(build(), encoding="utf-8")
    print(TARGET)
