"""Episodes from the open data: pairs as found, cut, reversed and reused; inputs made by rule where only outputs exist.

Each function takes rows of one kind and yields unlabelled episodes; `prepare` scores, mixes and splits them.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from promptdial.command import word_count
from training import rules
from training.episodes import Episode
from training.sources import DISTILLED
from training.swap import swapped

Row = dict[str, Any]

STILL_CUTS = 4  # beginnings of a video prompt that an image prompt is made of, at most
SHORTEST_CUT = 8  # words
REVERSED_SHARE = 0.5
SWAPPED_ROWS = 3  # of a pair or long text with another thing in it
ECHOING = (
    "hunyuan-rewriter",
)  # teachers that repeat the input and add three words: kept as found, not reused


def _episode(
    row: Row, task: str, modality: str, input: str, output: str, method: str, key: str
) -> Iterator[Episode]:
    """One derived episode, unless a side came out empty, or nothing new is said where something should be."""
    input, output = rules.clean(input), rules.clean(output)
    if word_count(input) < 1 or word_count(output) < 2 or rules.words(input) == rules.words(output):
        return
    if task != "compress" and not rules.adds(input, output):
        return
    origin = "real" if method == "pair" else "derived"
    if row["source"].endswith(DISTILLED):
        origin = "distilled"
    yield Episode(
        task,
        modality,
        input,
        output,
        origin,
        method,
        row["source"],
        row["licence"],
        key,
        words=word_count(output),
    )


def _own_rng(seed: int, text: str) -> random.Random:
    """Draws that depend on the row alone, so that a change of one row changes no other."""
    return random.Random(f"{seed}-{hashlib.sha256(text.encode()).hexdigest()}")


def from_pairs(pairs: list[Row], seed: int) -> Iterator[Episode]:
    """Every pair: as found, cut, reused as image, and with inputs of the other tasks made from its output."""
    for row in pairs:
        rng = _own_rng(seed, row["input"] + row["output"])
        task, modality, key = row["kind"], row["modality"], row["input"]
        if row.get("teacher") in ECHOING:
            yield from _episode(row, task, modality, row["input"], row["output"], "pair", key)
            continue
        modalities = [modality]
        still = not rules.MOTION.search(row["input"] + " " + row["output"])
        if modality == "video" and still:
            modalities.append("image")
        beginnings = _beginnings(row["output"], rng, 3)
        for target in modalities:
            method = "pair" if target == modality else "reused"
            yield from _episode(row, task, target, row["input"], row["output"], method, key)
            for cut in beginnings[:-1]:
                yield from _episode(row, task, target, row["input"], cut, "cut", key)
            yield from _other_tasks(row, target, beginnings, key, rng)
            if task == "expand" and rng.random() < REVERSED_SHARE:
                yield from _episode(row, "compress", target, row["output"], row["input"], "reversed", key)
        if not still:
            yield from _cut_reuse(row, rng)


def _cut_reuse(row: Row, rng: random.Random) -> Iterator[Episode]:
    """A video prompt with motion late in it still begins with a still image: its beginnings free of motion words."""
    if row["modality"] != "video" or rules.MOTION.search(row["input"]):
        return
    cuts = [cut for cut in rules.cuts(row["output"])[:-1] if not rules.MOTION.search(cut)]
    cuts = [cut for cut in cuts if word_count(cut) >= SHORTEST_CUT]
    for cut in rng.sample(cuts, min(STILL_CUTS, len(cuts))):
        yield from _episode(row, row["kind"], "image", row["input"], cut, "reused-cut", row["input"])
    if cuts:
        make = rng.choice((_as_tags, _as_suggest, _as_expand, _as_expand))
        yield from make(row, "image", rng.choice(cuts), row["input"], rng)


def from_swapped(
    pairs: list[Row], long_texts: list[Row], captions: list[Row], seed: int
) -> Iterator[Episode]:
    """Rows about other things: of each pair, description or caption that names one, with that replaced by its like."""
    for rows, make, most in (
        (pairs, from_pairs, SWAPPED_ROWS),
        (long_texts, from_long_texts, SWAPPED_ROWS),
        (captions, from_captions, 1),
    ):
        for row in rows:
            rng = _own_rng(seed, "swap" + str(row.get("text") or row["input"] + row["output"]))
            names = ("text",) if "text" in row else ("input", "output")
            changed = swapped([rules.clean(row[name]) for name in names], rng)
            if changed is None or row.get("teacher") in ECHOING:
                continue
            other = {**row, **dict(zip(names, changed, strict=True))}
            other.pop("group", None)
            made = [e for e in make([other], seed) if e.task != "compress"]
            for episode in rng.sample(made, min(most, len(made))):
                yield replace(
                    episode, key=row.get("input") or row["text"], origin="derived", method="swapped"
                )


def _beginnings(text: str, rng: random.Random, shorter: int) -> list[str]:
    """Up to `shorter` beginnings that end with a sentence, then the whole text."""
    *cut, whole = rules.cuts(text)
    return [*sorted(rng.sample(cut, min(shorter, len(cut))), key=len), whole]


def _other_tasks(
    row: Row, modality: str, beginnings: list[str], key: str, rng: random.Random
) -> Iterator[Episode]:
    """Rows of half the tasks from beginnings of one output, asked for in the words of each task."""
    for make in rng.sample((_as_tags, _as_suggest, _as_expand, _as_brief, _as_style, _as_compress), 3):
        yield from make(row, modality, rng.choice(beginnings), key, rng)


def _as_tags(row: Row, modality: str, text: str, key: str, rng: random.Random) -> Iterator[Episode]:
    if len(rules.key_phrases(text)) >= 2:
        yield from _episode(row, "tags", modality, rules.tag_list(text, rng), text, "keywords", key)


def _as_suggest(row: Row, modality: str, text: str, key: str, rng: random.Random) -> Iterator[Episode]:
    query = rules.half(text, rng) if rng.random() < 0.5 else rules.telegraphic(text, rng, 4)
    yield from _episode(row, "suggest", modality, query, text, "half" if query in text else "query", key)


def _as_expand(row: Row, modality: str, text: str, key: str, rng: random.Random) -> Iterator[Episode]:
    if rng.random() < 0.5:
        yield from _episode(row, "expand", modality, rules.head_phrase(text, rng), text, "head", key)
    else:
        yield from _episode(row, "expand", modality, rules.telegraphic(text, rng), text, "telegraphic", key)


_BRIEF_OPENINGS = {
    "template": (
        "Design a {kind} about {head}.",
        "Create a {kind} with {head}.",
        "I need a {kind} that shows {head}.",
    ),
    "image": (
        "Create an image of {head}.",
        "I need a picture that shows {head}.",
        "Design a visual with {head}.",
    ),
    "video": (
        "Make a video of {head}.",
        "I need a short clip that shows {head}.",
        "Create a video ad with {head}.",
    ),
}
_BRIEF_DETAILS = (
    "It should include {list}.",
    "Show {list}.",
    "Make sure to feature {list}.",
    "Key elements: {list}.",
)


def _as_brief(row: Row, modality: str, text: str, key: str, rng: random.Random) -> Iterator[Episode]:
    kind = rules.KIND.search(text) if modality == "template" else None
    opening = rng.choice(_BRIEF_OPENINGS[modality]).format(
        kind=kind.group(0).lower() if kind else "poster", head=rules.head_phrase(text, rng)
    )
    phrases = rules.key_phrases(text)[1:]
    chosen = rng.sample(phrases, min(len(phrases), rng.randint(1, 4)))
    details = " " + rng.choice(_BRIEF_DETAILS).format(list=_listing(chosen)) if chosen else ""
    yield from _episode(row, "brief", modality, opening + details, text, "brief", key)


def _listing(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


_MOODS = ("dramatic", "serene", "vibrant", "vintage", "modern", "rustic", "whimsical", "moody", "elegant", "cinematic",
          "minimalist", "realistic", "dreamlike", "futuristic", "cozy", "surreal", "abstract", "watercolor", "natural",
          "oil painting", "pencil sketch", "black and white", "neon", "cartoon", "anime",
          "fantasy", "cyberpunk")  # fmt: skip


def _as_style(row: Row, modality: str, text: str, key: str, rng: random.Random) -> Iterator[Episode]:
    """Subject and style, where the text names a style or mood that can be asked for."""
    lowered = text.lower()
    found = [mood for mood in _MOODS if mood in lowered]
    if found:
        wanted = ", ".join(rng.sample(found, min(len(found), 2)))
        suffix = rng.choice(("", " style"))
        subject = rules.head_phrase(text, rng)
        yield from _episode(row, "style", modality, f"{subject}, {wanted}{suffix}", text, "named-style", key)


def _as_compress(row: Row, modality: str, text: str, key: str, rng: random.Random) -> Iterator[Episode]:
    if word_count(text) < 20 or rng.random() < 0.3:
        return
    first = rules.sentences(text)[0]
    if rng.random() < 0.4 and word_count(first) < 0.6 * word_count(text):
        yield from _episode(row, "compress", modality, text, first, "first-sentence", key)
    else:
        yield from _episode(row, "compress", modality, text, rules.head_phrase(text, rng, 12), "head-of", key)


def from_long_texts(texts: list[Row], seed: int) -> Iterator[Episode]:
    """Long prompts and descriptions: every task, from their beginnings."""
    for row in texts:
        rng = _own_rng(seed, row["text"])
        key, text = row["text"], rules.without_instruction(rules.clean(row["text"]))
        if rules.is_noisy(text):
            continue
        modality = "template" if rules.TEMPLATE.search(text) else "image"
        beginnings = _beginnings(text, rng, 3)
        yield from _other_tasks(row, modality, beginnings, key, rng)
        for beginning in rng.sample(beginnings, min(2, len(beginnings))):
            yield from _as_expand(row, modality, beginning, key, rng)
        if modality == "template":
            yield from _as_brief(row, modality, text, key, rng)


def from_user_prompts(texts: list[Row], seed: int) -> Iterator[Episode]:
    """Prompts people wrote: the first segment asks for the whole, the modifiers are its style.

    Segments that credit someone or something are left out, and so are prompts that aren't a subject and its style.
    """
    for row in texts:
        rng = _own_rng(seed, row["text"])
        key, text = row["text"], rules.clean(row["text"])
        segments = [part.strip() for part in text.split(",") if part.strip() and not rules.is_credit(part)]
        text = ", ".join(dict.fromkeys(segments))
        if len(segments) < 3 or word_count(segments[0]) < 3 or rules.is_noisy(text):
            continue
        modality = "template" if rules.TEMPLATE.search(text) else "image"
        style = rng.sample(segments[1:], min(rng.randint(1, 2), len(segments) - 1))
        yield from _episode(row, "style", modality, ", ".join([segments[0], *style]), text, "modifiers", key)
        make = rng.choice((_as_tags, _as_suggest, _as_compress))
        yield from make(row, modality, text, key, rng)


def from_captions(texts: list[Row], seed: int) -> Iterator[Episode]:
    """Captions: alone as tags, telegraphic and half inputs; of one picture, one as another's expansion."""
    groups: dict[object, list[Row]] = defaultdict(list)
    for number, row in enumerate(texts):
        groups[row.get("group", f"alone-{number}")].append(row)
    for rows in groups.values():
        key = rows[0]["text"]
        rng = _own_rng(seed, key)
        captions = [caption for row in rows if not rules.is_noisy(caption := _sentence(row["text"]))]
        for caption in captions if len(captions) < 3 else rng.sample(captions, 2):
            make = rng.choices((_as_tags, _as_expand, _as_suggest, _as_brief), (4, 4, 2, 1))[0]
            modality = "template" if rules.TEMPLATE.search(caption) else "image"
            yield from make(rows[0], modality, caption, key, rng)
        if len(captions) >= 3:
            yield from _from_group(rows[0], captions, key, rng)


def _from_group(row: Row, captions: list[str], key: str, rng: random.Random) -> Iterator[Episode]:
    """The shortest caption asks for the longest; two are compressed to a third."""
    ordered = sorted(captions, key=word_count)
    asked = ordered[0].rstrip(".")
    asked = asked[:1].lower() + asked[1:]
    yield from _episode(row, "expand", "image", asked, ordered[-1], "same-picture", key)
    if rng.random() < 0.5:
        first, second, third = rng.sample(captions, 3)
        yield from _episode(row, "compress", "image", f"{first} {second}", third, "same-picture", key)


def _sentence(text: str) -> str:
    text = rules.clean(text)
    text = text.capitalize() if text.isupper() else text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."
