"""Prompts written by rule about what a short text names: the same things, in richer words, and more about each.

The open data holds few long image prompts, and too many different ones for a small model to learn to speak from. These
rows are plain English of one kind, hold what their inputs name, and come in every length; `prepare` marks them
`generated`, method `written`. What can be said is in `frames.toml` and `scenes.toml`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from promptdial.command import word_count
from training import rules
from training.generator import with_articles
from training.writing.frames import fill, kinds, scenes
from training.writing.phrases import (
    BEFORE_ARTICLE,
    COUNTED,
    ENDS,
    NO_VERBS,
    PLACES,
    STANDING,
    UNKNOWN,
    VERBS,
    Lexicon,
    Noun,
    Parsed,
    is_common,
    opposites,
    parse,
)

_VERB = re.compile(r"^(is|are|was|were|has|have|drove|flew|sat|stood|ran|ate|lay|[a-z]{3,}(?<![su])s)$")
_UNCOUNTED = (
    "food",
    "drink",
    "snow",
    "water",
    "nature",
    "sky",
    "plant",
    "city",
    "room",
    "text",
    "object",
    "tool",
)
_PRONOUNS = {"man": ("his", "him"), "boy": ("his", "him"), "woman": ("her", "her"), "girl": ("her", "her"),
             "person": ("their", "them")}  # fmt: skip
_OPPOSITES = opposites()
_OF_WATER = ("fish", "boat")
_BEGINNING = re.compile(r"^(?:there (?:is|are)|this is|these are|here is)\s+", re.IGNORECASE)
_QUOTES = str.maketrans({"“": '"', "”": '"'})
# What the camera does, in a sentence or a part of one of its own.
_CAMERA = re.compile(
    r"(?:^|(?<=[.,]))\s*(?P<does>the camera [^.,]+|(?:camera )?(?:pan|tilt|zoom|dolly|truck)(?:s|ning|ing)? "
    r"(?:left|right|up|down|in|out))(?:[.,]|$)",
    re.IGNORECASE,
)
# Behind the last comma, how a text is to be shown.
_MEDIUM = re.compile(
    r",\s+((?:in |an? )?(?:[\w'’-]+ ){0,3}(?:paintings?|art|anime|renders?|sketch|photo|photography|drawing|"
    r"photograph|illustration|style|watercolou?r|cartoon|view|shot|close-?up|black and white|cinematic|cyberpunk|"
    r"minimalist|comic))$",
    re.IGNORECASE,
)
_LONGEST_LEAD = 8  # tokens
# Kinds of things of which there are many: they take an article. Of other kinds, the words that are COUNTED.
_COUNTED = (
    "man", "woman", "boy", "girl", "person", "animal", "reptile", "bird", "insect", "creature", "robot", "vehicle",
    "train", "boat", "aircraft", "building", "room", "device", "instrument", "container", "toy", "flower",
)  # fmt: skip


@dataclass
class Scene:
    """A parsed text and what was drawn for all that is said about it."""

    parsed: Parsed
    rng: random.Random
    light: str
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

    def the(self, noun: Noun, name: str) -> str:
        """A noun's name with its article; of one thing alone without."""
        return name if noun.name else f"the {name}"

    def _name(self, noun: Noun) -> str:
        """The noun, at times with the adjectives it came with."""
        if noun.name:
            return self.parsed.words(noun)
        name = self.parsed.words(noun) if self.rng.random() < 0.4 else self.parsed.noun(noun)
        return name.lower() if name[:1].isupper() and noun.modifiers <= 1 else name


def new_scene(parsed: Parsed, rng: random.Random) -> Scene:
    """A scene with its light, colours and moods drawn; the light follows the words of the text."""
    everything = scenes()
    words = {token.lower() for token in parsed.tokens}
    fitting = [
        name for name, light in everything["light"].items() if words & set(light.get("words", "").split())
    ]
    light = rng.choice(fitting or ["day", "day", "golden", "overcast"])
    colors = rng.sample(everything["colors"]["words"].split("|"), 2)
    moods = rng.sample(everything["moods"]["words"].split(), 2)
    slots = {"color": colors[0], "color2": colors[1], "mood": moods[0], "mood2": moods[1]}
    slots["light"] = rng.choice(everything["light"][light]["names"])
    return Scene(parsed, rng, light, slots)


