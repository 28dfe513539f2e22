"""Prompts written by rule about what a short text names: the same things, in richer words, and more about each.

The open data holds few long image prompts, and too many different ones for a small model to learn to speak from. These
rows are plain English of one kind, hold what their inputs name, and come in every length; `prepare` marks them
`generated`, method `written`. What can be said is in `frames.toml`, `scenes.toml` and `settings.toml`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import IntEnum
from functools import partial

from promptdial.command import word_count
from training import rules
from training.measures import longest_run
from training.writing.frames import kinds, scenes
from training.writing.gist import gist, words_of_people
from training.writing.openings import opening, restated
from training.writing.phrases import (
    DOERS,
    DRAWN,
    DRAWN_VIEWS,
    PLACES,
    STILL,
    TIMES,
    UNKNOWN,
    VERBS,
    Lexicon,
    Noun,
    Parsed,
    is_common,
    is_participle,
    names_place,
    parse,
    token_at,
)
from training.writing.scene import Scene, new_scene

_BEGINNING = re.compile(r"^(?:there (?:is|are)|this is|these are|here is|depicts)\s+", re.IGNORECASE)
# "a snow covered slope", which is about no snow, and "a wood paneled kitchen".
_COVERED = re.compile(
    r"\b(snow|ice|frost|grass|moss|ivy|vine|tree|leaf|flower|dirt|dust|mud|sand|rock|cloud|fog|graffiti|chocolate)"
    r" (covered)(?= (?!in |with |by |and )[a-z])|"
    r"\b([a-z]+) (panell?ed|shaped|themed|powered)(?= (?!in |with |by |and |like |as |from |to )[a-z])",
    re.IGNORECASE,
)
_QUOTES = str.maketrans({"“": '"', "”": '"'})
# What the camera does, in a sentence or a part of one of its own.
_CAMERA = re.compile(
    r"(?:^|(?<=[.,]))\s*(?P<does>the camera (?:pans|tilts|zooms|orbits|circles|rotates|pulls|pushes|stays|shakes)"
    r"[^.,]*|(?:camera )?(?:pan|tilt|zoom|dolly|truck)(?:s|ning|ing)? "
    r"(?:left|right|up|down|in|out))(?:[.,]|$)",
    re.IGNORECASE,
)
# Behind the last comma, how a text is to be shown.
_MEDIUM = re.compile(
    r",\s+((?:in |an? )?(?:(?!\w*ing\b|of\b|with\b|the\b|an?\b|at\b|on\b)[\w'’-]+ ){0,3}"
    r"(?:paintings?|art|anime|renders?|sketch|photo|photography|drawing|photograph|illustration|style|watercolou?r|"
    r"cartoon|view|shot|close-?up|black and white|cinematic|cyberpunk|minimalist|comic))$",
    re.IGNORECASE,
)
_LONGEST_LEAD = 8  # tokens
# Words of several sentences that are told as they stand; the rest is left to what is said about them.
LONGEST_TOLD = 30
ROOMY = 40  # words of a prompt in which what the text says has room for clauses
# How many sentences of a prompt name a thing: of one that strays to light and mood, and of one that stays close to what
# its text names. What lies between is drawn for each, or all of one length would be alike relevant, and the command
# would have nothing to steer.
NAMED_SHARE = (0.35, 0.9)
RESTATED_FROM = 0.6  # how close a prompt keeps to its text that says once more what this says
_COLORLESS = re.compile(r"black and white|\b(?:sketch|line art)\b", re.IGNORECASE)
_PHOTOGRAPHIC = ("texture", "quality")
_IN_PLACE = re.compile(r"\b(?:in|within|into) \{place\}")
_SET_OFF = re.compile(r"\b(?:background|backdrop)\b")  # a plain one, which no place is
# Drawn at most, if they are too long or say what the text rules out; it may do so itself. Where there is room, one of
# so many that fit is chosen.
_OPENINGS, _CHOICES = 6, 2


class Place(IntEnum):
    """Where a sentence stands in a prompt, by what it is about; those of one place stand as they were drawn."""

    SUBJECT = 1
    OTHERS = 2
    SURROUNDING = 3
    MOTION = 4
    ASKED_FOR = 5  # by name: a style, a camera move
    LAYOUT = 6
    SETTING = 7
    LIGHT = 8
    WHOLE = 9
    TEXTURE = 10
    MOOD = 11
    QUALITY = 12
    CLOSING = 13


_GENERAL = (
    (Place.WHOLE, "composition"),
    (Place.WHOLE, "palette"),
    (Place.TEXTURE, "texture"),
    (Place.MOOD, "mood"),
    (Place.QUALITY, "quality"),
)
# Where things are named once more, up to three at the end and the subject amid the text: the closer a prompt stays, the
# more of the two it has. At the end it makes a prompt more relevant by itself.
_ANCHOR_PLACES = (Place.CLOSING, Place.WHOLE)
# What a text says once: two sentences about it, drawn apart, would contradict each other.
_ONCE = {
    "light": r"\b(daylight|sunlight|sun|lamp\w*|moonlight|overcast|midday|glow\w*|brightness|backlight|light)\b",
    "viewpoint": r"\b((seen|viewed|looks?|shown) from|eye level|low.angle|from (above|below)|viewpoint|"
    r"viewer looks|look up|close range|table height|perspective|wide angle)\b",
    "framing": r"\b(fills?|frames?|framed|framing|cropp\w+|centre stage|of centre|off centre|empty space|"
    r"(space|room|air) (around|on)|composition|arrangement|margin|placed (low|high))\b",
    "background": r"\b(background|backdrop|behind|foreground)\b",
    "camera": r"\b(camera|pans?|tilts?|zooms?|shot|lens|handheld|tracking|tripod|slow motion|real time|"
    r"focus (shifts|moves)|parallax|the view|viewpoint|clip|take|a cut)\b",
    "mood": r"\b(mood|atmosphere|feels?|feeling|air of|makes? this|something \w+ about)\b",
    "sharpness": r"\b(blur\w*|dissolves?|sharp|sharpness|crisp|clean edges|clarity)\b",
    "attention": r"\b(attention|the eye|(the|one's) gaze|viewers?|(one|first) (sees|notices))\b",
    "colours": r"\b(palette|hues|tones|shades|colours)\b",
}
_ONCE_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _ONCE.items()}


class Writer:
    """Writes about texts whose nouns it knows."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon

    def parse(self, text: str) -> Parsed | None:
        """A text with its things, or None: it names none that is known, or has signs that prompts don't have."""
        given = text.strip()
        bare = rules.without_instruction(given)
        text = _BEGINNING.sub("", given if bare.lower() == given.lower() else bare).translate(_QUOTES)
        camera = _CAMERA.search(text)
        text = _CAMERA.sub(" ", text).strip(" .!,")
        if not text or re.search(r"[^\w\s,.;:!?'’\"()°%-]", text) or text.count('"') % 2:
            return None
        text = re.sub(r"\b(Mrs?|Ms|Dr|St)\.", r"\1", text.replace("(", "").replace(")", ""))
        text = text.replace(" 's ", "'s ")
        text = _COVERED.sub(lambda found: found.group().replace(" ", "-"), text)
        medium = _MEDIUM.search(text)
        if medium is not None:
            text = text[: medium.start()]
        words = text.split()
        if len(words) > 3 and sum(word[0].isupper() for word in words) > 0.6 * len(words):
            text = text.lower()
        parsed = parse(self._uncapitalized(text), self.lexicon)
        told = len(parsed.tokens) <= LONGEST_TOLD  # with its lead
        if not parsed.nouns or (told and len(parsed.lead) > _LONGEST_LEAD) or "?" in parsed.tokens:
            return None
        return replace(
            parsed,
            medium=medium.group(1).strip() if medium else "",
            camera=rules.sentence(camera.group("does").strip(" .,")) if camera else "",
        )

    def _uncapitalized(self, text: str) -> str:
        """Without the capital of a sentence; names keep theirs."""
        first, _, rest = text.partition(" ")
        follows = rest[:1].isupper() and first.lower() not in rules.STOPWORDS and not first.endswith(",")
        common = (is_common(first.strip(",.;:"), self.lexicon) or first.endswith("ed")) and not follows
        return f"{first.lower()} {rest}".strip() if first[:1].isupper() and common else text

    def prompt(
        self, parsed: Parsed, words: int, modality: str, rng: random.Random, style: str | None, layout: str
    ) -> str:
        """About `words` words on a parsed text, never cut; fewer than the text itself can't be had.

        `layout`: what a template is, such as a poster; the other modalities don't use it.
        """
        shown = style or parsed.medium  # where there is something, not as a camera would
        drawn = (
            bool(shown)
            or any(token.lower() in DRAWN for token in parsed.tokens)
            or any(token.lower() in DRAWN_VIEWS for token in parsed.lead)
        )
        told = self._gist(parsed) or parsed.cut(min(words, LONGEST_TOLD))
        scene = new_scene(
            told, rng, colored=_COLORLESS.search(shown) is None, roomy=words >= ROOMY, focus=rng.random()
        )
        scene.slots["kind"] = layout
        said = [self._opening(scene, modality, max(words + 1, len(told.tokens)), photographic=not drawn)]
        if style is not None and (words < 30 or rng.random() < 0.5):
            said[0] = said[0].rstrip(".") + rng.choice(
                (f", {style}.", f", in {style} style.", f", {style} style.")
            )
        left = words - word_count(said[0])
        sentences = _candidates(scene, modality, style, photographic=not drawn)
        topics = _topics(said[0])
        set_off = _SET_OFF.search(said[0]) is not None
        chosen: list[tuple[Place, str]] = []
        for place, sentence in sentences:
            count, about = word_count(sentence), _topics(sentence)
            if (
                count <= left + 4
                and left > 4
                and not (place == Place.SETTING and set_off)
                and (place == Place.ASKED_FOR or not about & topics)
                and scene.fits(sentence)
                and not _repeats(sentence, (*said, *(text for _, text in chosen)))
            ):
                chosen.append((place, sentence))
                topics |= about
                left -= count
        if modality == "video":
            named = {token.lower() for token in told.tokens}
            chosen = [(place, _of_clip(sentence, named)) for place, sentence in chosen]
        return " ".join([*said, *(text for _, text in sorted(chosen, key=lambda item: item[0]))])

    @staticmethod
    def _opening(scene: Scene, modality: str, longest: int, *, photographic: bool) -> str:
        """Of a few that fit, where there is room, the one that repeats least of the text's own wording."""
        fitting: list[str] = []
        for _ in range(_OPENINGS):
            drawn = opening(scene, modality, photographic=photographic)
            if scene.fits(drawn) and word_count(drawn) <= longest:
                fitting.append(drawn)
            if len(fitting) == (_CHOICES if scene.roomy else 1):
                break
        return min(fitting or [drawn], key=partial(longest_run, scene.parsed.text))

    def _gist(self, parsed: Parsed) -> Parsed | None:
        """What a long text is told by; None if it is short, or names nobody and nothing."""
        if len(parsed.tokens) <= LONGEST_TOLD or (found := self.parse(gist(parsed))) is None:
            return None
        people = words_of_people(parsed)
        nouns = tuple(
            replace(noun, kind="person")
            if noun.name and noun.kind == UNKNOWN and people.intersection(found.words(noun).split())
            else noun
            for noun in found.nouns
        )
        return replace(found, nouns=nouns, medium=parsed.medium, camera=parsed.camera)

    def altered(self, parsed: Parsed, rng: random.Random) -> Parsed | None:
        """The text about something else: one or all of its nouns become others of their kind, or a part is left."""
        if len(parsed.nouns) > 1 and rng.random() < 0.4:
            rest = rng.choice(parsed.nouns[1:])
            return self.parse(" ".join(parsed.tokens[rest.start : rest.end]))
        changed = parsed.nouns if rng.random() < 0.5 else parsed.nouns[:1]
        tokens = list(parsed.tokens)
        for noun in reversed(changed):
            others = [word for word in self.lexicon.singulars(noun.kind) if word != parsed.noun(noun)]
            if noun.plural or not others:
                continue
            tokens[noun.modifiers : noun.end] = [re.sub(r"(?<=\w\w)-", " ", rng.choice(others))]
        found = None if tuple(tokens) == parsed.tokens else self.parse(" ".join(tokens))
        return found and replace(found, medium=parsed.medium)


