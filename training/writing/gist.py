"""Of a long text its main figures, what it is about and where it is set: "Li Hao, his team and zombies in a wasteland".

Told sentence by sentence it would be copied, and a picture shows no more of it than this.
"""

from __future__ import annotations

from training.writing.phrases import (
    DOERS,
    ENDS,
    HUMAN_DEEDS,
    NO_FIGURES,
    NO_THINGS,
    PLACES,
    POSSESSIVES,
    STORY_PLACES,
    TAKEN_ON,
    UNKNOWN,
    VERBS,
    Noun,
    Parsed,
    names_place,
    token_at,
)

_FIRST_WEIGHT = 2  # what a text begins with, or names, is as if mentioned that much oftener
_MOST_FIGURES, _MOST_TOLD = 2, 3  # figures; figures and things
_BEGINNING = 2  # sentences in which a thing that is mentioned once may be a main one
_SETTINGS = tuple(kind for kind in PLACES if kind != "sky")
_WITHIN = ("in", "inside", "within", "into")
_PREPOSITIONS = ("inside", "under", "near", "on", "at")  # that stay; elsewhere it is "in"
_OF_PLACES = {
    **dict.fromkeys(("midst", "middle", "heart", "center", "centre", "view"), "in"),
    **dict.fromkeys(("edge", "bank", "banks", "outskirts"), "near"),
}
# What stands behind them is no place where the text is set, but seen or shown, or told of a thing.
_NO_PLACE_BEHIND = (
    "of", "and", "with", "as", "like", "includes", "including", "depicting", "showing", "showcasing", "featuring",
    "revealing", "overlooking", "resembling",
)  # fmt: skip
_KNOWN = ("the", "this", "these", *POSSESSIVES)  # they come before what was spoken of already


def gist(parsed: Parsed) -> str:
    """The gist of a parsed text, as a phrase; empty if it names nobody and nothing."""
    tokens, told = parsed.tokens, set[str]()
    figures: list[str] = []
    things: dict[str, int] = {}  # and how often they are mentioned
    place, leading, last_figure = "", False, -1  # a thing comes before all figures; where the last one ended
    neighbours = zip((None, *parsed.nouns), parsed.nouns, (*parsed.nouns[1:], None), strict=False)
    for before, noun, behind in neighbours:
        start, end = _start(parsed, noun, before.end if before else 0), _end(parsed, noun, behind)
        words, heads = " ".join(tokens[start:end]), _heads(parsed, noun)
        if _is_paired(parsed, noun, before):
            words = f"{'the' if token_at(tokens, start - 3) == 'the' else 'a'} {words}"
        if heads & (told | NO_FIGURES) or _is_doubtful(parsed, noun, before):
            continue
        if not figures and token_at(tokens, start) in POSSESSIVES:
            continue  # whose?
        sentence, mentions = sum(token in ENDS for token in tokens[:start]), _mentions(parsed, noun)
        within = noun.kind == "building" and token_at(tokens, start - 1) in _WITHIN
        last = _singular(tokens[noun.end - 1])  # a "new world quail" is no world
        is_place = last in STORY_PLACES or noun.kind in _SETTINGS or within or names_place(parsed, noun)
        if is_place:
            place = place or _place(parsed, noun, start, words)
        if (is_place and not place) or (not is_place and _is_part(parsed, noun, sentence)):
            continue
        told |= heads | (_heads(parsed, behind) if end > noun.end and behind is not None else set())
        if is_place:
            continue
        preposition = token_at(tokens, start - 1)
        if noun.name and start == last_figure:
            figures[-1] = words  # "young survivor Li Hao"
        elif noun.name and preposition == "named" and figures:
            figures[-1] += f" named {words}"
        elif noun.kind in DOERS or (noun.name and preposition != "of"):
            figures.append(words)
            last_figure = noun.end
        elif noun.kind != UNKNOWN or tokens[noun.head][:1].isupper() or (start == 0 and mentions > 1):
            first = not figures and not things
            leading = leading or first
            if first or mentions > 1 or sentence < (1 if figures else _BEGINNING) or noun.kind == UNKNOWN:
                things[words] = mentions + _FIRST_WEIGHT * (first or noun.kind == UNKNOWN)
    return _listed(figures, things, leading=leading, place=place)


def words_of_people(parsed: Parsed) -> set[str]:
    """The words of a text's names that are people's, as what stands around them tells: "Li Hao, a young survivor,"."""
    return {
        word
        for noun, behind in zip(parsed.nouns, (*parsed.nouns[1:], None), strict=True)
        if noun.name
        and (
            token_at(parsed.tokens, noun.start - 1) == "named"
            or token_at(parsed.tokens, noun.end) in HUMAN_DEEDS
            or (behind is not None and behind.kind in DOERS and _is_apposed(parsed, behind, noun))
        )
        for word in parsed.tokens[noun.start : noun.end]
    }


def _listed(figures: list[str], things: dict[str, int], *, leading: bool, place: str) -> str:
    """The main figures and things with their place; the thing that leads before the figures."""
    shown = figures[:_MOST_FIGURES]
    main = next(iter(things), "")
    enough = max(_MOST_FIGURES, len(shown) + 1)  # what is mentioned once is added up to here
    for thing in sorted(things, key=lambda each: -things[each])[: _MOST_TOLD - len(shown)]:
        if things[thing] > 1 or len(shown) < enough:
            shown.append(thing)
    if leading and main in shown:
        shown.remove(main)
        shown.insert(0, main)
    listed = f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else "".join(shown)
    return f"{listed} {place}".strip() if shown else place.partition(" ")[2]


