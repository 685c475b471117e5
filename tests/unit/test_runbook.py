"""The runbook as a page."""

import pytest

from dashboard.pages.runbook import Block, Inline, blocks, inlines, runbook


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
def test_each_kind_of_block_is_recognized(text, block):
    assert list(blocks(f"\n{text}\n\n\nrest\n")) == [block, Block("p", ["rest"])]


def test_inlines_finds_code_and_links():
    assert list(inlines("see `a[0]` or [the page](#it).")) == [
        Inline("see "),
        Inline("a[0]", "code"),
        Inline(" or "),
        Inline("the page", "link", "#it"),
        Inline("."),
    ]


def test_the_runbook_has_no_other_markdown():
    names = [block.anchor for block in runbook() if block.kind == "h2"]
    assert len(names) == len(set(names))
    for block in runbook():
        if block.kind == "pre":
            continue
        for line in block.lines:
            for inline in inlines(line):
                if inline.kind == "text":
                    assert not set("`[]#") & set(inline.text), line
                if inline.kind == "link":
                    assert inline.to.removeprefix("#") in names
