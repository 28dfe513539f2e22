"""The command: its buckets, its tokens, and that the format survives its own JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from promptdial.command import DEFAULT_FORMAT, MODALITIES, TASKS, Command, CommandFormat, word_count
from promptdial.tasks import TASK_INFO


def test_a_command_is_four_tokens_with_the_nearest_buckets() -> None:
    tokens = DEFAULT_FORMAT.tokens(Command("expand", "image", 0.83, 61))
    assert [token.split(":")[0] for token in tokens] == ["<task", "<modality", "<rel", "<len"]
    assert float(tokens[2][5:-1]) == pytest.approx(0.83, abs=0.025)
    assert int(tokens[3][5:-1]) == pytest.approx(61, rel=0.1)


def test_a_field_left_out_is_rendered_as_any() -> None:
    assert DEFAULT_FORMAT.tokens(Command("tags", "video"))[2:] == ("<rel:any>", "<len:any>")


def test_every_relevance_is_within_half_a_bucket_of_its_token() -> None:
    for value in (0.0, 0.05, 0.5, 0.999, 1.0):
        centre = DEFAULT_FORMAT.relevance_buckets[DEFAULT_FORMAT.relevance_bucket(value)]
        assert abs(centre - value) <= 0.0251


def test_every_length_up_to_the_last_bucket_is_within_a_tenth_or_half_a_word() -> None:
    for words in range(1, 191):
        centre = DEFAULT_FORMAT.length_buckets[DEFAULT_FORMAT.length_bucket(words)]
        assert abs(centre - words) <= max(0.5, 0.1 * words)


def test_longer_than_the_last_bucket_is_the_last_bucket() -> None:
    assert DEFAULT_FORMAT.length_bucket(10_000) == len(DEFAULT_FORMAT.length_buckets) - 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (Command("sing", "image"), "unknown task 'sing'"),
        (Command("expand", "smell"), "unknown modality 'smell'"),
        (Command("expand", "image", 1.2), "relevance must lie in 0-1"),
        (Command("expand", "image", -0.1), "relevance must lie in 0-1"),
        (Command("expand", "image", float("nan")), "relevance must lie in 0-1"),
        (Command("expand", "image", 0.5, 0), "at least 1 word"),
    ],
)
def test_a_command_out_of_range_is_refused_with_the_reason(command: Command, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DEFAULT_FORMAT.tokens(command)


def test_no_two_special_tokens_are_alike() -> None:
    tokens = DEFAULT_FORMAT.special_tokens()
    assert len(set(tokens)) == len(tokens)


def test_the_format_survives_json_with_own_tasks() -> None:
    own = CommandFormat(tasks=("rewrite",), length_buckets=(5, 10))
    assert CommandFormat.from_json(json.loads(json.dumps(own.to_json()))) == own
    assert own.tokens(Command("rewrite", "image"))[0] == "<task:rewrite>"


def test_every_task_is_described_with_an_example_and_a_default_modality() -> None:
    assert set(TASK_INFO) == set(TASKS)
    for task in TASK_INFO.values():
        assert task.description and task.input_hint and task.example
        assert task.modality in MODALITIES
        assert type(task).from_json(json.loads(json.dumps(task.to_json()))) == task


def test_length_is_counted_in_whitespace_separated_words() -> None:
    assert word_count('  a "fox",  in\nsnow — ') == 5


def test_the_module_needs_nothing_but_the_standard_library() -> None:
    program = (
        "import sys; before = set(sys.modules); import promptdial.command; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names) - {'promptdial'}))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
