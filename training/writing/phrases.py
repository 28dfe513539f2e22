"""The noun phrases of a short text, found with a list of nouns: what there is to say more about.

A noun is a listed one, the last word of what follows an article, a name, or what TextBlob's tagger takes for one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from textblob.en import lexicon as english
from textblob.en import tag

from training import rules

LEXICON = Path(__file__).with_name("lexicon.toml")
UNKNOWN = "any"  # the kind of a noun that is not listed
PLACES = ("room", "city", "nature", "shore", "water", "snow", "sky")


@cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads(LEXICON.read_text(encoding="utf-8"))


def _words(name: str) -> frozenset[str]:
    return frozenset(_table()["words"][name].split())


def opposites() -> list[frozenset[str]]:
    """Groups of adjectives and nouns of which a noun phrase takes one at most."""
    return [frozenset(words.split()) for words in _table()["opposites"].values()]


def unfit(words: set[str]) -> re.Pattern[str] | None:
    """What can't be said of a text with these words."""
    table = _table()["unfit"].values()
    found = [entry["unfit"] for entry in table if words & set(entry["words"].split())]
    return re.compile(rf"\b(?:{'|'.join(found)})\b", re.IGNORECASE) if found else None


@cache
def rewordings(*, of_doers: bool) -> Mapping[str, Sequence[str]]:
    """Other words for some of a text's, lower case. of_doers: the text is about a person or an animal."""
    table = _table()
    found: dict[str, Sequence[str]] = {}
    for words, choices in {**table["reworded"], **(table["reworded_of_doers"] if of_doers else {})}.items():
        sign = words[-1]
        for word in table["reworded_before"].get(sign, sign).split():
            found[words[:-1] + word] = [choice.replace(sign, word) for choice in choices.split("|")]
    return found


_TOKEN = re.compile(r"\"[^\"]+\"|-?\d+(?:\.\d+)?[°%][CF]?|[^\W_]+(?:['’-][^\W_]+)*|[.,;:!?]")
_ARTICLES = _words("articles")
_NUMBERS = _words("numbers")
_IRREGULAR: Mapping[str, str] = _table()["irregular"]
VERBS = _words("verbs")
_NOT_ADJECTIVES = VERBS | _words("no_adjectives")

