"""A bundle is served whole or not at all, and the refusal names the file and the remedy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptdial.bundle import Bundle, load_bundle
from promptdial.command import DEFAULT_FORMAT
from promptdial.errors import BundleError
from tests.tiny import tiny_bundle


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle(), tmp_path / "bundle"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_a_bundle_tells_what_it_holds() -> None:
    bundle = load_bundle(tiny_bundle())
    assert (bundle.name, bundle.precision, bundle.format) == ("tiny", "int8", DEFAULT_FORMAT)
    assert bundle.decoder_path.name == "decoder.int8.onnx"
    assert bundle.prefill_path is not None
    assert bundle.prefill_path.name == "prefill.int8.onnx"
    assert list(bundle.tasks) == list(DEFAULT_FORMAT.tasks)
    assert bundle.architecture.layers == 2
    assert bundle.architecture.parameters > 0
    assert bundle.limits.max_input_tokens == 120
    assert bundle.sampling == {
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 40,
        "min_p": 0.0,
        "no_repeat": 0,
        "length_tolerance": 0.0,
        "redraws": 0,
        "max_surprisal": 0.0,
    }
    assert bundle.support.default_length("expand") == 12
    assert bundle.scorer().score(["a"], ["a"])[0] > 0.99
    assert len(bundle.version) == 12


def test_the_version_follows_the_content(copy: Path) -> None:
    before = load_bundle(copy).version
    assert before == load_bundle(tiny_bundle()).version
    edit(copy, lambda manifest: manifest.update(metrics={"changed": 1}))
    assert load_bundle(copy).version != before


@pytest.mark.parametrize(
    "name",
    [
        "bundle.json",
        "decoder.int8.onnx",
        "prefill.int8.onnx",
        "weights.int8.bin",
        "tokenizer.json",
        "scorer.onnx",
        "scorer_tokenizer.json",
        "MODEL_CARD.md",
    ],
)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name}.* (is missing|missing)") as refused:
        load_bundle(copy)
    assert "export" in str(refused.value)


@pytest.mark.parametrize("name", ["decoder.int8.onnx", "tokenizer.json", "scorer.onnx"])
def test_a_file_that_was_cut_short_is_named(copy: Path, name: str) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match=f"{name} is damaged: it has"):
        load_bundle(copy, verify=False)


@pytest.mark.parametrize("name", ["decoder.int8.onnx", "scorer_tokenizer.json", "MODEL_CARD.md"])
def test_one_changed_byte_is_found_by_the_hash(copy: Path, name: str) -> None:
    raw = bytearray((copy / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / name).write_bytes(raw)
    with pytest.raises(BundleError, match=f"{name} is damaged: its SHA-256"):
        load_bundle(copy)


def test_another_format_version_is_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.update(format_version=2))
    with pytest.raises(BundleError, match="format_version 2, this version of Promptdial reads 1"):
        load_bundle(copy)


@pytest.mark.parametrize("raw", [b"{", b"[]", b'"x"', b"\xff\xfe", b""])
def test_a_manifest_that_is_no_manifest_is_refused(copy: Path, raw: bytes) -> None:
    (copy / "bundle.json").write_bytes(raw)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        load_bundle(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("limits"),
        lambda manifest: manifest.update(limits={"max_tokens": 3}),
        lambda manifest: manifest.update(architecture=[]),
        lambda manifest: manifest.update(support={"expand": 1}),
        lambda manifest: manifest.update(tasks={"expand": {"unknown": 1}}),
        lambda manifest: manifest["files"].pop("tokenizer.json"),
        lambda manifest: manifest["files"].pop("scorer.onnx"),
        lambda manifest: manifest["files"].pop("scorer_tokenizer.json"),
        lambda manifest: manifest["files"].pop("decoder.int8.onnx"),
        lambda manifest: manifest.update(files=None),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest["files"].update({"tokenizer.json": None}),
        lambda manifest: manifest["files"]["tokenizer.json"].pop("bytes"),
        lambda manifest: manifest["files"]["tokenizer.json"].pop("sha256"),
        lambda manifest: manifest["files"]["tokenizer.json"].update(bytes="7"),
        lambda manifest: manifest.update(name=None),
        lambda manifest: manifest.update(decoder="decoder.int8.onnx"),
        lambda manifest: manifest["decoder"].pop("file"),
        lambda manifest: manifest["decoder"].pop("precision"),
        lambda manifest: manifest["decoder"].update(file=7),
        lambda manifest: manifest["decoder"].update(file="/etc/passwd"),
        lambda manifest: manifest["command"].pop("tasks"),
        lambda manifest: manifest["command"].update(relevance_buckets=[]),
        lambda manifest: manifest["limits"].update(max_tokens="120"),
        lambda manifest: manifest["limits"].update(max_tokens=0),
        lambda manifest: manifest["limits"].update(max_input_tokens=True),
        lambda manifest: manifest["architecture"].update(layers=-1),
        lambda manifest: manifest["architecture"].update(layers=2.0),
        lambda manifest: manifest.update(sampling={}),
        lambda manifest: manifest.update(sampling=None),
        lambda manifest: manifest["sampling"].update(temperature=-1),
        lambda manifest: manifest["sampling"].update(temperature="warm"),
        lambda manifest: manifest["sampling"].update(top_p=0),
        lambda manifest: manifest["sampling"].update(top_k=65),
        lambda manifest: manifest["sampling"].update(min_p=1.1),
        lambda manifest: manifest["sampling"].update(redraws=-1),
        lambda manifest: manifest["sampling"].update(max_surprisal=-0.5),
        lambda manifest: manifest["sampling"].update(typical_p=0.1),
        lambda manifest: manifest["support"]["expand"]["cells"][0].update(length=0),
        lambda manifest: manifest["support"]["expand"]["length"].update(p05="3"),
        lambda manifest: manifest.update(metrics=[]),
        lambda manifest: manifest.update(golden=None),
        lambda manifest: manifest.update(golden=[]),
        lambda manifest: manifest["golden"][0].pop("task"),
        lambda manifest: manifest["golden"][0].update(task="sing"),
        lambda manifest: manifest["golden"][0].update(relevance="high"),
        lambda manifest: manifest["golden"][0].update(relevance=2),
        lambda manifest: manifest["golden"][0].update(length=0),
        lambda manifest: manifest["golden"][0].update(input=None),
        lambda manifest: manifest["golden"][0].update(ids=None),
    ],
)
def test_a_manifest_with_a_broken_field_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(copy, change)
    with pytest.raises(BundleError, match=r"bundle\.json is damaged.*export the bundle again"):
        load_bundle(copy)


def test_golden_ids_that_differ_are_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["golden"][0]["ids"].append(1))
    with pytest.raises(
        BundleError, match=r"tokenizer\.json: golden token ids differ.*Export the checkpoint again"
    ):
        load_bundle(copy)


def test_a_command_format_that_the_tokenizer_lacks_is_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["command"]["length_buckets"].append(5000))
    with pytest.raises(
        BundleError, match=r"tokenizer\.json is damaged: the tokenizer lacks 1 control tokens"
    ):
        load_bundle(copy)


def test_golden_ids_are_what_the_tokenizer_gives_for_awkward_inputs_too() -> None:
    bundle = load_bundle(tiny_bundle())
    tokenizer = bundle.tokenizer()
    inputs = {row["input"] for row in bundle.manifest["golden"]}
    assert any("<end>" in text for text in inputs)
    assert "" in inputs
    for row in bundle.manifest["golden"]:
        assert not set(row["ids"][4:-1]) & tokenizer.special_ids
        assert row["ids"][-1] == tokenizer.out_id


def test_a_bundle_without_hash_check_still_checks_the_rest(copy: Path) -> None:
    assert isinstance(load_bundle(copy, verify=False), Bundle)


def test_the_library_needs_only_numpy_onnxruntime_and_tokenizers() -> None:
    program = (
        "import json, sys; before = set(sys.modules); "
        "import promptdial.bundle, promptdial.engine, promptdial.relevance, promptdial.support; "
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(json.dumps(sorted(loaded - set(sys.stdlib_module_names))))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    loaded = {name for name in json.loads(out) if not name.startswith("_")}
    assert {"numpy", "onnxruntime", "tokenizers", "promptdial"} <= loaded
    assert not loaded & {"torch", "transformers", "onnx", "fastapi", "pydantic", "safetensors"}
