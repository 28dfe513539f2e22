"""The first sentence of a prompt: what the text says, in richer words."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache

from training.writing.frames import kinds, scenes
from training.writing.phrases import (
    BEFORE_ARTICLE,
    COUNTED,
    DOERS,
    ENDS,
    GAMES,
    NO_THINGS,
    NO_VERBS,
    PEOPLE,
    SIZES,
    SPECIFIC,
    STANDING,
    SUBORDINATE,
    TIMES,
    UNCOUNTED,
    UNKNOWN,
    VERBS,
    Noun,
    Parsed,
    is_participle,
    opposites,
    rewordings,
    token_at,
)
from training.writing.scene import Scene

_VERB = re.compile(
    r"^(is|are|was|were|has|have|drove|flew|sat|stood|ran|ate|lay|went|came|saw|stared|looked|walked|smiled|appeared|"
    r"seemed|jumped|climbed|[a-z]{3,}(?<![su])s)$"
)
_UNCOUNTED = (
    "food",
    "drink",
    "snow",
    "water",
    "nature",
    "sky",
    "plant",
    "city",
    "object",
    "tool",
)
_OPPOSITES = opposites()
_ADJECTIVE_SHARE, _ADJECTIVE_SHARE_SECOND = 0.85, (0.4, 0.7)
_CLAUSE_SHARE, _CLAUSE_SHARE_ROOMY = 0.45, 0.75
_NO_CLAUSE_BEFORE = ("of", "and", ",", "or", "that", "who", "which", "whose", "named")
_MOVING = (*DOERS, "vehicle", "train", "boat", "aircraft")
_REWORDED_SHARE = 0.6
# Tokens of a text that are said once more, and such as may follow its things.
_LONGEST_RESTATED, _SHORT_REST = 11, 3
_STOPS = (*ENDS, ",")
# A text of more tokens ends its clause: no verb behind it would be felt to be its own.
_LONGEST_WITHIN = 10
_ENDS_CLAUSE = re.compile(r"\{text\}(?=[.,])")
_SEEN, _SEEN_SHARE = ("seen", "shown", "pictured"), 0.6
# Kinds of things of which there are many: they take an article. Of other kinds, the words that are COUNTED.
_COUNTED_KINDS = (
    "man", "woman", "boy", "girl", "person", "animal", "reptile", "bird", "insect", "creature", "robot", "vehicle",
    "train", "boat", "aircraft", "building", "room", "device", "instrument", "container", "toy", "flower",
)  # fmt: skip


def opening(scene: Scene, modality: str, *, photographic: bool) -> str:
    """What the text says, richer, as a sentence or a phrase with a full stop.

    photographic: it may be spoken of as a camera would see it.
    """
    text, form = _richer(scene)
    openings = scenes()["openings"]
    scene.slots["text"] = text
    rng, parsed = scene.rng, scene.parsed
    if parsed.sentences > 1:
        said = scene.say(rng.choice(openings["story"]) if form == "sentence" else "{text}.")
    elif form == "lead":
        said = scene.say(rng.choice(openings["lead"]))
    elif modality == "template":
        said = scene.say(
            rng.choice(_fitting(scenes()["layout"]["opening"], parsed)) if form == "phrase" else "{text}."
        )
    else:
        frames = openings[form] if form == "sentence" or rng.random() < 0.75 else openings["clause"]
        barred = [
            *(("light}",) if scene.slots["light"] in text or not photographic else ()),
            *(() if photographic else ("photograph", "shot", "focus", "depth of field")),
            *(("photograph", "picture", "image") if modality == "video" else ("handheld",)),
            *(("color}",) if scene.slots["color"] in text or scene.slots["color2"] in text else ()),
        ]
        frames = [frame for frame in frames if not any(word in frame.lower() for word in barred)]
        if parsed.lead:
            frames = [frame for frame in frames if not _SHOWN.search(frame)]  # "a picture of a photo of"
        said = scene.say(rng.choice(_fitting(frames, parsed)), several=_is_of_several(parsed))
    if parsed.medium:
        said = said.rstrip(".") + f", {parsed.medium}."
    return said


def _fitting(frames: Sequence[str], parsed: Parsed) -> Sequence[str]:
    """The frames that a text is not too long for."""
    if len(parsed.tokens) <= _LONGEST_WITHIN:
        return frames
    return [frame for frame in frames if _ENDS_CLAUSE.search(frame)]


def _is_of_several(parsed: Parsed) -> bool:
    """Whether a phrase names several: "cats", "a doctor named Li, a cat and a fox"."""
    subject = parsed.nouns[0]
    end = parsed.nouns[1].end if _following(parsed) == "named" and len(parsed.nouns) > 1 else subject.end
    behind = token_at(parsed.tokens, end)
    listed = behind == "," and any(noun.start == end + 1 for noun in parsed.nouns)
    return not parsed.lead and (subject.plural or behind == "and" or listed)


def restated(parsed: Parsed) -> str:
    """What the text says once more, plainly and as a phrase: "the white rabbit near the fence".

    "the" for "a", so that no long run of the text's own words comes of it.
    """
    tokens, subject = parsed.tokens, parsed.nouns[0]
    longest = subject.start + _LONGEST_RESTATED
    stop = next((i for i in range(subject.end, len(tokens)) if tokens[i] in _STOPS), len(tokens))
    longest = min(longest, stop)  # of a list its first thing
    known = [noun.end for noun in parsed.nouns if noun.end <= longest and (noun.name or noun.kind != UNKNOWN)]
    end = max([subject.end, *known])
    if stop <= min(longest, end + _SHORT_REST):
        end = stop  # "is folding the blanket carefully"
    starts = {noun.start: noun for noun in parsed.nouns}
    words: list[str] = []
    for index in range(subject.start, end):
        token, noun = tokens[index], starts.get(index)
        definite = token.lower() in ("a", "an")
        if definite and (
            token_at(tokens, index + 1) in _QUANTITIES or token_at(tokens, index - 1) == "without"
        ):
            words.append("a")
        elif definite or (noun is not None and _lacks_article(parsed, noun)):
            words.append("the")
        behind_noun = any(other.end == index for other in parsed.nouns)
        if behind_noun and token in ("is", "are") and is_participle(token_at(tokens, index + 1)):
            continue
        if index > subject.end and _is_later_verb(parsed, index):
            break  # "the woman in the dress" of one who walks
        if index == subject.end and (token in VERBS or _VERB.match(token)) and token not in NO_VERBS:
            words.append("who" if subject.kind in PEOPLE else "that")
        if not definite:
            words.append(token)
    return " ".join(words)


def _is_later_verb(parsed: Parsed, index: int) -> bool:
    """Whether a token is a finite verb directly behind another noun than the subject, outside of relative clauses."""
    token = parsed.tokens[index]
    between = parsed.tokens[parsed.nouns[0].end : index]
    return (
        any(noun.end == index for noun in parsed.nouns[1:])
        and token not in NO_VERBS
        and (token in VERBS or _VERB.match(token) is not None)
        and not {"that", "who", "which", "and", *SUBORDINATE}.intersection(between)
        and not any(_VERB.match(each) and each not in NO_VERBS for each in between[:1])
    )


def _lacks_article(parsed: Parsed, noun: Noun) -> bool:
    """Whether a noun needs one where it is said again."""
    if noun is parsed.nouns[0]:
        return not noun.name and noun.start == noun.modifiers
    return _missing_article(parsed, parsed.nouns.index(noun)) != ""


def _richer(scene: Scene) -> tuple[str, str]:
    """The text with articles, adjectives and a clause put in; and whether it is a phrase, a sentence, or has a lead."""
    parsed, rng = scene.parsed, scene.rng
    view = bool(parsed.lead) and _VIEW.search(" ".join(parsed.lead)) is not None
    insert, sentence = _behind_subject(scene) if not parsed.lead else ({}, is_sentence(parsed))
    taken = {*(token.lower() for token in parsed.tokens), scene.slots["mood"], scene.slots["mood2"]}
    for number, noun in enumerate(parsed.nouns):
        article = _missing_article(parsed, number)
        share = _adjective_share(noun, article, roomy=scene.roomy)
        adjective = ""
        if rng.random() < share and (drawn := _adjective(noun, parsed, taken, rng)):
            taken.add(drawn)
            adjective = drawn
        behind_size = noun.modifiers < noun.head and parsed.tokens[noun.modifiers].lower() in SIZES
        for place, put in ((noun.modifiers, article), (noun.modifiers + behind_size, adjective)):
            insert[place] = f"{insert.get(place, '')} {put}".strip()
    words = _put_in(insert, parsed, rng)
    starts = {index + 1 for index, word in enumerate(words) if word in ENDS and word != ";"}
    words = [word[:1].upper() + word[1:] if index in starts else word for index, word in enumerate(words)]
    text = re.sub(r"\s+([,.;:!])", r"\1", " ".join(words))
    text = re.sub(r",\s*,", ",", re.sub(r"\s+", " ", text)).strip()
    text = _BARE_BACKGROUND.sub(r"\1 a \2", text)
    lead = [token.lower() for token in parsed.lead]
    if view and not _ARTICLES & set(lead) and lead[-2] not in _UNCOUNTED_VIEWS and not lead[-2].endswith("s"):
        text = f"a {text}"
    return text, "sentence" if sentence else "phrase" if view or not parsed.lead else "lead"


def _put_in(insert: Mapping[int, str], parsed: Parsed, rng: random.Random) -> list[str]:
    """The tokens, some in other words, with what is to be put in before them. What is quoted stays."""
    of_doers = parsed.nouns[0].kind in DOERS
    words: list[str] = []
    run: list[str] = []  # of tokens between which nothing is put
    for index, token in enumerate([*parsed.tokens, ""]):
        fixed = [part for part in (insert.get(index, ""), token if token.startswith('"') else "") if part]
        if fixed:
            words += [*_reworded(run, rng, of_doers=of_doers), *fixed]
            run = []
        if token and token not in fixed:
            run.append(token)
    return [*words, *_reworded(run, rng, of_doers=of_doers)]


def _reworded(tokens: Sequence[str], rng: random.Random, *, of_doers: bool) -> list[str]:
    """The same in other words here and there."""
    choices = rewordings(of_doers=of_doers)

    def put(match: re.Match[str]) -> str:
        return rng.choice(choices[match.group()]) if rng.random() < _REWORDED_SHARE else match.group()

    return _rewording_pattern(of_doers).sub(put, " ".join(tokens)).split()


@cache
def _rewording_pattern(of_doers: bool) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, rewordings(of_doers=of_doers)))})(?![\w-])")


_VIEW = re.compile(
    r"\b(?:close[- ]?ups?|view|shot|photo|photograph|picture|image|video|footage|portrait|painting|drawing|"
    r"illustration|sketch|render|rendering|scene|timelapse|clip|selfie|scenery|animation|"
    r"art|lay|watercolou?r|"
    r"pattern|design|composition|concept|mockup|silhouette|version|depiction) (?:of|with|for)$",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"(?<![su])s$")
# Relative pronouns and prepositions: "on Mars".
_NO_VERB_BEHIND = {"that", "who", "which", "as"} | (BEFORE_ARTICLE - {"and", "is", "are", "has", "wearing"})
# Behind "in" and "on", where nothing stands: "lights on a nice day".
_NO_STANDS = {"day", "night", "morning", "evening", "afternoon", "shape", "form", "style", "color", "colour", "leash",
              "lead", "chain", "rope"}  # fmt: skip
_PARTS = ("front", "back", "side", "top", "bottom", "middle", "left", "right")
_QUANTITIES = ("lot", "number", "couple", "bunch", "variety", "few")
_PLAYED = ("play", "plays", "playing", "played")
_IS_PLAYED, _BEFORE_GAME = {*_PLAYED, "game"}, (*_PLAYED, "of", "at", "in")  # "a game of frisbee"
_FROM_END_TO_END = ("floor to ceiling", "ceiling to floor", "wall to wall", "side to side", "head to toe")
_UNCOUNTED_VIEWS = ("footage", "scenery", "animation", "art")
# "on white background", which is no noun that anything is said about.
_BARE_BACKGROUND = re.compile(
    r"\b(on|against|with) ((?!(?:an?|the|his|her|its|their)\b)(?:[a-z]+ ){0,2}(?:background|backdrop))\b"
)
_ARTICLES = {"a", "an", "the", "this", "that"}
_SHOWN = re.compile(
    r"\b(?:picture|image|view|study|portrayal|depiction|rendering|impression|look|scene)\b",
    re.IGNORECASE,
)


def _missing_article(parsed: Parsed, number: int) -> str:
    """The article that a noun lacks, as in a headline; nothing where it may stand without one."""
    noun = parsed.nouns[number]
    word = parsed.tokens[noun.end - 1].lower()
    if noun.plural or noun.name or noun.start != noun.modifiers or word in UNCOUNTED:
        return ""
    if noun.kind == UNKNOWN and word not in COUNTED:
        return ""
    if number == 0 and not parsed.lead:
        counted = noun.kind not in _UNCOUNTED or word in COUNTED
        paired = noun.kind in _COUNTED_KINDS and any(other.start == noun.end + 1 for other in parsed.nouns)
        return "a" if counted and (_following(parsed) != "and" or paired) else ""  # "owl and fox"
    before = parsed.tokens[noun.start - 1].lower()
    if (
        (before in ("and", "or") and not any(other.end == noun.start - 1 for other in parsed.nouns))
        or (before in ("and", "or") and _is_bare_in_list(parsed, parsed.nouns[number - 1]))
        or (word in TIMES and before in ("at", "during"))
        or _names_several(parsed, noun)
        or (before in ("of", "from") and token_at(parsed.tokens, noun.start - 2) == "made")  # "made of glass"
        or (word in GAMES and before in _BEFORE_GAME and _IS_PLAYED.intersection(parsed.tokens[: noun.start]))
        or any(
            " ".join(parsed.tokens[max(0, at) : at + 3]) in _FROM_END_TO_END
            for at in (noun.start - 2, noun.start)
        )
        or (before == "of" and _SEVERAL.search(token_at(parsed.tokens, noun.start - 2)))  # "rows of hibiscus"
    ):
        return ""
    counted = (noun.kind in _COUNTED_KINDS or word in COUNTED) and (noun.kind, before) != ("food", "of")
    behind_verb = (
        bool(_VERB.match(before))
        and before not in NO_VERBS
        and token_at(parsed.tokens, noun.start - 2) not in _NO_VERB_BEHIND  # "in amazonas jungle"
        and parsed.nouns[number - 1].end < noun.start
        and (noun.start < 2 or parsed.tokens[noun.start - 2].lower() not in _ARTICLES)  # "a tennis racquet"
    )
    return "a" if counted and (before in BEFORE_ARTICLE or is_participle(before) or behind_verb) else ""


def _is_bare_in_list(parsed: Parsed, noun: Noun) -> bool:
    """Whether a noun stands behind a comma without an article, as the next one may then: "a sink, tub and mirror"."""
    return noun.start == noun.modifiers and token_at(parsed.tokens, noun.start - 1) == ","


def _names_several(parsed: Parsed, noun: Noun) -> bool:
    """Whether a noun only tells of which things the parts behind it are: "human arms", "skateboard tricks"."""
    behind = token_at(parsed.tokens, noun.end)
    return behind in NO_THINGS and _SEVERAL.search(behind) is not None


def _adjective_share(noun: Noun, article: str, *, roomy: bool) -> float:
    """How often a noun gets an adjective: less where it has one, never where none would read well."""
    if noun.name or noun.kind == UNKNOWN:
        return 0.0
    bare = not article and noun.modifiers == noun.start and not noun.plural
    if bare:
        return 0.3 if noun.kind in ("nature", "water", "snow", "sky") else 0.0
    return _ADJECTIVE_SHARE if noun.modifiers >= noun.head else _ADJECTIVE_SHARE_SECOND[roomy]


def _following(parsed: Parsed) -> str:
    """The word behind the subject, if there is one."""
    return token_at(parsed.tokens, parsed.nouns[0].end)


def _behind_subject(scene: Scene) -> tuple[dict[int, str], bool]:
    """What to put behind the subject, by token (a missing verb, a clause); whether a sentence comes of it."""
    parsed, rng = scene.parsed, scene.rng
    subject, following = parsed.nouns[0], _following(parsed)
    frames = kinds()[subject.kind]
    insert: dict[int, str] = {}
    sentence = is_sentence(parsed)
    share = _CLAUSE_SHARE_ROOMY if scene.roomy else _CLAUSE_SHARE
    if sentence:
        if (following in VERBS or _VERB.match(following)) and frames.clauses and rng.random() < share:
            insert[subject.end] = _clause(scene, subject)
        if following in ("is", "are") and is_participle(token_at(parsed.tokens, subject.end + 1)):
            insert[subject.end + 1] = _seen(scene)
        return insert, True
    if is_participle(following):
        does = subject.kind in _MOVING and rng.random() < 0.5  # "a plate containing food" stays one
        verb = ("are" if subject.plural else "is") if does else ""
        insert[subject.end] = f"{verb} {_seen(scene)}".strip()
        sentence = bool(verb)
    elif (
        following in STANDING
        and token_at(parsed.tokens, subject.end + 1).lower() not in TIMES  # "a city at night"
        and not _NO_STANDS.intersection(parsed.tokens[subject.end : subject.end + 5])
        and frames.stand
        and not _has_participle(parsed)
        and rng.random() < 0.5
    ):
        insert[subject.end] = rng.choice(frames.stand).split("|")[subject.plural]
        sentence = True
    parts = (
        following in _NO_CLAUSE_BEFORE
        or following in NO_THINGS  # "shoes product shot"
        or (subject.name and following == "from")  # "Ada from the north"
    )
    if not parts and not sentence and frames.clauses and rng.random() < share:
        insert[subject.end] = _clause(scene, subject)
    return insert, sentence


def _has_participle(parsed: Parsed) -> bool:
    """Whether what stands behind the subject has a participle: "two girls in a library, seated at a table"."""
    behind = (token.lower() for token in parsed.tokens[parsed.nouns[0].end :])
    return any(is_participle(word) or (word.endswith("ed") and len(word) > 4) for word in behind)


def _seen(scene: Scene) -> str:
    """What may stand before what somebody is doing, at times and where there is room: "is seen holding"."""
    if scene.parsed.nouns[0].kind not in DOERS or not scene.roomy or scene.rng.random() >= _SEEN_SHARE:
        return ""
    return scene.rng.choice(_SEEN)


def _clause(scene: Scene, subject: Noun) -> str:
    """Something about the subject, between commas; nothing that begins as what follows does."""
    following = _following(scene.parsed).lower()
    clauses = [
        clause
        for clause in kinds()[subject.kind].clauses
        if scene.fits(clause) and clause.split()[0] != following
    ]
    if not clauses:
        return ""
    clause = scene.say(scene.rng.choice(clauses), subject)
    return f", {clause[:1].lower()}{clause[1:]},"


def is_sentence(parsed: Parsed) -> bool:
    """Whether a text has a finite verb, outside of relative clauses, behind its first noun phrase."""
    subject = parsed.nouns[0]
    if subject.plural and subject.end < len(parsed.tokens) and parsed.tokens[subject.end].lower() in VERBS:
        return True  # "two horses stand"
    taken = {index for noun in parsed.nouns for index in range(noun.start, noun.end)}
    for index in range(parsed.nouns[0].end, len(parsed.tokens)):
        word = parsed.tokens[index].lower()
        before = parsed.tokens[index - 1].lower()
        if word in SUBORDINATE or (word == "as" and not before.endswith("ed")):
            return False  # "a dragon curled around a tower while lightning strikes"
        if (
            index not in taken
            and word not in NO_VERBS
            and (
                index - 1 in taken or before.endswith("ly") or not NO_THINGS & {word, word[:-1]}
            )  # "blue eyes"
            and _VERB.match(word)
            and before not in _NO_VERB_BEHIND
        ):
            return True
        if subject.plural and word in VERBS and index not in taken and index - 1 in taken:
            return True  # "donuts with frosting sit on a shelf"
    return False


def _adjective(noun: Noun, parsed: Parsed, taken: set[str], rng: random.Random) -> str | None:
    """An adjective for a noun that contradicts none it has, and isn't in the text yet."""
    own = {token.lower() for token in parsed.tokens[noun.start : noun.end]}
    if own & SPECIFIC or any(len(word) > 6 and word.endswith("est") for word in own - {"rainforest"}):
        return None  # "the highest apple"
    if noun.start == noun.modifiers and token_at(parsed.tokens, noun.start - 1) in ("and", "most", *_PARTS):
        return None  # "a blue and cloudy sky", "the front yard"
    if noun.start == noun.head and parsed.tokens[noun.head] in TIMES:
        return None  # "at sunset"
    if noun.head - noun.modifiers > 2 or own & {"his", "her", "their", "its"}:
        return None
    if any(other.end == noun.start for other in parsed.nouns):  # "a snow covered slope"
        return None
    barred = set().union(*(group for group in _OPPOSITES if group & own))
    free = [word for word in kinds()[noun.kind].adjectives if word not in taken and word not in barred]
    return rng.choice(free) if free else None