NO_THINGS = _words("no_things")
CAPITALIZED = _words("capitalized")
_ADVERBS = _words("no_nouns")
_GROUPS = _words("groups")
_PAIRS = _words("pairs")
_COUNTS = frozenset(("hundred", "thousand", "million", "dozen", "few", "couple", "great"))
_COLORS = frozenset(_table()["opposites"]["color"].split())
_SHADES = ("lime", "mint", "sea", "sky", "rose", "forest", "cherry", "lemon", "olive", "moss", "blood", "ice")
_NO_PARTICIPLES = _words("no_participles")
_NO_NOUNS = _NOT_ADJECTIVES | _GROUPS | rules.STOPWORDS
NO_VERBS = _words("no_verbs")
_VIEWS = _words("views")
STANDING = _words("standing")
SUBORDINATE = _words("subordinate")
SIZES = _words("sizes")
SPECIFIC = _words("specific")
TIMES = _words("times")
SET_APART = _words("set_apart")
UNCOUNTED, GAMES = _words("uncounted"), _words("games")
_NEVER_COUNTED = UNCOUNTED - {"artwork", "wallpaper", "graffiti"}  # "looks at an artwork"
WHEREABOUTS = _words("whereabouts")
DARK = _words("dark")
SWEET = _words("sweet")
VIOLENT = _words("violent")
LIVELY = _words("lively")
OUTDOORS = _words("outdoors")
DRAWN, DRAWN_VIEWS = _words("drawn"), _words("drawn_views")
CLOSED = _words("closed")
POSSESSIVES, NO_FIGURES, STORY_PLACES = _words("possessives"), _words("no_figures"), _words("story_places")
TAKEN_ON, HUMAN_DEEDS = _words("taken_on"), _words("human_deeds")
STILL = _words("still")
_BEFORE_PARTICIPLE = _words("before_participle")
PEOPLE = frozenset(("man", "woman", "boy", "girl", "person", "group"))
# Kinds of what may do something to the thing behind: "girl hug teddy bear".
DOERS = (
    "man",
    "woman",
    "boy",
    "girl",
    "person",
    "group",
    "animal",
    "bird",
    "fish",
    "reptile",
    "insect",
    "creature",
    "robot",
)
_BRANDED = ("vehicle", "device", "drink", "text")  # of whose kinds names are listed
_SEVERAL_ARE = {"is": "are", "was": "were"}
_FOWL = ("chicken", "turkey")  # food, unless there is one of them
_OBJECTS = frozenset(("it", "them", "him", "her"))
COUNTED = _words("counted")
BEFORE_ARTICLE = _words("before_article")
ENDS = frozenset(".!?;")
_ENDS_PHRASE = (rules.STOPWORDS - {"and", "or"}) | ENDS | {"", ",", ":"}


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun phrase: tokens `start` to `end`, of which those from `head` on are the noun itself."""

    start: int
    modifiers: int  # where the words between article and noun begin
    head: int
    end: int
    kind: str
    plural: bool
    name: bool = False  # of one thing alone, without an article: "Mount Fuji"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A text's tokens, and its noun phrases in their order.

    medium: how it is to be shown, as in "oil painting", which stood behind the last comma. camera: a sentence on what
    the camera does.
    """

    tokens: tuple[str, ...]
    nouns: tuple[Noun, ...]
    medium: str = ""
    camera: str = ""

    @property
    def text(self) -> str:
        """The whole as somebody might have typed it."""
        told = rules.clean(" ".join(self.tokens))
        told = re.sub(r"(?<=[.!?] )[a-z]", lambda first: first.group().upper(), told)
        move = self.camera.rstrip(".").lower()
        return ", ".join([told, *(each for each in (self.medium, move) if each)])

    @property
    def lead(self) -> tuple[str, ...]:
        """What stands before the first noun phrase, as in "close up of a lemur"."""
        return self.tokens[: self.nouns[0].start] if self.nouns else self.tokens

    @property
    def sentences(self) -> int:
        """Sentences that the text has, a phrase counted as one."""
        return 1 + sum(token in ENDS for token in self.tokens[:-1])

    def cut(self, words: int) -> Parsed:
        """Its first sentences, as many as have about `words` words; one at least."""
        ends = [i for i, token in enumerate(self.tokens) if token in ENDS]
        fitting = [end for end in ends if end <= words]
        end = fitting[-1] if fitting else ends[0] if ends else len(self.tokens)
        if len(self.tokens) <= words or end < self.nouns[0].end:
            return self
        nouns = tuple(noun for noun in self.nouns if noun.end <= end)
        return Parsed(self.tokens[:end], nouns, self.medium, self.camera)

    def words(self, noun: Noun) -> str:
        """Adjectives and noun, without an article."""
        return " ".join(self.tokens[noun.modifiers : noun.end])

    def noun(self, noun: Noun) -> str:
        """The noun alone."""
        return " ".join(self.tokens[noun.head : noun.end])


