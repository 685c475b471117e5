"""Canonical JSON: one byte string for one value."""

import json


def canonical_json(value: object) -> bytes:
    """Return one byte string for one value: sorted keys, no spaces, UTF-8.

    Raises:
        ValueError: The value holds NaN, an infinity or a lone surrogate, which JSON does not have.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()
