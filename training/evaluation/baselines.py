"""Answers that take no model: what relevance alone would reward."""

from __future__ import annotations

from promptdial.command import word_count

_PHRASES = (
    "highly detailed", "soft natural light", "balanced composition", "rich colors and deep contrast", "sharp focus",
    "a calm and inviting atmosphere", "fine textures", "a clean background that doesn't distract",
    "gentle shadows that give depth", "seen at eye level", "warm highlights", "a sense of quiet movement",
    "careful attention to every surface", "realistic proportions", "a subtle play of light and shade",
    "professional quality", "crisp edges", "harmonious tones", "a wide and open view", "delicate reflections",
    "a clear point of interest in the center", "smooth transitions of color", "a timeless and elegant mood",
    "high resolution", "a shallow depth of field", "visible brush of light on the subject", "natural materials",
    "a foreground that leads the eye", "a softly blurred distance", "an overall impression of harmony",
)  # fmt: skip
_NOUNS = {"image": "image", "video": "video", "template": "design"}


def copy_input(input: str) -> str:
    """The input as it is: the highest relevance there is, and worth nothing."""
    return input


def template(input: str, modality: str, length: int) -> str:
    """ "A detailed image of X, ..." with stock phrases up to about `length` words."""
    text = f"A detailed {_NOUNS.get(modality, modality)} of {input.strip().rstrip('.')}"
    number = 0
    while word_count(text) < length:
        text += f", {_PHRASES[number % len(_PHRASES)]}"
        number += 1
    return text + "."
