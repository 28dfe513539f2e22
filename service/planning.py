"""From a request to a plan that can be obeyed, or the error that says why it can't be: no work is done yet."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, replace

from promptdial.bundle import Bundle
from promptdial.command import FRAMING_TOKENS, Command, word_count
from promptdial.engine import GenerationRequest, Sampling
from promptdial.errors import InputTooLong, InvalidRequest
from promptdial.tasks import Task
from promptdial.tokenizer import PromptTokenizer
from service.problems import NotAvailableYet, TargetsOutOfSupport
from service.schemas import GenerateRequest
from service.settings import Settings

SEEDS = 2**32  # drawn seeds stay exact in every JSON reader
TOKENS_PER_WORD = 2  # generous: the model ends an output by itself, the limit only stops one that doesn't
SPARE_TOKENS = 32
ADAPTATION = 0.05  # weight of the newest text in the running mean of tokens per word


@dataclass(frozen=True)
class Plan:
    """A request that can be obeyed: what the engine gets, and what to do with its output."""

    request: GenerateRequest
    command: Command
    clamped: frozenset[str]
    work: GenerationRequest
    received: float  # seconds of time.monotonic
    deadline: float  # the same


class Planner:
    """Makes requests ready for one bundle's engine."""

    def __init__(self, bundle: Bundle, tokenizer: PromptTokenizer, settings: Settings) -> None:
        self.bundle = bundle
        self.tokenizer = tokenizer
        self.settings = settings
        self.defaults = Sampling(**bundle.sampling)
        examples = [task.example for task in bundle.tasks.values()]
        tokens = sum(len(tokenizer.encode(text)) for text in examples)
        self.tokens_per_word = tokens / sum(word_count(text) for text in examples)

    def learn(self, words: int, tokens: int) -> None:
        """Let the expected length of later requests follow a text that the model ended by itself."""
        if words:
            self.tokens_per_word += ADAPTATION * (tokens / words - self.tokens_per_word)

    def plan(self, request: GenerateRequest, received: float) -> Plan:
        """Make a request ready, or raise the PromptdialError that says why it can't be obeyed."""
        refuse_unavailable(request)
        timeout_ms = request.timeout_ms or self.settings.request_timeout_ms
        at_most("timeout_ms", timeout_ms, self.settings.max_request_timeout_ms)
        at_most("n", request.n, self.settings.max_n)
        command, clamped = self._command(request)
        prompt = self.tokenizer.prompt(command, request.input)
        deadline = received + timeout_ms / 1000
        max_tokens = self._max_tokens(request, command, len(prompt))
        work = GenerationRequest(
            prompt=tuple(prompt),
            n=request.n,
            max_tokens=max_tokens,
            sampling=self._sampling(request),
            words=None if request.target_length is None else command.length,
            seed=secrets.randbelow(SEEDS) if request.seed is None else request.seed,
            deadline=deadline,
            expected_tokens=self._expected_tokens(command, max_tokens),
        )
        return Plan(request, command, clamped, work, received, deadline)

    def modalities(self, task: Task) -> list[str]:
        """What a task can be asked for: its own modalities, as far as the bundle has commands for them."""
        return [each for each in task.modalities if each in self.bundle.format.modalities]

    def _command(self, request: GenerateRequest) -> tuple[Command, frozenset[str]]:
        """The command inside the trained support, and the request's fields that were moved to get there."""
        task = self.bundle.tasks.get(request.task)
        if task is None:
            known = ", ".join(self.bundle.tasks)
            raise InvalidRequest(f"unknown task {request.task[:64]!r}; the tasks are {known}", "task")
        modality = task.modality if request.modality is None else request.modality
        modalities = self.modalities(task)
        if modality not in modalities:
            known = ", ".join(modalities)
            raise InvalidRequest(
                f"unknown modality {modality[:64]!r}; task {task.name} has {known}", "modality"
            )
        asked = Command(task.name, modality, request.target_relevance, request.target_length)
        command, clamped = self.bundle.support.clamp(asked)
        if clamped and request.out_of_support == "reject":
            raise out_of_support(asked, command, clamped)
        return command, clamped

    def _max_tokens(self, request: GenerateRequest, command: Command, prompt_tokens: int) -> int:
        """Tokens a candidate may have: as asked, or enough for its length."""
        limits = self.bundle.limits
        input_tokens = prompt_tokens - FRAMING_TOKENS
        if input_tokens > limits.max_input_tokens:
            raise InputTooLong(
                f"the input is {input_tokens} tokens long, this model reads {limits.max_input_tokens} at most"
            )
        if request.max_tokens is not None:
            at_most("max_tokens", request.max_tokens, limits.max_tokens)
            wanted = request.max_tokens
        elif command.length is not None:
            wanted = TOKENS_PER_WORD * command.length + SPARE_TOKENS
        else:
            wanted = limits.max_tokens
        return min(wanted, limits.max_tokens)

    def _sampling(self, request: GenerateRequest) -> Sampling:
        """As asked, else as the bundle was tuned."""
        sampling = self.defaults
        if request.temperature is not None:
            sampling = replace(sampling, temperature=request.temperature)
        if request.top_p is not None:
            sampling = replace(sampling, top_p=request.top_p)
        return sampling

    def _expected_tokens(self, command: Command, max_tokens: int) -> int | None:
        """Tokens that a candidate will probably have, by its length: what admission predicts times from."""
        if command.length is None:
            return None
        return min(math.ceil(self.tokens_per_word * command.length), max_tokens)


def refuse_unavailable(request: GenerateRequest) -> None:
    """Raise NotAvailableYet for a field that this version would have to ignore."""
    asked = {
        "keep": bool(request.keep),
        "min_relevance": request.min_relevance is not None,
    }
    for field, is_asked in asked.items():
        if is_asked:
            raise NotAvailableYet(f"{field} is not available yet; leave it out", field)
    if request.rank == "highest" and not request.score:
        raise InvalidRequest(
            "ranking by the highest relevance needs it measured: leave out 'score': false", "rank"
        )


def out_of_support(asked: Command, inside: Command, clamped: frozenset[str]) -> TargetsOutOfSupport:
    """The error that names every target outside, with the nearest that is inside."""
    return TargetsOutOfSupport(
        {
            f"target_{field}": f"target_{field} {getattr(asked, field)} is outside what task {asked.task} "
            f"was trained on; the nearest that is inside is {getattr(inside, field)}"
            for field in ("length", "relevance")
            if field in clamped
        }
    )


def at_most(field: str, value: int, limit: int) -> None:
    """Raise InvalidRequest for a value past this server's limit."""
    if value > limit:
        raise InvalidRequest(f"{field} is {value}, the most that is taken here is {limit}", field)
