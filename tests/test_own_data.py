"""Own pairs under own task names, from the file to an answer: the tutorial as written, and what goes wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from export.bundle import export_bundle
from promptdial.bundle import load_bundle
from promptdial.command import DEFAULT_FORMAT, CommandFormat
from promptdial.tasks import TASK_INFO, Task
from promptdial.tokenizer import PromptTokenizer
from tests.make_serve import LISTENING, ROOT, environment
from tests.test_service_docs import commands, send
from tests.test_training_pipeline import training
from tests.tiny import scorer_folder, tiny_bundle, tiny_checkpoint
from training import batches, checkpoint, own, sources, support
from training.__main__ import main
from training.episodes import Episode
from training.errors import TrainingError
from training.recipe import DataRecipe

PAGE = (ROOT / "docs" / "own-data.md").read_text()
PARTS = ("docs", "export", "models", "promptdial", "service", "training")
STEP_S, START_S = 400.0, 200.0  # a busy machine is slow
PACKSHOT = Task(
    "packshot", "A product becomes its photo.", "The product.", "steel bottle", "image", ("image",)
)
TABLE = """
[packshot]
description = "A product becomes its photo."
input_hint = "The product."
example = "steel bottle"
"""


@contextmanager
def served(command: str, folder: Path) -> Iterator[str]:
    """The address of the service that a command starts, on a free port; it is ended with the block."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec env {command}"], cwd=folder, env=environment(PROMPTDIAL_PORT="0"), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines, address = [], Future[str]()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                lines.append(line)
                if (found := LISTENING.search(line)) and not address.done():
                    address.set_result(found[1])
        if not address.done():
            address.set_exception(AssertionError("".join(lines)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield address.result(START_S)
    finally:
        process.terminate()
        reader.join(START_S)
        assert process.wait(START_S) is not None


@dataclass
class Followed:
    """What the tutorial's commands gave."""

    folder: Path
    printed: list[str] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    metrics: str = ""


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """All shell blocks of the page, in order, in a folder that looks like the checkout; the port is a free one."""
    folder = tmp_path_factory.mktemp("checkout")
    for part in PARTS:
        (folder / part).symlink_to(ROOT / part)
    (folder / ".venv").symlink_to(sys.prefix)
    done = Followed(folder)
    blocks = commands(PAGE)
    start = next(index for index, block in enumerate(blocks) if "-m service" in block)
    asked = [block for block in blocks if block.startswith("curl")]
    assert len(asked) == 2
    for block in blocks[:start]:
        done.printed.append(run(block, folder))
    with served(blocks[start], folder) as address, httpx.Client(base_url=address, timeout=60) as client:
        for block in asked:
            response = send(client, block)
            assert response.status_code == 200, response.text
            done.answers.append(response.json())
        refused = client.post("/generate", json={"task": "expand", "input": "a fox"})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "task")
        assert "packshot" in refused.json()["detail"]
        examples = client.get("/openapi.json").json()["paths"]["/generate"]["post"]["requestBody"]["content"]
        done.answers += [each["value"] for each in examples["application/json"]["examples"].values()]
        done.metrics = client.get("/metrics").text
    for block in blocks[start + 1 :]:
        if block not in asked:
            done.printed.append(run(block, folder))
    return done


def run(block: str, folder: Path) -> str:
    """Run a shell block as a person would paste it; its output."""
    clean = environment(
        HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1"
    )  # threads of small matrices wait for each other
    found = subprocess.run(
        ["bash", "-eu", "-c", block], cwd=folder, env=clean, capture_output=True, text=True, timeout=STEP_S, check=False
    )  # fmt: skip
    assert found.returncode == 0, f"{block}\n{found.stderr}"
    return found.stdout


@pytest.mark.small_bundle
def test_the_tutorial_ends_with_an_answer_of_the_own_task(followed: Followed) -> None:
    tasks, answer, *examples = followed.answers
    assert [task["name"] for task in tasks["tasks"]] == ["packshot"]
    described = own.read(ROOT / "docs" / "own-data" / "tasks.toml")["packshot"]
    assert tasks["tasks"][0]["description"] == described.description
    assert tasks["tasks"][0]["modalities"] == ["image"]
    assert answer["task"] == "packshot"
    assert answer["candidates"][0]["achieved_length"] > 0
    assert {example["task"] for example in examples} == {"packshot"}  # the OpenAPI page shows no other


@pytest.mark.small_bundle
def test_metrics_know_the_own_task_and_call_every_other_unknown(followed: Followed) -> None:
    labels = re.findall(r'^promptdial_requests_total\{.*task="(\w+)"', followed.metrics, re.MULTILINE)
    assert set(labels) == {"packshot", "unknown"}


@pytest.mark.small_bundle
def test_the_bundle_of_the_tutorial_was_made_of_its_pairs_alone(followed: Followed) -> None:
    bundle = load_bundle(followed.folder / "runs" / "own" / "bundle")
    assert list(bundle.tasks) == ["packshot"]
    assert [row["source"] for row in bundle.manifest["data"]] == ["packshot-example"]
    assert {row.command.task for row in bundle.golden} == {"packshot"}
    assert followed.printed[-1].strip()  # transformers wrote something


@pytest.mark.small_bundle
def test_a_start_learns_an_own_task_beside_those_it_has(followed: Followed, tmp_path: Path) -> None:
    """Of its own tasks it keeps description and support, though no row is about them."""
    training("train", "--init", tiny_bundle(), "--episodes", followed.folder / "runs" / "own" / "episodes",
             "--recipe", ROOT / "docs" / "own-data" / "tiny.toml", "--steps", "2", "--out", tmp_path / "run",
             "--scorer", tiny_bundle())  # fmt: skip
    start = load_bundle(tiny_bundle())
    bundle = export_bundle(tmp_path / "run" / "final", tmp_path / "bundle", scorer=scorer_folder())
    assert list(bundle.tasks) == [*start.tasks, "packshot"]
    assert bundle.architecture.vocabulary == start.architecture.vocabulary + 1
    assert bundle.support.of("expand") == start.support.of("expand")
    assert "packshot" in bundle.support
    assert [row.ids for row in bundle.golden if row.command.task == "expand"] == [
        row.ids for row in start.golden if row.command.task == "expand"
    ]


def test_what_the_tutorial_shows_is_what_its_files_hold() -> None:
    row, *_ = (ROOT / "docs" / "own-data" / "pairs.jsonl").read_text().splitlines()
    assert f"```json\n{row}\n```" in PAGE
    tables = (ROOT / "docs" / "own-data" / "tasks.toml").read_text()
    assert tables.split("\n", 1)[1] in PAGE


def write_pairs(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROW = {"input": "steel bottle", "output": "Photo of a steel bottle.", "task": "packshot"}


def test_what_a_pair_leaves_out_is_filled_in(tmp_path: Path) -> None:
    (row,) = sources.load(None, [write_pairs(tmp_path, ROW)], {"packshot": PACKSHOT}).pairs
    assert (row["kind"], row["modality"], row["source"]) == ("packshot", "image", "pairs")
    assert row["licence"] == "not stated" and row["split"] in {"train", "eval"}
    (episode,) = own.as_found([row])
    assert (episode.output, episode.origin, episode.method) == (ROW["output"], "real", "pair")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "packshott"}, "task is 'packshott', which is none of expand, .*packshot; .*--tasks FILE"),
        ({"task": ["packshot"]}, "task is .*, which is none of"),
        ({"modality": "video"}, "modality is 'video', which is none of image"),
        ({"split": "test"}, "split is 'test', which is none of train, eval"),
        ({"licence": 3}, "field 'licence' is no text"),
        ({"output": ""}, "field 'output' is missing or no text"),
    ],
)
def test_a_bad_own_row_is_named_by_file_and_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = write_pairs(tmp_path, ROW, ROW | change)
    with pytest.raises(TrainingError, match=rf"pairs\.jsonl, line 2: {said}"):
        sources.load(None, [path], {"packshot": PACKSHOT})