def _place(parsed: Parsed, noun: Noun, start: int, words: str) -> str:
    """Where a text is set, if a noun that may be a place tells it: nothing of "depth of field"."""
    preposition = token_at(parsed.tokens, start - 1)
    if preposition == "of":
        preposition = _OF_PLACES.get(token_at(parsed.tokens, start - 2), "of")
    if noun is not parsed.nouns[0] and (preposition in _NO_PLACE_BEHIND or not preposition.isalpha()):
        return ""
    if preposition not in _PREPOSITIONS:
        within = preposition in _WITHIN
        on = _singular(parsed.tokens[noun.end - 1]) in TAKEN_ON
        preposition = "in" if within else "on" if on else "beside" if noun.kind == "water" else "in"
    return f"{preposition} {words}"


def _start(parsed: Parsed, noun: Noun, free: int) -> int:
    """Where a noun phrase begins; of a name, with the capitalized words before it that no other phrase has."""
    start = noun.start
    while noun.name and start > free and parsed.tokens[start - 1][:1].isupper():
        start -= 1
    return start


def _end(parsed: Parsed, noun: Noun, behind: Noun | None) -> int:
    """Where a noun phrase ends, with what is in it or whose it is: "a cup of coffee", "the ruins of Machu Picchu"."""
    if (
        behind is None
        or behind.start != noun.end + 1
        or parsed.tokens[noun.end] != "of"
        or noun.kind == UNKNOWN
    ):
        return noun.end
    return behind.end if noun.kind == "container" or behind.name or behind.kind in _SETTINGS else noun.end


def _heads(parsed: Parsed, noun: Noun) -> set[str]:
    return {_singular(token) for token in parsed.tokens[noun.head : noun.end]}


def _mentions(parsed: Parsed, noun: Noun) -> int:
    last = _singular(parsed.tokens[noun.end - 1])
    return sum(_singular(token) == last for token in parsed.tokens)


def _singular(token: str) -> str:
    return token.lower().removesuffix("s")


def _is_apposed(parsed: Parsed, noun: Noun, before: Noun) -> bool:
    """Whether a noun tells who the named one before it is: "Li Hao, a young survivor,"."""
    return before.name and noun.start == before.end + 1 and parsed.tokens[before.end] == ","


def _is_part(parsed: Parsed, noun: Noun, sentence: int) -> bool:
    """Whether a noun is a part or another word of what was told, or a substance: "its shell", "the rodent", "paper"."""
    tokens, first = parsed.tokens, token_at(parsed.tokens, noun.start)
    if noun is parsed.nouns[0] or noun.name or tokens[noun.head][:1].isupper():
        return False
    begins = noun.start == 0 or tokens[noun.start - 1] in ENDS
    known = first == "the" or (first in _KNOWN and noun.kind not in DOERS)  # "his team"
    again = noun.modifiers == noun.head or _mentions(parsed, noun) == 1
    return (
        (not noun.plural and not begins and noun.start == noun.head)
        or (known and sentence > 0 and again)
        or (first == "the" and token_at(tokens, noun.end) == "of" and noun.kind not in (*DOERS, "container"))
        or token_at(tokens, noun.start - 1).endswith(("'s", "’s"))
    )


def _is_paired(parsed: Parsed, noun: Noun, before: Noun | None) -> bool:
    """Whether a noun's article stands before one more adjective: "an aged and weathered bench"."""
    return (
        noun.start == noun.modifiers
        and token_at(parsed.tokens, noun.start - 1) in ("and", ",")
        and token_at(parsed.tokens, noun.start - 3) in ("a", "an", "the")
        and (before is None or before.end < noun.start - 1)
    )


def _is_doubtful(parsed: Parsed, noun: Noun, before: Noun | None) -> bool:
    """Whether a noun says again who the one before it is, or may be no noun or name."""
    tokens, preceding = parsed.tokens, token_at(parsed.tokens, noun.start - 1)
    first = noun.start == 0 or preceding in ENDS
    explained = token_at(tokens, noun.end) == "," and token_at(tokens, noun.end + 1) in ("a", "an", "the")
    single = noun.name and noun.end == noun.start + 1 and first and not explained
    full_name = noun.name and (noun.end > noun.start + 1 or preceding == "named")
    bare = noun.start == noun.modifiers
    return (
        preceding in ("no", "without")
        or (not full_name and token_at(tokens, noun.end) in NO_THINGS - VERBS)  # "a human touch"
        or (before is not None and _is_apposed(parsed, noun, before))
        or (
            bare and tokens[noun.start].endswith("ed") and not _is_paired(parsed, noun, before)
        )  # "they faced zombies"
        or (single and tokens.count(tokens[noun.start]) == 1)  # "Nebulae rotate"
        or (bare and preceding == "to")  # "to seal spirits"
        or (bare and not noun.name and preceding in NO_THINGS)  # "a video game store"
        or (
            noun.start == noun.end - 1 and token_at(tokens, noun.end) in ("a", "an", "the")
        )  # "it mirrors the sky"
    )
