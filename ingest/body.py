"""Parses the body of a request into envelopes."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

from tasks.errors import FieldError, InvalidEventError
from tasks.events import Envelope, load_envelope

#: The keys of an object that kombu, which decodes messages, turns into a value of another type or
#: cannot decode at all: an event with such an object would be lost on its way to a worker.
TYPED = {"__type__", "__value__"}

#: How deeply the JSON of an event may nest.
MAX_DEPTH = 32

#: How many events one request may contain.
MAX_EVENTS = 1_000


class TooManyEventsError(InvalidEventError):
    """Raised when a request contains more than ``MAX_EVENTS`` events."""


class BatchEntry(NamedTuple):
    """One event of a request: its envelope or its error; and its id, if that is a string."""

    envelope: Envelope | None
    identifier: str | None
    error: InvalidEventError | None


class Body(NamedTuple):
    """The events of a request; ``batch`` if it was an array or ``{"Records": […]}``."""

    entries: list[BatchEntry]
    batch: bool


def parse(body: bytes) -> Body:
    """Parse one envelope, an array of them, or ``{"Records": […]}``.

    Raises:
        TooManyEventsError: it has more than ``MAX_EVENTS`` events.
        InvalidEventError: it is not JSON in UTF-8, or ``Records`` is not an array.
    """
    document = _read_json(body)
    if isinstance(document, dict) and "Records" in document:
        document = document["Records"]
        if not isinstance(document, list):
            raise InvalidEventError([FieldError("Records", "Not an array.")])
    if isinstance(document, list):
        if len(document) > MAX_EVENTS:
            message = f"Has {len(document)} events; at most {MAX_EVENTS} a request."
            raise TooManyEventsError([FieldError("Records", message)])
        return Body([_entry(raw) for raw in document], batch=True)
    return Body([_entry(document)], batch=False)


def _entry(raw: Any) -> BatchEntry:
    given = raw.get("id") if isinstance(raw, dict) else None
    identifier = given if isinstance(given, str) else None
    try:
        _check_layers(raw)
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


def _check_layers(value: Any) -> None:
    """Refuse what nests too deep, or what a message cannot carry.

    Raises:
        InvalidEventError: naming what is wrong, without the field's name, which is the sender's.
    """
    layer = [value]
    for _ in range(MAX_DEPTH + 1):
        if any(isinstance(each, dict) and each.keys() == TYPED for each in layer):
            names = " and ".join(sorted(TYPED))
            raise InvalidEventError(
                [FieldError("event", f"Has an object of just {names}, which messages give a type.")]
            )
        layer = [inner for outer in layer for inner in _children(outer)]
        if not layer:
            return
    raise InvalidEventError([FieldError("event", f"Nests deeper than {MAX_DEPTH}.")])


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
