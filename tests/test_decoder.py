"""The decoder alone: rows that don't touch each other, prompts in pieces, a cache that grows, other devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

from promptdial.bundle import load_bundle
from promptdial.engine.cached import CachedGraph, Top
from promptdial.engine.decoder import FIXED_PIECE, Decoder, open_session
from promptdial.engine.memory import Memory
from promptdial.errors import DeviceError
from tests.tiny import tiny_bundle

PRECISIONS = ("fp32", "fp16", "int8", "int4")


def make(precision: str = "int8", **options: Any) -> Decoder:
    bundle = load_bundle(tiny_bundle(precision))
    return Decoder.from_bundle(bundle, **{"threads": 1, "slots": 4, **options})


def prompt(count: int, start: int = 40) -> list[int]:
    return [start + index * 7 % 500 for index in range(count)]


def follow(decoder: Decoder, row: int, tokens: list[int]) -> list[bytes]:
    """Logits of each step when a row alone, row 0, reads tokens one by one after a prompt of 6."""
    assert row == 0
    decoder.prefill(row, prompt(6))
    return [decoder.decode([token], [6 + step]).logits.tobytes() for step, token in enumerate(tokens)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_has_the_same_bits_alone_and_at_every_size_and_place_of_a_batch(precision: str) -> None:
    decoder = make(precision)
    alone = follow(decoder, 0, [50, 60, 70])
    for size in (2, 3, 4):
        for place in range(size):
            for row in range(size):
                decoder.prefill(row, prompt(6) if row == place else prompt(3 + row, 90))
            lengths = [6 if row == place else 3 + row for row in range(size)]
            for step, token in enumerate((50, 60, 70)):
                tokens = [token if row == place else 99 for row in range(size)]
                top = decoder.decode(tokens, [length + step for length in lengths])
                assert top.logits[place].tobytes() == alone[step], (size, place, step)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_prompt_in_pieces_gives_what_it_gives_whole(precision: str) -> None:
    decoder = make(precision)
    whole = decoder.prefill(0, prompt(100)).logits.copy()
    for size in decoder.pieces:
        for past in range(0, 100, size):
            top = decoder.prefill(decoder.staging, prompt(100)[past : past + size], past)
        if decoder.cuts_freely:
            assert top.logits.tobytes() == whole.tobytes()
        assert top.logits == pytest.approx(whole, abs=0.05)


def test_pieces_are_fixed_where_the_cut_shows() -> None:
    decoder = make()
    decoder.cuts_freely = True
    assert len(decoder.pieces) > 1
    decoder.cuts_freely = False
    assert decoder.pieces == (FIXED_PIECE,)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_graph_for_prompts_fills_the_cache_as_the_one_for_steps_would(precision: str) -> None:
    """Both graphs hold the same weights, and the second takes over what the first has read."""
    bundle = load_bundle(tiny_bundle(precision))
    alone = Decoder(bundle.decoder_path, bundle.architecture, threads=1, slots=4)
    both = make(precision)
    for decoder in (alone, both):
        decoder.prefill(0, prompt(20))
        decoder.prefill(1, prompt(9, 70))
    # 8 bits of the cache, and for int4 also of the weights, are rounded at other places.
    close = {"int8": 0.1, "int4": 0.4}[precision]
    for step, token in enumerate((50, 60, 70)):
        found, wanted = [each.decode([token] * 2, [20 + step, 9 + step]) for each in (both, alone)]
        assert np.sort(found.logits) == pytest.approx(np.sort(wanted.logits), abs=close)
        assert len(set(found.ids[0][:20]) & set(wanted.ids[0][:20])) >= 15


def test_pieces_of_two_prompts_cant_be_mixed() -> None:
    decoder = make()
    decoder.prefill(0, prompt(8))
    decoder.prefill(1, prompt(8, 70))
    with pytest.raises(AssertionError, match="out of order"):
        decoder.prefill(0, prompt(8), 8)


def test_the_probe_finds_rows_that_depend_on_the_size_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder whose last odd row is off by one bit, as some kernels' is, runs in pairs from then on."""
    decoder = make()
    plain = CachedGraph.run

    def odd(self: CachedGraph, row: int, rows: int, tokens: int) -> Top:
        top = plain(self, row, rows, tokens)
        if rows % 2 and tokens == 1:
            top.logits[rows - 1] = np.nextafter(top.logits[rows - 1], np.inf)
        return top

    assert decoder._rows_are_apart()
    monkeypatch.setattr(CachedGraph, "run", odd)
    assert not decoder._rows_are_apart()
    decoder.in_pairs = True
    assert decoder._rows_are_apart()


