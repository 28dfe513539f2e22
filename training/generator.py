"""Composed episodes: subjects, attributes, counts, materials and quoted words drawn from word lists.

Their outputs hold what their inputs name, whatever it is, which is what copying unseen entities is learnt from.
Every row is marked `generated`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

from promptdial.command import word_count
from training.episodes import Episode

_COUNTS = ("two", "three", "four", "five", "six", "a pair of", "a group of", "dozens of")
_KINDS = ("animals", "dogs", "fruits", "vegetables", "dishes", "flowers", "objects", "clothing", "creatures",
          "instruments", "occupations")  # fmt: skip
_LIVING = ("animals", "dogs", "creatures", "occupations")
# Written for this generator: the word lists have no everyday places, lights and surfaces.
_PLACES = ("in a sunlit meadow", "on a wooden table", "in a quiet library", "on a sandy beach", "in a snowy forest",
           "beside a calm lake", "in a busy market", "on a stone bridge", "in an old workshop", "in a bright kitchen",
           "on a city rooftop", "in a misty valley", "under a large oak tree", "in a small garden", "by an open window",
           "on a cobblestone street", "in a dusty attic", "on a grassy hill", "near a waterfall", "in a train station",
           "in a desert canyon", "on a marble shelf", "in a cozy living room", "at the edge of a cliff")  # fmt: skip
_LIGHTS = ("soft morning light", "the warm glow of sunset", "pale moonlight", "bright midday sun", "candlelight",
           "cool blue light", "golden afternoon light", "the light of street lamps", "diffuse light under grey clouds",
           "a single spotlight", "neon light", "dappled sunlight")  # fmt: skip
_SURFACES = ("wood", "glass", "marble", "brass", "porcelain", "clay", "paper", "leather", "silver", "stone", "bronze",
             "velvet", "ice", "copper", "wool", "crystal")  # fmt: skip
_HUES = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "white", "black", "brown", "grey", "golden",
         "silver", "turquoise", "crimson", "ivory", "teal", "violet")  # fmt: skip
_FEELINGS = ("calm", "mysterious", "cheerful", "dramatic", "dreamlike", "nostalgic", "peaceful", "playful", "solemn",
             "lively", "romantic", "eerie")  # fmt: skip
_OPENINGS = (
    "{Subject} {stands} {place}, lit by {light}.",
    "{Subject} {place}, surrounded by {light}.",
    "A {feeling} scene of {subject} {place}.",
    "{Subject} {stands} out against a {color} background.",
    "A close-up of {subject} {place}, with {color} tones and fine detail.",
    "{Light} falls on {subject} {place}.",
)
_LINES = (
    "Next to {them} {is_} {things} of {surface}.",
    "{Light2} brings out the {color} tones and the texture of every surface.",
    "The background fades into soft {color2} shades.",
    "The whole scene feels {feeling}, with accents of {color2}.",
    "In the foreground, {things} made of {surface} can be seen.",
    "The composition is simple and leaves room around {them}.",
)


class Composer:
    """Draws scenes from word lists and renders them as the input and output of each task."""

    def __init__(self, lists: dict[str, list[str]], styles: list[dict[str, Any]], rng: random.Random) -> None:
        self.lists = lists
        self.styles = styles
        self.rng = rng

    def episodes(self, count: int) -> Iterator[Episode]:
        """`count` episodes over all tasks and modalities."""
        makers = (self._scene, self._scene, self._styled, self._lettering)
        for _ in range(count):
            yield self.rng.choice(makers)()

    def _pick(self, name: str) -> str:
        return self.rng.choice(self.lists[name]).lower()

    def _subject(self) -> tuple[str, bool]:
        """A subject of 1-4 words, and whether it is plural."""
        kind = self.rng.choice(_KINDS)
        noun = self._pick(kind)
        plural = self.rng.random() < 0.35
        described = _plural(noun) if plural else noun
        if self.rng.random() < 0.6:
            described = f"{self._attribute(kind)} {described}"
        return (f"{self.rng.choice(_COUNTS)} {described}", True) if plural else (_article(described), False)

    def _attribute(self, kind: str) -> str:
        if kind in _LIVING:
            return self.rng.choice(("young", "old", "small", "large", "tired", "happy", *_HUES[5:11]))
        return self.rng.choice((*_HUES, "small", "large", "old", "shiny", "broken", "wooden"))

    def _scene(self) -> Episode:
        subject, plural = self._subject()
        slots = self._slots(subject, plural)
        lines = [self.rng.choice(_OPENINGS), *self.rng.sample(_LINES, self.rng.choice((0, 0, 0, 1, 1, 2)))]
        output = " ".join(line.format(**slots) for line in lines)
        used = [slots[name] for name in _NAMED if any("{" + name + "}" in line for line in lines)]
        kept = self.rng.sample(used, self.rng.randint(0, min(2, len(used))))
        modality = self.rng.choice(("image", "image", "image", "video", "template"))
        task = self.rng.choice(("tags", "expand", "expand", "suggest", "brief"))
        if task == "brief":
            kind = self.rng.choice(("poster", "banner", "flyer", "card"))
            asked = f"Design a {kind} with {subject}"
            asked += f", showing {' and '.join(kept)}." if kept else "."
            return self._made(task, modality, asked, output)
        if task == "tags":
            tags = [part.removeprefix("a ").removeprefix("an ") for part in (subject, *kept)]
            self.rng.shuffle(tags)
            return self._made(task, modality, ", ".join(tags), output)
        return self._made(task, modality, ", ".join([subject, *kept]), output)

    def _slots(self, subject: str, plural: bool) -> dict[str, str]:
        light, light2 = self.rng.sample(_LIGHTS, 2)
        things, several = self._things()
        color, color2 = self.rng.sample(_HUES, 2)
        return {
            "subject": subject, "Subject": _capitalized(subject), "them": "them" if plural else "it",
            "stands": "stand" if plural else "stands", "is_": "are" if several else "is", "things": things,
            "place": self.rng.choice(_PLACES), "light": light, "Light": _capitalized(light),
            "Light2": _capitalized(light2), "color": color, "color2": color2,
            "surface": self.rng.choice(_SURFACES), "feeling": self.rng.choice(_FEELINGS),
        }  # fmt: skip

    def _things(self) -> tuple[str, bool]:
        """Something that stands about, and whether it is plural."""
        noun = self.rng.choice(
            ("vase", "lamp", "chair", "bowl", "statue", "lantern", "box", "bottle", "clock", "frame")
        )
        if self.rng.random() < 0.4:
            return f"{self.rng.choice(_COUNTS[:5])} {_plural(noun)}", True
        return _article(noun), False

    def _styled(self) -> Episode:
        """A subject in one of the style templates."""
        subject, _ = self._subject()
        style = self.rng.choice(self.styles)
        name = style["name"].split("-", 1)[-1].replace("-", " ")
        output = style["prompt"].replace("{prompt}", subject).replace(" . ", ", ")
        modality = self.rng.choice(("image", "image", "video", "template"))
        return self._made(
            "style",
            modality,
            f"{subject}, {name}",
            output,
            "style-template",
            style["source"],
            style["licence"],
        )

    def _lettering(self) -> Episode:
        """A design that carries quoted words."""
        quoted = '"' + " ".join(self._pick(name) for name in ("adjectives", "nouns")).title() + '"'
        kind = self.rng.choice(
            ("poster", "banner", "invitation", "flyer", "book cover", "business card", "logo")
        )
        place, color, subject = self._pick("cities").title(), self.rng.choice(_HUES), self._subject()[0]
        asked = f"Design a {kind} for {place} that says {quoted}, with {subject}."
        output = f"A {kind} for {place} in {color}, with the words {quoted} in bold letters above {subject}."
        if self.rng.random() < 0.5:
            output += f" {_capitalized(self.rng.choice(_LIGHTS))} sets a {self.rng.choice(_FEELINGS)} mood."
        return self._made("brief", "template", asked, output, "lettering")

    def _made(
        self,
        task: str,
        modality: str,
        input: str,
        output: str,
        method: str = "scene",
        source: str = "corpora",
        licence: str = "CC0-1.0",
    ) -> Episode:
        return Episode(
            task,
            modality,
            with_articles(input),
            with_articles(output),
            "generated",
            method,
            source,
            licence,
            output,
            words=word_count(output),
        )


_NAMED = ("place", "light", "surface")


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _article(noun: str) -> str:
    return noun if noun.startswith(("a ", "an ", "the ")) else with_articles(f"a {noun}")


def with_articles(text: str) -> str:
    """The text with "a" or "an" as the word behind it wants it."""
    return re.sub(r"\b(an?) (?=(\w+))", _right_article, text, flags=re.IGNORECASE)


def _right_article(match: re.Match[str]) -> str:
    word = match.group(2)
    if word.isupper() and len(word) <= 3:  # said letter by letter: "an F1 car"
        vowel = word[0] in "AEFHILMNORSX"
    else:
        word = word.lower()
        vowel = word[0] in "aeiou" and not word.startswith(("uni", "use", "usu", "uti", "eu", "one", "uku"))
        vowel = vowel or word.startswith(("hour", "honest", "heir", "honour", "8", "11", "18"))
    return f"{match.group(1)[0]}{'n' if vowel else ''} "


def _plural(noun: str) -> str:
    words = noun.split(" of ", 1)
    if len(words) > 1:
        return f"{_plural(words[0])} of {words[1]}"
    if noun.endswith("s"):
        return noun
    if noun.endswith("man"):
        return noun[:-3] + "men"
    if noun.endswith(("ch", "sh", "x")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else noun + "s"
