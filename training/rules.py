"""Rules over one text: its sentences, key phrases, head phrase, and how people would have asked for it.

Pure functions; where a rule draws at random, the caller passes the generator.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

STOPWORDS = frozenset(Path(__file__).with_name("stopwords.txt").read_text(encoding="utf-8").split())
MOTION = re.compile(
    r"\b(camera|video|footage|clip|pan|pans|panning|zoom\w*|tracking|dolly|timelapse|time-lapse|slow[- ]motion|"
    r"transition\w*|then|begins?|starts?|suddenly|gradually|moments? later|as the|moves?|moving|frame|frames|scene "
    r"shifts|shot|shots|progress\w*|continues?|finally|motion|animation|sequence|cuts? to|changes?)\b",
    re.IGNORECASE,
)
# What is designed stands at the beginning of a text or is said to be made; a menu on a table is no template.
_DESIGNED = (
    r"(?:poster|logo|flyer|flier|banner|invitation|brochure|web ?site|web page|landing page|user interface|icon set|"
    r"magazine cover|book cover|album cover|advertis\w+|packaging|business card|greeting card|postcard|infographic|"
    r"sticker|billboard|typography|newsletter|thumbnail|layout|template|calendar|certificate|t-shirt design|"
    r"(?:mobile |web )?app (?:design|screen|interface|icon)|ui (?:design|screen|kit)|label design|menu design|"
    r"cover image|social media post|advert|ad campaign)s?"
)
TEMPLATE = re.compile(
    rf"^(?:[\w'’-]+[ ,]+){{0,6}}{_DESIGNED}\b|\b(?:design\w*|creat\w+|mak\w+)\s+(?:[\w'’-]+\s+){{0,5}}{_DESIGNED}\b",
    re.IGNORECASE,
)
KIND = re.compile(rf"\b{_DESIGNED}\b", re.IGNORECASE)
# "Generating picture: Please draw a cat" addresses a generator; the prompt is what follows.
_INSTRUCTION = re.compile(
    r"^(?:please\s+)?(?:generat|creat|draw|design|paint|mak|image|photo|picture)\w*\b[^:.,\"]{0,30}:\s*",
    re.IGNORECASE,
)
_ORDER = re.compile(
    r"^(?:please\s+|can you\s+|help me\s+)*(?:generate|create|draw|design|paint|make|render)\s+(?:me\s+)?"
    r"(?=an?\b|the\b|\w+ style)",
    re.IGNORECASE,
)
# Texts that say something about other texts, web furniture, marks of translation, and people by name.
_NOISE = re.compile(
    r"https?:|www\.|@\w|#\w|\b(?:english (?:words?|sentence|letters?|text)|chinese character|character setting|"
    r"in english|stock (?:photo|image|illustration)|royalty|watermark|getty|shutterstock|click|copyright|"
    r"image of the day|file photo|nsfw|nud(?:e|es|ity)|naked|topless|sex(?:y|ual\w*)?|erotic\w*|porn\w*|fetish\w*|"
    r"lingerie|thong|bikini|zentai|latex|bdsm|buttocks?|butt|ass|boobs?|breasts?|nipples?|cleavage|crotch|armpits?|penis|perineum|"
    r"twinks?|bosom\w*|busty|vagina\w*|vulva|pubic|gore|gen[ie]tal\w*|semen|orgasm\w*|incest\w*|puss(?:y|ies)|nympho\w*|rap(?:e[ds]?|ing|ists?)|whor\w*|"
    r"sluts?|cunts?|f[au]ck\w*|mufugg\w*|(?:bull)?shit\w*|(?:sonofa)?bitch\w*|nigg\w*|spics?|mulatto\w*|kikes?|gooks?|chinks?|"
    r"fag(?:got)?s?|retard(?:s|ed)?|hitler|nazi\w*|holocaust|genocid\w*)\b|[^\x00-\u024f\u2010-\u2026]",
    re.IGNORECASE,
)
_CREDIT = re.compile(
    r"\b(?:by|style of|inspired by|from|art of|painting of|work of)\s+[a-z]+ [a-z]+|artstation|trending|"
    r"deviantart|cgsociety|furaffinity|pinterest|pixiv|unreal|octane|greg|rutkowski|mucha|artgerm|wlop|\d",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“A-Z0-9])")
BREAK = re.compile(
    r"[,.;:!?()\"“”]|\s[-–—]\s|\b(?:with|that|which|featuring|while|as|where|against|its|his|her|their|who)\b",
    re.I,
)
_SETTING = re.compile(
    r"^(?:in|on|at|under|amid|amidst|inside|within|against|during|beneath|captured|bathed|nestled|set|from)\b[^,.]{3,80},\s+"
    r"(?=an?\b|the\b|two\b|three\b|several\b|\w+s\b)",
    re.IGNORECASE,
)
_FRAMING = re.compile(
    r"^(?:[\w'’-]+[ ,]+){0,6}(?:shot|view|close-up|closeup|photo|photograph|image|picture|scene|perspective|painting|"
    r"illustration|depiction|portrait)\b,?\s*(?:\w+\s+){0,2}?(?:captures?|shows?|showing|reveals?|presents?|features?|"
    r"featuring|depicts?|depicting|displays?|showcases?|capturing|of)\s+",
    re.IGNORECASE,
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


def subject_part(text: str) -> str:
    """A text from its subject on: "In dim light, a fox", "A close-up shot captures a fox" and the like begin there."""
    for frame in (_SETTING, _FRAMING, _SETTING):
        shorter = frame.sub("", text)
        if len(shorter.split()) >= 4:
            text = shorter
    return text


def head_phrase(text: str, rng: random.Random, longest: int = 10) -> str:
    """What a text is about in 3-10 words: its subject up to a break, often without the article."""
    first = subject_part(sentences(text)[0]) if text.strip() else ""
    ends = [match.start() for match in BREAK.finditer(first) if len(first[: match.start()].split()) >= 4]
    chosen = first[: ends[0] if ends else None].split()[:longest]
    while len(chosen) > 2 and chosen[-1].lower() in STOPWORDS:
        chosen.pop()
    if len(chosen) > 2 and chosen[0].lower() in ("a", "an", "the") and rng.random() < 0.5:
        chosen = chosen[1:]
    phrase = " ".join(chosen).strip(" ,.;:")
    return phrase[:1].lower() + phrase[1:] if rng.random() < 0.7 else phrase


def telegraphic(text: str, rng: random.Random, most: int = 8) -> str:
    """2-8 content words of a text in their order, the first of its subject among them, as in a search box."""
    subject = content_words(subject_part(text))
    found = subject or content_words(text)
    first = min(len(found), 3 if most > 4 else 2)
    count = min(len(found) - first, rng.randint(0, most - first))
    # The nearer to the subject, the likelier: what people name is what a text begins with.
    window = found[first : first + 3 * most]
    kept = sorted(rng.sample(range(len(window)), min(count, len(window))))
    return " ".join([*found[:first], *(window[i] for i in kept)])


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


def without_instruction(text: str) -> str:
    """A text without "Generating picture: Please draw" at its beginning."""
    text = _ORDER.sub("", _INSTRUCTION.sub("", text))
    return text[:1].upper() + text[1:]


def is_unfit(text: str) -> bool:
    """Whether a text or word is, or holds, what isn't fit to be learnt or what only the web has."""
    return _NOISE.search(text) is not None


