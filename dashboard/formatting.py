"""Times and durations as people read them."""

from datetime import datetime

from tasks.clock import from_rfc3339, now

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def duration(seconds: float) -> str:
    """Write a duration with one unit: ``3 minutes``."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= size)
    count = int(seconds // size)
    return f"{count} {unit}{'' if count == 1 else 's'}"


def ago(text: str, moment: datetime | None = None) -> str:
    """Write how long ago a time was, or in how long it will be; ``text`` is RFC 3339."""
    seconds = ((moment or now()) - from_rfc3339(text)).total_seconds()
    if abs(seconds) < 1:
        return "just now"
    return f"{duration(seconds)} ago" if seconds > 0 else f"in {duration(-seconds)}"


def clock(text: str) -> str:
    """Write a time, given in RFC 3339, without its milliseconds."""
    return text[:19].replace("T", " ")
