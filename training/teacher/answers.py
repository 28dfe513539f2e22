"""What becomes of a teacher's answer: cleaned, cut back to its good sentences, or turned down for a reason.

Small teachers ramble: an answer is cut before the first sentence that repeats what was said, addresses the reader, or
tells what can't be seen. What is left must still be an answer. Relevance is measured in batches, by `Filter.accept`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from promptdial.command import word_count
from promptdial.relevance import RelevanceScorer
from training import rules
from training.teacher.templates import Template

LEAST_WORDS = 6
LEAST_NEW_WORDS = 3  # content words that the input does not have
LEAST_RELEVANCE = 0.5
LEAST_PLAIN = 0.2  # share of stop words in English prose
SEEN_SHARE = 0.4  # of an answer's 5-grams that earlier answers had
SENTENCE_RUN = 4  # words that may not come again in one answer

_REFUSAL = re.compile(
    r"\b(?:as an ai|language model|i(?:'m| am) (?:sorry|unable|not able)|i can(?:'|no)t (?:help|assist|create|provide|"
    r"generate|describe)|cannot fulfil|against (?:my|the) (?:guidelines|policy))\b",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|absolutely|okay|ok)[!,.]\s*)?"
    r"(?:(?:here(?:'s| is| are)|this is|below is)\b[^:.!?]{0,80}:\s*)?"
    r"(?:(?:answer|description|prompt|output|image|picture)\s*:\s*)?"
    r"(?:(?:in|on) (?:this|the) (?:image|picture|photo|photograph|scene|video|clip|painting|design),?\s+)?",
    re.IGNORECASE,
)
_ADDRESS = re.compile(
    r"\b(?:i|i'm|you|your|you're|we|we're|us|our|my|me|let's|dear|reader|hello)\b", re.IGNORECASE
)
_UNSEEN = re.compile(
    r"\b(?:sounds?|smells?|smelling|scents?|aromas?|fragrance|tastes?|laughter|whispers?|whispering|howl\w*|"
    r"music fills|echo\w*|stor(?:y|ies)|symbol\w*|metaphor\w*|testament|reminder|classic example|sight to|it is said|"
    r"it's said|said to|myth\w*|legend\w*|popular|history|favou?rite|tradition of|perfect for|known (?:for|as)|"
    r"can be used|made by|would be|could be|may be|seems? to|as if|never been|most beautiful thing)\b",
    re.IGNORECASE,
)
_PRATTLE = re.compile(
    r"\bit(?:'s|’s| is) (?:a|an|the|also|very|so|not|one)\b|\bvery very\b|\b(\w+) \1\b|\bis called\b|\bthere's\b|"
    r"\bthey(?:'re|’re| are) (?:both|all)\b",
    re.IGNORECASE,
)
# "A fan is a device that ...": an explanation, no picture.
_DEFINITION = re.compile(
    r"^(?:an? |the )?(?:[\w'-]+ ){1,5}(?:is|are) (?:an? |the |often |usually |used )", re.IGNORECASE
)
_MARKUP = re.compile(r"https?:|www\.|[<>{}\[\]|\\*#`~^_=]|[^\x00-\x7f“”‘’–—…éèêàâçñöüä°]")  # noqa: RUF001
_UNSAFE = re.compile(
    r"\b(?:nude|naked|nsfw|sex\w*|porn\w*|erotic\w*|breasts?|nipples?|genital\w*|rape\w*|gore|gory|corpses?|suicid\w*|"
    r"bikini|lingerie|topless|seductive|hitler|nazi\w*|blood\w*|dead|killed|murder\w*)\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"“][^\"”]*[\"”]")


@dataclass(frozen=True, slots=True)
class Verdict:
    """An accepted text, or the reason why there is none; `cut` says that a part of the answer was left out."""

    text: str
    reason: str = ""
    cut: bool = False


def judge(answer: str, template: Template, asked: str) -> Verdict:
    """The usable part of one answer, before relevance and repetition across answers are looked at."""
    if _REFUSAL.search(answer):
        return Verdict("", "refusal")
    whole = first_paragraph(answer)
    if not whole:
        return Verdict("", "empty")
    if _MARKUP.search(whole):
        return Verdict("", "markup or foreign")
    if _UNSAFE.search(whole):
        return Verdict("", "unsafe")
    kept = _good_sentences(whole)
    text = " ".join(kept)
    reason = _fault(text, template, asked)
    return Verdict("", reason) if reason else Verdict(text, cut=len(text) < len(whole))


def first_paragraph(answer: str) -> str:
    """The first paragraph, without quotation marks around it and without a preamble."""
    first = next(
        (part for part in re.split(r"\n\s*\n|\n(?=[A-Z][a-z]+:)", answer.strip()) if part.strip()), ""
    )
    text = _PREAMBLE.sub("", rules.clean(first), count=1)
    marks = sum(text.count(mark) for mark in '"“”')
    if text[:1] in ('"', "“") and (marks % 2 or (marks == 2 and text[-1] in '"”')):
        text = text[1:].rstrip('"”')
    return text[:1].upper() + text[1:]


def _good_sentences(text: str) -> list[str]:
    kept: list[str] = []
    runs: set[tuple[str, ...]] = set()
    said: set[str] = set()
    for sentence in rules.sentences(text):
        plain = rules.words(sentence)
        own = [tuple(plain[i : i + SENTENCE_RUN]) for i in range(len(plain) - SENTENCE_RUN + 1)]
        content = set(rules.content_words(sentence))
        unquoted = _QUOTED.sub("", sentence)
        if (
            not sentence.endswith((".", "!", '."', ".”", '!"'))
            or sentence.count('"') % 2
            or len(set(own)) < len(own)
            or runs.intersection(own)
            or len(content - said) < max(2, len(content) // 2)
            or (len(plain) > 8 and len(set(plain)) < 0.7 * len(plain))
            or any(pattern.search(unquoted) for pattern in (_ADDRESS, _UNSEEN, _PRATTLE))
        ):
            break
        kept.append(sentence)
        runs.update(own)
        said |= content
    return kept


def _fault(text: str, template: Template, asked: str) -> str:
    plain = rules.words(text)
    if word_count(text) < LEAST_WORDS:
        return "nothing left"
    if len(set(rules.content_words(text)) - set(rules.content_words(asked))) < LEAST_NEW_WORDS:
        return "echo of the input"
    if sum(word in rules.STOPWORDS for word in plain) < LEAST_PLAIN * len(plain):
        return "no plain English"
    if _DEFINITION.search(text):
        return "explanation"
    grams = ngrams(plain, 6)
    if any(grams & ngrams(rules.words(example.output), 6) for example in template.examples):
        return "copy of an example"
    return ""


def ngrams(plain: Sequence[str], size: int) -> set[tuple[str, ...]]:
    """All runs of `size` words."""
    return {tuple(plain[i : i + size]) for i in range(len(plain) - size + 1)}


@dataclass
class Filter:
    """Judges answers one batch after another and remembers what was accepted, so that none comes twice."""

    scorer: RelevanceScorer
    reasons: Counter[str] = field(default_factory=Counter)
    _inputs: set[tuple[str, str]] = field(default_factory=set)
    _grams: set[int] = field(default_factory=set)

    def accept(self, answers: Sequence[tuple[str, Template, str]]) -> list[tuple[Verdict, float]]:
        """A verdict and the relevance (nan where turned down before) for each (answer, template, input)."""
        verdicts = [judge(*each) for each in answers]
        open_ = [i for i, verdict in enumerate(verdicts) if not verdict.reason]
        relevance = np.full(len(answers), np.nan)
        if open_:
            relevance[open_] = self.scorer.score(
                [answers[i][2] for i in open_], [verdicts[i].text for i in open_]
            )
        for i in open_:
            _, template, asked = answers[i]
            if reason := self._repeated_or_off(verdicts[i].text, template, asked, float(relevance[i])):
                verdicts[i] = Verdict("", reason)
        self.reasons.update(verdict.reason or "accepted" for verdict in verdicts)
        return [(verdict, float(r)) for verdict, r in zip(verdicts, relevance, strict=True)]

    def _repeated_or_off(self, text: str, template: Template, asked: str, relevance: float) -> str:
        if relevance < LEAST_RELEVANCE:
            return "off topic"
        key = (template.name, " ".join(rules.words(asked)))
        if key in self._inputs:
            return "input seen"
        grams = {hash(gram) for gram in ngrams(rules.words(text), 5)}
        if grams and len(grams & self._grams) > SEEN_SHARE * len(grams):
            return "near-duplicate"
        self._inputs.add(key)
        self._grams |= grams
        return ""