class Writer:
    """Writes about texts whose nouns it knows."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon

    def parse(self, text: str) -> Parsed | None:
        """A text with its things, or None: it names none that is known, or has signs that prompts don't have."""
        text = _BEGINNING.sub("", rules.without_instruction(text.strip())).translate(_QUOTES)
        camera = _CAMERA.search(text)
        text = _CAMERA.sub(" ", text).strip(" .!,")
        if not text or re.search(r"[^\w\s,.;:!?'’\"()°%-]", text) or text.count('"') % 2:
            return None
        text = text.replace("(", "").replace(")", "")
        medium = _MEDIUM.search(text)
        if medium is not None:
            text = text[: medium.start()]
        words = text.split()
        if len(words) > 3 and sum(word[0].isupper() for word in words) > 0.6 * len(words):
            text = text.lower()
        parsed = parse(self._uncapitalized(text), self._lexicon)
        if not parsed.nouns or len(parsed.lead) > _LONGEST_LEAD or "?" in parsed.tokens:
            return None
        return replace(
            parsed,
            medium=medium.group(1).strip() if medium else "",
            camera=_sentence(camera.group("does").strip(" .,")) if camera else "",
        )

    def _uncapitalized(self, text: str) -> str:
        """Without the capital of a sentence; names keep theirs."""
        first, _, rest = text.partition(" ")
        follows = rest[:1].isupper() and not is_common(rest.split()[0].strip(",.;:"), self._lexicon)
        common = is_common(first.strip(",.;:"), self._lexicon) and not follows
        return f"{first.lower()} {rest}".strip() if first[:1].isupper() and common else text

    def prompt(
        self, parsed: Parsed, words: int, modality: str, rng: random.Random, style: str | None, layout: str
    ) -> str:
        """About `words` words on a parsed text, never cut; fewer than the text itself can't be had.

        `layout`: what a template is, such as a poster; the other modalities don't use it.
        """
        scene = new_scene(parsed.cut(words), rng)
        scene.slots["kind"] = layout
        said = [_opening(scene, modality)]
        if style is not None and (words < 30 or rng.random() < 0.5):
            said[0] = said[0].rstrip(".") + rng.choice(
                (f", {style}.", f", in {style} style.", f", {style} style.")
            )
        left = words - word_count(said[0])
        sentences = _candidates(scene, modality, style)
        chosen: list[tuple[int, str]] = []
        for place, sentence in sentences:
            count = word_count(sentence)
            if (
                count <= left + 4
                and left > 4
                and not _repeats(sentence, (*said, *(text for _, text in chosen)))
            ):
                chosen.append((place, sentence))
                left -= count
        return " ".join([*said, *(text for _, text in sorted(chosen, key=lambda item: item[0]))])

    def altered(self, parsed: Parsed, rng: random.Random) -> Parsed | None:
        """The text about something else: one or all of its nouns become others of their kind, or a part is left."""
        if len(parsed.nouns) > 1 and rng.random() < 0.4:
            rest = rng.choice(parsed.nouns[1:])
            return self.parse(" ".join(parsed.tokens[rest.start : rest.end]))
        changed = parsed.nouns if rng.random() < 0.5 else parsed.nouns[:1]
        tokens = list(parsed.tokens)
        for noun in reversed(changed):
            others = [word for word in self._lexicon.nouns(noun.kind) if word != parsed.noun(noun)]
            if noun.plural or not others:
                continue
            tokens[noun.modifiers : noun.end] = [rng.choice(others)]
        return None if tuple(tokens) == parsed.tokens else self.parse(" ".join(tokens))


def _opening(scene: Scene, modality: str) -> str:
    text, form = _richer(scene)
    openings = scenes()["openings"]
    scene.slots["text"] = text
    rng, parsed = scene.rng, scene.parsed
    several = parsed.nouns[0].plural or _following(parsed) == "and"
    if parsed.sentences > 1:
        said = scene.say(rng.choice(openings["story"]))
    elif form == "lead":
        said = scene.say(rng.choice(openings["lead"]))
    elif modality == "template":
        said = scene.say(rng.choice(scenes()["layout"]["opening"]) if form == "phrase" else "{text}.")
    else:
        frames = openings[form] if form == "sentence" or rng.random() < 0.75 else openings["clause"]
        said = scene.say(rng.choice(frames), several=several)
    if parsed.medium:
        said = said.rstrip(".") + f", {parsed.medium}."
    return said


