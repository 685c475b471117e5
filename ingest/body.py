"""From a request's body to events."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from tasks.errors import FieldError, InvalidEventError
from tasks.events import Envelope, load_envelope

#: How deep the JSON of an event may nest.
MAX_DEPTH = 32

#: How many events one request may bring; an EventBridge Pipe sends at most 10,000 to others.
MAX_RECORDS = 1_000


class TooManyEventsError(InvalidEventError):
    """Raised when a request brings more than ``MAX_RECORDS`` events."""


class BatchEntry(NamedTuple):
    """One event of a request: an envelope, or what is wrong with it and the id it gave."""

    envelope: Envelope | None
    identifier: str | None
    error: InvalidEventError | None


class Body(NamedTuple):
    """What a request brought; ``batch`` if it was an array or had ``Records``."""

    records: list[BatchEntry]
    batch: bool


def parse(body: bytes) -> Body:
    """Read one envelope, an array of them, or ``{"Records": […]}``.

    Raises:
        InvalidEventError: it is none of these.
    """
    document = _read_json(body)
    if isinstance(document, dict) and "Records" in document:
        document = document["Records"]
        if not isinstance(document, list):
            raise InvalidEventError([FieldError("Records", "Not an array.")])
    if isinstance(document, list):
        if len(document) > MAX_RECORDS:
            message = f"Has {len(document)} events; at most {MAX_RECORDS} a request."
            raise TooManyEventsError([FieldError("Records", message)])
        return Body([_record(raw) for raw in document], batch=True)
    return Body([_record(document)], batch=False)


def _record(raw: Any) -> BatchEntry:
    identifier = raw.get("id") if isinstance(raw, dict) else None
    identifier = identifier if isinstance(identifier, str) else None
    try:
        if _is_deeper_than(raw, MAX_DEPTH):
            raise InvalidEventError([FieldError("event", f"Nests deeper than {MAX_DEPTH}.")])
        return BatchEntry(load_envelope(raw), identifier, None)
    except InvalidEventError as error:
        return BatchEntry(None, identifier, error)


def _read_json(body: bytes) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(body.decode("utf-8"), parse_constant=refuse)
    except RecursionError:
        problem = f"Nests deeper than {MAX_DEPTH}."
    except UnicodeDecodeError:
        problem = "Not UTF-8."
    except json.JSONDecodeError as error:
        problem = f"Not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
    except ValueError:  # NaN, an infinity, or an integer of thousands of digits
        problem = "Not JSON: holds a number that JSON has not."
    raise InvalidEventError([FieldError("body", problem)])


def _is_deeper_than(value: Any, depth: int) -> bool:
    layer = [value]
    for _ in range(depth + 1):
        layer = [inner for outer in layer for inner in _children(outer)]
        if not layer:
            return False
    return True


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
