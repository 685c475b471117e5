import html
import json
import re
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.delivery.redaction import MAX_EXCERPT_BYTES, REDACTED, excerpt, strings_in


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b"", ""),
        (b'{"error": "no such field"}', '{"error": "no such field"}'),
        (b" <p>\r\n\tnot\n\n here </p>\n", "<p> not here </p>"),
        (b"a\x00b\x1b[31mred\x7f\xc2\x85", "ab[31mred"),
        ("left\u202eright\u200b".encode(), "leftright"),
        ("schlüssel".encode(), "schlüssel"),
        ("schlüssel".encode("latin-1"), "schl�ssel"),
        (b"x" * 5_000, "x" * MAX_EXCERPT_BYTES),
        ("é".encode() * 5_000, "é" * (MAX_EXCERPT_BYTES // 2)),
        (b"x" + "é".encode() * 5_000, "x" + "é" * (MAX_EXCERPT_BYTES // 2 - 1)),
    ],
)
def test_an_excerpt_is_one_short_line(body, kept):
    assert excerpt(body, [], whole=True) == kept


VALUE = 'Jané "4711" a/b & <c>'


@pytest.mark.parametrize(
    "escaped",
    [
        VALUE,
        VALUE.upper(),
        VALUE.replace(" ", "\n  "),
        VALUE.replace("4711", "47\x0011"),
        json.dumps(VALUE),
        json.dumps(VALUE, ensure_ascii=False),
        json.dumps(VALUE).replace("/", r"\/"),
        quote(VALUE),
        quote(VALUE, safe=""),
        quote(VALUE).replace("%C3%A9", "%c3%a9"),
        quote_plus(VALUE),
        html.escape(VALUE),
    ],
)
def test_a_secret_is_redacted_in_any_escaping(escaped):
    kept = excerpt(f"the value {escaped} is wrong".encode(), [VALUE], whole=True)
    assert kept.replace('"', "") == f"the value {REDACTED} is wrong"


def test_the_longest_secret_is_redacted_first():
    assert excerpt(b"token-secret token", ["token", "token-secret"], whole=True) == "… …"


def test_a_very_short_secret_is_redacted_as_a_word():
    assert excerpt(b"a=1, bad", ["a", "1", ""], whole=True) == "…=…, bad"


@pytest.mark.parametrize("end", ["s", "s3c", "S3CR3", "s3cr3", ""])
def test_a_partial_secret_at_the_end_is_removed(end):
    assert excerpt(f"seen: {end}".encode(), ["s3cr3t"], whole=False).strip() == "seen:"


def test_a_whole_body_keeps_its_end():
    assert excerpt(b"it is s", ["s3cr3t"], whole=True) == "it is s"


texts = st.text(st.characters(exclude_characters=REDACTED, codec="utf-8"), max_size=40)


@given(texts, st.lists(texts, max_size=5), st.lists(st.integers(0, 4), max_size=9), st.booleans())
def test_no_secret_is_ever_kept(between, secrets, order, whole):
    echoed = between.join(secrets[n] for n in order if n < len(secrets))
    kept = excerpt(echoed.encode(), secrets, whole=whole)
    assert len(kept.encode()) <= MAX_EXCERPT_BYTES
    assert kept == "" or kept.isprintable()
    for text in secrets:
        line = excerpt(text.encode(), [], whole=True)
        if len(line) > 3:
            assert not re.search(re.escape(line), kept, re.IGNORECASE)


@given(st.binary(max_size=2_000), st.booleans())
def test_any_bytes_give_a_bounded_excerpt(body, whole):
    assert len(excerpt(body, ["secrets"], whole=whole).encode()) <= MAX_EXCERPT_BYTES


def test_the_strings_of_a_body_are_its_values():
    body = {"type": "created", "n": 1, "nested": {"a": ["x", {"b": "y"}], "c": None}}
    assert list(strings_in(body)) == ["created", "x", "y"]
