"""The engine on a tiny real bundle: equal to transformers, the same in any company, honest in failure."""

from __future__ import annotations

import re
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from promptdial.bundle import Bundle, load_bundle
from promptdial.command import Command
from promptdial.engine import (
    Done,
    Engine,
    Event,
    Failed,
    Finished,
    Generation,
    GenerationRequest,
    Sampling,
    Token,
)
from promptdial.engine.cached import Top
from promptdial.engine.decoder import Decoder
from promptdial.engine.estimate import Speed
from promptdial.engine.length import Words
from promptdial.engine.scheduler import RETRY_S, Scheduler
from promptdial.engine.spelling import Spelling
from promptdial.errors import (
    BundleError,
    Cancelled,
    DeadlineExceeded,
    DeviceError,
    EngineError,
    InputTooLong,
    InvalidRequest,
    Overloaded,
    PromptdialError,
    Unavailable,
)
from tests.tiny import SENTENCES, tiny_bundle, tiny_checkpoint

GREEDY = Sampling(temperature=0.0)
WARM = Sampling(temperature=1.0, top_p=0.95, top_k=40)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(tiny_bundle())


@contextmanager
def running(
    bundle: Bundle, *, slots: int = 8, queue_limit: int = 256, max_running: int = 1
) -> Iterator[Engine]:
    engine = Engine.from_bundle(
        bundle, threads=1, slots=slots, queue_limit=queue_limit, max_running=max_running
    )
    engine.start()
    try:
        yield engine
    finally:
        assert engine.close()


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Iterator[Engine]:
    with running(bundle) as engine:
        yield engine


class Gate(Decoder):
    """The real decoder, whose decode steps wait for the test or fail when it says so."""

    def __init__(self, bundle: Bundle) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.failures = 0
        super().__init__(bundle.decoder_path, bundle.architecture, threads=1, slots=4)

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Top:
        self.entered.set()
        assert self.open.wait(30)
        if self.failure is not None:
            self.failures += 1
            raise self.failure
        return super().decode(tokens, lengths)


@contextmanager
def gated(bundle: Bundle, queue_limit: int = 8, max_running: int = 1) -> Iterator[tuple[Engine, Gate]]:
    gate = Gate(bundle)
    engine = Engine(gate, bundle.tokenizer().end_id, queue_limit=queue_limit, max_running=max_running)
    engine.start()
    gate.entered.clear()
    try:
        yield engine, gate
    finally:
        gate.failure = None
        gate.open.set()
        assert engine.close()


def prompts(bundle: Bundle, count: int) -> list[tuple[int, ...]]:
    """Prompts of different tasks, targets and lengths."""
    tokenizer, form, rng = bundle.tokenizer(), bundle.format, np.random.default_rng(0)
    words = " ".join(SENTENCES).split()
    made = []
    for index in range(count):
        text = " ".join(rng.choice(words, size=int(rng.integers(1, 25))))
        command = Command(
            form.tasks[index % len(form.tasks)], "image", float(rng.random()), int(rng.integers(1, 100))
        )
        made.append(tuple(tokenizer.prompt(command, text)))
    return made


def eventually(check: Callable[[], bool]) -> None:
    """Wait for a state that another thread brings about."""
    give_up = time.monotonic() + 30
    while not check():
        assert time.monotonic() < give_up
        threading.Event().wait(0.002)


def test_fp32_greedy_tokens_equal_those_of_transformers_on_a_hundred_prompts() -> None:
    bundle = load_bundle(tiny_bundle("fp32"))
    tokenizer = bundle.tokenizer()
    forbidden = sorted(tokenizer.special_ids - {tokenizer.end_id})
    model = GPT2LMHeadModel.from_pretrained(tiny_checkpoint()).eval()
    asked = prompts(bundle, 100)
    decoder = Decoder.from_bundle(bundle, threads=1, slots=8)
    # Without `characters`: transformers breaks them off.
    engine = Engine(decoder, tokenizer.end_id, queue_limit=256, max_running=8)
    engine.start()
    try:
        handles = [
            engine.submit(GenerationRequest(prompt, max_tokens=10, sampling=GREEDY)) for prompt in asked
        ]
        found = [handle.result(60).candidates[0][0] for handle in handles]
    finally:
        assert engine.close()
    for prompt, tokens in zip(asked, found, strict=True):
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=10,
            do_sample=False,
            suppress_tokens=forbidden,
            pad_token_id=tokenizer.pad_id,
        )
        wanted = [token for token in out[0, len(prompt) :].tolist() if token != tokenizer.end_id]
        assert tokens == wanted


