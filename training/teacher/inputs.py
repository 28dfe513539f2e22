"""What the teacher is asked about: short inputs as people write them, from the open data or from a file.

From the open data come the head phrases of captions, first segments of prompts by people (in everyday words only, which
leaves names out), key phrases, combinations of listed words, and briefs for designs made by rule. Texts that validate,
and what comes close to an input marked `eval`, are not asked.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from training import rules
from training.errors import TrainingError
from training.sources import OpenData
from training.split import DisjointSets, near_duplicates
from training.teacher.templates import Template

CAPTIONS = ("coco-captions", "t2i-compbench")
PEOPLE = ("pickapic", "imagereward", "unigenbench-train")
LONGEST_HEAD = 9
EVERYDAY = 5  # captions that hold a word before it counts as everyday
EVAL_SHARE = 0.01
_NOT_ASKED = re.compile(
    r"[^\x20-\x7e]|[<>{}\[\]|\\*#()_=@\"]|\b(?:person|actor|artist|film|politician|celebrity|vector|stock|photo of|"
    r"image of|picture of|background|illustration|nude|naked|sexy?|nsfw|bikini|breasts?|blood\w*|gun|dead)\b",
    re.IGNORECASE,
)
_LISTED = ("animals", "dogs", "fruits", "flowers", "dishes", "objects", "instruments", "creatures")
_PLACES = ("beach", "forest", "kitchen", "desert", "city street", "garden", "library", "snow", "rain", "field",
           "harbor", "valley", "old town", "night sky", "living room", "market", "cave", "river", "park")  # fmt: skip
_BRIEF_KINDS = ("poster", "flyer", "Instagram ad", "banner", "invitation", "book cover", "logo", "YouTube thumbnail",
                "brochure cover", "menu", "greeting card", "album cover", "web page header", "sticker")  # fmt: skip
_BRIEF_OPENINGS = (
    "Design a {} for {}",
    "Create a {} for {}",
    "I need a {} for {}",
    "Make a {} for {}",
    "{} for {}",
)
_BRIEF_SUBJECTS = (
    "a {sports} tournament", "a {genres} concert", "a restaurant that serves {dishes}", "a flower shop with {flowers}",
    "{instruments} lessons", "a trip to {cities}", "a {animals} rescue group", "a shop that sells {objects}",
    "a farm stand with {fruits}", "a {colors} {clothing} collection", "a summer sale", "a school fair", "a new bakery",
    "a yoga class", "a birthday party", "a photo exhibition", "a science museum", "a children's book about {animals}",
    "a podcast about {nouns}", "a coffee brand",
)  # fmt: skip
_BRIEF_DETAILS = (
    "", "", ". Keep it simple and modern", ". Offer {}% off", ". Use warm colours", ". Make it playful",
    ". Mention free entry", ". It should look elegant", ". Use the text 'Open Now'", ". Show {objects}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """One question: a text under a template, the words wanted, and the side its answer goes to."""

    template: str
    input: str
    length: int
    split: str = "train"


def plan(templates: Sequence[Template], data: OpenData, count: int, seed: int) -> list[Request]:
    """`count` requests from the open data in random order, shares and lengths as the templates say."""
    from training.prepare import held_out_keys  # noqa: PLC0415  (a run that goes on or has own inputs doesn't wait for it)

    rng = random.Random(seed)
    held_out = held_out_keys(data)
    captions = [
        row["text"] for row in data.texts if row["source"] in CAPTIONS and row["text"] not in held_out
    ]
    prompts = [row["text"] for row in data.texts if row["source"] in PEOPLE and row["text"] not in held_out]
    frequency = Counter(word for text in captions for word in set(rules.words(text)))
    everyday = {word for word, found in frequency.items() if found >= EVERYDAY}
    total = sum(template.share for template in templates)
    marked = [row["input"] for row in data.pairs if row["split"] == "eval"]
    requests = []
    for template in templates:
        wanted = round(count * template.share / total)
        drawn = _candidates(template, captions, prompts, data, everyday, rng)
        texts = _unlike(list(_first(drawn, round(1.2 * wanted) + 20)), marked)[:wanted]
        requests += _requests(template, texts, rng)
    rng.shuffle(requests)
    return _split(requests, rng)


def from_file(path: Path, templates: Sequence[Template], seed: int) -> list[Request]:
    """Requests for the lines of a file, each under every template. Raises TrainingError when there are none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise TrainingError(f"inputs {path} can't be read: {error}") from error
    texts = list(dict.fromkeys(line for line in lines if line))
    if not texts:
        raise TrainingError(f"inputs {path} holds no line of text")
    rng = random.Random(seed)
    requests = [request for template in templates for request in _requests(template, texts, rng)]
    rng.shuffle(requests)
    return requests


def _requests(template: Template, texts: Sequence[str], rng: random.Random) -> list[Request]:
    lengths = rng.choices(list(template.lengths), list(template.lengths.values()), k=len(texts))
    return [Request(template.name, text, length) for text, length in zip(texts, lengths, strict=True)]


