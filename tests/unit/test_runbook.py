"""The runbook as a page."""

import pytest

from dashboard.pages.runbook import Block, Span, blocks, runbook, spans


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


def test_spans_finds_code_and_links():
    assert list(spans("see `a[0]` or [the page](#it).")) == [
        Span("see "),
        Span("a[0]", "code"),
        Span(" or "),
        Span("the page", "link", "#it"),
        Span("."),
    ]


def test_the_runbook_has_no_other_markdown():
    names = [block.anchor for block in runbook() if block.kind == "h2"]
    assert len(names) == len(set(names))
    for block in runbook():
        if block.kind == "pre":
            continue
        for line in block.lines:
            for span in spans(line):
                if span.kind == "text":
                    assert not set("`[]#") & set(span.text), line
                if span.kind == "link":
                    assert span.to.removeprefix("#") in names
