"""Written rows for `prepare`: captions, short prompts, long texts and composed phrases, with prompts about them.

A share of the prompts is about something else, in part or as a whole, so that low and middling relevance can be asked
for in the same language as high.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import NamedTuple

from promptdial.command import word_count
from training import rules
from training.episodes import Episode
from training.generator import with_articles
from training.writing.composed import LISTS, PLACE_LISTS, Row, composed, varied
from training.writing.phrases import Lexicon, Parsed
from training.writing.writer import LONGEST_TOLD, Writer, style_names

LONGEST_INPUT = 140  # words of a text that is written about
# Texts of more words come so often: of the data's captions they are a sixth, and what a model makes of them is worse.
LONG_INPUT, LONG_INPUT_TIMES = 16, 3
# Of prompts that are about something else; more of the long ones, which would otherwise all be relevant. Of `compress`
# the prompt is the input.
ALTERED_SHARE, ALTERED_SHARE_LONG, LONG = 0.3, 0.35, 50
# Of tasks whose inputs list many things or say what for: a prompt is near to such an input, whatever it says.
ALTERED_SHARES = {"tags": 0.45, "brief": 0.45}
# Of these: such as are about another text altogether; the rest are about the same text with other things, or about a
# part of it. None goes over to another text on its way: a model that had seen such went over whatever it was asked for.
OTHER_SHARE = 0.3
_MOST_OF_ONE = 20  # rows about one text
_CHUNK = 100  # texts that a process takes at once
COMPOSED = 3  # texts of the data for each composed one
_MODALITIES = ("image",) * 6 + ("video",) * 2 + ("template",) * 2
_TASKS = (
    ("expand",) * 10 + ("tags",) * 3 + ("suggest",) * 3 + ("brief",) * 2 + ("style",) * 3 + ("compress",) * 2
)
# What people put behind a prompt out of habit.
HABITS = (
    "highly detailed", "4k", "8k", "hd", "sharp focus", "masterpiece", "best quality", "cinematic lighting", "hdr",
    "trending on artstation", "photorealistic", "intricate details", "dramatic lighting", "ultra realistic",
    "award winning", "octane render", "soft lighting", "high resolution", "professional",
)  # fmt: skip
_HABIT_SHARE = 0.08
# One phrase behind another, of which no English sentence can be made: "scifi room metal, roman, studio lighting, ...".
_RUN_ON = re.compile(r"^[^.;!?]*(?:,[^.;!?]*){6}[.!?]?$|;.*;|!!|\s[-–—]\s")


def lexicon(lists: Mapping[str, Sequence[str]]) -> Lexicon:
    """The nouns written about: the listed ones and those of the open data's word lists."""
    return Lexicon(
        {kind: [word for name in names for word in lists.get(name, ())] for kind, names in LISTS.items()},
        [word for name in PLACE_LISTS for word in lists.get(name, ())],
    )


