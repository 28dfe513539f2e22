"""Texts to write about that captions lack: phrases of listed things and names, stories, rare words in known places.

A model that has seen "kimono" twice writes of shirts. Where any noun may stand in any place it has to look at its
input.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from textblob.inflect import pluralize

from training import rules
from training.generator import with_articles
from training.swap import COLORS
from training.writing.openings import is_sentence
from training.writing.phrases import Lexicon, Parsed, is_common, rare_words, token_at

Row = Mapping[str, Any]

# Word lists of the open data, by the kind of thing they name.
LISTS = {
    "person": ("occupations",), "animal": ("animals", "dogs"), "bird": ("birds",), "flower": ("flowers",),
    "food": ("fruits", "vegetables", "dishes"), "clothing": ("clothing",), "instrument": ("instruments",),
    "creature": ("creatures",), "room": ("rooms",), "object": ("objects",),
}  # fmt: skip
PLACE_LISTS = ("cities", "countries")
# Listed words that name several things, or that nobody writes: "coffee, per pot", "stilts and avocets".
_UNFIT = re.compile(
    r"(?<![su])s$|wear$|[,(&/]|\band\b|(?:oe|[^su\W])s (?:of|with|in|to|au|julienne|lyonnaise|parisienne)\b"
)
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
    "Stormrider", "Ravenscroft", "Ironwood",
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
VIEWS_OF = (
    "an oil painting of", "a watercolor of", "a photo of", "a close-up of", "a portrait of", "a pencil sketch of",
    "an aerial view of", "a digital painting of", "a 3d render of", "a black and white photo of", "an illustration of",
    "a cinematic shot of", "a wide shot of", "a macro photo of", "a charcoal drawing of", "a flat lay of",
    "vector art of", "a low angle shot of", "a vintage photo of", "a surrealist painting of", "an ink drawing of",
)  # fmt: skip
MEDIA = (
    "oil painting", "watercolor", "digital art", "pixel art", "3d render", "pencil sketch", "anime style",
    "studio ghibli style", "vector art", "in cyberpunk style", "concept art", "black and white", "line art",
    "cinematic", "low poly art", "ukiyo-e style", "in van gogh style", "comic style", "impressionist painting",
    "isometric view", "film photography", "close-up", "wide shot", "minimalist", "art deco illustration",
)  # fmt: skip
CAMERA_MOVES = (
    "pan left", "pan right", "tilt up", "tilt down", "zoom in", "zoom out", "camera pans left", "camera tilts up",
    "the camera pans right", "the camera zooms out", "the camera circles slowly", "the camera tilts down",
)  # fmt: skip
# Of a story: how it begins, and how it goes on. {who} is its hero, {doer} somebody it meets, {place} where it is set.
_BEGINNINGS = (
    "In {a_place}, {who} found {thing} that nobody had seen for a hundred years.",
    "After a long war, {who} lived alone in {a_place}.",
    "Long ago there was {a_place} that was said to hide {thing}.",
    "Legend says that {thing} lies in {a_place}, and {who} set out to find it.",
    "{who} wakes up in {a_place} and remembers nothing.",
    "{who} and {doer} walk through {a_place}.",
    "The story begins in {a_place}, where {who} works day and night.",
    "Every morning {who} walks to {a_place} and feeds {doer}.",
    "On a stormy night, {who} hears a noise in {a_place}.",
    "When the power failed, {who} and their team were deep inside {a_place}.",
    "{who} is looking for {thing} in {a_place}.",
    "A young {job} named {name} entered {a_place} to find {thing}.",
)
_NEXT = (
    "There {he} meets {doer}, who warns of a great danger.",
    "{Doer} tells a secret about {thing}.",
    "Along the way they find {thing} and {thing2}.",
    "Suddenly {doer} appears out of the dark.",
    "As time passed, {thing} began to glow.",
    "The sky turns red, and everyone looks up.",
    "{He} opens a door and sees {thing} on a table.",
    "But {doer} had taken {thing} long before.",
    "With the help of {doer}, {name} solved the riddle.",
    "The camera follows them through the crowd.",
    "Nobody believed the story at first.",
    "They had only one night left to escape.",
    "{He} holds {thing} tightly and runs.",
    "Strange symbols cover the walls around them.",
    "Behind the last gate they discover {a_place2}.",
    "For the first time in years, {name} smiled.",
)
_ENDINGS = (
    "In the end, {name} destroyed {thing} and went home.",
    "Eventually {name} learned what {thing} was made for.",
    "Finally the light of morning fell on everything.",
    "At last {name} and {doer} became friends.",
    "In the end nothing was left but silence.",
    "{name} never came back.",
)
_STORY_PLACES = (
    "a hidden tomb", "an ancient maze", "a distant kingdom", "a ruined city", "a deep forest", "a misty canyon",
    "a small village by the sea", "an abandoned space station", "a snowy mountain valley", "an old library",
    "a desert temple", "a haunted castle", "a crowded market", "an underground cave", "a futuristic city",
    "a wasteland", "a secret laboratory", "a foggy harbor", "a jungle", "a quiet garden", "a frozen valley",
)  # fmt: skip
STORY_SHARE = 0.25  # of composed texts
_LONGEST_IN_STORY = 2  # words of a noun; "hazardous materials removal worker" is nobody in a story
# Of the texts written about: such as have other nouns or adjectives, and of these, such as have any noun of English and
# not one of the same kind.
RENAMED_SHARE, ANY_NOUN_SHARE, ADJECTIVE_SHARE = 0.35, 0.4, 0.3
# And such as are to be shown in some way, and such as tell what the camera does.
VIEW_SHARE, MEDIUM_SHARE, CAMERA_SHARE = 0.04, 0.06, 0.05


def composed(lists: Mapping[str, Sequence[str]], count: int, rng: random.Random) -> Iterator[Row]:
    """Phrases and stories from word lists; none without lists."""
    composer = _Composer(lists, rng)
    for _ in range(count if composer.names else 0):
        story = composer.heroes and rng.random() < STORY_SHARE
        text = composer.story() if story else composer.phrase()
        yield {"text": text, "key": text, "source": "corpora", "licence": "CC0-1.0"}


class _Composer:
    """Draws listed things."""

    def __init__(self, lists: Mapping[str, Sequence[str]], rng: random.Random) -> None:
        self._rng = rng
        self._one = {
            name: found
            for names in LISTS.values()
            for name in names
            if (found := [word for word in lists.get(name, ()) if not _UNFIT.search(word)])
        }
        self.names = list(self._one)
        self.doers = [name for kind in _DOERS for name in LISTS[kind] if name in self._one]
        words = Lexicon({})
        self._plain = {
            name: plain
            for name, found in self._one.items()
            if (plain := [word for word in found if _is_plain(word, words)])
        }
        self.heroes = [name for name in self.doers if name in self._plain]

    def phrase(self) -> str:
        """One to three things or names, somewhere or nowhere; some do something, some stand in order."""
        rng = self._rng
        draw = rng.random()
        if draw < 0.5 and self.doers:
            who = self._name() if draw < 0.17 else self._thing(self.doers)
            text = f"{who} {rng.choice(_DEEDS)} {self._thing(self.names)}"
        elif draw < 0.65:
            things = {letter: self._thing(self.names) for letter in "abc"}
            text = rng.choice(_ORDERED).format(**things)
        else:
            text = f" {rng.choice(('and', 'next to', 'with'))} ".join(
                self._thing(self.names) for _ in range(rng.choice((1, 1, 2)))
            )
        draw = rng.random()
        if draw < 0.5:
            text += " " + rng.choice(_PLACES)
        elif draw < 0.65:
            text += " " + rng.choice(_LANDMARKS)
        return text

    def story(self) -> str:
        """Several sentences about a hero, in a place, with things and others that come and go."""
        rng = self._rng
        name = self._name() if rng.random() < 0.7 else rng.choice(_FIRST_NAMES)
        job = rng.choice(
            self._plain[rng.choice([each for each in self.heroes if each in LISTS["person"]] or self.heroes)]
        )
        things = [each for each in self._plain if each not in {*self.doers, *LISTS["room"]}] or self.heroes
        place, place2 = rng.sample(_STORY_PLACES, 2)
        doer = self._thing(self.heroes, self._plain)
        slots = {
            "name": name.split()[0] if rng.random() < 0.5 else name,
            "who": rng.choice((name, f"{name}, a young {job.lower()},", f"a {job.lower()} named {name}")),
            "job": job.lower(),
            "doer": doer,
            "Doer": doer[:1].upper() + doer[1:],
            "thing": self._thing(things, self._plain),
            "thing2": self._thing(things, self._plain),
            "a_place": place,
            "a_place2": place2,
        }
        slots["he"], slots["He"] = rng.choice((("he", "He"), ("she", "She")))
        told = [
            rng.choice(_BEGINNINGS),
            *rng.sample(_NEXT, rng.randint(1, 5)),
            *((rng.choice(_ENDINGS),) if rng.random() < 0.5 else ()),
        ]
        return with_articles(" ".join(rules.sentence(each.format(**slots)) for each in told))

    def _thing(self, of: Sequence[str], words: Mapping[str, Sequence[str]] | None = None) -> str:
        noun = self._rng.choice((words or self._one)[self._rng.choice(of)]).lower()
        color = f"{self._rng.choice(COLORS)} " if self._rng.random() < 0.3 else ""
        return with_articles(f"a {color}{noun}")

    def _name(self) -> str:
        return f"{self._rng.choice(_FIRST_NAMES)} {self._rng.choice(_LAST_NAMES)}"


def _is_plain(noun: str, lexicon: Lexicon) -> bool:
    """Whether a listed noun is one of a story: short, and of words that are common."""
    words = noun.lower().split()
    return len(words) <= _LONGEST_IN_STORY and all(
        is_common(word, lexicon) and not word.endswith("s") for word in words
    )


def varied(given: str, parsed: Parsed, lexicon: Lexicon, rng: random.Random) -> str:
    """A text, often with rare words in place of its own, or with a word on how it is to be shown."""
    one = parsed.sentences == 1  # in a story the noun would stand elsewhere as it was
    text = _renamed(parsed, lexicon, rng) if one and rng.random() < RENAMED_SHARE else given
    if parsed.lead or parsed.medium or parsed.camera or parsed.sentences > 1:
        return text
    draw = rng.random()
    if draw < VIEW_SHARE and not is_sentence(parsed):
        first = text[:1].lower() if parsed.tokens[0][:1].islower() else text[:1]
        return f"{rng.choice(VIEWS_OF)} {first}{text[1:]}"
    for share, shown in ((MEDIUM_SHARE, MEDIA), (CAMERA_SHARE, CAMERA_MOVES)):
        draw -= share
        if draw < VIEW_SHARE:
            return f"{text.rstrip(' .')}, {rng.choice(shown)}"
    return text


def _renamed(parsed: Parsed, lexicon: Lexicon, rng: random.Random) -> str:
    """One or two nouns become others, of their kind or any; some things get an adjective that few would give them."""
    tokens = list(parsed.tokens)
    several = min(len(parsed.nouns), rng.choice((1, 1, 2)))
    nouns, adjectives = rare_words()
    for noun in sorted(rng.sample(parsed.nouns, several), key=lambda each: each.start, reverse=True):
        if noun.name:
            continue
        same_kind = lexicon.singulars(noun.kind) if rng.random() >= ANY_NOUN_SHARE else []
        word = re.sub(r"(?<=\w\w)-", " ", rng.choice(same_kind or nouns))
        bare = noun.start == noun.head and not noun.plural and not same_kind
        if bare and not {"of", "and", "or"} & {
            token_at(parsed.tokens, at) for at in (noun.start - 1, noun.end)
        }:
            word = f"a {word}"  # whatever it stood for, such as "grass", had none
        tokens[noun.head : noun.end] = [pluralize(word) if noun.plural and word[-1] != "s" else word]
        if noun.head == noun.modifiers > noun.start and rng.random() < ADJECTIVE_SHARE:
            tokens.insert(noun.head, rng.choice(adjectives))
    return with_articles(replace(parsed, tokens=tuple(tokens)).text)
