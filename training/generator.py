"""Composed episodes: subjects, attributes, counts, materials and quoted words drawn from word lists.

Their outputs hold what their inputs name, whatever it is, which is what copying unseen entities is learnt from.
Every row is marked `generated`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from promptdial.command import word_count
from training.episodes import Episode

_COUNTS = ("two", "three", "four", "five", "six", "a pair of", "a group of", "dozens of")
_SUBJECTS = ("animals", "dogs", "birds", "fruits", "vegetables", "dishes", "flowers", "objects", "clothing",
             "creatures", "instruments", "occupations")  # fmt: skip
_LINES = (
    "{It} {is_} surrounded by {a_object}, under {weather}.",
    "The background is a {adjective} {place} in {color} and {color2}.",
    "Made of {material}, {it} {catch} the light of {weather}.",
    "Behind {it} stands {a_object} of {material}.",
    "The whole {medium_noun} feels {mood}, with accents of {color}.",
    "In the foreground lies {a_object}, painted {color}.",
    "Soft light falls on {it} from the left.",
    "Fine details of {material} give the surface texture.",
)
_OPENINGS = (
    "{Subject} in {a_place}.",
    "{Subject} rests beside {a_object} in {a_place}.",
    "{A_mood} view of {subject} in {a_place}.",
    "{Subject} stands out against a {color} background.",
    "{Subject}, {color} and {material}, fills the frame.",
)


class Composer:
    """Draws scenes from word lists and renders them as the input and output of each task."""

    def __init__(self, lists: dict[str, list[str]], styles: list[dict[str, Any]], rng: random.Random) -> None:
        self.lists = lists
        self.styles = styles
        self.rng = rng

    def episodes(self, count: int) -> Iterator[Episode]:
        """`count` episodes over all tasks and modalities."""
        makers = (self._scene, self._scene, self._scene, self._styled, self._modifiers, self._lettering)
        for _ in range(count):
            yield self.rng.choice(makers)()

    def _pick(self, name: str) -> str:
        return self.rng.choice(self.lists[name]).lower()

    def _subject(self) -> tuple[str, bool]:
        """A subject of 1-4 words, and whether it is plural."""
        noun = self._pick(self.rng.choice(_SUBJECTS))
        described = f"{self._pick('colors')} {noun}" if self.rng.random() < 0.4 else noun
        if self.rng.random() < 0.4:
            described = f"{self._pick('adjectives')} {described}"
        if self.rng.random() < 0.25:
            return f"{self.rng.choice(_COUNTS)} {_plural(described)}", True
        return _article(described), False

    def _scene(self) -> Episode:
        subject, plural = self._subject()
        slots = self._slots(subject, plural)
        lines = [self.rng.choice(_OPENINGS), *self.rng.sample(_LINES, self.rng.choice((0, 0, 1, 1, 2, 3, 5)))]
        output = " ".join(line.format(**slots) for line in lines)
        used = [slots[name] for name in _NAMED if any("{" + name + "}" in line for line in lines)]
        kept = self.rng.sample(used, self.rng.randint(0, min(3, len(used))))
        modality = self.rng.choice(("image", "image", "image", "video", "template"))
        task = self.rng.choice(("tags", "expand", "expand", "suggest", "brief", "compress"))
        bare = subject.split(" ", 1)[1] if not plural else subject
        if task == "compress" and word_count(output) >= 15:
            return self._made(task, modality, output, f"{subject}, {kept[0]}" if kept else subject)
        if task == "brief":
            asked = (
                f"Design a {self.rng.choice(('poster', 'banner', 'flyer', 'visual', 'card'))} with {subject}"
            )
            return self._made(
                task, modality, asked + (f", showing {' and '.join(kept)}." if kept else "."), output
            )
        if task == "tags":
            tags = [bare, *(part.removeprefix("a ").removeprefix("an ") for part in kept)]
            self.rng.shuffle(tags)
            return self._made(task, modality, ", ".join(tags), output)
        return self._made(
            "expand" if task == "compress" else task, modality, " ".join([subject, *kept]), output
        )

    def _slots(self, subject: str, plural: bool) -> dict[str, str]:
        a_object, a_place, mood = (
            _article(self._pick("objects")),
            _article(self._pick("rooms")),
            self._pick("moods"),
        )
        return {
            "subject": subject, "Subject": subject[:1].upper() + subject[1:],
            "it": "them" if plural else "it", "It": "They" if plural else "It", "is_": "are" if plural else "is",
            "catch": "catch" if plural else "catches", "a_object": a_object, "a_place": a_place,
            "place": self._pick("rooms"), "adjective": self._pick("adjectives"), "mood": mood,
            "A_mood": _article(mood).capitalize(), "color": self._pick("colors"), "color2": self._pick("colors"),
            "material": self._pick("materials"), "weather": self._pick("weather"),
            "medium_noun": self.rng.choice(("scene", "picture", "composition")),
        }  # fmt: skip

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

    def _modifiers(self) -> Episode:
        """A subject followed by medium, movement and style phrases, as people write image prompts."""
        subject, _ = self._subject()
        modifiers = [self._pick("mediums"), self._pick("movements")]
        modifiers += [self._pick("style_phrases") for _ in range(self.rng.randint(0, 6))]
        output = ", ".join([subject, *self.rng.sample(modifiers, len(modifiers))])
        wanted = self.rng.sample(modifiers, self.rng.randint(1, 2))
        modality = self.rng.choice(("image", "image", "video", "template"))
        return self._made(
            "style", modality, ", ".join([subject, *wanted]), output, "modifiers", "clip-interrogator", "MIT"
        )

    def _lettering(self) -> Episode:
        """A design that carries quoted words."""
        quoted = '"' + " ".join(self._pick(name) for name in ("adjectives", "nouns")).upper() + '"'
        kind = self.rng.choice(
            ("poster", "banner", "invitation", "flyer", "book cover", "business card", "logo")
        )
        place, color, subject = self._pick("cities").title(), self._pick("colors"), self._subject()[0]
        asked = f"Design a {kind} for {place} that says {quoted}, with {subject}."
        output = f"A {kind} for {place} in {color}, with the words {quoted} in bold letters above {subject}."
        if self.rng.random() < 0.5:
            output += f" The background is made of {self._pick('materials')}, and the mood is {self._pick('moods')}."
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
            input,
            output,
            "generated",
            method,
            source,
            licence,
            output,
            words=word_count(output),
        )


_NAMED = ("a_object", "a_place", "color", "material", "weather", "mood")


def _article(noun: str) -> str:
    if noun.startswith(("a ", "an ", "the ")):
        return noun
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def _plural(noun: str) -> str:
    if noun.endswith("s"):
        return noun
    if noun.endswith(("ch", "sh", "x")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else noun + "s"