def _candidates(
    scene: Scene, modality: str, style: str | None, *, photographic: bool
) -> list[tuple[Place, str]]:
    """Sentences in the order in which they are wanted, each with its place in the text."""
    rng, everything = scene.rng, scenes()
    general = everything["scene"]
    found: list[tuple[Place, str]] = []
    if style is not None:
        found += [(Place.ASKED_FOR, scene.say(frame)) for frame in rng.sample(everything["styles"][style], 2)]
    if modality == "template":
        layout = rng.sample(everything["layout"]["details"], 3)
        found += [(Place.LAYOUT, scene.say(frame)) for frame in layout]
    nouns = _described(scene.parsed)
    subject = nouns[0]
    things = [
        noun
        for noun in nouns
        if noun is subject or (noun.kind not in PLACES and not names_place(scene.parsed, noun))
    ]
    places = [
        noun for noun in nouns if noun.kind in PLACES and noun not in things
    ]  # of named ones nothing is known
    first = _about(scene, subject, 3)
    others = [
        (Place.OTHERS if noun in things else Place.SURROUNDING, _about(scene, noun, 2, named=True))
        for noun in (*things[1:], *places)
        if rng.random() < 0.7 + 0.3 * scene.focus
    ]
    found += [(Place.SUBJECT, first[0])]
    found += [(place, texts[0]) for place, texts in others]
    if modality == "video":
        found += _moving(scene, subject, alone=not others)
    around = _surroundings(scene, subject) if modality != "template" else []
    found += [(Place.SETTING, text) for text in around[:2]]
    if photographic:
        light = everything["light"][scene.light]["sentences"]
        if subject.kind == "sky":  # light doesn't fall on it
            light = [frame for frame in light if "{h}" not in frame]
        found += [(Place.LIGHT, scene.say(_chosen(scene, light), subject))]
    rest = [(Place.SUBJECT, text) for text in first[1:]]
    rest += [(place, text) for place, texts in others for text in texts[1:]]
    rest += [(Place.SETTING, text) for text in around[2:]]
    rest += [
        (place, scene.say(_chosen(scene, general[name]), subject))
        for place, name in _GENERAL
        if photographic or name not in _PHOTOGRAPHIC
    ]
    rng.shuffle(rest)
    for place in _ANCHOR_PLACES[: int(scene.focus * (len(_ANCHOR_PLACES) + 1))]:
        scene.slots["things"] = _listed(scene, things[:3] if place is Place.CLOSING else things[:1])
        rest.insert(0, (place, scene.say(rng.choice(general["anchor"]))))
    if scene.focus > RESTATED_FROM:
        scene.slots["things"] = restated(scene.parsed)
        found.insert(0, (Place.CLOSING, scene.say(rng.choice(general["anchor"]))))
    # The order of what is wanted first differs, or short prompts would all say the same kind of thing.
    cut = rng.randint(0, 2)
    wanted = [*found[cut:], *rest, *found[:cut]] if rng.random() < 0.5 else [*found, *rest]
    return sorted(wanted, key=lambda each: each[0] != Place.ASKED_FOR)