class Lexicon:
    """Nouns and their kinds."""

    def __init__(self, more: Mapping[str, Iterable[str]], names: Iterable[str] = ()) -> None:
        """The listed nouns and `more`: kind to nouns, which yield to the listed ones. `names`: of places, no nouns."""
        names = [name.lower() for name in names]
        self.names = frozenset(word for name in names for word in name.split())
        self._capitalized = {tuple(name.split()) for name in names} | {(name,) for name in CAPITALIZED}
        self._kinds: dict[tuple[str, ...], str] = {}
        self._singulars: dict[str, Sequence[str]] = {}
        for kind, text in _table()["nouns"].items():
            for noun in text.split():
                self._kinds[tuple(noun.split("-"))] = kind
                self._kinds[(noun,)] = kind
        for kind, nouns in more.items():
            for noun in nouns:
                words = tuple(noun.lower().split())
                if words and self.find(words, 0) is None and words[-1] not in NO_THINGS | CAPITALIZED:
                    last = self.find(words[-1:], 0)
                    is_drink = kind == "food" and last is not None and last[1] == "drink"
                    self._kinds[words] = "drink" if is_drink else kind  # "turkish coffee" among the dishes

    def singulars(self, kind: str) -> Sequence[str]:
        """The nouns of a kind, one word each, that name one thing."""
        if kind not in self._singulars:
            words = [words[0] for words, own in self._kinds.items() if own == kind and len(words) == 1]
            self._singulars[kind] = sorted(
                word for word in words if not (found := self.find((word,), 0)) or not found[2]
            )
        return self._singulars[kind]

    def capitalized(self, tokens: Sequence[str]) -> tuple[str, ...]:
        """Tokens with the capitals of names that were written without, but for names that are common words as well."""
        found = list(tokens)
        for size in (3, 2, 1):
            for at in range(len(tokens) - size + 1):
                words = tuple(found[at : at + size])
                named = words in self._capitalized  # in lower case, that is
                if named and (words[0] in CAPITALIZED or not all(is_common(word, self) for word in words)):
                    found[at : at + size] = [word.capitalize() for word in words]
        return tuple(found)

    def find(self, tokens: tuple[str, ...], at: int) -> tuple[int, str, bool] | None:
        """The longest noun that begins at a token: its length in tokens, its kind, whether it is plural."""
        for length in (4, 3, 2, 1):
            words = tuple(token.lower() for token in tokens[at : at + length])
            if len(words) < length:
                continue
            known = [
                (kind, plural)
                for last, plural in singular_forms(words[-1])
                if (kind := self._kinds.get((*words[:-1], last))) is not None
            ]
            if known:  # of a plural that is listed itself the singular may be, too
                return length, known[0][0], words[-1] in _PAIRS or any(plural for _, plural in known)
        return None


def singular_forms(word: str) -> Iterable[tuple[str, bool]]:
    """What a word may be the plural of; itself first."""
    if word in _IRREGULAR:
        yield _IRREGULAR[word], True
        return
    yield word, False
    if word.endswith("ies") and len(word) > 4:
        yield word[:-3] + "y", True
    if word.endswith(("ches", "shes", "sses", "xes", "oes")):
        yield word[:-2], True
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        yield word[:-1], True


def parse(text: str, lexicon: Lexicon) -> Parsed:
    """The tokens and noun phrases of a text, with articles and verbs that agree with them."""
    tokens = _uncapitalized(_TOKEN.findall(text), lexicon)
    tags, nouns = _tagged(tokens, lexicon)
    wrong = {noun.start for noun in nouns if _has_wrong_article(tokens, tags, noun)}
    wrong |= {at for at in range(len(tokens)) if _is_article_of_uncounted(tokens, at)}
    if wrong:
        tokens = tuple(token for index, token in enumerate(tokens) if index not in wrong)
        _, nouns = _tagged(tokens, lexicon)
    return Parsed(lexicon.capitalized(_with_agreeing_verb(tokens, nouns)), nouns)


def _tagged(tokens: tuple[str, ...], lexicon: Lexicon) -> tuple[Sequence[str], tuple[Noun, ...]]:
    """The tagger's tags of tokens, and their noun phrases."""
    # A quoted text is one word to the tagger.
    tags = [
        kind
        for _, kind in tag(" ".join(token.strip('"').replace(" ", "") for token in tokens), tokenize=False)
    ]
    nouns: list[Noun] = []
    at, free = 0, 0  # `free`: the first token that no phrase has taken
    while at < len(tokens):
        found = (
            _name_at(tokens, at, free, lexicon)
            or _noun_at(tokens, tags, at, free, lexicon)
            or _unknown_at(tokens, tags, at, lexicon)
            or _tagged_at(tokens, tags, at, free, lexicon)
        )
        if found is None or _is_group(tokens, found):
            at += 1
            continue
        nouns.append(found)
        at = free = found.end
    return tags, tuple(nouns)


def _has_wrong_article(tokens: tuple[str, ...], tags: Sequence[str], noun: Noun) -> bool:
    """Whether "a" stands before several: "a train tracks", but not "a hundred birds" or "a fireworks display"."""
    return (
        noun.plural
        and noun.modifiers == noun.start + 1
        and tokens[noun.start].lower() in ("a", "an")
        and not _COUNTS.intersection(tokens[noun.modifiers : noun.head])
        and not (noun.end < len(tokens) and tags[noun.end].startswith("NN"))
    )


