"""What is kept of a sink's answer: a short excerpt, in which nothing of ours shows.

Sinks repeat what they were sent: credentials in a 401, the field that a 422 is about. Neither may
come to rest on a claim, so both are blotted out, in whatever escaping they come back.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

#: Bytes of UTF-8 that an excerpt has at most.
MAX_EXCERPT_BYTES = 1_024

#: What stands in the place of something that was blotted out.
REDACTED = "…"


def excerpt(body: bytes, secrets: Iterable[str], *, whole: bool) -> str:
    """Return the beginning of a body in one line, without control characters and ``secrets``.

    ``whole`` tells whether ``body`` is all that was sent: else the end of it may be half of
    something secrets.
    """
    text = _in_one_line(body.decode("utf-8", "replace"))
    forms = {form for text in secrets for form in _forms(text)} - {""}
    if forms:
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        text = re.sub("|".join(map(_pattern, longest_first)), REDACTED, text, flags=re.IGNORECASE)
    if not whole:
        text = _without_half(text, forms)
    return text.encode()[:MAX_EXCERPT_BYTES].decode(errors="ignore")


def strings_in(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, but not the names of its fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from strings_in(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from strings_in(member)


def _in_one_line(text: str) -> str:
    return " ".join("".join(s for s in text if s.isprintable() or s.isspace()).split())


def _forms(text: str) -> Iterator[str]:
    """Yield a text as it is, and as it looks inside JSON, a URL or HTML."""
    ascii_json = json.dumps(text)[1:-1]
    for form in (
        text,
        json.dumps(text, ensure_ascii=False)[1:-1],
        ascii_json,
        ascii_json.replace("/", r"\/"),
        quote(text, errors="replace"),
        quote(text, safe="", errors="replace"),
        quote_plus(text, errors="replace"),
        html.escape(text),
    ):
        yield _in_one_line(form)


def _pattern(form: str) -> str:
    """Match a form; a very short one only where it stands alone, else no word would be left."""
    return re.escape(form) if len(form) > 3 else rf"(?<!\w){re.escape(form)}(?!\w)"


def _without_half(text: str, forms: Iterable[str]) -> str:
    """Take away an end that may be the beginning of a form."""
    halves = (
        length
        for form in forms
        for length in range(1, len(form))
        if text[-length:].lower() == form[:length].lower()
    )
    return text[: len(text) - max(halves, default=0)]
