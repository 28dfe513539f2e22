"""Of a story its main figures, what it is about and where it is set: "Li Hao, his team and zombies in a wasteland".

Told sentence by sentence a story would be copied, and a picture shows no more of it than this.
"""

from __future__ import annotations

from training.writing.phrases import (
    DOERS,
    ENDS,
    NO_FIGURES,
    NO_THINGS,
    PLACES,
    POSSESSIVES,
    STORY_PLACES,
    UNKNOWN,
    Noun,
    Parsed,
    names_place,
    token_at,
)

_FIRST_WEIGHT = 2  # what a text begins with, or names, is as if mentioned that much oftener
_MOST_FIGURES, _MOST_TOLD = 2, 3  # figures; figures and things
_SETTINGS = tuple(kind for kind in PLACES if kind != "sky")
_WITHIN = ("in", "inside", "within", "into")
_PREPOSITIONS = ("inside", "under", "near", "on")  # that stay; elsewhere it is "in"


def gist(parsed: Parsed) -> str:
    """The gist of a parsed story, as a phrase; empty if it names nobody and nothing."""
    tokens, told = parsed.tokens, set[str]()
    figures: list[str] = []
    things: dict[str, int] = {}  # and how often they are mentioned
    place, last_figure = "", -1  # where the last one ended
    for before, noun in zip((None, *parsed.nouns), parsed.nouns, strict=False):
        start = _start(parsed, noun, before.end if before else 0)
        words, heads = " ".join(tokens[start : noun.end]), _heads(parsed, noun)
        if heads & (told | NO_FIGURES) or _is_doubtful(parsed, noun, before):
            continue
        if not figures and token_at(tokens, start) in POSSESSIVES:
            continue  # whose?
        told |= heads
        preposition = token_at(tokens, start - 1)
        last = _singular(tokens[noun.end - 1])  # a "new world quail" is no world
        within = noun.kind == "building" and preposition in _WITHIN
        if last in STORY_PLACES or noun.kind in _SETTINGS or within or names_place(parsed, noun):
            if preposition == "of":
                continue  # "depth of field"
            place = place or f"{preposition if preposition in _PREPOSITIONS else 'in'} {words}"
        elif noun.name and start == last_figure:
            figures[-1] = words  # "young survivor Li Hao"
        elif noun.name and preposition == "named" and figures:
            figures[-1] += f" named {words}"
        elif noun.kind in DOERS or (noun.name and preposition != "of"):
            figures.append(words)
            last_figure = noun.end
        elif noun.kind != UNKNOWN or tokens[noun.head][:1].isupper():  # "the Taj Mahal"
            mentions = sum(bool(heads & {_singular(token)}) for token in tokens)
            first = noun is parsed.nouns[0] and not parsed.lead
            things[words] = mentions + _FIRST_WEIGHT * (first or noun.kind == UNKNOWN)
    shown = figures[:_MOST_FIGURES]
    for thing in sorted(things, key=lambda each: -things[each])[: _MOST_TOLD - len(shown)]:
        if things[thing] > 1 or len(shown) < _MOST_FIGURES:
            shown.append(thing)
    listed = f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else "".join(shown)
    return f"{listed} {place}".strip() if shown else ""


def _start(parsed: Parsed, noun: Noun, free: int) -> int:
    """Where a noun phrase begins; of a name, with the capitalized words before it that no other phrase has."""
    start = noun.start
    while noun.name and start > free and parsed.tokens[start - 1][:1].isupper():
        start -= 1
    return start


def _heads(parsed: Parsed, noun: Noun) -> set[str]:
    return {_singular(token) for token in parsed.tokens[noun.head : noun.end]}


def _singular(token: str) -> str:
    return token.lower().removesuffix("s")


def _is_doubtful(parsed: Parsed, noun: Noun, before: Noun | None) -> bool:
    """Whether a noun says again who the one before it is, or may be no noun or name."""
    tokens = parsed.tokens
    apposed = (
        before is not None and before.name and noun.start == before.end + 1 and tokens[before.end] == ","
    )
    first = noun.start == 0 or tokens[noun.start - 1] in ENDS
    explained = token_at(tokens, noun.end) == "," and token_at(tokens, noun.end + 1) in ("a", "an", "the")
    single = noun.name and noun.end == noun.start + 1 and first and not explained
    return (
        token_at(tokens, noun.start - 1) in ("no", "without")
        or token_at(tokens, noun.end) in NO_THINGS  # "a human touch"
        or apposed  # "Li Hao, a young survivor,"
        or (noun.start == noun.modifiers and tokens[noun.start].endswith("ed"))  # "they faced zombies"
        or (single and tokens.count(tokens[noun.start]) == 1)  # "Nebulae rotate"
        or token_at(tokens, noun.start - 1) == "to"  # "to seal spirits"
    )
