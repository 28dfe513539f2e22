"""Clamping of targets to what the training data holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptdial.command import Command
from promptdial.support import Cell, Support
from tests.tiny import make_metadata

SUPPORT = Support.from_json(
    make_metadata()["support"]
)  # lengths 3-90, cells at 4 (0.3-0.95) and 40 (0.1-0.85)


def test_targets_inside_the_support_stay_as_they_are() -> None:
    command = Command("expand", "image", 0.5, 40)
    assert SUPPORT.clamp(command) == (command, frozenset())


def test_left_out_targets_are_the_median_length_and_its_90th_percentile_and_do_not_count_as_clamped() -> None:
    assert SUPPORT.clamp(Command("expand", "image")) == (Command("expand", "image", 0.9, 12), frozenset())


def test_a_length_outside_is_pulled_in_first_and_relevance_is_judged_at_the_new_length() -> None:
    clamped, fields = SUPPORT.clamp(Command("expand", "image", 0.9, 1000))
    assert clamped == Command("expand", "image", 0.85, 90)
    assert fields == {"length", "relevance"}
    clamped, fields = SUPPORT.clamp(Command("expand", "image", 0.1, 1))
    assert clamped == Command("expand", "image", 0.3, 3)
    assert fields == {"length", "relevance"}


def test_the_same_relevance_can_be_had_at_one_length_and_not_at_another() -> None:
    assert SUPPORT.clamp(Command("tags", "image", 0.95, 4))[1] == frozenset()
    assert SUPPORT.clamp(Command("tags", "image", 0.95, 40))[1] == {"relevance"}


def test_a_task_without_rows_is_left_alone() -> None:
    nothing = Support({})
    command = Command("expand", "image", 1.0, 5000)
    assert nothing.clamp(command) == (command, frozenset())
    assert nothing.clamp(Command("expand", "image")) == (Command("expand", "image"), frozenset())
    assert "expand" not in nothing
    assert nothing.range("expand", 10) is None
    assert nothing.length_range("expand") is None


def test_the_range_is_that_of_the_nearest_cell() -> None:
    assert SUPPORT.range("expand", 9) == (0.3, 0.95, 0.9)
    assert SUPPORT.range("expand", 200) == (0.1, 0.85, 0.8)
    assert SUPPORT.length_range("expand") == (3, 90)


def test_a_bundle_that_tells_its_range_is_clamped_to_it_and_an_older_one_to_the_percentiles() -> None:
    entry = make_metadata()["support"]["expand"]
    told = Support.from_json({"expand": entry | {"length": entry["length"] | {"low": 2, "high": 120}}})
    assert told.length_range("expand") == (2, 120)
    assert told.clamp(Command("expand", "image", 0.5, 110))[1] == frozenset()
    assert told.clamp(Command("expand", "image", 0.5, 130))[0].length == 120
    short = Support.from_json({"expand": entry | {"length": entry["length"] | {"low": 20, "high": 120}}})
    assert short.default_length("expand") == 20  # the median, 12, can't be asked for


def test_the_10th_percentile_is_the_bundles_or_lies_between_the_5th_and_the_50th() -> None:
    """Bundles that were made before the support had it must still load."""
    cells = make_metadata()["support"]["expand"]["cells"]
    assert Cell(**cells[0]).tenth == pytest.approx(0.3 + (0.6 - 0.3) * 5 / 45)
    assert Cell(**cells[0], p10=0.4).tenth == 0.4
    with pytest.raises(ValueError, match="must rise"):
        Cell(**cells[0], p10=0.7)


@given(
    relevance=st.none() | st.floats(0, 1),
    length=st.none() | st.integers(1, 10_000),
    task=st.sampled_from(["expand", "x"]),
)
def test_clamping_twice_changes_nothing_more(relevance: float | None, length: int | None, task: str) -> None:
    once, _ = SUPPORT.clamp(Command(task, "image", relevance, length))
    assert SUPPORT.clamp(once) == (once, frozenset())


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("length", {"p05": "3"}),
        ("length", {"p05": 0}),
        ("length", {"p50": 2}),
        ("length", {"p95": 90.5}),
        ("length", {"low": 5}),
        ("length", {"low": 5, "high": 4}),
        ("length", {"low": 5, "high": 9.5}),
        ("cell", {"length": 0}),
        ("cell", {"p05": None}),
        ("cell", {"p50": 0.2}),
        ("cell", {"p95": 1.5}),
        ("cell", {"p90": float("nan")}),
    ],
)
def test_support_that_would_break_a_request_later_is_an_error(part: str, change: dict[str, object]) -> None:
    entry = make_metadata()["support"]["expand"]
    (entry["length"] if part == "length" else entry["cells"][0]).update(change)
    with pytest.raises(ValueError, match="of a support"):
        Support.from_json({"expand": entry})


@pytest.mark.parametrize("broken", [{"expand": {}}, {"expand": {"length": {}, "cells": []}}, {"expand": 3}])
def test_malformed_support_is_an_error(broken: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError)):
        Support.from_json(broken)
