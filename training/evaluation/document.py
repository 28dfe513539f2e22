"""A report as a list of blocks, written once and rendered twice: as Markdown, and as HTML that needs no other file."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1100px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc }
h3 { font-size: 1rem; margin-bottom: .3rem }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; font-size: 14px }
th, td { padding: .28rem .7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
th { border-bottom: 2px solid #888; font-weight: 600 }
td.number, th.number { text-align: right }
td:first-child { min-width: 11rem } td span { white-space: nowrap }
td.good { background: #dcecf8 } td.bad { background: #fbe3d2 }
img { max-width: 100%; margin: .5rem 0 }
ul.samples { padding-left: 1.1rem } ul.samples li { margin-bottom: .6rem }
.asked { color: #666 } .mark { background: #fbe3d2; padding: 0 .3rem }
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A table's cell that is good or bad, or neither."""

    text: str
    good: bool | None = None


Cell = str | Mark


@dataclass(frozen=True, slots=True)
class Heading:
    """Level 1 to 3."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Header and rows; the first `texts` columns are text, the others figures."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    texts: int = 1


@dataclass(frozen=True, slots=True)
class Image:
    """A PNG beside the report."""

    path: Path
    alt: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer: what was asked, of what input, what came, its figures, and a mark for the worst."""

    input: str
    asked: str
    text: str
    figures: str
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Samples:
    """A list of them."""

    items: Sequence[Sample]


Block = Heading | Paragraph | Table | Image | Samples


@dataclass
class Document:
    """Blocks in order."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    def add(self, *blocks: Block) -> None:
        """Append."""
        self.blocks += blocks

    def markdown(self) -> str:
        """For reading beside the code."""
        return "\n\n".join([f"# {self.title}", *map(_markdown, self.blocks)]) + "\n"

    def html(self) -> str:
        """One file, images in it."""
        body = "\n".join(map(_html, self.blocks))
        title = html.escape(self.title)
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
            f"<body><h1>{title}</h1>\n{body}\n</body></html>\n"
        )


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Image(path, alt):
            return f"![{alt}]({path.name})"
        case Table(header, rows, texts):
            rule = ["---"] * texts + ["---:"] * (len(header) - texts)
            lines = [list(header), rule, *([_text(cell) for cell in row] for row in rows)]
            return "\n".join(f"| {' | '.join(map(_piped, line))} |" for line in lines)
        case Samples(items):
            return "\n".join(_markdown_sample(item) for item in items)


def _markdown_sample(item: Sample) -> str:
    mark = f"**{item.mark}** · " if item.mark else ""
    return f"- {mark}**{_plain(item.input)}** ({item.asked}) → {_plain(item.text)} ({item.figures})"


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Image(path, alt):
            data = base64.b64encode(path.read_bytes()).decode()
            return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
        case Table(header, rows, texts):
            head = "".join(_html_cell("th", cell, index >= texts) for index, cell in enumerate(header))
            body = "\n".join(
                "<tr>"
                + "".join(_html_cell("td", cell, index >= texts) for index, cell in enumerate(row))
                + "</tr>"
                for row in rows
            )
            return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
        case Samples(items):
            return f'<ul class="samples">{"".join(map(_html_sample, items))}</ul>'


def _html_cell(tag: str, cell: Cell, number: bool) -> str:
    good = cell.good if isinstance(cell, Mark) else None
    classes = (["number"] if number else []) + ([] if good is None else ["good" if good else "bad"])
    attribute = f' class="{" ".join(classes)}"' if classes else ""
    text = re.sub(r"\([^()]*–[^()]*\)", r"<span>\g<0></span>", html.escape(_text(cell)))  # an interval
    return f"<{tag}{attribute}>{text}</{tag}>"


def _html_sample(item: Sample) -> str:
    mark = f'<span class="mark">{html.escape(item.mark)}</span> ' if item.mark else ""
    return (
        f"<li>{mark}<b>{html.escape(item.input)}</b> <span class='asked'>({html.escape(item.asked)})</span><br>"
        f"{html.escape(item.text)} <span class='asked'>({html.escape(item.figures)})</span></li>\n"
    )


def _text(cell: Cell) -> str:
    return cell.text if isinstance(cell, Mark) else cell


def _piped(text: str) -> str:
    return text.replace("|", "\\|")


def _plain(text: str) -> str:
    """One line that Markdown shows as it is."""
    return re.sub(r"([\\`*_<\[\]])", r"\\\1", " ".join(text.split()))
