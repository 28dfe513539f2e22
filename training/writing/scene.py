"""A text that is written about, with all that was drawn for what is said of it."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from training.generator import with_articles
from training.writing.frames import fill, scenes
from training.writing.phrases import Noun, Parsed

_PRONOUNS = {"man": ("his", "him"), "boy": ("his", "him"), "woman": ("her", "her"), "girl": ("her", "her"),
             "person": ("their", "them")}  # fmt: skip


@dataclass
class Scene:
    """A parsed text and what was drawn for all that is said about it."""

    parsed: Parsed
    rng: random.Random
    light: str
    roomy: bool = False  # there is room for clauses in what the text says
    slots: dict[str, str] = field(default_factory=dict)

    def say(self, frame: str, noun: Noun | None = None, several: bool = False) -> str:
        """A frame about a noun of the scene, or about the whole, which may be `several` things."""
        slots = self.slots
        if noun is not None:
            its, them = ("their", "them") if noun.plural else _PRONOUNS.get(noun.kind, ("its", "it"))
            slots = {**slots, "h": self.the(noun, self._name(noun)), "its": its, "them": them}
        text = fill(frame, slots, several or (noun is not None and noun.plural), self.rng)
        text = re.sub(r",\s*(?=[,.;:])", "", text)  # behind a clause that ends what the text says
        return with_articles(text[:1].upper() + text[1:])

    @staticmethod
    def the(noun: Noun, name: str) -> str:
        """A noun's name with its article; of one thing alone without."""
        return name if noun.name else f"the {name}"

    def _name(self, noun: Noun) -> str:
        """The noun, at times with the adjectives it came with."""
        if noun.name:
            return self.parsed.words(noun)
        return self.parsed.words(noun) if self.rng.random() < 0.4 else self.parsed.noun(noun)


def new_scene(parsed: Parsed, rng: random.Random, *, colored: bool = True, roomy: bool = False) -> Scene:
    """A scene with its light, colours (or greys) and moods drawn; the light follows the words of the text."""
    everything = scenes()
    words = {token.lower() for token in parsed.tokens}
    fitting = [
        name for name, light in everything["light"].items() if words & set(light.get("words", "").split())
    ]
    light = rng.choice(fitting or ["day", "day", "golden", "overcast"])
    colors = rng.sample(everything["colors"]["words" if colored else "greys"].split("|"), 2)
    moods = rng.sample(rng.choice(everything["moods"]["groups"]).split(), 2)
    slots = {"color": colors[0], "color2": colors[1], "mood": moods[0], "mood2": moods[1]}
    slots["light"] = rng.choice(everything["light"][light]["names"])
    return Scene(parsed, rng, light, roomy, slots)