def test_a_row_without_a_task_is_named(tmp_path: Path) -> None:
    path = write_pairs(tmp_path, {"input": "a", "output": "b"})
    with pytest.raises(TrainingError, match=r"line 1: field 'task' is missing"):
        sources.load(None, [path])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "describes no task"),
        ("[packshot", "can't be read as TOML"),
        (TABLE.replace("packshot", "'Pack shot'"), r"\[Pack shot\]: a task is a table whose name"),
        (TABLE.replace("packshot", "expand"), "Promptdial has a task of that name"),
        (TABLE.replace("example", "sample"), "unknown field 'sample'"),
        (TABLE.replace('"steel bottle"', '" "'), "field 'example' is missing or no text"),
        (TABLE + 'modality = "a photo"', "modality 'a photo' must have a-z"),
        (TABLE + 'modalities = ["video"]', "must be a list that holds modality 'image'"),
    ],
)
def test_a_bad_description_of_a_task_is_named(tmp_path: Path, table: str, said: str) -> None:
    path = tmp_path / "tasks.toml"
    path.write_text(table)
    with pytest.raises(TrainingError, match=said) as error:
        own.read(path)
    assert str(path) in str(error.value)


def test_own_pairs_need_a_file_and_both_sides_of_the_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tasks.toml").write_text(TABLE)
    prepare = ["prepare", "--no-open-data", "--out", str(tmp_path / "out"), "--scorer", str(tiny_bundle())]
    assert main(prepare) == 1
    assert "give --pairs FILE" in capsys.readouterr().err
    prepare += ["--tasks", str(tmp_path / "tasks.toml"), "--pairs"]
    rows = [ROW | {"input": f"bottle number {number}", "split": "train"} for number in range(3)]
    assert main([*prepare, str(write_pairs(tmp_path, *rows))]) == 1
    assert 'mark some with "split": "eval"' in capsys.readouterr().err