def test_200_random_requests_in_a_changing_batch_of_16_say_what_they_say_alone_and_in_pytorch() -> None:
    bundle, rng = load_bundle(tiny_bundle("fp32")), np.random.default_rng(3)
    tokenizer = bundle.tokenizer()
    forbidden = sorted(tokenizer.special_ids - {tokenizer.end_id})
    model = GPT2LMHeadModel.from_pretrained(tiny_checkpoint()).eval()
    requests = [
        GenerationRequest(
            prompt * int(rng.integers(1, 3)), max_tokens=int(rng.integers(20, 60)), sampling=GREEDY
        )
        for prompt in prompts(bundle, 200)
    ]
    batches: list[int] = []
    decoder = Decoder(bundle.decoder_path, bundle.architecture, threads=1, slots=16)
    engine = Engine(
        decoder, tokenizer.end_id, queue_limit=200, on_step=lambda rows, seconds: batches.append(rows)
    )
    engine.start()
    cancelled = set(rng.choice(200, 30, replace=False).tolist())

    def listener(index: int) -> Callable[[Event], None]:
        """Gives the request up after its first token, if it is one of those that do."""
        return lambda event: handles[index].cancel() if index in cancelled else None

    handles: list[Generation] = []
    try:
        for index, request in enumerate(requests):
            handles.append(Generation(request))  # until the engine's own one is there
            handles[index] = engine.submit(request, listener(index))
        crowd = [None if index in cancelled else handle.result(60) for index, handle in enumerate(handles)]
        alone = [
            None if index in cancelled else engine.submit(request).result(60)
            for index, request in enumerate(requests)
        ]
    finally:
        assert engine.close()
    assert max(batches) == 16
    for request, together, single in zip(requests, crowd, alone, strict=True):
        if together is None or single is None:
            continue
        assert together.candidates == single.candidates
        ids = torch.tensor([request.prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=request.max_tokens,
            do_sample=False,
            suppress_tokens=forbidden,
            pad_token_id=tokenizer.pad_id,
        )
        wanted = [token for token in out[0, len(request.prompt) :].tolist() if token != tokenizer.end_id]
        assert together.candidates[0][0] == wanted


def test_memory_is_flat_over_10_000_requests_of_mixed_length(bundle: Bundle) -> None:
    asked, sizes = prompts(bundle, 50), []
    with running(bundle, slots=16, queue_limit=100, max_running=16) as engine:
        for turn in range(200):
            handles = [
                engine.submit(
                    GenerationRequest(prompt, max_tokens=1 + (index + turn) % 3, sampling=WARM, seed=turn)
                )
                for index, prompt in enumerate(asked)
            ]
            for handle in handles:
                handle.result(60)
            sizes.append(resident_bytes())
    assert max(sizes[40:]) - sizes[39] < 6 << 20


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def test_int8_stays_close_to_fp32(bundle: Bundle) -> None:
    parity = bundle.manifest["parity"]
    assert parity["fp32"]["prompts"] >= 100
    assert parity["int8"]["top1_agreement"] > 0.9
    assert parity["int8"]["mean_kl"] < 0.01
    assert parity["int8"]["perplexity"] == pytest.approx(parity["int8"]["perplexity_fp32"], rel=0.02)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_a_request_gives_the_same_tokens_alone_and_in_a_changing_crowd(precision: str) -> None:
    """ONNX Runtime's int8 kernel takes rows in pairs and rounds a last odd row differently."""
    bundle = load_bundle(tiny_bundle(precision))
    requests = [
        GenerationRequest(prompt, n=1 + index % 3, max_tokens=3 + index % 40, sampling=WARM, seed=index)
        for index, prompt in enumerate(prompts(bundle, 30))
    ]
    with running(bundle, max_running=8) as engine:
        crowd = [handle.result(60).candidates for handle in [engine.submit(request) for request in requests]]
    with running(bundle) as engine:
        alone = [engine.submit(request).result(60).candidates for request in requests]
    assert crowd == alone


def test_a_seed_repeats_itself_and_another_seed_differs(engine: Engine, bundle: Bundle) -> None:
    prompt = prompts(bundle, 1)[0]
    texts = [
        engine.submit(GenerationRequest(prompt, max_tokens=30, sampling=WARM, seed=seed))
        .result(30)
        .candidates
        for seed in (7, 7, 8)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_candidates_differ_and_the_first_is_the_one_that_n_1_gives(engine: Engine, bundle: Bundle) -> None:
    prompt = prompts(bundle, 1)[0]
    many = engine.submit(GenerationRequest(prompt, n=4, max_tokens=30, sampling=WARM, seed=3)).result(30)
    one = engine.submit(GenerationRequest(prompt, n=1, max_tokens=30, sampling=WARM, seed=3)).result(30)
    assert len(many.candidates) == 4
    assert many.candidates[0] == one.candidates[0]
    assert len({tuple(tokens) for tokens, _ in many.candidates}) == 4


def test_no_run_of_words_comes_twice_where_that_is_asked_for(engine: Engine, bundle: Bundle) -> None:
    begins = Words.of(bundle.tokenizer().token_bytes()).begins

    def runs_of(tokens: list[int]) -> list[tuple[tuple[int, ...], ...]]:
        words: list[tuple[int, ...]] = []
        for token in tokens:
            if begins[token] or not words:
                words.append((token,))
            else:
                words[-1] += (token,)
        return [tuple(words[i : i + 3]) for i in range(len(words) - 3)]  # the last word may be cut off

    prompt = tuple(bundle.tokenizer().prompt(Command("expand", "image", 0.8, 40), "a fox"))

    def repeat(sampling: Sampling) -> list[bool]:
        request = GenerationRequest(prompt=prompt, n=8, max_tokens=120, sampling=sampling, seed=3)
        candidates = engine.submit(request).result().candidates
        return [len(set(runs_of(tokens))) < len(runs_of(tokens)) for tokens, _ in candidates]

    assert any(repeat(Sampling(1.0, top_k=12)))
    assert not any(repeat(Sampling(1.0, top_k=12, no_repeat=3)))


def test_no_character_is_broken_off(engine: Engine, bundle: Bundle) -> None:
    """The toy model has learnt nothing, and says parts of characters as often as whole ones."""
    tokens, prompt = bundle.tokenizer().token_bytes(), prompts(bundle, 1)[0]
    request = GenerationRequest(
        prompt, n=8, max_tokens=120, sampling=Sampling(1.0, top_p=1.0, top_k=64), seed=1
    )
    for said, _ in engine.submit(request).result(60).candidates:
        text = b"".join(tokens[token] for token in said)
        begun = re.findall(rb"[\xC2-\xF4]", text)
        later = rb"[\x80-\xBF]"
        broken = rb"[\xC2-\xDF](?!%b)|[\xE0-\xEF](?!%b{2})|[\xF0-\xF4](?!%b{3})" % (later, later, later)
        # The last may be cut off by max_tokens.
        assert len(begun) > 3 and len(re.findall(broken, text)) <= 1, text


class Mumbling(Decoder):
    """The real decoder, but a "q" always seems likeliest, and an "o" next."""

    def __init__(self, bundle: Bundle) -> None:
        self._said = [bundle.tokenizer().token_id(token) for token in ("q", "o")]
        super().__init__(bundle.decoder_path, bundle.architecture, threads=1, slots=4)

    def prefill(self, row: int, tokens: Sequence[int], past: int = 0) -> Top:
        return self._mumbled(super().prefill(row, tokens, past))

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Top:
        return self._mumbled(super().decode(tokens, lengths))

    def _mumbled(self, top: Top) -> Top:
        logits, ids = top.logits.copy(), top.ids.copy()
        logits[:, :2] = logits[:, :1] + [20, 10]
        ids[:, :2] = self._said
        return Top(logits, ids)


def spelt(
    decoder: Decoder, bundle: Bundle, input: str, known: set[str] | None, sampling: Sampling = GREEDY
) -> str:
    """Four tokens on an input, by an engine that knows the words, or has no list of any."""
    tokenizer = bundle.tokenizer()
    spelling = None if known is None else Spelling.of(tokenizer.token_bytes(), known)
    engine = Engine(decoder, tokenizer.end_id, spelling=spelling)
    engine.start()
    try:
        prompt = tuple(tokenizer.prompt(Command("expand", "image", 0.8, 40), input))
        request = GenerationRequest(prompt, max_tokens=4, sampling=sampling, seed=1)
        return tokenizer.decode(engine.submit(request).result(30).candidates[0][0])
    finally:
        assert engine.close()


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_what_would_make_a_word_up_is_not_chosen(bundle: Bundle, sampling: Sampling) -> None:
    def said(known: set[str] | None) -> str:
        return spelt(Mumbling(bundle), bundle, "vroo", known, sampling)

    assert said(None) == said({"qqqqq"}) == "qqqq"
    assert said({"oooo"}) == "oooo"
    assert said({"qoq", "o"}).startswith("qoq")


class Straying(Mumbling):
    """Knows nothing but "q" and beginnings of other words."""

    def __init__(self, bundle: Bundle) -> None:
        tokens = enumerate(bundle.tokenizer().token_bytes())
        self._others = [number for number, token in tokens if token[:1] == b" " and token[1:].isalpha()]
        super().__init__(bundle)

    def _mumbled(self, top: Top) -> Top:
        top = super()._mumbled(top)
        top.ids[:, 1:] = self._others[: top.ids.shape[1] - 1]
        return top


def test_a_word_that_no_likely_token_goes_on_with_goes_on_as_a_known_one(bundle: Bundle) -> None:
    assert spelt(Straying(bundle), bundle, "vroo", {"qab", "x"}).startswith("qab")
    assert spelt(Straying(bundle), bundle, "qzo", {"qab", "x"}).startswith("qzo")  # as the input has it


def test_greedy_candidates_are_all_alike(engine: Engine, bundle: Bundle) -> None:
    prompt = prompts(bundle, 1)[0]
    result = engine.submit(GenerationRequest(prompt, n=3, max_tokens=12, sampling=GREEDY)).result(30)
    assert result.candidates[0] == result.candidates[1] == result.candidates[2]


def test_prefill_in_pieces_gives_what_prefill_in_one_gives() -> None:
    bundle = load_bundle(tiny_bundle("fp32"))
    decoder = Decoder(bundle.decoder_path, bundle.architecture, threads=1, slots=2)
    prompt = list(sorted(prompts(bundle, 10), key=len)[-1])
    whole = decoder.prefill(0, prompt).logits.copy()
    decoder.prefill(1, prompt[:5])
    assert decoder.prefill(1, prompt[5:], past=5).logits == pytest.approx(whole, abs=1e-4)


def test_events_tell_the_whole_story_in_order(engine: Engine, bundle: Bundle) -> None:
    events: list[Event] = []
    request = GenerationRequest(prompts(bundle, 1)[0], n=2, max_tokens=8, sampling=WARM, seed=1)
    result = engine.submit(request, events.append).result(30)
    for index, (tokens, reason) in enumerate(result.candidates):
        assert [
            event.token_id for event in events if isinstance(event, Token) and event.candidate == index
        ] == tokens
        assert Finished(index, reason) in events
    assert events[-1] == Done(result.timing)
    assert sum(isinstance(event, Done) for event in events) == 1


def test_only_end_among_the_control_tokens_is_ever_chosen(engine: Engine, bundle: Bundle) -> None:
    special = bundle.tokenizer().special_ids
    hot = Sampling(temperature=50.0, top_p=1.0, top_k=64)
    handles = [
        engine.submit(GenerationRequest(prompt, n=8, max_tokens=40, sampling=hot, seed=index))
        for index, prompt in enumerate(prompts(bundle, 6))
    ]
    results = [handle.result(60) for handle in handles]
    assert not any(set(tokens) & special for result in results for tokens, _ in result.candidates)


def test_a_candidate_ends_itself_with_stop_and_end_is_not_among_its_tokens(bundle: Bundle) -> None:
    """Whatever token comes first is declared the end: the model is random and rarely says it itself."""
    prompt = prompts(bundle, 1)[0]
    decoder = Decoder(bundle.decoder_path, bundle.architecture, threads=1, slots=2)
    third = int(_greedy(decoder, list(prompt), 3)[2])
    engine = Engine(decoder, third)
    engine.start()
    try:
        tokens, reason = (
            engine.submit(GenerationRequest(prompt, max_tokens=9, sampling=GREEDY)).result(30).candidates[0]
        )
    finally:
        engine.close()
    assert reason == "stop"
    assert third not in tokens
    assert len(tokens) <= 2


def _greedy(decoder: Decoder, prompt: list[int], count: int) -> list[int]:
    tokens = [int(decoder.prefill(0, prompt).ids[0, 0])]
    while len(tokens) < count:
        tokens.append(int(decoder.decode(tokens[-1:], [len(prompt) + len(tokens) - 1]).ids[0, 0]))
    return tokens


def test_generation_stops_at_max_tokens_and_at_the_last_position(engine: Engine, bundle: Bundle) -> None:
    prompt = prompts(bundle, 1)[0]
    positions = bundle.architecture.positions
    tokens, reason = (
        engine.submit(GenerationRequest(prompt, max_tokens=5, sampling=GREEDY)).result(30).candidates[0]
    )
    assert (len(tokens), reason) == (5, "length")
    tokens, reason = (
        engine.submit(GenerationRequest(prompt, max_tokens=999, sampling=GREEDY)).result(60).candidates[0]
    )
    assert reason == "stop" or len(prompt) + len(tokens) == positions + 1
    full = (prompt * 100)[:positions]
    assert len(engine.submit(GenerationRequest(full, sampling=GREEDY)).result(30).candidates[0][0]) <= 1


def test_a_cancelled_request_frees_its_rows_and_the_next_one_runs(bundle: Bundle) -> None:
    prompt = prompts(bundle, 1)[0]
    with gated(bundle) as (engine, gate):
        gate.open.clear()
        first = engine.submit(GenerationRequest(prompt, n=4, max_tokens=200, sampling=WARM))
        assert gate.entered.wait(30)
        waiting = engine.submit(GenerationRequest(prompt, max_tokens=200))
        first.cancel()
        waiting.cancel()
        gate.open.set()
        for handle in (first, waiting):
            with pytest.raises(Cancelled):
                handle.result(30)
        eventually(lambda: engine.stats.running_sequences == 0)
        assert (
            len(engine.submit(GenerationRequest(prompt, max_tokens=3, sampling=GREEDY)).result(30).candidates)
            == 1
        )


def test_a_deadline_is_kept_in_the_queue_and_in_flight(bundle: Bundle) -> None:
    """The gate is closed until the deadlines, which both requests would have met easily, have passed."""
    prompt = prompts(bundle, 1)[0]
    with gated(bundle) as (engine, gate):
        gate.open.clear()
        deadline = time.monotonic() + 2
        running = engine.submit(GenerationRequest(prompt, max_tokens=20, deadline=deadline))
        assert gate.entered.wait(30)
        queued = engine.submit(GenerationRequest(prompt, max_tokens=20, deadline=deadline))
        eventually(lambda: time.monotonic() > deadline)
        gate.open.set()
        with pytest.raises(DeadlineExceeded, match="while it was generated"):
            running.result(30)
        with pytest.raises(DeadlineExceeded, match="in the queue"):
            queued.result(30)
        eventually(lambda: engine.stats.running_sequences == 0)


def test_a_request_whose_deadline_has_passed_is_refused(bundle: Bundle, engine: Engine) -> None:
    with pytest.raises(DeadlineExceeded, match="when it came"):
        engine.submit(GenerationRequest(prompts(bundle, 1)[0], deadline=time.monotonic()))


@pytest.mark.parametrize("queue_limit", [0, 1, 2])
def test_a_full_queue_refuses_and_says_when_to_come_back(bundle: Bundle, queue_limit: int) -> None:
    """One request runs and ``queue_limit`` wait, whether or not the engine has got to the first one yet."""
    prompt = prompts(bundle, 1)[0]
    with gated(bundle, queue_limit=queue_limit) as (engine, gate):
        gate.open.clear()
        request = GenerationRequest(prompt, max_tokens=3)
        admitted = [engine.submit(request) for _ in range(queue_limit + 1)]
        with pytest.raises(Overloaded) as refused:
            engine.submit(request)
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s > 0
        gate.open.set()
        assert all(handle.result(30).candidates for handle in admitted)


def test_a_failed_step_fails_its_requests_visibly_and_the_engine_recovers(bundle: Bundle) -> None:
    prompt = prompts(bundle, 1)[0]
    with gated(bundle) as (engine, gate):
        gate.open.clear()
        events: list[Event] = []
        doomed = engine.submit(GenerationRequest(prompt, n=2, max_tokens=50), events.append)
        assert gate.entered.wait(30)
        queued = engine.submit(GenerationRequest(prompt, max_tokens=3))
        gate.failure = RuntimeError("the device is gone")
        gate.open.set()
        with pytest.raises(EngineError):
            doomed.result(30)
        assert isinstance(events[-1], Failed)
        eventually(lambda: not engine.ready)
        with pytest.raises(Unavailable):
            engine.submit(GenerationRequest(prompt))
        with pytest.raises(Unavailable, match="is recovering") as refused:
            queued.result(30)
        assert refused.value.retry_after_s == RETRY_S
        gate.failure = None
        eventually(lambda: engine.ready)
        assert engine.stats.failed_steps == 1
        assert engine.submit(GenerationRequest(prompt, max_tokens=3, sampling=GREEDY)).result(30).candidates


def test_each_request_of_a_failed_step_has_an_error_of_its_own_that_names_the_cause(bundle: Bundle) -> None:
    prompt, cause = prompts(bundle, 1)[0], RuntimeError("the device is gone")
    with gated(bundle, max_running=2) as (engine, gate):

        def fail_from_now_on(event: Event) -> None:
            gate.failure = cause

        gate.open.clear()
        request = GenerationRequest(prompt, max_tokens=50)
        both = [engine.submit(request)]
        assert gate.entered.wait(30)
        both.append(engine.submit(request, fail_from_now_on))
        gate.open.set()
        errors = []
        for handle in both:
            with pytest.raises(EngineError) as failed:
                handle.result(30)
            errors.append(failed.value)
        assert errors[0] is not errors[1]
        assert [error.__cause__ for error in errors] == [cause, cause]


def test_an_engine_that_recovers_while_it_closes_stays_closed(bundle: Bundle) -> None:
    prompt = prompts(bundle, 1)[0]
    with gated(bundle) as (engine, gate):

        def hold_the_probe(event: Event) -> None:
            if isinstance(event, Failed):
                gate.failure = None
                gate.open.clear()
                gate.entered.clear()

        gate.open.clear()
        doomed = engine.submit(GenerationRequest(prompt, max_tokens=50), hold_the_probe)
        assert gate.entered.wait(30)
        gate.failure = RuntimeError("the device is gone")
        gate.open.set()
        with pytest.raises(EngineError):
            doomed.result(30)
        assert gate.entered.wait(30)
        assert not engine.close(join_s=0)
        gate.open.set()
        assert engine.close()
        assert not engine.ready
        with pytest.raises(Unavailable, match="closing"):
            engine.submit(GenerationRequest(prompt))


def test_a_closed_scheduler_is_opened_by_nothing() -> None:
    scheduler = Scheduler(queue_limit=1, max_running=1, slots=1, speed=Speed(slots=1, pieces=(8,), pause=2.0))
    scheduler.open()
    assert scheduler.is_open
    scheduler.close("closing")
    scheduler.open()
    scheduler.refuse("recovering")
    with pytest.raises(Unavailable, match="closing"):
        scheduler.submit(Generation(GenerationRequest((5,))))


def test_a_listener_that_raises_cancels_its_request_only(bundle: Bundle, engine: Engine) -> None:
    def gone(event: Event) -> None:
        raise ConnectionError("nobody listens")

    prompt = prompts(bundle, 1)[0]
    with pytest.raises(Cancelled):
        engine.submit(GenerationRequest(prompt, max_tokens=100, sampling=WARM), gone).result(30)
    assert engine.submit(GenerationRequest(prompt, max_tokens=2, sampling=GREEDY)).result(30).candidates


def test_a_hung_step_stops_the_heartbeat_and_an_idle_engine_keeps_it(bundle: Bundle, engine: Engine) -> None:
    with gated(bundle) as (hung, gate):
        gate.open.clear()
        hung.submit(GenerationRequest(prompts(bundle, 1)[0], max_tokens=2))
        assert gate.entered.wait(30)
        last, idle = hung.heartbeat, engine.heartbeat
        eventually(lambda: engine.heartbeat > idle)
        assert hung.heartbeat == last


def test_closing_finishes_admitted_work_within_the_drain_and_fails_the_rest(bundle: Bundle) -> None:
    prompt = prompts(bundle, 1)[0]
    with running(bundle) as engine:
        kept = engine.submit(GenerationRequest(prompt, max_tokens=5, sampling=GREEDY))
        assert engine.close(drain_s=30)
        assert kept.result(0).candidates
        with pytest.raises(Unavailable):
            engine.submit(GenerationRequest(prompt))
    with gated(bundle) as (engine, gate):
        gate.open.clear()
        lost = engine.submit(GenerationRequest(prompt, max_tokens=50))
        assert gate.entered.wait(30)
        assert not engine.close(join_s=0)
        gate.open.set()
        with pytest.raises(Unavailable) as refused:
            lost.result(30)
        assert refused.value.retry_after_s == RETRY_S


def test_an_engine_that_was_not_started_takes_nothing(bundle: Bundle) -> None:
    engine = Engine.from_bundle(bundle, threads=1, slots=1)
    assert not engine.ready
    with pytest.raises(Unavailable):
        engine.submit(GenerationRequest(prompts(bundle, 1)[0]))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"sampling": Sampling(temperature=-0.1)}, "temperature"),
        ({"sampling": Sampling(temperature=float("nan"))}, "temperature"),
        ({"sampling": Sampling(top_p=0.0)}, "top_p"),
        ({"sampling": Sampling(top_p=1.1)}, "top_p"),
        ({"sampling": Sampling(top_k=0)}, "top_k"),
        ({"sampling": Sampling(top_k=65)}, "top_k"),
        ({"sampling": Sampling(no_repeat=-1)}, "no_repeat"),
        ({"sampling": Sampling(min_p=1.5)}, "min_p"),
        ({"prompt": ()}, "input"),
        ({"prompt": (1_000_000,)}, "input"),
        ({"prompt": (-1,)}, "input"),
    ],
)
def test_a_bad_request_is_refused_with_the_name_of_its_field(
    engine: Engine, changes: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        engine.submit(GenerationRequest(**{"prompt": (5, 6), **changes}))  # type: ignore[arg-type]
    assert refused.value.field == field


def test_a_prompt_longer_than_the_model_is_refused(engine: Engine) -> None:
    with pytest.raises(InputTooLong):
        engine.submit(GenerationRequest((5,) * 5000))


def test_cuda_that_cannot_be_had_is_refused(bundle: Bundle) -> None:
    with pytest.raises(DeviceError, match="no CUDAExecutionProvider"):
        Engine.from_bundle(load_bundle(tiny_bundle("fp16")), device="cuda")
    with pytest.raises(DeviceError, match="is int8, whose kernels are the CPU's: export it with"):
        Engine.from_bundle(bundle, device="cuda")


def test_a_decoder_of_other_sizes_than_the_bundle_says_is_refused(bundle: Bundle) -> None:
    other = {**bundle.manifest["architecture"], "layers": 3}
    with pytest.raises(BundleError, match="layers"):
        Engine.from_bundle(Bundle(bundle.path, {**bundle.manifest, "architecture": other}, bundle.version))


def test_errors_are_a_tree_with_a_status_and_a_code_each() -> None:
    def leaves(kind: type[PromptdialError]) -> Iterator[type[PromptdialError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from leaves(child)

    # One that refines another may share its code.
    kinds = [kind for kind in leaves(PromptdialError) if "code" in vars(kind)]
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert all(400 <= kind.status < 600 for kind in kinds)