def _topics(sentence: str) -> set[str]:
    """What of that which is said once a sentence says."""
    return {name for name, pattern in _ONCE_PATTERNS.items() if pattern.search(sentence)}


def _of_clip(sentence: str, named: set[str]) -> str:
    """A sentence about a picture, about a video, but for pictures that the text names."""

    def scene(match: re.Match[str]) -> str:
        return match.group() if match.group() in named else "scene"

    return re.sub(r"\b(picture|image|photograph)\b", scene, sentence).replace("photographed", "filmed")


def _described(parsed: Parsed) -> list[Noun]:
    """The nouns that more is said about: the first, and of the others those that are listed or names, aren't there
    twice and are no time of day.
    """
    heads = [parsed.noun(noun).lower() for noun in parsed.nouns]
    found = [
        noun
        for number, (noun, head) in enumerate(zip(parsed.nouns, heads, strict=True))
        if (number == 0 or (heads.count(head) == 1 and (noun.kind != UNKNOWN or noun.name)))
        and not (head in TIMES and token_at(parsed.tokens, noun.start - 1) in ("at", "during"))
        and token_at(parsed.tokens, noun.start - 1) != "named"  # who that is was said
    ]
    return found or [parsed.nouns[0]]


def _listed(scene: Scene, nouns: Sequence[Noun]) -> str:
    names = list(dict.fromkeys(scene.the(noun, scene.parsed.words(noun)) for noun in nouns))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _about(scene: Scene, noun: Noun, count: int, *, named: bool = False) -> list[str]:
    """Up to `count` sentences about a thing; with `named` all of them name it, since "its" would be another's."""
    frames = kinds()[noun.kind].details
    if named:
        frames = [frame for frame in frames if "{h}" in frame]
    chosen = dict.fromkeys(_chosen(scene, frames) for _ in range(count))
    return [scene.say(frame, noun) for frame in chosen]