def episode(task: str, modality: str, words: int, relevance: float = 0.5) -> Episode:
    return Episode(
        task, modality, "in", "out " * words, "real", "pair", "s", "MIT", "in", "train", relevance, words
    )


def test_only_tasks_and_modalities_with_rows_become_commands() -> None:
    """A request without a modality must find one that there is."""
    rows = [
        *[episode("packshot", "photo", 9)] * 2,
        episode("packshot", "video", 9),
        episode("brief", "video", 9),
    ]
    described = Task("packshot", "d", "h", "e", "image", ("image", "photo", "video"))
    found = own.trained_on(rows, {"packshot": described})
    assert (found.format.tasks, found.format.modalities) == (("brief", "packshot"), ("video", "photo"))
    assert (found.tasks["packshot"].modality, found.tasks["brief"].modality) == ("photo", "video")
    everything = [episode(task, modality, 9) for task in TASK_INFO for modality in DEFAULT_FORMAT.modalities]
    assert own.trained_on(everything, {}) == own.Trained()


def test_what_episodes_were_written_for_is_kept_with_them(tmp_path: Path) -> None:
    trained = own.Trained(CommandFormat(tasks=("packshot",), modalities=("image",)), {"packshot": PACKSHOT})
    assert own.of_episodes(tmp_path) == own.Trained()  # older folders have the usual tasks
    own.write(tmp_path, trained)
    assert own.of_episodes(tmp_path) == trained
    PromptTokenizer.train(["a fox"], 400).save(tmp_path / "tokenizer.json")
    with pytest.raises(
        TrainingError, match=r"doesn't fit the episodes .* run `python -m training tokenizer`"
    ):
        checkpoint.learnt_tokenizer(tmp_path)


def test_a_start_keeps_its_tokens_and_gets_new_ones_for_own_tasks() -> None:
    before = checkpoint.load_tokenizer(tiny_checkpoint())
    after = checkpoint.load_tokenizer(
        tiny_checkpoint(), CommandFormat(tasks=("packshot",), modalities=("photo",))
    )
    assert after.format.tasks == (*DEFAULT_FORMAT.tasks, "packshot")
    assert after.format.modalities == (*DEFAULT_FORMAT.modalities, "photo")
    added = [token for token in after.format.special_tokens() if token not in before.format.special_tokens()]
    assert sorted(map(after.token_id, added)) == [before.vocabulary, before.vocabulary + 1]
    assert after.encode(added[0]) == before.encode(added[0])  # plain text, as ever
    assert after.special_ids > before.special_ids


def test_the_supported_range_reaches_as_far_as_buckets_with_30_rows() -> None:
    """It ended at the 95th percentile of all lengths: `expand` at 98 words, though hundreds of rows had 120."""
    rows = [
        episode("expand", "image", words) for words in (*[20] * 3000, *[120] * 40, *[121] * 40, *[300] * 29)
    ]
    found = support.of([*rows, *[episode("expand", "image", 5)] * 29])["expand"]
    assert found["length"] == {"p05": 20, "p50": 20, "p95": 20, "low": 20, "high": 121, "count": 3138}
    assert [cell["length"] for cell in found["cells"]] == [20, 125]
    few = support.of([episode("tags", "image", words) for words in range(1, 21)])["tags"]
    assert few["cells"] == [] and "low" not in few["length"]


def test_rows_that_a_recipe_leaves_out_support_nothing() -> None:
    tokenizer = PromptTokenizer.train(["a red fox rests in deep snow"] * 3, 400)
    rows = [episode("expand", "image", words) for words in (5, 500)]
    assert [kept.words for kept, _ in batches.fitting(rows, tokenizer, DataRecipe(50, 50))] == [5]
    assert batches.fitting(rows, tokenizer, DataRecipe(50, 50, repeat={"s": 0})) == []