def _richer(scene: Scene) -> tuple[str, str]:
    """The text with articles, adjectives and a clause put in; and whether it is a phrase, a sentence, or has a lead."""
    parsed, rng = scene.parsed, scene.rng
    view = bool(parsed.lead) and _VIEW.search(" ".join(parsed.lead)) is not None
    insert, sentence = _behind_subject(scene) if not parsed.lead else ({}, _is_sentence(parsed))
    taken = {token.lower() for token in parsed.tokens}
    for number, noun in enumerate(parsed.nouns):
        article = _missing_article(parsed, number)
        share = _adjective_share(noun, article)
        adjective = ""
        if rng.random() < share and (drawn := _adjective(noun, parsed, taken, rng)):
            taken.add(drawn)
            adjective = drawn
        if article or adjective:
            insert[noun.modifiers] = f"{article} {adjective}".strip()
    words = [
        part
        for index, token in enumerate([*parsed.tokens, ""])
        for part in (insert.get(index, ""), token)
        if part
    ]
    starts = {0, *(index + 1 for index, word in enumerate(words) if word in ENDS)} - {0}
    words = [word[:1].upper() + word[1:] if index in starts else word for index, word in enumerate(words)]
    text = re.sub(r"\s+([,.;:!])", r"\1", " ".join(words))
    text = re.sub(r",\s*,", ",", re.sub(r"\s+", " ", text)).strip()
    if (
        view
        and parsed.lead[0].lower() not in ("a", "an", "the")
        and parsed.lead[-2].lower() not in _UNCOUNTED_VIEWS
    ):
        text = f"a {text}"
    return text, "sentence" if sentence else "phrase" if view or not parsed.lead else "lead"


_VIEW = re.compile(
    r"\b(?:close[- ]?ups?|view|shot|photo|photograph|picture|image|video|footage|portrait|painting|drawing|"
    r"illustration|sketch|render|rendering|scene|timelapse|clip|selfie|scenery|animation|statue|sculpture|logo|"
    r"model) of$",
    re.IGNORECASE,
)
_UNCOUNTED_VIEWS = ("footage", "scenery", "animation")


def _missing_article(parsed: Parsed, number: int) -> str:
    """The article that a noun lacks, as in a headline; nothing where it may stand without one."""
    noun = parsed.nouns[number]
    if noun.plural or noun.name or noun.start != noun.modifiers or noun.kind == UNKNOWN:
        return ""
    word = parsed.noun(noun).lower()
    if number == 0 and not parsed.lead:
        counted = noun.kind not in _UNCOUNTED or word in COUNTED
        return "a" if counted and _following(parsed) != "and" else ""
    before = parsed.tokens[noun.start - 1].lower()
    counted = (noun.kind in _COUNTED or word in COUNTED) and (noun.kind, before) != ("food", "of")
    return "a" if counted and (before in BEFORE_ARTICLE or before.endswith("ing")) else ""


def _adjective_share(noun: Noun, article: str) -> float:
    """How often a noun gets an adjective: less where it has one, never where none would read well."""
    if noun.name or noun.kind == UNKNOWN:
        return 0.0
    bare = not article and noun.modifiers == noun.start and not noun.plural
    if bare:
        return 0.3 if noun.kind in ("nature", "water", "snow", "sky") else 0.0
    return _ADJECTIVE_SHARE if noun.modifiers >= noun.head else _ADJECTIVE_SHARE_SECOND


def _following(parsed: Parsed) -> str:
    """The word behind the subject, if there is one."""
    end = parsed.nouns[0].end
    return parsed.tokens[end].lower() if end < len(parsed.tokens) else ""


def _behind_subject(scene: Scene) -> tuple[dict[int, str], bool]:
    """What to put behind the subject, by token (a missing verb, a clause); whether a sentence comes of it."""
    parsed, rng = scene.parsed, scene.rng
    subject, following = parsed.nouns[0], _following(parsed)
    frames = kinds()[subject.kind]
    insert: dict[int, str] = {}
    sentence = _is_sentence(parsed)
    if following.endswith("ing") and rng.random() < 0.5:
        insert[subject.end] = "are" if subject.plural else "is"
        sentence = True
    elif following in STANDING and frames.stand and rng.random() < 0.5:
        insert[subject.end] = rng.choice(frames.stand).split("|")[subject.plural]
        sentence = True
    if following not in ("of", "and", ",", "or") and not sentence and frames.clauses and rng.random() < 0.45:
        clause = scene.say(rng.choice(frames.clauses), subject)
        insert[subject.end] = f", {clause[:1].lower()}{clause[1:]},"
    return insert, sentence


def _is_sentence(parsed: Parsed) -> bool:
    """Whether a text has a finite verb, outside of relative clauses, behind its first noun phrase."""
    subject = parsed.nouns[0]
    if subject.plural and subject.end < len(parsed.tokens) and parsed.tokens[subject.end].lower() in VERBS:
        return True  # "two horses stand"
    taken = {index for noun in parsed.nouns for index in range(noun.start, noun.end)}
    for index in range(parsed.nouns[0].end, len(parsed.tokens)):
        word = parsed.tokens[index].lower()
        before = parsed.tokens[index - 1].lower()
        if (
            index not in taken
            and word not in NO_VERBS
            and _VERB.match(word)
            and before not in ("that", "who", "which", "as")
        ):
            return True
    return False