def _moving(scene: Scene, subject: Noun, *, alone: bool) -> list[tuple[Place, str]]:
    """What moves in a clip, and what the camera does; the subject is named where it isn't `alone`."""
    found: list[tuple[Place, str]] = []
    frames = [frame for frame in kinds()[subject.kind].motion if "{h}" in frame or alone]
    behind = token_at(scene.parsed.tokens, subject.end)
    if behind in ("is", "are"):
        behind = token_at(scene.parsed.tokens, subject.end + 1)
    does = is_participle(behind) or behind in VERBS or behind.removesuffix("s") in VERBS
    busy = subject.kind in DOERS and does  # the text says what it does
    if frames and not busy and not STILL & {token.lower() for token in scene.parsed.tokens}:
        found.append((Place.MOTION, scene.say(scene.rng.choice(frames), subject)))
    if scene.parsed.camera:
        return [*found, (Place.ASKED_FOR, scene.parsed.camera)]
    camera = _chosen(scene, scenes()["scene"]["camera"])
    return [*found, (Place.MOTION, scene.say(camera, subject))]


def _surroundings(scene: Scene, subject: Noun) -> list[str]:
    """Sentences on the setting and what is seen there; the more, the less close the prompt keeps to its things."""
    rng, frames, setting = scene.rng, scenes()["setting"], scene.setting
    if setting is None:
        return []
    said = []
    if not scene.set_by_text:
        scene.slots["place"] = rng.choice(setting.phrases)
        fitting = [frame for frame in frames["place"] if not (setting.liquid and _IN_PLACE.search(frame))]
        said.append(scene.say(_chosen(scene, fitting), subject))
    told = {token.lower() for token in scene.parsed.tokens}
    heads = {prop: _head(prop) for prop in (*setting.props, *setting.props_plural)}
    props = {prop: head for prop, head in heads.items() if not told & {head, f"{head}s"}}
    itself = scene.parsed.noun(subject).lower() in setting.names  # what is around a castle isn't behind it
    for _ in range(1 + (scene.focus < 0.8) + (scene.focus < 0.4)):
        pair: list[str] = []
        for _ in range(2):
            if not props:
                return said
            pair.append(rng.choice(list(props)))
            head = props[pair[-1]]
            props = {prop: own for prop, own in props.items() if own != head}
        scene.slots["prop"], scene.slots["prop2"] = pair
        form, plural = ("pair", True) if rng.random() < 0.5 else ("single", pair[0] in setting.props_plural)
        choices = [frame for frame in frames[form] if "{h}" not in frame] if itself else frames[form]
        said.append(scene.say(_chosen(scene, choices), subject, several=plural))
    return said


def _head(prop: str) -> str:
    """What is named: of "a stack of plates", "wooden chairs" and "a chair" the last word, as for one."""
    return prop.rsplit(maxsplit=1)[-1].removesuffix("s")


def _chosen(scene: Scene, frames: Sequence[str]) -> str:
    """A frame; one that names its thing the likelier, the closer the prompt keeps to what its text names."""
    fewest, most = NAMED_SHARE
    named = scene.rng.random() < fewest + scene.focus * (most - fewest)
    return scene.rng.choice([frame for frame in frames if ("{h}" in frame) == named] or frames)


def _repeats(sentence: str, said: Sequence[str]) -> bool:
    """Whether a sentence has a run of four words that was said before, or begins with the same three."""
    spans, beginning = _spans(sentence), sentence.lower().split()[:3]
    return any(spans & _spans(other) or other.lower().split()[:3] == beginning for other in said)


def _spans(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[\w'’-]+", text.lower())
    return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}


def style_names() -> Mapping[str, Sequence[str]]:
    """The styles that can be asked for, with their sentences."""
    styles: Mapping[str, Sequence[str]] = scenes()["styles"]
    return styles