def _is_article_of_uncounted(tokens: tuple[str, ...], at: int) -> bool:
    """Whether "a" stands before what can't be counted: "an aerial footage of", but not "a furniture store"."""
    if token_at(tokens, at) not in ("a", "an"):
        return False
    last = at + 2 if at + 2 < len(tokens) and _is_adjective(tokens, at + 1, at) else at + 1
    places = (place for place in (at + 1, last) if token_at(tokens, place) in _NEVER_COUNTED)
    behind = [token_at(tokens, place + 1) for place in places]
    return any(word in _ENDS_PHRASE for word in behind)


def _with_agreeing_verb(tokens: tuple[str, ...], nouns: Sequence[Noun]) -> tuple[str, ...]:
    """Tokens with a verb that agrees with who or what begins them: "man hold umbrella", "the cups was"."""
    if not nouns or nouns[0].start > 0:
        return tokens
    subject = nouns[0]
    verb = token_at(tokens, subject.end)
    if subject.plural and subject.modifiers <= subject.start + 1 and verb in _SEVERAL_ARE:
        return (*tokens[: subject.end], _SEVERAL_ARE[verb], *tokens[subject.end + 1 :])
    alone = subject.kind in DOERS and subject.kind != "group" and not subject.plural
    if not alone or verb not in VERBS or verb == "became" or subject.end + 1 == len(tokens):
        return tokens
    if verb.endswith("y") and verb[-2] not in "aeou":
        verb = verb[:-1] + "ie"
    elif verb.endswith(("ch", "sh", "ss", "x", "o")):
        verb += "e"
    return (*tokens[: subject.end], f"{verb}s", *tokens[subject.end + 1 :])


def _uncapitalized(tokens: Sequence[str], lexicon: Lexicon) -> tuple[str, ...]:
    """Tokens without the capitals of sentences: their words may come to stand within one. Names keep theirs."""

    def is_capitalized_thing(i: int) -> bool:  # "a billboard of two Zebras"
        return (
            tokens[i - 1].islower()
            and _is_article(tokens[i - 1])
            and not "".join(tokens[i + 1 : i + 2])[:1].isupper()
            and tokens[i].lower() not in CAPITALIZED
            and (found := lexicon.find((tokens[i],), 0)) is not None
            and found[1] not in _BRANDED
        )

    return tuple(
        token.lower()
        if i > 0
        and token[:1].isupper()
        and ((tokens[i - 1] in ENDS and is_common(token, lexicon)) or is_capitalized_thing(i))
        else token
        for i, token in enumerate(tokens)
    )


def _noun_at(
    tokens: tuple[str, ...], tags: Sequence[str], at: int, free: int, lexicon: Lexicon
) -> Noun | None:
    """The phrase whose noun is listed and begins at `at`; of several nouns in a row the last is the head."""
    match = lexicon.find(tokens, at)
    behind_another = at == free > 0  # "a ball rolls"
    if (
        match is None
        or behind_another
        or _is_paired_color(tokens, at)
        or _is_shape_or_shade(tokens, at, lexicon)
    ):
        return None
    head, (length, kind, plural) = at, match
    behind = tokens[at + length] if at + length < len(tokens) else ""
    if behind.endswith(("'s", "’s")):
        return None  # "a train conductor's hat"
    verb = _is_deed(tokens, at) or _is_finite(tokens, at) or _is_modal(tokens, at)
    if verb or (at > 0 and _is_infinitive(tokens, tags, at)):
        return None
    if length == 1 and tokens[at].lower().endswith("ing") and at > 0 and tags[at - 1].startswith("VB"):
        return None  # "they start painting"
    start, modifiers, several = _beginning(tokens, at, free)
    single = start < modifiers and tokens[start].lower() in ("a", "an")
    if single and tokens[at].lower() in _FOWL:
        kind = "bird"
    while (following := lexicon.find(tokens, head + length)) is not None:
        if (
            (
                tags[head + length].startswith("VB")
                and following[0] == 1  # no "frying pan"
                and not (single and tags[head + length] in ("VB", "VBP"))
            )
            or (
                plural and not following[2] and _is_article(token_at(tokens, head + length + 1))
            )  # "two men plant a tree"
            or (single and following[2])  # "a ball rolls"
            or _is_modal(tokens, head + length)
            or _is_deed(tokens, head + length)
        ):
            return Noun(start, modifiers, head, head + length, kind, plural or several)
        head, (length, kind, plural) = head + length, following
    last = head + length
    if kind not in DOERS and (behind_unknown := _behind_unknown(tokens, tags, last, lexicon)) is not None:
        head, (length, kind, plural) = last + 1, behind_unknown
    elif (
        last < len(tokens)
        and _is_adjective(tokens, last, last)
        and _may_be_noun(tokens[last].lower())
        and tags[last].startswith("NN")
        and tokens[last].islower()  # no name
    ):
        head, length, kind, plural = last, 1, UNKNOWN, False  # "a storm trooper"
    elif last < len(tokens) and several and not plural and tags[last] == "NNS" and _may_be_noun(tokens[last]):
        head, length, plural = last, 1, True  # "many train compartments"
    if (
        start == modifiers
        and start >= free + 3
        and tokens[start - 1] == "of"
        and tokens[start - 2] in _GROUPS
    ):
        several = several or kind in DOERS  # "a couple of zebra"
        start = _beginning(tokens, start - 2, free)[0]
    return Noun(start, modifiers, head, head + length, kind, plural or several)


