"""Written rows for `prepare`: captions, short prompts, long texts and composed phrases, with prompts about them.

A share of the prompts is about something else, in part or as a whole, so that low and middling relevance can be asked
for in the same language as high.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from promptdial.command import word_count
from training import rules
from training.episodes import Episode
from training.generator import with_articles
from training.swap import COLORS
from training.writing.phrases import Lexicon, Parsed
from training.writing.writer import Writer, style_names

Row = Mapping[str, Any]

LONGEST_INPUT = 140  # words of a text that is written about
LONGEST_STORY = 50  # words of a prompt about several sentences, at least
# Of prompts that are about something else; more of the long ones, which would otherwise all be relevant.
ALTERED_SHARE, ALTERED_SHARE_LONG, LONG = 0.35, 0.45, 50
# Of these: such as are about another text altogether, and, where there is room, such as go over to one; the rest are
# about the same text with other things, or about a part of it.
OTHER_SHARE, DRIFTING_SHARE = 0.3, 0.25
_MOST_OF_ONE = 20  # rows about one text
# Word lists of the open data, by the kind of thing they name.
LISTS = {
    "person": ("occupations",), "animal": ("animals", "dogs"), "bird": ("birds",), "flower": ("flowers",),
    "food": ("fruits", "vegetables", "dishes"), "clothing": ("clothing",), "instrument": ("instruments",),
    "creature": ("creatures",), "room": ("rooms",), "object": ("objects",),
}  # fmt: skip
PLACE_LISTS = ("cities", "countries")
_MODALITIES = ("image",) * 6 + ("video",) * 2 + ("template",) * 2
_TASKS = ("expand",) * 10 + ("tags",) * 3 + ("suggest",) * 3 + ("brief",) * 2 + ("style",) * 3 + ("compress",)
_SEVERAL = re.compile(r"(?<![su])s$")
_DOERS = ("person", "animal", "bird", "creature")
_DEEDS = (
    "riding", "holding", "carrying", "looking at", "standing next to", "sitting beside", "walking past", "chasing",
    "resting near", "playing with", "hiding behind", "pulling", "guarding", "posing with", "wearing",
)  # fmt: skip
_ORDERED = (
    "{a} on the left of {b}", "{a} on the right of {b}", "{a} to the left of {b}", "{a} on top of {b}",
    "{a} behind {b}", "{a} with {b} on its left and {c} on its right", "{a} between {b} and {c}", "{a} below {b}",
    "{a} in front of {b}",
)  # fmt: skip
_FIRST_NAMES = (
    "Anna", "Marta", "Ibrahim", "Yuki", "Olga", "Pedro", "Amara", "Lena", "Tomas", "Priya", "Hugo", "Fatima", "Nils",
    "Chloe", "Ravi", "Ingrid", "Mateo", "Zara", "Oskar", "Mei", "Jonas", "Leila", "Viktor", "Nadia", "Emil", "Aiko",
    "Samuel", "Freya", "Kofi", "Isolde", "Bruno", "Tamsin", "Dmitri", "Esme", "Gareth", "Hana", "Idris", "Juno",
    "Caspian", "Elowen", "José", "Zoë", "Björn", "Renée", "Søren", "Łukasz", "Inés", "Jürgen", "Chloé",
    "Thorin", "Zephyr", "Morwen", "Kael", "Lysandra", "Orin",
)  # fmt: skip
_LAST_NAMES = (
    "Keller", "Okafor", "Tanaka", "Novak", "Silva", "Lindqvist", "Moreau", "Haddad", "Petrov", "Brandt", "Castillo",
    "Fischer", "García", "Müller", "Dalí", "Åkesson", "Gödel",
    "Nakamura", "Osei", "Rossi", "Sorensen", "Varga", "Whitlock", "Yilmaz", "Zielinski", "Ashford",
    "Blackwood", "Campbell", "Delacroix", "Eriksen", "Fairchild", "Grimshaw", "Hollis", "Ivanova", "Jansen",
    "Stormrider", "Nightingale", "Ravenscroft", "Ironwood", "Starling",
)  # fmt: skip
_LANDMARKS = (
    "near Mount Fuji", "in front of the Eiffel Tower", "at Machu Picchu", "near the Golden Gate Bridge",
    "beside Stonehenge", "in Venice", "in New York City", "in front of the Taj Mahal", "at Angkor Wat",
    "below Mount Everest", "on Lake Como", "in Santorini", "in the Grand Canyon", "at Niagara Falls", "in Petra",
    "in Kyoto", "in Lisbon", "in Marrakesh", "near Buckingham Palace", "in front of the Brandenburg Gate",
    "in Reykjavik", "in Istanbul", "in the Sahara", "in Times Square", "near Big Ben", "beside the Colosseum",
    "in Cape Town", "in Hong Kong", "on the Amazon", "in Edinburgh",
)  # fmt: skip
_PLACES = (
    "on Mars", "on the Moon", "in space", "in Paris", "in Tokyo", "in an ancient temple", "in a cathedral",
    "at a market", "in a library", "under water", "in the desert", "at a train station", "in a forest at night",
    "on a rooftop at sunset", "in a cave", "in the rain", "on a bridge", "in a laboratory", "at a festival",
    "in front of a castle", "in a cyberpunk city", "on a wooden table", "in a quiet room", "in a green field",
    "on a city street", "near a calm lake", "at the beach", "in an old garden", "on a snowy hill",
    "inside a small shop", "beside a river", "in front of a brick wall", "under a tall tree",
)  # fmt: skip
# How a text is to be shown, before it or behind it, and what the camera is to do.
_VIEWS_OF = (
    "an oil painting of", "a watercolor of", "a photo of", "a close-up of", "a portrait of", "a pencil sketch of",
    "an aerial view of", "a digital painting of", "a 3d render of", "a black and white photo of", "an illustration of",
    "a cinematic shot of", "a wide shot of", "a macro photo of", "a charcoal drawing of", "a flat lay of",
    "vector art of", "a low angle shot of", "a vintage photo of", "a surrealist painting of", "an ink drawing of",
)  # fmt: skip
_MEDIA = (
    "oil painting", "watercolor", "digital art", "pixel art", "3d render", "pencil sketch", "anime style",
    "studio ghibli style", "vector art", "in cyberpunk style", "concept art", "black and white", "line art",
    "cinematic", "low poly art", "ukiyo-e style", "in van gogh style", "comic style", "impressionist painting",
    "isometric view", "film photography", "close-up", "wide shot", "minimalist", "art deco illustration",
)  # fmt: skip
_CAMERA_MOVES = (
    "pan left", "pan right", "tilt up", "tilt down", "zoom in", "zoom out", "camera pans left", "camera tilts up",
    "the camera pans right", "the camera zooms out", "the camera circles slowly", "the camera tilts down",
)  # fmt: skip
# What people put behind a prompt out of habit.
HABITS = (
    "highly detailed", "4k", "8k", "hd", "sharp focus", "masterpiece", "best quality", "cinematic lighting", "hdr",
    "trending on artstation", "photorealistic", "intricate details", "dramatic lighting", "ultra realistic",
    "award winning", "octane render", "soft lighting", "high resolution", "professional",
)  # fmt: skip
_HABIT_SHARE = 0.08


def lexicon(lists: Mapping[str, Sequence[str]]) -> Lexicon:
    """The nouns written about: the listed ones and those of the open data's word lists."""
    return Lexicon(
        {kind: [word for name in names for word in lists.get(name, ())] for kind, names in LISTS.items()},
        [word for name in PLACE_LISTS for word in lists.get(name, ())],
    )


