"""Rules over one text: its sentences, key phrases, head phrase, and how people would have asked for it.

Pure functions; where a rule draws at random, the caller passes the generator.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

STOPWORDS = frozenset(Path(__file__).with_name("stopwords.txt").read_text(encoding="utf-8").split())
MOTION = re.compile(
    r"\b(camera|video|footage|clip|pan|pans|panning|zoom\w*|tracking|dolly|timelapse|time-lapse|slow[- ]motion|"
    r"transition\w*|then|begins?|starts?|suddenly|gradually|moments? later|as the|moves?|moving|frame|frames|scene "
    r"shifts|shot|shots|progress\w*|continues?|finally|motion|animation|sequence|cuts? to|changes?)\b",
    re.IGNORECASE,
)
TEMPLATE = re.compile(
    r"\b(poster|logo|flyer|banner|invitation|brochure|website|web page|app|ui|interface|icon|magazine|book cover|"
    r"album cover|advertis\w+|packaging|business card|greeting card|postcard|infographic|menu|sticker|signage|"
    r"billboard|label|typography|slogan|t-shirt|newsletter|thumbnail|layout|template|calendar|certificate)\b",
    re.IGNORECASE,
)
# "Please draw a picture: ..." addresses a generator; the prompt begins after it.
_INSTRUCTION = re.compile(
    r"^(?:please\s+)?(?:generat|creat|draw|design|paint|make|image|photo|picture)\w*\b[^:.,]{0,30}:",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“A-Z0-9])")
BREAK = re.compile(
    r"[,.;:!?()\"“”]|\s[-–—]\s|\b(?:with|that|which|featuring|while|as|where|against|its|his|her|their|who)\b",
    re.I,
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def words(text: str) -> list[str]:
    """Lower-case words of a text, without punctuation."""
    return [word.lower() for word in _WORD.findall(text)]


def content_words(text: str) -> list[str]:
    """Lower-case words that carry meaning, in order, each once."""
    return list(dict.fromkeys(word for word in words(text) if word not in STOPWORDS and len(word) > 2))


def key_phrases(text: str, longest: int = 3) -> list[str]:
    """Runs of content words between stop words and punctuation (RAKE, Rose et al. 2010), each once, lower case."""
    phrases: list[str] = []
    for chunk in re.split(r"[^\w\s'’-]+", text):
        run: list[str] = []
        for word in [*words(chunk), "the"]:
            if word not in STOPWORDS and len(word) > 1:
                run.append(word)
                continue
            if run:
                phrases.append(" ".join(run[-longest:]))
            run = []
    return list(dict.fromkeys(phrases))


def head_phrase(text: str, rng: random.Random, longest: int = 10) -> str:
    """What a text is about in 3-10 words: its beginning up to a break, often without the article."""
    first = sentences(text)[0] if text.strip() else ""
    ends = [match.start() for match in BREAK.finditer(first) if len(first[: match.start()].split()) >= 4]
    chosen = first[: ends[0] if ends else None].split()[:longest]
    while len(chosen) > 2 and chosen[-1].lower() in STOPWORDS:
        chosen.pop()
    if len(chosen) > 2 and chosen[0].lower() in ("a", "an", "the") and rng.random() < 0.5:
        chosen = chosen[1:]
    phrase = " ".join(chosen).strip(" ,.;:")
    return phrase[:1].lower() + phrase[1:] if rng.random() < 0.7 else phrase


def telegraphic(text: str, rng: random.Random, most: int = 8) -> str:
    """2-8 content words of a text in their order, as people type into a search box."""
    found = content_words(text)
    count = min(len(found), rng.randint(2, most))
    kept = sorted(rng.sample(range(len(found)), count))
    return " ".join(found[i] for i in kept)


def tag_list(text: str, rng: random.Random, most: int = 7) -> str:
    """2-7 key phrases of a text, comma separated, in any order."""
    found = key_phrases(text, rng.choice((1, 2, 2, 3)))
    count = min(len(found), rng.randint(2, most))
    chosen = rng.sample(found, count)
    return ", ".join(chosen)


def half(text: str, rng: random.Random) -> str:
    """The first 2-6 words of a text, cut wherever that falls."""
    parts = text.split()
    return " ".join(parts[: rng.randint(2, max(2, min(6, len(parts) - 2)))]).rstrip(" ,.;:")


def cuts(text: str) -> list[str]:
    """All beginnings of a text that end with a sentence, the whole text last."""
    parts = sentences(text)
    return [" ".join(parts[: i + 1]) for i in range(len(parts))]


def is_instruction(text: str) -> bool:
    """Whether a text begins by telling a generator to draw, as no prompt should."""
    return _INSTRUCTION.match(text) is not None


def clean(text: str) -> str:
    """White space folded, the space before punctuation that tokenized corpora leave removed."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([,.;:!?])", r"\1", text)
    return re.sub(r"\s+-\s+(?=\w)", "-", text)