def _is_shape_or_shade(tokens: tuple[str, ...], at: int, lexicon: Lexicon) -> bool:
    """Whether "square" is no place and "lime" no fruit: "a square white plate", "in lime green"."""
    if token_at(tokens, at) in _SHADES and token_at(tokens, at + 1) in _COLORS:
        return True
    before_noun = lexicon.find(tokens, at + 2) is not None
    return token_at(tokens, at) == "square" and before_noun and _is_adjective(tokens, at + 1, at)


def _behind_unknown(
    tokens: tuple[str, ...], tags: Sequence[str], at: int, lexicon: Lexicon
) -> tuple[int, str, bool] | None:
    """The listed noun behind an unlisted one: "a glass skincare bottle"."""
    if at + 1 >= len(tokens) or tags[at] != "NN" or tags[at + 1].startswith("VB"):
        return None
    return lexicon.find(tokens, at + 1) if _is_adjective(tokens, at, at) else None


def token_at(tokens: tuple[str, ...], at: int) -> str:
    """The token at a place in lower case; none before the first or behind the last one."""
    return tokens[at].lower() if 0 <= at < len(tokens) else ""


def names_place(parsed: Parsed, noun: Noun) -> bool:
    """Whether a name tells where something is, as in "a market in Marrakesh"."""
    return noun.name and token_at(parsed.tokens, noun.start - 1) in WHEREABOUTS


def _is_modal(tokens: tuple[str, ...], at: int) -> bool:
    """Whether "can" is no tin: "statues can be seen"."""
    return token_at(tokens, at) == "can" and token_at(tokens, at + 1) in ("be", "see")


def _is_finite(tokens: tuple[str, ...], at: int) -> bool:
    """Whether a word in -s is a verb with an object: "and watches it work", "walks in, slides the cup"."""
    if at == 0 or not tokens[at].endswith("s") or tokens[at - 1].lower() not in ("and", ","):
        return False
    behind = token_at(tokens, at + 1)
    return behind in _OBJECTS or behind == "to" or _is_article(behind)


def _is_infinitive(tokens: tuple[str, ...], tags: Sequence[str], at: int) -> bool:
    """Whether "to" makes a word a verb: "teaches her cubs to fish", not "next to fish"."""
    verb = tags[at].startswith("VB") or (
        tokens[at].lower() in VERBS and token_at(tokens, at - 2) not in ("next", "close")
    )
    return tokens[at - 1].lower() == "to" and at > 1 and verb


def _is_deed(tokens: tuple[str, ...], at: int) -> bool:
    """Whether a word in -ing has an object, and so is no thing: "two kids building a sandcastle"."""
    return (
        at > 0 and at + 1 < len(tokens) and tokens[at].lower().endswith("ing") and _is_article(tokens[at + 1])
    )


def _is_paired_color(tokens: tuple[str, ...], at: int) -> bool:
    """Whether a word is the first of two colours: "an orange and white cat"."""
    pair = (token_at(tokens, at), token_at(tokens, at + 2))
    return token_at(tokens, at + 1) == "and" and _COLORS.issuperset(pair)