def _adjective(noun: Noun, parsed: Parsed, taken: set[str], rng: random.Random) -> str | None:
    """An adjective for a noun that contradicts none it has, and isn't in the text yet."""
    own = {token.lower() for token in parsed.tokens[noun.start : noun.end]}
    if noun.head - noun.modifiers > 2 or own & {"his", "her", "their", "its"}:
        return None
    if any(other.end == noun.start for other in parsed.nouns):  # "a snow covered slope"
        return None
    barred = set().union(*(group for group in _OPPOSITES if group & own))
    free = [word for word in kinds()[noun.kind].adjectives if word not in taken and word not in barred]
    return rng.choice(free) if free else None


def _candidates(scene: Scene, modality: str, style: str | None) -> list[tuple[int, str]]:
    """Sentences in the order in which they are wanted, each with its place in the text."""
    rng, everything = scene.rng, scenes()
    general = everything["scene"]
    found: list[tuple[int, str]] = []
    if style is not None:
        found += [(5, scene.say(frame)) for frame in rng.sample(everything["styles"][style], 2)]
    if modality == "template":
        layout = rng.sample(everything["layout"]["details"], 4)
        found += [(6 + i, scene.say(frame)) for i, frame in enumerate(layout[:3])]
    things = [noun for noun in scene.parsed.nouns if noun.kind not in PLACES] or list(scene.parsed.nouns[:1])
    places = [noun for noun in scene.parsed.nouns if noun.kind in PLACES and noun not in things]
    subject = things[0]
    first = _about(scene, subject, 3, NAMED_SHARE)
    others = [_about(scene, noun, 2) for noun in things[1:]] + [_about(scene, noun, 2) for noun in places]
    found += [(1, first[0])]
    found += [(2 + (i >= len(things) - 1), sentences[0]) for i, sentences in enumerate(others)]
    if modality == "video":
        frames = kinds()[subject.kind].motion
        moving = [scene.say(rng.choice(frames), subject)] if frames else []
        camera = scene.parsed.camera or scene.say(rng.choice(general["camera"]))
        found += [(4, text) for text in (*moving, camera)]
    found += [(7, scene.say(rng.choice(everything["light"][scene.light]["sentences"]), subject))]
    rest = [(1, text) for text in first[1:]] + [(2, text) for sentences in others for text in sentences[1:]]
    rest += [(place, scene.say(rng.choice(general[name]), subject)) for place, name in _GENERAL]
    rng.shuffle(rest)
    if rng.random() < ANCHORED_SHARE:
        scene.slots["things"] = _listed(scene, things[:3])
        rest.insert(0, (8, scene.say(rng.choice(general["anchor"]))))
    # The order of what is wanted first differs, or short prompts would all say the same kind of thing.
    cut = rng.randint(0, 2)
    return [*found[cut:], *rest, *found[:cut]] if rng.random() < 0.5 else [*found, *rest]


_ADJECTIVE_SHARE, _ADJECTIVE_SHARE_SECOND = 0.85, 0.4
NAMED_SHARE = 0.6  # of what is said about the subject names it, at least; of what is said about others, all
ANCHORED_SHARE = 0.8  # prompts that name all their things once more, if there is room
_GENERAL = ((8, "composition"), (8, "palette"), (9, "texture"), (10, "mood"), (11, "quality"))


def _listed(scene: Scene, nouns: Sequence[Noun]) -> str:
    names = list(dict.fromkeys(scene.the(noun, scene.parsed.words(noun)) for noun in nouns))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _about(scene: Scene, noun: Noun, count: int, named_share: float = 1.0) -> list[str]:
    """Up to `count` sentences; `named_share` of them, at least, name the thing."""
    rng, frames = scene.rng, kinds()[noun.kind].details
    named = [frame for frame in frames if "{h}" in frame]
    chosen = dict.fromkeys(rng.choice(named if rng.random() < named_share else frames) for _ in range(count))
    return [scene.say(frame, noun) for frame in chosen]


def _repeats(sentence: str, said: Sequence[str]) -> bool:
    """Whether a sentence has a run of four words that was said before."""
    spans = _spans(sentence)
    return any(spans & _spans(other) for other in said)


def _spans(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[\w'’-]+", text.lower())
    return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def style_names() -> Mapping[str, Sequence[str]]:
    """The styles that can be asked for, with their sentences."""
    styles: Mapping[str, Sequence[str]] = scenes()["styles"]
    return styles
