"""Export: what it refuses, what it leaves behind, and the way back from a bundle to a checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
)

from export.__main__ import main
from export.bundle import export_bundle, update_manifest
from export.calibration import best_steps, calibrate, round_trip
from export.checkpoint import read_checkpoint
from export.onnx_graph import MICROSOFT, GraphWriter, tensor
from export.quantization import (
    block_size,
    dequantize_blocks,
    quantize_blocks,
    quantize_channels,
    quantize_rows,
)
from export.restore import restore_model
from promptdial.bundle import PHRASES_FILE, Bundle, load_bundle
from promptdial.engine import Engine, GenerationRequest, Sampling
from promptdial.engine.decoder import Decoder
from promptdial.engine.phrases import Phrases
from promptdial.errors import ExportError
from tests.tiny import make_checkpoint, scorer_folder, tiny_bundle, tiny_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint(), tmp_path / "checkpoint"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def refused(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says about a checkpoint that it must refuse, leaving nothing behind."""
    target = checkpoint.parent / "bundle"
    assert main([str(checkpoint), str(target), "--scorer", str(scorer_folder())]) == 1
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "promptdial.json"])
def test_a_missing_file_of_a_checkpoint_is_named(
    checkpoint: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint / name).unlink()
    assert f"it has no {name}" in refused(checkpoint, capsys)