def _beginning(tokens: tuple[str, ...], at: int, free: int) -> tuple[int, int, bool]:
    """Where the phrase of a noun begins, and where the words between its article and it do; whether a number says that
    it is several.
    """
    modifiers = at
    while modifiers > free and modifiers > at - 3 and _is_adjective(tokens, modifiers - 1, free):
        modifiers -= 1
    if modifiers > free + 1 and modifiers < at and _is_paired_color(tokens, modifiers - 2):
        modifiers -= 2
        if modifiers > free and _is_adjective(tokens, modifiers - 1, free):
            modifiers -= 1  # "a large white and blue train"
    if modifiers > free and _is_article(tokens[modifiers - 1]):
        return modifiers - 1, modifiers, tokens[modifiers - 1].lower() in _NUMBERS
    return modifiers, modifiers, False


def _unknown_at(tokens: tuple[str, ...], tags: Sequence[str], at: int, lexicon: Lexicon) -> Noun | None:
    """After an article, the words up to one that ends a phrase; the last of them is the noun."""
    if tokens[at].lower() not in ("a", "an", "the"):
        return None
    end = at + 1
    while end < len(tokens) and end < at + 4 and _is_adjective(tokens, end, at):
        if lexicon.find(tokens, end) is not None:
            return None
        end += 1
    if token_at(tokens, end) in _GROUPS or token_at(tokens, end) in NO_THINGS:
        return None  # "a misty morning"
    last = tokens[end - 1].lower()
    if token_at(tokens, end) in ("and", ",") and (english.get(last) == "JJ" or last in _COLORS):
        return None  # "a black and white cat", "a sleek, pointed train"
    if end > at + 2 and is_participle(tokens[end - 1]) and token_at(tokens, end).isalpha():
        end -= 1  # "a female sitting in a bed"
    unlisted = end < len(tokens) and lexicon.find(tokens, end) is None
    several = unlisted and tags[end] == "NNS" and tags[end - 1] == "JJ"
    end += several  # "the scottish highlands"
    if (
        end == at + 1
        or not _may_be_noun(tokens[end - 1].lower())
        or (end < len(tokens) and lexicon.find(tokens, end) is not None)
    ):
        return None
    return Noun(at, at + 1, end - 1, end, UNKNOWN, several)


def _name_at(tokens: tuple[str, ...], at: int, free: int, lexicon: Lexicon) -> Noun | None:
    """Words with capitals that no list of common words has; the last may be a listed noun: "Golden Gate Bridge"."""
    end = at
    while end < len(tokens) and (
        (tokens[end][:1].isupper() and tokens[end].lower() not in rules.STOPWORDS)
        or (end > at and tokens[end].isdigit() and "".join(tokens[end + 1 : end + 2])[:1].isupper())
    ):
        end += 1
    words = tokens[at:end]
    named = token_at(tokens, at - 1) == "named"
    common = len(words) == 1 and not named and is_common(words[0], lexicon)
    if not words or words[-1].endswith(("'s", "’s", "-like", "-style", "-inspired")) or common:
        return None
    adjective = len(words) == 1 and english.get(words[0]) == "JJ" and token_at(tokens, end).isalpha()
    if adjective or (end < len(tokens) and lexicon.find(tokens, end) is not None):
        return None  # "an Egyptian exhibition", "a Japanese garden"
    match = lexicon.find(tokens, at)
    if match is not None and match[0] > len(words):
        return None  # "a Christmas tree"
    match = lexicon.find(tokens, end - 1)
    kind = match[1] if match is not None and match[0] == 1 else UNKNOWN
    if end < len(tokens) and kind == UNKNOWN and is_participle(tokens[end]):
        kind = "person"
    article = at > free and _is_article(tokens[at - 1])
    return Noun(at - article, at, at, end, kind, False, name=not article)


def is_common(word: str, lexicon: Lexicon) -> bool:
    """Whether a word is listed, or one of English that is no name."""
    lower = word.lower()
    return (
        lexicon.find((lower,), 0) is not None
        or lower in rules.STOPWORDS
        or lower in english
        or lower in NO_THINGS
    )