def _split(requests: Sequence[Request], rng: random.Random) -> list[Request]:
    """The requests, a small share of them for `eval`, near-duplicate inputs on the same side."""
    sets = DisjointSets(len(requests))
    for first, second in near_duplicates([request.input for request in requests]):
        sets.union(first, second)
    groups = sorted({sets.find(i) for i in range(len(requests))})
    held = {root for root in groups if rng.random() < EVAL_SHARE}
    return [
        Request(r.template, r.input, r.length, "eval" if sets.find(i) in held else "train")
        for i, r in enumerate(requests)
    ]


def _first(texts: Iterator[str], count: int) -> Iterator[str]:
    """Up to `count` usable texts, each once; gives up when new ones have become rare."""
    seen: set[str] = set()
    misses = 0
    for text in texts:
        key = " ".join(rules.words(text))
        if key in seen or _NOT_ASKED.search(text) or not 1 <= len(text.split()) <= 24:
            misses += 1
            if misses > 50 * count:
                return
            continue
        seen.add(key)
        yield text
        if len(seen) >= count:
            return


def _unlike(texts: list[str], marked: Sequence[str]) -> list[str]:
    """The texts that are no near-duplicate of a marked one."""
    close = {
        max(pair) - len(marked)
        for pair in near_duplicates([*marked, *texts])
        if min(pair) < len(marked) <= max(pair)
    }
    return [text for index, text in enumerate(texts) if index not in close]


def _candidates(
    template: Template,
    captions: list[str],
    prompts: list[str],
    data: OpenData,
    everyday: set[str],
    rng: random.Random,
) -> Iterator[str]:
    """An endless stream of inputs for a template's task."""
    acting = [text for text in captions if re.search(r"\b\w{3,}ing\b", text)]
    while True:
        if template.task == "brief":
            yield _brief(data.lists, rng)
        elif template.task == "tags":
            listed = _everyday(_listed(data.lists, rng, ", "), everyday)
            yield _tags(rng.choice(captions), rng) if rng.random() < 0.7 else listed
        elif template.modality == "video":
            yield _head(rng.choice(acting), rng)
        else:
            yield from _expand_input(captions, prompts, data.lists, everyday, rng)


def _expand_input(
    captions: list[str],
    prompts: list[str],
    lists: dict[str, list[str]],
    everyday: set[str],
    rng: random.Random,
) -> Iterator[str]:
    drawn = rng.random()
    if drawn < 0.6:
        yield _head(rng.choice(captions), rng)
    elif drawn < 0.66:
        yield rules.telegraphic(rng.choice(captions), rng, 5)
    elif drawn < 0.8:
        yield _everyday(_listed(lists, rng, " "), everyday)
    else:
        yield _everyday(_head(re.split(r"[,.;:]", rng.choice(prompts))[0], rng), everyday)


def _everyday(text: str, everyday: set[str]) -> str:
    """The text if captions use all of its words, which names do not; else none."""
    return text if all(word in everyday for word in rules.words(text)) else ""


def _head(text: str, rng: random.Random) -> str:
    """What a caption is about: all of it if short, or up to where it breaks, often without the article; else none."""
    text = rules.clean(text).strip(" .")
    if len(text.split()) > LONGEST_HEAD:
        ends = [match.start() for match in rules.BREAK.finditer(text)]
        text = next(
            (text[:end].strip(" ,.") for end in ends if 3 <= len(text[:end].split()) <= LONGEST_HEAD), ""
        )
    parts = text.split()
    if not parts or parts[-1].lower() in rules.STOPWORDS:
        return ""
    if len(parts) > 2 and parts[0].lower() in ("a", "an", "the") and rng.random() < 0.5:
        parts = parts[1:]
    phrase = " ".join(parts)
    return phrase[:1].lower() + phrase[1:] if rng.random() < 0.7 else phrase


def _tags(caption: str, rng: random.Random) -> str:
    """Two to four key phrases of a caption that are no actions, in any order."""
    found = [phrase for phrase in rules.key_phrases(caption, 2) if not re.search(r"(?:ing|ed)\b", phrase)]
    return ", ".join(rng.sample(found, rng.randint(2, min(4, len(found))))) if len(found) >= 2 else ""


def _listed(lists: dict[str, list[str]], rng: random.Random, joiner: str) -> str:
    """A thing from the lists with a colour or material, mostly somewhere: as words, or as tags."""
    thing = rng.choice(lists[rng.choice(_LISTED)])
    quality = rng.choice(lists[rng.choice(("colors", "materials"))])
    place = rng.choice(_PLACES)
    if joiner == " ":
        forms = (f"{quality} {thing}", f"{thing} in the {place}", f"{quality} {thing} in the {place}", thing)
        return rng.choice(forms)
    return joiner.join(rng.sample((thing, quality, place), rng.choice((2, 3))))


def _brief(lists: dict[str, list[str]], rng: random.Random) -> str:
    drawn = {name: rng.choice(values) for name, values in lists.items() if values}
    subject = rng.choice(_BRIEF_SUBJECTS).format(**drawn)
    details = rng.choice(_BRIEF_DETAILS)
    details = details.format(rng.choice((10, 15, 20, 25, 30, 50)), **drawn)
    text = rng.choice(_BRIEF_OPENINGS).format(rng.choice(_BRIEF_KINDS), subject) + details
    return re.sub(r"\b([Aa]) (?=[aeioAEIO])", r"\1n ", text)
