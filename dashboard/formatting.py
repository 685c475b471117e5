"""Times, durations and counts in the form that pages show them."""

from datetime import datetime

from tasks.clock import from_rfc3339, now

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 event``, ``2,000 events``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration in one unit: ``3 minutes``."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= size)
    return plural(int(seconds // size), unit)


def ago(text: str, moment: datetime | None = None) -> str:
    """Return how long ago a time was, or in how long it will be; ``text`` is RFC 3339."""
    seconds = ((moment or now()) - from_rfc3339(text)).total_seconds()
    if abs(seconds) < 1:
        return "just now"
    return f"{duration(seconds)} ago" if seconds > 0 else f"in {duration(-seconds)}"


def clock(text: str) -> str:
    """Return a time, given in RFC 3339, without its milliseconds."""
    return text[:19].replace("T", " ")
