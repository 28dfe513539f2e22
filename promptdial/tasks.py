"""The tasks a request may name: what each turns into what, for people and for `GET /tasks`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from promptdial.command import MODALITIES


@dataclass(frozen=True)
class Task:
    """One task: its description, what its input should look like, an example input and its default modality.

    `input_hint` is advice. The rule is the same for all tasks: any text with a visible character, up to the bundle's
    limit in tokens. Defaults of relevance and length are the data's own and stand in the bundle's support.
    """

    name: str
    description: str
    input_hint: str
    example: str
    modality: str = "image"
    modalities: tuple[str, ...] = MODALITIES

    def to_json(self) -> dict[str, Any]:
        """The task as it is written into `bundle.json`."""
        return {**asdict(self), "modalities": list(self.modalities)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Task:
        """The task read back from `bundle.json`."""
        return cls(**{**data, "modalities": tuple(data["modalities"])})


TASK_INFO: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "expand",
            "A short text becomes a detailed prompt.",
            "A few words or a sentence that names what should be seen.",
            "a fox in the snow",
        ),
        Task(
            "tags",
            "Keywords or labels become a prompt that uses them.",
            "Keywords separated by commas.",
            "lighthouse, storm, night",
        ),
        Task(
            "brief",
            "A design brief becomes the prompt of a template's or advertisement's visual.",
            "One to three sentences: what is designed, for whom, what it must show.",
            "Design a poster for a jazz concert in the park on a summer evening.",
            modality="template",
        ),
        Task(
            "style",
            "A subject and a style become a styled prompt.",
            "The subject, a comma, the style.",
            "an old bicycle, watercolor painting",
        ),
        Task(
            "compress",
            "A long prompt becomes a short one that keeps what matters.",
            "A prompt of several sentences.",
            "A weathered wooden boat rests on a pebble beach at dawn. Soft pink light falls on the calm water behind, "
            "and a coil of rope lies beside the bow.",
        ),
        Task(
            "suggest",
            "A partial idea or a search query becomes a related prompt.",
            "Half a sentence or a search query.",
            "cozy cabin in the",
        ),
    )
}