def test_the_cache_grows_with_need_up_to_its_bound_and_keeps_what_it_holds() -> None:
    decoder, roomy = make(), make()
    roomy.prefill(3, prompt(200))  # grown from the start
    for each in (decoder, roomy):
        each.prefill(0, prompt(6))
        each.prefill(1, prompt(20, 70))
    assert (decoder.allocated, roomy.allocated) == (128, 256)
    small = decoder.cache_bytes
    decoder.prefill(2, prompt(200))
    assert (decoder.allocated, decoder.cache_bytes) == (256, 2 * small)
    found, wanted = [each.decode([50, 60], [6, 20]).logits.tobytes() for each in (decoder, roomy)]
    assert found == wanted


def test_the_cache_never_grows_past_the_bound_that_was_asked_for() -> None:
    decoder = make(capacity=150)
    decoder.prefill(0, prompt(140))
    assert (decoder.capacity, decoder.allocated) == (150, 150)
    assert make(capacity=100_000).capacity == 256


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("fp16", 2), ("int8", 1), ("int4", 1)])
def test_the_cache_has_the_type_of_the_graph(precision: str, size: int) -> None:
    decoder = make(precision)
    # 4 slots and staging; 2 layers of keys and values; 2 heads of 32; the prompt being read is held in fp32
    reading = 4 if size == 1 else 0
    assert decoder.cache_bytes == (5 * size + reading) * 2 * 2 * 2 * 32 * 128


def test_a_copied_row_goes_on_like_the_one_it_was_copied_from() -> None:
    decoder = make()
    decoder.prefill(decoder.staging, prompt(12))
    decoder.copy_row(decoder.staging, 0, 12)
    decoder.copy_row(0, 1, 12)
    top = decoder.decode([50, 50], [12, 12])
    assert top.logits[0].tobytes() == top.logits[1].tobytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_leaving_a_core_to_others_changes_the_threads_and_no_bit(precision: str) -> None:
    decoder = make(precision, threads=2)
    alone = follow(decoder, 0, [50, 60, 70])
    threads = set()
    for room in (True, False):
        decoder.make_room(room)
        threads.add(decoder._steps.session.get_session_options().intra_op_num_threads)
        assert follow(decoder, 0, [50, 60, 70]) == alone
    assert threads == {1, 2}


def test_a_cache_in_device_memory_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on a graphics card, with the CPU provider: OrtValues, copies by graph, inputs bound anew."""
    plain = make("fp16")

    def on_device(self: Memory, device: str, providers: list[str]) -> None:
        build(self, "cuda", providers)
        self.device = "cpu"

    build = Memory.__init__
    monkeypatch.setattr(Memory, "__init__", on_device)
    decoder = make("fp16")
    assert decoder.allocated == decoder.capacity == 256
    assert follow(decoder, 0, [50, 60]) == follow(plain, 0, [50, 60])
    for each in (decoder, plain):
        each.prefill(each.staging, prompt(9))
        each.copy_row(each.staging, 1, 9)
    found, wanted = [each.decode([50, 60], [8, 9]).logits.tobytes() for each in (decoder, plain)]
    assert found == wanted


def test_cuda_is_refused_where_this_onnx_runtime_has_none() -> None:
    path = load_bundle(tiny_bundle()).decoder_path
    with pytest.raises(DeviceError, match=r"has no CUDAExecutionProvider: install promptdial\[gpu\]"):
        open_session(path, 1, "cuda")


def test_cuda_that_onnx_runtime_silently_leaves_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    path = load_bundle(tiny_bundle()).decoder_path
    on_cpu = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: on_cpu)
    with pytest.raises(DeviceError, match="could not be started here"):
        open_session(path, 1, "cuda")
