"""API keys."""

import hmac
from collections.abc import Sequence


def is_known(given: str, keys: Sequence[bytes]) -> bool:
    """Return whether ``given`` is one of ``keys``, in constant time."""
    presented = given.encode("latin-1", "replace")  # as WSGI passes headers (PEP 3333)
    matches = [hmac.compare_digest(presented, key) for key in keys]  # all, also after a match
    return any(matches)
