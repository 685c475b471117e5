"""Times as this project writes them: RFC 3339, UTC, milliseconds."""

import re
from datetime import UTC, datetime, timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def now() -> datetime:
    """Return the present moment, in UTC."""
    return datetime.now(UTC)


def epoch() -> int:
    """Return the present moment, in whole seconds since the epoch."""
    return int(now().timestamp())


def to_rfc3339(moment: datetime) -> str:
    """Write a moment with milliseconds and ``Z``; such strings sort as their moments do."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def from_rfc3339(text: str) -> datetime:
    """Read what ``to_rfc3339`` wrote.

    Raises:
        ValueError: it is not such a text, or names no zone, or is no moment in UTC (as some hours
            of the years 1 and 9999 are).
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"no time zone in {text!r}")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"no moment in UTC: {text!r}") from None


def from_age(text: str) -> datetime | None:
    """Return the moment that an age such as ``90m`` or ``2d`` reaches back to; None if it is none.

    Raises:
        OverflowError: it reaches back further than times go.
    """
    age = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    return now() - timedelta(**{_UNITS[age[2]]: int(age[1])}) if age else None


def elapsed_ms(since: str, until: str) -> int:
    """Milliseconds between two such texts; 0 where the clocks of two hosts disagree."""
    elapsed = from_rfc3339(until) - from_rfc3339(since)
    return max(0, round(elapsed.total_seconds() * 1000))