def written(
    rows: Sequence[Row], lists: Mapping[str, Sequence[str]], count: int, seed: int, processes: int = 1
) -> Iterator[Episode]:
    """`count` rows at most about `rows` (with `text`, `key`, `source`, `licence`) and composed phrases.

    The draws for a row depend on its text alone, as in `training.derive`, but for the other text that some are about.
    So the rows are the same, in the same order, by however many processes.
    """
    rng = random.Random(f"written-{seed}")
    phrases = composed(lists, len(rows) // COMPOSED, random.Random(f"composed-{seed}"))
    about = [*rng.sample(list(rows), len(rows)), *phrases]
    rng.shuffle(about)

    def topics(turn: int) -> Iterator[_Topic]:
        for row in about:
            for again in range(LONG_INPUT_TIMES if word_count(row["text"]) > LONG_INPUT else 1):
                name = f"{seed}-{turn * LONG_INPUT_TIMES + again}-{row['text']}"
                yield _Topic(row, random.Random(f"other-{name}").choice(about)["text"], name)

    with _mapping(lists, processes) as mapped:
        found = (episode for turn in range(_MOST_OF_ONE if about else 0) for episode in mapped(topics(turn)))
        yield from islice((episode for episode in found if episode is not None), count)


class _Topic(NamedTuple):
    """What a row is to be about, what it may be about instead, and the seed of its draws."""

    row: Row
    other: str
    seed: str


@contextmanager
def _mapping(
    lists: Mapping[str, Sequence[str]], processes: int
) -> Iterator[Callable[[Iterable[_Topic]], Iterable[Episode | None]]]:
    """What makes rows of topics, in order."""
    about = partial(_about, Writer(lexicon(lists)))
    if processes == 1:
        yield partial(map, about)
        return
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        yield lambda topics: pool.map(about, topics, chunksize=_CHUNK)
    finally:
        pool.shutdown(cancel_futures=True)  # what is left of a turn when there are enough


def _about(writer: Writer, topic: _Topic) -> Episode | None:
    """A row, if there is something to say of its text."""
    parsed = _parsed(writer, topic.row["text"])
    if parsed is None:
        return None
    text = varied(topic.row["text"], parsed, writer.lexicon, random.Random(f"varied-{topic.seed}"))
    if text != topic.row["text"] and (parsed := _parsed(writer, text)) is None:
        return None
    return _episode(writer, {**topic.row, "text": text}, parsed, topic.other, random.Random(topic.seed))


def _parsed(writer: Writer, text: str) -> Parsed | None:
    if word_count(text) > LONGEST_INPUT or rules.is_noisy(text) or _RUN_ON.search(text):
        return None
    return writer.parse(text)


def _episode(writer: Writer, row: Row, parsed: Parsed, other: str, rng: random.Random) -> Episode | None:
    task, modality = rng.choice(_TASKS), rng.choice(_MODALITIES)
    if task == "brief" and not parsed.camera:
        modality = "template" if rng.random() < 0.7 else modality
    elif parsed.camera:
        modality = "video"
    style = rng.choice(sorted(style_names())) if task == "style" else None
    if style is not None:
        parsed = replace(parsed, medium="")
    text = parsed.text
    what = rng.choice(_BRIEFED[modality])
    asked = _ASKED[task](row["text"], text, parsed, style, what, rng)
    if parsed.camera.rstrip(".").lower() not in asked.lower():
        parsed = replace(parsed, camera="")
    length = _length(rng)
    if (
        parsed.sentences > 1 and task != "compress" and len(parsed.tokens) <= LONGEST_TOLD
    ):  # told as they stand
        length = max(length, word_count(text) + 8)
    share = ALTERED_SHARES.get(task, ALTERED_SHARE_LONG if length > LONG else ALTERED_SHARE)
    told = _altered(writer, parsed, other, rng) if rng.random() < share else parsed
    method = "written" if told == parsed else "altered"
    prompt = rules.clean(writer.prompt(told, length, modality, rng, style, what))
    if task == "compress":
        asked, prompt = prompt, rules.sentence(rules.clean(row["text"]))
        if word_count(asked) < 1.5 * word_count(prompt):
            return None
    elif not rules.adds(asked, prompt):
        return None
    if word_count(asked) < 1:
        return None
    source, licence = row["source"], row["licence"]
    return Episode(
        task,
        modality,
        asked,
        prompt,
        "generated",
        method,
        source,
        licence,
        row["key"],
        words=word_count(prompt),
    )


def _altered(writer: Writer, parsed: Parsed, other: str, rng: random.Random) -> Parsed:
    """What a prompt is about instead of its text."""
    if rng.random() < OTHER_SHARE and (found := _parsed(writer, other)) is not None:
        return replace(found, camera="", medium="")  # of which the modality is not
    return writer.altered(parsed, rng) or parsed


def _length(rng: random.Random) -> int:
    """Words to aim at: as many short prompts as middling and long ones."""
    return round(2 ** rng.uniform(2.9, 7.1))


def _expand(given: str, text: str, parsed: Parsed, style: str | None, what: str, rng: random.Random) -> str:
    draw = rng.random()
    if draw < _HABIT_SHARE:
        return ", ".join((text.rstrip("."), *rng.sample(HABITS, rng.choice((1, 2, 3)))))
    if draw < 0.65:
        return given if rng.random() < 0.4 else text
    return rules.telegraphic(text, rng) if draw < 0.8 else rules.head_phrase(text, rng)


def _tags(given: str, text: str, parsed: Parsed, style: str | None, what: str, rng: random.Random) -> str:
    phrases = list(dict.fromkeys(parsed.words(noun) for noun in parsed.nouns))
    rng.shuffle(phrases)
    return ", ".join(phrases)


def _suggest(given: str, text: str, parsed: Parsed, style: str | None, what: str, rng: random.Random) -> str:
    return rules.half(text, rng) if rng.random() < 0.5 else rules.telegraphic(text, rng, 4)


def _brief(given: str, text: str, parsed: Parsed, style: str | None, what: str, rng: random.Random) -> str:
    return with_articles(rng.choice(_BRIEFS).format(what=what, text=text))


def _styled(given: str, text: str, parsed: Parsed, style: str | None, what: str, rng: random.Random) -> str:
    return rng.choice(
        ("{text}, {style}", "{text}, {style} style", "{style} of {text}", "{text} in {style} style")
    ).format(text=text, style=style)


def _compressed(*_: object) -> str:
    return ""  # the prompt itself is what is asked to be shortened


_ASKED: Mapping[str, Callable[..., str]] = {
    "expand": _expand, "tags": _tags, "suggest": _suggest, "brief": _brief, "style": _styled, "compress": _compressed,
}  # fmt: skip
_BRIEFS = ("Design a {what} with {text}", "Create a {what} about {text}", "A {what} for a campaign that shows {text}",
           "I need a {what}: {text}", "Make a {what} featuring {text}", "{what}, {text}")  # fmt: skip
_BRIEFED = {
    "image": ("picture", "visual", "photo", "illustration"), "video": ("video", "short clip", "video ad"),
    "template": ("poster", "banner", "flyer", "card", "web banner", "book cover", "magazine cover", "album cover",
                 "postcard"),
}  # fmt: skip
