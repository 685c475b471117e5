"""The runbook, ``docs/runbook.md``, as a page.

It uses only headings, paragraphs, lists and indented code, with ``code`` and links inside, so it
needs no library for all of Markdown.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from dashboard.pages.base import Page

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"

_INLINE = re.compile(r"`([^`]+)`|\[([^]]+)\]\(([^)]+)\)")


class Inline(NamedTuple):
    """A part of a line."""

    text: str
    kind: Literal["text", "code", "link"] = "text"
    to: str = ""


class Block(NamedTuple):
    """A heading, paragraph, list or code: its lines or items, and the anchor of a heading."""

    kind: Literal["h1", "h2", "p", "ul", "pre"]
    lines: list[str]
    anchor: str = ""


def blocks(text: str) -> Iterator[Block]:
    """Split a text into blocks."""
    for part in re.split(r"\n{2,}", text.strip("\n")):
        if heading := re.fullmatch(r"(##?) (.+)", part):
            anchor = re.sub(r"[^\w]+", "-", heading[2].lower()).strip("-")
            yield Block("h1" if heading[1] == "#" else "h2", [heading[2]], anchor)
        elif part.startswith("    "):
            yield Block("pre", [line.removeprefix("    ") for line in part.split("\n")])
        elif part.startswith("- "):
            items = re.split(r"\n- ", part.removeprefix("- "))
            yield Block("ul", [" ".join(item.split()) for item in items])
        else:
            yield Block("p", [" ".join(part.split())])


def inlines(line: str) -> Iterator[Inline]:
    """Split a line into text, code and links."""
    end = 0
    for found in _INLINE.finditer(line):
        yield Inline(line[end : found.start()])
        yield Inline(found[1], "code") if found[1] else Inline(found[2], "link", found[3])
        end = found.end()
    yield Inline(line[end:])


@cache
def runbook() -> list[Block]:
    """Return the runbook of this release."""
    return list(blocks(RUNBOOK.read_text(encoding="utf-8")))


class RunbookPage(Page):
    """What to do when something is wrong."""

    async def get(self) -> None:
        """Show it."""
        self.render("runbook.html", blocks=runbook(), inlines=inlines)