def is_noisy(text: str) -> bool:
    """Whether a text has marks of the web, of translation or of another language, or isn't fit to be learnt."""
    letters = sum(character.isalpha() or character.isspace() for character in text)
    return is_unfit(text) or letters < 0.8 * len(text) or _repeats_words(text)


def _repeats_words(text: str) -> bool:
    """Whether a word follows itself, or four words in a row come three times."""
    found = words(text)
    spans = Counter(tuple(found[i : i + 4]) for i in range(len(found) - 3))
    return any(first == second for first, second in pairwise(found)) or max(spans.values(), default=0) > 2


def is_credit(segment: str) -> bool:
    """Whether a segment of a prompt by a user names an artist, a site, a renderer or a number."""
    return _CREDIT.search(segment) is not None


def new_words(input: str, output: str) -> int:
    """Words of the output, each once, that the input does not have; articles don't count."""
    return len(set(words(output)) - set(words(input)) - {"a", "an", "the"})


def adds(input: str, output: str) -> bool:
    """Whether an output says more than its input: two new words at least, and a fifth of its words."""
    return new_words(input, output) >= max(2, 0.2 * len(words(output)))


def sentence(text: str) -> str:
    """A text as a sentence: a capital first, a full stop last."""
    text = text.rstrip(" .")
    return f"{text[:1].upper()}{text[1:]}."


def clean(text: str) -> str:
    """White space folded, the space before punctuation that tokenized corpora leave removed."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\s+([,.;:!?])", r"\1", text)
