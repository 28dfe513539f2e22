"""A text that is written about, with all that was drawn for what is said of it."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from training.generator import with_articles
from training.writing.frames import Setting, fill, scenes, settings, usual_settings, usual_settings_of_nouns
from training.writing.phrases import (
    CLOSED,
    DARK,
    LIVELY,
    OUTDOORS,
    PEOPLE,
    PLACES,
    SET_APART,
    SWEET,
    UNKNOWN,
    VIOLENT,
    WHEREABOUTS,
    Noun,
    Parsed,
    singular_forms,
    token_at,
    unfit,
)

_PRONOUNS = {"man": ("his", "him"), "boy": ("his", "him"), "woman": ("her", "her"), "girl": ("her", "her"),
             "person": ("their", "them"), "group": ("their", "them")}  # fmt: skip
_POSSESSIVE_SHARE = 0.6  # of "the edges of the bowl", which becomes "the bowl's edges"
_POSSESSED = re.compile(
    r"\b[Tt]he (?!(?:rest|middle|centre|front|back|side|whole|matter|size|care|importance|presence)\b)"
    r"(\w+|\([\w|]+\)) of \{h\}"
)
# Kinds of things that may be anywhere, and so say nothing of where the subject is.
_CARRIED = (
    "food", "drink", "flower", "device", "container", "clothing", "text", "toy", "tool", "object", "instrument",
)  # fmt: skip
# Kinds of things that are neither grave nor grand by themselves, and such as are not grave.
_EVERYDAY = {*_CARRIED, "furniture", "fixture", "vehicle", "insect"}
COLOURLESS = "monochrome"  # among what `unfit` knows
_LIVING = PEOPLE | {"animal", "bird", "fish"}


@dataclass
class Scene:
    """A parsed text and what was drawn for all that is said about it."""

    parsed: Parsed
    rng: random.Random
    light: str
    roomy: bool = False  # there is room for clauses in what the text says
    focus: float = 0.5  # how close what is said keeps to the things that the text names, 0 to 1
    slots: dict[str, str] = field(default_factory=dict)
    setting: Setting | None = None
    set_by_text: bool = False  # the text names the setting
    unfit: re.Pattern[str] | None = None  # what can't be said of it

    def fits(self, sentence: str) -> bool:
        """Whether a frame or sentence says nothing that the text rules out."""
        return self.unfit is None or self.unfit.search(sentence) is None

    def say(self, frame: str, noun: Noun | None = None, several: bool | None = None) -> str:
        """A frame about a noun of the scene, or about the whole; `several`, where verbs agree with something else."""
        slots = self.slots
        if noun is not None:
            its, them = ("their", "them") if noun.plural else _PRONOUNS.get(noun.kind, ("its", "it"))
            if noun.kind == "person" and not noun.plural:  # as the text has it
                said = (
                    "man"
                    if "his" in self.parsed.tokens
                    else "woman"
                    if "her" in self.parsed.tokens
                    else "person"
                )
                its, them = _PRONOUNS[said]
            slots = {**slots, "h": self.the(noun, self._name(noun)), "its": its, "them": them}
            if not noun.plural and " of " not in slots["h"] and self.rng.random() < _POSSESSIVE_SHARE:
                frame = _POSSESSED.sub(r"{h}'s \1", frame)
        if several is None:
            several = noun is not None and noun.plural
        text = fill(frame, slots, several, self.rng)
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
        full = self.rng.random() < 0.2 + 0.4 * self.focus
        return self.parsed.words(noun) if full else self.parsed.noun(noun)


def new_scene(
    parsed: Parsed, rng: random.Random, *, colored: bool = True, roomy: bool = False, focus: float = 0.5
) -> Scene:
    """A scene with its light, colours (or greys), moods and setting drawn, as the words and things of the text allow.

    focus: how close what is said keeps to the things that the text names, 0 to 1.
    """
    everything = scenes()
    words = {token.lower() for token in parsed.tokens}
    place, setting, named = _setting(parsed, rng)
    lights = everything["light"].items()
    fitting = [name for name, light in lights if words & set(light.get("words", "").split())]
    there = [name for name, light in lights if place in light.get("settings", "").split()]
    if "night" in fitting:
        fitting = ["night"]  # also in the rain
    light = rng.choice(fitting or there or ["day", "day", "golden", "overcast"])
    colors = rng.sample(everything["colors"]["words" if colored else "greys"].split("|"), 2)
    moods = rng.sample(rng.choice(_fitting_moods(parsed.nouns[0].kind, words)).split(), 2)
    slots = {"color": colors[0], "color2": colors[1], "mood": moods[0], "mood2": moods[1]}
    barred = unfit(words if colored else words | {COLOURLESS})
    scene = Scene(parsed, rng, light, roomy, focus, slots, setting, named, barred)
    names = everything["light"][light]["names"]
    slots["light"] = rng.choice([name for name in names if scene.fits(name)] or names)
    return scene


def _fitting_moods(kind: str, words: set[str]) -> list[str]:
    """Groups of moods: dark ones for a dark text, grave ones for a fight, none such for a kettle."""
    groups: dict[str, str] = scenes()["moods"]
    if words & VIOLENT:
        return [groups["grave"]]
    barred = {"calm"} if words & LIVELY else set()
    if words & DARK:
        return [groups[name] for name in ("calm", "grave", "grand") if name not in barred]
    if kind in _LIVING or kind in _EVERYDAY or words & SWEET:
        barred.add("grave")
    if kind in PEOPLE or kind in _EVERYDAY:
        barred.add("grand")
    return [moods for name, moods in groups.items() if name not in barred]


def _setting(parsed: Parsed, rng: random.Random) -> tuple[str, Setting | None, bool]:
    """The setting that a text names, or else one in which its things are no surprise, if it leaves that open: its name,
    itself, and whether the text names it.
    """
    everywhere, subject = settings(), parsed.nouns[0]
    heads = {
        parsed.noun(noun).lower()
        for noun in parsed.nouns
        if noun is subject or token_at(parsed.tokens, noun.start - 1) in WHEREABOUTS
    }
    named = [place for place, setting in everywhere.items() if setting.names & heads]
    if any(
        parsed.tokens[noun.end - 1].lower() in CLOSED
        and token_at(parsed.tokens, noun.start - 1).lower() in ("in", "inside")
        for noun in parsed.nouns[1:]
    ):
        return "", None, False  # "a galaxy in a bottle"
    if len(named) == 1:
        return named[0], everywhere[named[0]], True
    elsewhere = any(
        noun.kind in PLACES
        or (noun.kind == UNKNOWN and token_at(parsed.tokens, noun.start - 1) in WHEREABOUTS)
        or (noun.name and noun is not subject)
        for noun in parsed.nouns
    )
    if named or elsewhere or parsed.sentences > 1 or SET_APART & {token.lower() for token in parsed.tokens}:
        return "", None, False
    usual = _usual_settings(parsed, subject)
    for noun in parsed.nouns[1:]:
        if noun.kind not in (*_CARRIED, UNKNOWN):
            usual &= _usual_settings(parsed, noun)
        else:
            usual &= _own_settings(parsed, noun) or usual
    if OUTDOORS & {token.lower() for token in parsed.tokens}:
        usual -= {place for place, setting in everywhere.items() if setting.indoor}
    if not usual:
        return "", None, False
    place = rng.choice(sorted(usual))
    return place, everywhere[place], False


def _usual_settings(parsed: Parsed, noun: Noun) -> frozenset[str]:
    """Names of the settings in which a thing is no surprise: its own, or else those of its kind."""
    return _own_settings(parsed, noun) or usual_settings(noun.kind)


def _own_settings(parsed: Parsed, noun: Noun) -> frozenset[str]:
    """Names of a thing's own settings; none if it has no others than its kind."""
    own = usual_settings_of_nouns()
    for name in (parsed.words(noun), parsed.noun(noun)):  # "a snow leopard" is listed, and a leopard
        *before, last = name.lower().split()
        for form, _ in singular_forms(last):
            if (found := own.get(" ".join((*before, form)))) is not None:
                return found
    return frozenset()
