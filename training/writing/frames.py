"""Sentences with choices in them, as `frames.toml`, `scenes.toml` and `settings.toml` write them."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_CHOICE = re.compile(r"\(([^()]*)\)")
_AGREEMENT = re.compile(r"\[([^\[\]|]*)\|([^\[\]|]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Frames:
    """What can be said of one kind of thing."""

    stand: Sequence[str]  # "stands|stand"
    adjectives: Sequence[str]
    clauses: Sequence[str]
    details: Sequence[str]
    motion: Sequence[str]


@cache
def kinds() -> Mapping[str, Frames]:
    """The frames of every kind; what a kind is `like` lends it its own."""
    table = _read("frames.toml")

    def lent(kind: str, field: str) -> list[str]:
        own = list(table[kind].get(field, ()))
        other = table[kind].get("like")
        # A thing that is like another has its own adjectives where it has any; people keep everybody's.
        borrow = other is not None and (other == "person" or not own or field == "details")
        return [*own, *(lent(other, field) if borrow else ())]

    fields = Frames.__dataclass_fields__
    return {kind: Frames(*(lent(kind, field) for field in fields)) for kind in table}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is seen around a subject in one kind of place."""

    names: frozenset[str]  # by which a text names it
    phrases: Sequence[str]
    props: Sequence[str]
    props_plural: Sequence[str]
    liquid: bool = False  # nothing is told to be in it
    indoor: bool = False


@cache
def settings() -> Mapping[str, Setting]:
    """The settings by name."""
    table = _read("settings.toml")["place"]
    return {
        name: Setting(
            frozenset(noun.replace("-", " ") for noun in own["names"].split()),
            own["phrase"],
            own["props"],
            own["props_plural"],
            own.get("liquid", False),
            own.get("indoor", False),
        )
        for name, own in table.items()
    }


@cache
def usual_settings(kind: str) -> frozenset[str]:
    """Names of the settings in which a kind of thing is no surprise."""
    return frozenset(_read("settings.toml")["usual"].get(kind, "").split())


@cache
def usual_settings_of_nouns() -> Mapping[str, frozenset[str]]:
    """Names of such settings by noun, lower case and singular, of nouns that have others than their kind."""
    return {
        form: frozenset(places.split())
        for nouns, places in _read("settings.toml")["usual_nouns"].items()
        for noun in nouns.split()
        for form in (noun, noun.replace("-", " "))
    }


@cache
def scenes() -> Mapping[str, Any]:
    """What can be said of a scene as a whole, as `scenes.toml` has it."""
    return _read("scenes.toml")


@cache
def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def fill(frame: str, slots: Mapping[str, str], plural: bool, rng: random.Random) -> str:
    """A frame with its choices made and its slots filled; KeyError names a slot that is missing."""
    frame = _AGREEMENT.sub(lambda match: match.group(2 if plural else 1), frame)
    while (match := _CHOICE.search(frame)) is not None:
        frame = frame[: match.start()] + rng.choice(match.group(1).split("|")) + frame[match.end() :]
    text = _SLOT.sub(lambda match: _slot(match, slots), frame)
    return re.sub(r"\s+", " ", text).strip()


def _slot(match: re.Match[str], slots: Mapping[str, str]) -> str:
    """A slot's text; with a capital where the slot's name has one."""
    name = match.group(1)
    text = slots[name[:1].lower() + name[1:]]
    return text[:1].upper() + text[1:] if name[:1].isupper() else text