@cache
def rare_words() -> tuple[Sequence[str], Sequence[str]]:
    """Nouns and adjectives of English, most of them rare, as TextBlob lists them; none that isn't fit to be learnt."""
    barred = _NO_NOUNS | NO_THINGS | _words("never_drawn")

    def of(tag: str) -> list[str]:
        return sorted(
            word
            for word, own in english.items()
            if own == tag and _RARE.match(word) and word not in barred and not rules.is_unfit(word)
        )

    return of("NN"), of("JJ")


_RARE = re.compile(r"[a-z]{3,11}$")


def is_participle(word: str) -> bool:
    """Whether a word is the -ing form of a verb, as far as its ending and a list of others tell."""
    lower = word.lower()
    return lower.endswith("ing") and lower not in _NO_PARTICIPLES


def _tagged_at(
    tokens: tuple[str, ...], tags: Sequence[str], at: int, free: int, lexicon: Lexicon
) -> Noun | None:
    """Words that the tagger takes for nouns; not directly behind another noun, where they are often verbs."""

    def is_noun(index: int) -> bool:
        word = tokens[index].lower()
        return (
            tags[index].startswith("NN")
            and len(word) > 2
            and word.isalpha()
            and not word.endswith("ing")
            and word not in _NO_NOUNS
            and _may_be_noun(word)
            and word not in lexicon.names
            and lexicon.find(tokens, index) is None
        )

    if (at == free and free > 0) or not is_noun(at) or _is_finite(tokens, at):
        return None
    if at > 0 and (tags[at - 1] == "PRP" or tags[at - 1][:2] in ("NN", "RB", "MD")):
        return None  # "as it burns"
    if at > 0 and at + 1 < len(tokens) and tokens[at + 1] == "and" and _is_article(tokens[at - 1]):
        return None  # "a vivid and unique flame"
    end = at + 1
    while end < len(tokens) and is_noun(end):
        end += 1
    if end < len(tokens) and lexicon.find(tokens, end) is not None:
        return None  # "soup dish": what is listed takes it
    adjective = (
        tokens[at].lower() in CAPITALIZED and token_at(tokens, end).isalpha()
    )  # "American Gothic farmer"
    if adjective or token_at(tokens, end) == "style":
        return None  # "anime style wizard"
    start, modifiers, several = _beginning(tokens, at, free)
    return Noun(start, modifiers, end - 1, end, UNKNOWN, several or tags[end - 1] == "NNS")


def _may_be_noun(word: str) -> bool:
    return (
        not NO_THINGS & {word, word.removesuffix("s")}
        and word not in _ADVERBS
        and not word.endswith(("ed", "ly"))
    )


def _is_group(tokens: tuple[str, ...], noun: Noun) -> bool:
    """Whether a noun only counts the one behind it, or tells how that is shown: "a couple of signs", "a product
    shot of a shoe".
    """
    if token_at(tokens, noun.end) == "of" and tokens[noun.end - 1].lower() in _GROUPS | _VIEWS:
        return True
    return any(
        token_at(tokens, view) in _VIEWS
        and token_at(tokens, view + 1) == "of"
        and not rules.STOPWORDS.intersection(tokens[noun.end : view])
        for view in (noun.end, noun.end + 1)
    )  # "paper cut art of"


def _is_article(token: str) -> bool:
    return token.lower() in _ARTICLES or token.lower() in _NUMBERS


def _is_adjective(tokens: tuple[str, ...], at: int, free: int) -> bool:
    word = tokens[at].lower()
    if not word[0].isalpha() or word in rules.STOPWORDS or word in _NOT_ADJECTIVES or _is_article(word):
        return False
    if word.endswith("ing"):
        return _is_attribute(tokens, at, free)
    return not (word.endswith("s") and not word.endswith(("ss", "us", "ous")))


def _is_attribute(tokens: tuple[str, ...], at: int, free: int) -> bool:
    """Whether a word in -ing tells what the noun behind it is like: "a smiling man", "with glowing mushrooms",
    "flying car", but not "a man riding waves".
    """
    first = at
    while first > free and english.get(tokens[first - 1].lower()) == "JJ":  # "surreal floating islands"
        first -= 1
    if first == free:
        return free == 0
    return _is_article(tokens[first - 1]) or (first == at and tokens[at - 1].lower() in _BEFORE_PARTICIPLE)
