"""The runbook: taken apart for the page, whole, and named by every alert."""

import pytest

from dashboard.pages.runbook import Block, Piece, blocks, pieces, runbook


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("# All of it", Block("h1", ["All of it"], "all-of-it")),
        ("## Sink down!", Block("h2", ["Sink down!"], "sink-down")),
        ("one\nparagraph", Block("p", ["one paragraph"])),
        ("- one\n  item\n- another", Block("ul", ["one item", "another"])),
        ("    a --b\n      c", Block("pre", ["a --b", "  c"])),
        ("### too deep", Block("p", ["### too deep"])),
    ],
)
def test_a_part_is_what_it_looks_like(text, block):
    assert list(blocks(f"\n{text}\n\n\nrest\n")) == [block, Block("p", ["rest"])]


def test_a_line_has_code_and_links():
    assert list(pieces("see `a[0]` or [the page](#it).")) == [
        Piece("see "),
        Piece("a[0]", "code"),
        Piece(" or "),
        Piece("the page", "link", "#it"),
        Piece("."),
    ]


def test_nothing_of_the_runbook_is_left_as_it_was_written():
    names = [block.name for block in runbook() if block.kind == "h2"]
    assert len(names) == len(set(names))
    for block in runbook():
        if block.kind == "pre":
            continue
        for line in block.lines:
            for piece in pieces(line):
                if piece.kind == "text":
                    assert not set("`[]#") & set(piece.text), line
                if piece.kind == "link":
                    assert piece.to.removeprefix("#") in names