def written(
    rows: Sequence[Row], lists: Mapping[str, Sequence[str]], count: int, seed: int
) -> Iterator[Episode]:
    """`count` rows at most about `rows` (with `text`, `key`, `source`, `licence`) and composed phrases.

    The draws for a row depend on its text alone, as in `training.derive`, but for the other text that some are about.
    """
    writer = Writer(lexicon(lists))
    rng = random.Random(f"written-{seed}")
    composed = _composed(lists, len(rows) // 4, random.Random(f"composed-{seed}"))
    about = [*rng.sample(list(rows), len(rows)), *composed]
    rng.shuffle(about)
    left = count
    for turn in range(_MOST_OF_ONE if about else 0):
        for row in about:
            if left <= 0:
                return
            parsed = _parsed(writer, row["text"])
            own = random.Random(f"{seed}-{turn}-{row['text']}")
            other = random.Random(f"other-{seed}-{turn}-{row['text']}").choice(about)["text"]
            if parsed is not None and (episode := _episode(writer, row, parsed, other, own)) is not None:
                left -= 1
                yield episode


def _parsed(writer: Writer, text: str) -> Parsed | None:
    if word_count(text) > LONGEST_INPUT or rules.is_noisy(text):
        return None
    return writer.parse(text)


def _composed(lists: Mapping[str, Sequence[str]], count: int, rng: random.Random) -> Iterator[Row]:
    """Phrases of one to three listed things or names, somewhere or nowhere; some do something, some stand in order."""
    one = {
        name: found
        for names in LISTS.values()
        for name in names
        if (found := [word for word in lists.get(name, ()) if not _SEVERAL.search(word)])
    }
    names, doers = list(one), [name for kind in _DOERS for name in LISTS[kind] if name in one]

    def thing(of: Sequence[str]) -> str:
        noun = rng.choice(one[rng.choice(of)]).lower()
        color = f"{rng.choice(COLORS)} " if rng.random() < 0.3 else ""
        return with_articles(f"a {color}{noun}")

    for _ in range(count if names else 0):
        draw = rng.random()
        if draw < 0.25 and doers:
            who = (
                f"{rng.choice(_FIRST_NAMES)} {rng.choice(_LAST_NAMES)}"
                if rng.random() < 0.7
                else thing(doers)
            )
            text = f"{who} {rng.choice(_DEEDS)} {thing(names)}"
        elif draw < 0.5 and doers:
            text = f"{thing(doers)} {rng.choice(_DEEDS)} {thing(names)}"
        elif draw < 0.65:
            text = rng.choice(_ORDERED).format(a=thing(names), b=thing(names), c=thing(names))
        else:
            text = f" {rng.choice(('and', 'next to', 'with'))} ".join(
                thing(names) for _ in range(rng.choice((1, 1, 2)))
            )
        draw = rng.random()
        if draw < 0.5:
            text += " " + rng.choice(_PLACES)
        elif draw < 0.65:
            text += " " + rng.choice(_LANDMARKS)
        draw = rng.random()
        if draw < 0.12:
            text = f"{rng.choice(_VIEWS_OF)} {text}"
        elif draw < 0.24:
            text += f", {rng.choice(_MEDIA)}"
        elif draw < 0.32:
            text += f", {rng.choice(_CAMERA_MOVES)}"
        yield {"text": text, "key": text, "source": "corpora", "licence": "CC0-1.0"}


def _episode(writer: Writer, row: Row, parsed: Parsed, other: str, rng: random.Random) -> Episode | None:
    task, modality = rng.choice(_TASKS), rng.choice(_MODALITIES)
    if task == "brief" and not parsed.camera:
        modality = "template" if rng.random() < 0.7 else modality
    elif parsed.camera:
        modality = "video"
    style = rng.choice(sorted(style_names())) if task == "style" else None
    if style is not None:
        parsed = replace(parsed, medium="")
    move = parsed.camera.rstrip(".").lower()
    text = ", ".join(
        [rules.clean(" ".join(parsed.tokens)), *(each for each in (parsed.medium, move) if each)]
    )
    what = rng.choice(_BRIEFED[modality])
    asked = _ASKED[task](row["text"], text, parsed, style, what, rng)
    if move not in asked.lower():
        parsed = replace(parsed, camera="")
    length = _length(rng)
    if parsed.sentences > 1 and task != "compress":  # there is room for the beginning of a story
        length = max(length, min(word_count(row["text"]) + 8, LONGEST_STORY))
    parts = [(parsed, length)]
    if task != "compress" and rng.random() < (ALTERED_SHARE_LONG if length > LONG else ALTERED_SHARE):
        may_drift = length > LONG and style is None and modality != "template"
        parts = _altered(writer, parsed, other, length, rng, may_drift=may_drift)
    prompt = " ".join(
        rules.clean(writer.prompt(each, words, modality, rng, style, what)) for each, words in parts
    )
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
        "written",
        source,
        licence,
        row["key"],
        words=word_count(prompt),
    )


def _altered(
    writer: Writer, parsed: Parsed, other: str, length: int, rng: random.Random, *, may_drift: bool
) -> list[tuple[Parsed, int]]:
    """What a prompt of a length is about instead of its text, and in how many words each."""
    draw = rng.random()
    if draw < OTHER_SHARE + DRIFTING_SHARE * may_drift and (found := _parsed(writer, other)) is not None:
        elsewhere = replace(found, camera="", medium="")  # of which the modality is not
        own = round(length * rng.uniform(0.2, 0.8)) if draw >= OTHER_SHARE else 0
        return [(parsed, own), (elsewhere, length - own)] if own else [(elsewhere, length)]
    return [(writer.altered(parsed, rng) or parsed, length)]


def _length(rng: random.Random) -> int:
    """Words to aim at: as many short prompts as middling and long ones."""
    return round(2 ** rng.uniform(3.3, 7.1))


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
