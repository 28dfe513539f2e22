"""New rows from old ones: a thing or colour that a text names becomes another of its kind, everywhere in the row.

There are few texts to learn from, and what a model has seen often it recites. A row whose fox became a heron, in the
input as in the output, can only be right by looking at the input.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

COLORS = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "white", "black", "brown", "gray", "golden",
          "silver", "turquoise", "crimson", "teal", "violet", "beige")  # fmt: skip
KINDS: Mapping[str, Sequence[str]] = {
    "colors": COLORS,
    "animals": (
        "dog", "cat", "horse", "cow", "sheep", "elephant", "bear", "zebra", "giraffe", "fox", "rabbit", "lion", "tiger",
        "wolf", "deer", "squirrel", "hedgehog", "otter", "panda", "koala", "goat", "donkey", "camel", "monkey",
        "raccoon", "badger", "leopard", "llama", "puppy", "kitten", "hamster", "beaver", "lynx", "moose", "bison",
    ),
    "birds": ("bird", "owl", "eagle", "parrot", "penguin", "swan", "duck", "heron", "raven", "sparrow", "flamingo",
              "peacock", "pelican", "crane", "seagull", "falcon"),
    "plants": (
        "apple", "banana", "apricot", "pear", "peach", "lemon", "mango", "plum", "cherry", "strawberry", "pineapple",
        "tomato", "carrot", "cucumber", "pumpkin", "onion", "potato", "eggplant", "melon", "coconut",
    ),
    "vehicles": ("car", "bus", "truck", "train", "motorcycle", "bicycle", "boat", "van", "taxi", "tram", "scooter",
                 "airplane", "helicopter", "tractor", "sailboat", "yacht"),
    "furniture": ("chair", "couch", "sofa", "bench", "armchair", "stool", "desk", "bookshelf", "cabinet", "wardrobe"),
    "vessels": ("cup", "bowl", "vase", "bottle", "mug", "teapot", "jug", "basket", "bucket", "jar"),
    "instruments": ("guitar", "piano", "violin", "cello", "trumpet", "flute", "harp", "saxophone", "accordion"),
    "flowers": ("rose", "tulip", "sunflower", "daisy", "orchid", "lily", "iris", "peony", "lavender", "dahlia"),
}  # fmt: skip
_KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}
_MENTION = re.compile(rf"\b({'|'.join(sorted(_KIND_OF, key=len, reverse=True))})(s|es|'s)?\b", re.IGNORECASE)
_ARTICLE = re.compile(rf"\b(an?) ({'|'.join(_KIND_OF)})\b", re.IGNORECASE)


def swapped(texts: Sequence[str], rng: random.Random, most: int = 2) -> list[str] | None:
    """The texts with up to `most` things or colours replaced, the same ones in all; None if the first names none."""
    found = list(dict.fromkeys(match.group(1).lower() for match in _MENTION.finditer(texts[0])))
    if not found:
        return None
    present = {match.group(1).lower() for text in texts for match in _MENTION.finditer(text)}
    changes: dict[str, str] = {}
    for old in rng.sample(found, min(most, len(found))):
        others = [
            word for word in KINDS[_KIND_OF[old]] if word not in present and word not in changes.values()
        ]
        if others:
            changes[old] = rng.choice(others)
    return [_replaced(text, changes) for text in texts]


def _replaced(text: str, changes: Mapping[str, str]) -> str:
    def new(match: re.Match[str]) -> str:
        word = match.group(1)
        found = changes.get(word.lower())
        if found is None:
            return match.group(0)
        ending = match.group(2) or ""
        if ending in ("s", "es"):
            found = _plural(found)
            ending = ""
        return (found[:1].upper() + found[1:] if word[:1].isupper() else found) + ending

    return _ARTICLE.sub(_article, _MENTION.sub(new, text)) if changes else text


def _article(match: re.Match[str]) -> str:
    """The right article before a word that may have been put there."""
    article, word = match.group(1), match.group(2).lower()
    right = "an" if word[0] in "aeio" or word == "umbrella" else "a"
    return f"{right.capitalize() if article[:1].isupper() else right} {match.group(2)}"


def _plural(noun: str) -> str:
    if noun.endswith(("s", "sheep", "deer", "bison", "moose")):
        return noun
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + (
        "es" if noun.endswith(("ch", "sh", "x", "o")) and noun not in ("piano", "banjo", "cello") else "s"
    )