def test_a_checkpoint_of_another_architecture_is_refused(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = GPTNeoConfig(
        vocab_size=64, hidden_size=32, num_layers=1, num_heads=2, attention_types=[[["global"], 1]]
    )
    model = GPTNeoForCausalLM(config)
    model.save_pretrained(checkpoint)
    assert "GPTNeoForCausalLM; only GPT2LMHeadModel can be exported" in refused(checkpoint, capsys)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("activation_function", "relu"),
        ("scale_attn_by_inverse_layer_idx", True),
        ("tie_word_embeddings", False),
        ("add_cross_attention", True),
        ("layer_norm_epsilon", 1e-6),
    ],
)
def test_a_gpt_2_that_computes_otherwise_is_refused(
    checkpoint: Path, field: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(checkpoint / "config.json", lambda config: config.update({field: value}))
    assert f"{field} is {value!r}" in refused(checkpoint, capsys)


def test_damaged_parts_of_a_checkpoint_are_named(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(whole[:-1000])
    assert "model.safetensors can't be loaded" in refused(checkpoint, capsys)
    (checkpoint / "model.safetensors").write_bytes(whole)
    edit(checkpoint / "promptdial.json", lambda data: data["command"]["tasks"].append("sing"))
    assert "promptdial.json and tokenizer.json don't fit together" in refused(checkpoint, capsys)
    (checkpoint / "promptdial.json").write_text("{", encoding="utf-8")
    assert "promptdial.json is not JSON" in refused(checkpoint, capsys)


def test_limits_that_the_positions_cannot_hold_are_refused(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"max_input_tokens": 200, "max_tokens": 100}
    edit(checkpoint / "promptdial.json", lambda data: data.update(limits=limits))
    assert "need 304 positions, the model has 256" in refused(checkpoint, capsys)


def test_a_graph_that_differs_from_pytorch_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parity check must be able to fail: here the graph's layer norms have another epsilon."""
    monkeypatch.setattr("export.graph.EPSILON", 0.5)
    with pytest.raises(ExportError, match="differs from transformers"):
        export_bundle(checkpoint, checkpoint.parent / "bundle", scorer=scorer_folder())
    assert not (checkpoint.parent / "bundle").exists()


def test_a_failed_export_leaves_the_bundle_that_was_there(checkpoint: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(tiny_bundle(), tmp_path / "bundle"))
    version = load_bundle(target).version
    with pytest.raises(ExportError, match=r"has no scorer\.onnx"):
        export_bundle(checkpoint, target, scorer=tmp_path)
    assert load_bundle(target).version == version
    export_bundle(checkpoint, target, name="newer", scorer=scorer_folder())
    assert load_bundle(target).name == "newer"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "checkpoint"]


def test_a_folder_that_is_no_bundle_is_not_overwritten(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = checkpoint.parent / "precious"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert main([str(checkpoint), str(target)]) == 1
    assert "is no bundle: it will not be overwritten" in capsys.readouterr().err
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]
    assert main([str(checkpoint), str(target / "thesis.txt")]) == 1
    assert "thesis.txt is a file: name a folder" in capsys.readouterr().err
    assert (target / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_the_command_line_exports_and_prints_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "models" / "new"
    options = ["--precision", "fp32", "--name", "new", "--scorer", str(scorer_folder()), "--hf-checkpoint"]
    assert main([str(tiny_checkpoint()), str(target), *options]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["model"] == f"new@{load_bundle(target).version}"
    assert summary["parity"]["fp32"]["prompts"] >= 100
    weights = load_file(target / "checkpoint" / "model.safetensors")
    assert all(value.dtype == torch.float16 for value in weights.values())
    assert (target / "checkpoint" / "promptdial.json").is_file()


def test_the_model_card_states_data_licences_attribution_and_limits() -> None:
    card = (tiny_bundle() / "MODEL_CARD.md").read_text(encoding="utf-8")
    for needed in (
        "| tests | 7 | 2 | Apache-2.0 | written for these tests |",
        "validation_loss: 6.4",
        "What it can't do",
    ):
        assert needed in card


def test_metrics_can_be_added_later_and_reach_the_card(tmp_path: Path) -> None:
    target = Path(shutil.copytree(tiny_bundle(), tmp_path / "bundle"))
    bundle = update_manifest(target, metrics={"copy_rate": 0.125}, calibration={"expand": []})
    assert bundle.manifest["metrics"] == {"copy_rate": 0.125}
    assert "copy_rate: 0.125" in (target / "MODEL_CARD.md").read_text(encoding="utf-8")
    with pytest.raises(ExportError, match="golden of a bundle can't be changed"):
        update_manifest(target, golden=[])


def test_validation_rows_of_the_checkpoint_are_what_parity_is_measured_on(checkpoint: Path) -> None:
    rows = [[[5, 6, 7, 8, 1], [20 + index, 21, 2]] for index in range(130)]
    edit(checkpoint / "promptdial.json", lambda data: data.update(validation=rows))
    bundle = export_bundle(checkpoint, checkpoint.parent / "bundle", scorer=scorer_folder())
    int8, fp32 = bundle.manifest["parity"]["int8"], bundle.manifest["parity"]["fp32"]
    # Every fourth row calibrates instead.
    assert (int8["rows"], int8["real_rows"], int8["made_rows"], int8["tokens"]) == (97, 97, 0, 291)
    assert (fp32["prompts"], fp32["real_prompts"], fp32["made_prompts"]) == (120, 120, 0)


def test_made_prompts_fill_up_the_greedy_check_and_never_the_int8_figures(checkpoint: Path) -> None:
    """Of three real rows one leaves too few positions for the tokens that the greedy check generates."""
    rows = [[[5, 6, 7, 8, 1], [20, 21, 2]], [[5, 6, 7, 9, 1], [20, 2]], [[5, 6, 7, 8, *[20] * 240, 1], [2]]]
    edit(checkpoint / "promptdial.json", lambda data: data.update(validation=rows))
    bundle = export_bundle(checkpoint, checkpoint.parent / "bundle", scorer=scorer_folder())
    int8, fp32 = bundle.manifest["parity"]["int8"], bundle.manifest["parity"]["fp32"]
    assert (fp32["prompts"], fp32["real_prompts"], fp32["made_prompts"]) == (120, 2, 118)
    assert (int8["rows"], int8["real_rows"], int8["made_rows"], int8["tokens"]) == (3, 3, 0, 6)


def test_a_checkpoint_without_validation_rows_says_that_its_int8_figures_are_of_made_ones() -> None:
    int8 = load_bundle(tiny_bundle()).manifest["parity"]["int8"]
    assert (int8["real_rows"], int8["made_rows"]) == (0, int8["rows"])


def test_an_export_with_too_few_prompts_for_parity_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.parity.NEW_TOKENS", 253)
    with pytest.raises(ExportError, match="0 prompts fit into the model's 256 positions"):
        export_bundle(checkpoint, checkpoint.parent / "bundle", scorer=scorer_folder())


def test_other_sizes_of_gpt_2_export_too(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "wide", layers=3, heads=4, width=96, seed=2)
    bundle = export_bundle(source, tmp_path / "bundle", scorer=scorer_folder())
    assert (bundle.architecture.layers, bundle.architecture.head_dim) == (3, 24)


def test_a_width_that_int4_blocks_do_not_divide_is_refused(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "odd", heads=1, width=24)
    with pytest.raises(ExportError, match="int4 needs a number of inputs that 32 divides, not 24"):
        export_bundle(source, tmp_path / "bundle", precision="int4", scorer=scorer_folder())


@pytest.mark.parametrize(
    ("precision", "step"), [("fp32", 0.0), ("fp16", 0.1), ("int8", 1.01), ("int4", 40.0)]
)
def test_a_bundle_gives_its_weights_back(precision: str, step: float) -> None:
    """To within ``step`` of a 127th of a matrix' largest weight: int8 leaves room for sums of two, int4 clips."""
    trained = GPT2LMHeadModel.from_pretrained(tiny_checkpoint()).state_dict()
    restored = restore_model(load_bundle(tiny_bundle(precision))).state_dict()
    assert trained.keys() == restored.keys()
    for name, value in trained.items():
        bound = step * float(value.abs().max()) / 127
        assert float((restored[name] - value).abs().max()) <= bound, name


def greedy(bundle: Bundle, prompt: Sequence[int], max_tokens: int) -> list[int]:
    # Without `characters`: transformers breaks them off, and the toy model says parts of them.
    engine = Engine(Decoder.from_bundle(bundle, threads=1, slots=2), bundle.tokenizer().end_id)
    engine.start()
    try:
        request = GenerationRequest(tuple(prompt), max_tokens=max_tokens, sampling=Sampling(temperature=0.0))
        return engine.submit(request).result(60).candidates[0][0]
    finally:
        engine.close()


@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_transformers_loads_the_exported_folder_and_writes_what_the_engine_writes(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_bundle(tiny_bundle("fp32"))
    source = {"checkpoint": tiny_checkpoint(), "bundle": bundle.path}[kind]
    for _ in range(2):  # the second time it replaces its own folder
        assert main([str(source), "--hf-export", str(tmp_path / "hf")]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf", local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", local_files_only=True).eval()
    assert next(model.parameters()).dtype == torch.float32
    for golden in bundle.golden[::7]:
        if "<" in golden.input:
            continue  # here control tokens in an input count, in the service they don't
        ids = tokenizer(bundle.format.as_text(golden.command, golden.input))["input_ids"]
        assert ids == golden.ids
        ours = greedy(bundle, ids, 24)
        told = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        theirs = model.generate(**told, do_sample=False, max_new_tokens=24)[0, len(ids) :].tolist()
        assert [token for token in theirs if token != tokenizer.eos_token_id] == ours
        text = tokenizer.decode(theirs, skip_special_tokens=True).strip()
        assert text == bundle.tokenizer().decode(ours)
    assert capsys.readouterr().err.count("error") == 0


def test_sampling_and_control_tokens_travel_with_the_folder(tmp_path: Path) -> None:
    assert main([str(tiny_checkpoint()), "--hf-export", str(tmp_path / "hf")]) == 0
    found = GenerationConfig.from_pretrained(tmp_path / "hf")
    assert (found.temperature, found.top_p, found.top_k, found.max_new_tokens) == (0.8, 0.95, 40, 120)
    tokenizer = load_bundle(tiny_bundle()).tokenizer()
    assert set(found.suppress_tokens) == tokenizer.special_ids - {tokenizer.end_id}


def test_a_folder_that_is_not_its_own_is_not_overwritten(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint of training, for one, which holds more than the export would write."""
    assert main([str(tiny_bundle()), "--hf-export", str(checkpoint)]) == 1
    assert "is no folder of an earlier --hf-export" in capsys.readouterr().err
    assert main([str(checkpoint.parent / "nothing"), "--hf-export", str(checkpoint.parent / "hf")]) == 1
    assert "nothing is no checkpoint" in capsys.readouterr().err
    assert not (checkpoint.parent / "hf").exists()


def test_a_restored_checkpoint_exports_to_a_bundle_that_says_the_same(tmp_path: Path) -> None:
    assert main([str(tiny_bundle()), "--hf-export", str(tmp_path / "restored")]) == 0
    again = export_bundle(tmp_path / "restored", tmp_path / "bundle", scorer=scorer_folder())
    prompt = (5, 30, 60, 62, 300, 301, 1)
    assert greedy(load_bundle(tiny_bundle()), prompt, 20) == greedy(again, prompt, 20)


def test_the_words_of_training_travel_with_the_bundle_and_back(checkpoint: Path, tmp_path: Path) -> None:
    assert load_bundle(tiny_bundle()).words() == []  # an older checkpoint has none
    edit(checkpoint / "promptdial.json", lambda details: details.update(words="fox m\u00e9e snow"))
    bundle = export_bundle(checkpoint, tmp_path / "bundle", scorer=scorer_folder())
    assert bundle.words() == ["fox", "m\u00e9e", "snow"]
    assert main([str(bundle.path), "--hf-export", str(tmp_path / "restored")]) == 0
    assert read_checkpoint(tmp_path / "restored").words == bundle.words()


def test_the_phrases_of_training_travel_with_the_bundle_and_back(checkpoint: Path, tmp_path: Path) -> None:
    assert load_bundle(tiny_bundle()).phrases() is None  # an older checkpoint has none
    phrases = Phrases.of({"a fox"}, {"side"}, {"the"})
    (checkpoint / PHRASES_FILE).write_bytes(phrases.to_bytes())
    bundle = export_bundle(checkpoint, tmp_path / "bundle", scorer=scorer_folder(), hf_checkpoint=True)
    assert bundle.phrases() == phrases
    again = export_bundle(bundle.path / "checkpoint", tmp_path / "again", scorer=scorer_folder())
    assert again.phrases() == phrases
    assert main([str(again.path), "--hf-export", str(tmp_path / "restored")]) == 0
    assert (tmp_path / "restored" / PHRASES_FILE).read_bytes() == phrases.to_bytes()


def test_quantized_weights_come_back_within_half_a_step() -> None:
    weight = np.random.default_rng(0).normal(size=(256, 48)).astype(np.float32)
    table, scales = quantize_channels(weight)
    assert np.abs(table * scales - weight).max() <= scales.max() * 0.5001
    whole, by_row = quantize_rows(weight)
    assert np.abs(whole * by_row - weight).max() <= by_row.max() * 0.5001
    assert np.all(quantize_channels(np.zeros((4, 2), np.float32))[0] == 0)


def test_four_bits_keep_a_weight_to_a_step_and_clip_less_than_they_gain() -> None:
    weight = np.random.default_rng(0).normal(size=(48, 256)).astype(np.float32)
    table, scales = quantize_blocks(weight, 64)
    assert table.shape == (48, 4, 32)
    error = dequantize_blocks(table, scales) - weight
    naive = np.abs(weight.reshape(48, 4, 64)).max(axis=-1, keepdims=True) / 7
    plain = np.round(weight.reshape(48, 4, 64) / naive) * naive - weight.reshape(48, 4, 64)
    assert np.square(error).mean() < 0.8 * np.square(plain).mean()
    assert np.all(dequantize_blocks(*quantize_blocks(np.zeros((2, 32), np.float32), 32)) == 0)
    assert [block_size(width) for width in (768, 192, 96, 24)] == [64, 64, 32, None]


def test_no_pair_of_bytes_overflows_in_16_bits() -> None:
    """CPUs without VNNI add products of neighbours in 16 bits: the worst activations must give exact sums."""
    weight = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32)
    weight[10:12, 0] = weight[20:22, 1] = [9.0, 8.9]
    weight[30:32, 2] = [-9.0, -8.9]
    table, _ = quantize_channels(weight)
    graph = GraphWriter()
    operands = [
        "x",
        graph.constant("w", table),
        graph.constant("one", np.array(1, np.float32)),
        graph.constant("scales", np.ones(64, np.float32)),
        graph.constant("zero", np.array(0, np.uint8)),
    ]
    graph.node("MatMulIntegerToFloat", operands, "y", MICROSOFT)
    model = graph.model(
        "product",
        [tensor("x", TensorProto.UINT8, ["rows", 256])],
        [tensor("y", TensorProto.FLOAT, ["rows", 64])],
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = np.where(table.T > 0, 255, 0).astype(np.uint8)  # each column's worst input, and its opposite
    rows = np.concatenate([rows, 255 - rows])
    assert np.array_equal(session.run(None, {"x": rows})[0], rows.astype(np.int64) @ table.astype(np.int64))


def test_steps_clip_a_rare_outlier_and_keep_zero_exact() -> None:
    values = np.random.default_rng(0).normal(size=150_000).astype(np.float32)
    values[0] = 12.0
    steps = best_steps(values)
    assert steps.scale * 255 < 0.9 * (values.max() - values.min())
    assert round_trip(np.zeros(1, np.float32), steps)[0] == 0
    common = values[np.abs(values) < 3]
    assert np.abs(round_trip(common, steps) - common).max() <= steps.scale * 0.5001


def test_calibration_watches_every_matrix_and_every_channel_of_the_cache(checkpoint: Path) -> None:
    model = read_checkpoint(checkpoint).model
    found = calibrate(model, [([5, 6, 7, 8], [20, 21]), ([9, 30], [31, 2])])
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert set(found.inputs) == {"wte", *(f"h.{layer}.{part}" for layer in range(2) for part in parts)}
    assert [scales.shape for scales in (*found.keys, *found.values)] == [(64,)] * 4
