"""Excerpts of responses, without secrets and event data.

Sinks echo what they were sent: credentials in a 401, the invalid field in a 422. Neither may be
stored on a claim, so both are redacted, in every escaping that is common.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

#: Largest excerpt, in bytes of UTF-8.
MAX_EXCERPT_BYTES = 1_024

#: What replaces a secret.
REDACTED = "…"


def excerpt(body: bytes, secrets: Iterable[str], *, whole: bool) -> str:
    """Return the beginning of a body in one line, without control characters and ``secrets``.

    If ``body`` is not the ``whole`` body, it may end in the middle of a secret; that part is
    removed too.
    """
    text = _in_one_line(body.decode("utf-8", "replace"))
    forms = {form for secret in secrets for form in _forms(secret)} - {""}
    if forms:
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        text = re.sub("|".join(map(_pattern, longest_first)), REDACTED, text, flags=re.IGNORECASE)
    if not whole:
        text = _without_partial(text, forms)
    return text.encode()[:MAX_EXCERPT_BYTES].decode(errors="ignore")


def strings_in(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value except the names of its fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from strings_in(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from strings_in(member)


def _in_one_line(text: str) -> str:
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())


def _forms(text: str) -> Iterator[str]:
    """Yield a text as it is and as it is escaped in JSON, URLs and HTML."""
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
    """Match a form; one of up to 3 characters only as a word, else it would match everywhere."""
    return re.escape(form) if len(form) > 3 else rf"(?<!\w){re.escape(form)}(?!\w)"


def _without_partial(text: str, forms: Iterable[str]) -> str:
    """Remove an end that may be the beginning of a form."""
    partial_lengths = (
        length
        for form in forms
        for length in range(1, len(form))
        if text[-length:].lower() == form[:length].lower()
    )
    return text[: len(text) - max(partial_lengths, default=0)]
