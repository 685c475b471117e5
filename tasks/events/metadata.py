"""The metadata registry: the rules of each environment for an event's ``metadata``.

It is a JSON file, environment → JSON Schema (draft 2020-12 unless a schema names another).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from jsonschema import ValidationError
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from tasks.errors import FieldError

SHIPPED = Path(__file__).with_name("metadata_registry.json")

_PHRASES = {
    "const": "must be",
    "enum": "must be one of",
    "pattern": "must match",
    "type": "must be of type",
}


class MetadataRules:
    """The rules of one environment."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """Compile a JSON Schema.

        Raises:
            ValueError: It is not a JSON Schema, or refers to something outside itself.
        """
        try:
            cls = validator_for(schema)
            cls.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"not a JSON Schema: {error.message}") from None
        except TypeError:
            raise ValueError("not a JSON Schema: $schema is not a URI") from None
        resource = Resource.from_contents(schema, default_specification=DRAFT202012)
        lookup = Registry().with_resource("", resource).resolver().lookup
        for reference in _references(schema):
            if not reference.startswith("#"):
                raise ValueError("a $ref must point into the same schema, as in #/$defs/region")
            try:
                lookup(reference)
            except Unresolvable:
                raise ValueError(f"a $ref points nowhere: {reference}") from None
        # With an empty registry, jsonschema fetches nothing.
        self._validator = cls(schema, registry=Registry())
        try:
            list(self._validator.iter_errors({}))
        except RecursionError:
            raise ValueError("a $ref leads back to itself without end") from None

    @classmethod
    def from_file(cls, path: Path, environment: str) -> "MetadataRules":
        """Read the rules of ``environment``.

        Raises:
            ValueError: The file cannot be read, or does not hold valid rules for it.
        """
        try:
            registry = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"cannot read it: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
        known = registry if isinstance(registry, dict) else {}
        if not isinstance(known.get(environment), dict):
            raise ValueError(  # noqa: TRY004 - a wrong setting, not a wrong argument
                f"no rules for environment {environment!r} (it has: {', '.join(sorted(known))})"
            )
        return cls(known[environment])

    def check(self, metadata: dict[str, Any]) -> list[FieldError]:
        """Return the broken rules: the field and what is expected, never the value in the event."""
        found = sorted(self._validator.iter_errors(metadata), key=lambda error: error.json_path)
        return [_field_error(error) for error in found]


def _field_error(error: ValidationError) -> FieldError:
    path = "".join(f".{part}" for part in error.absolute_path)
    rule, expected = str(error.validator), cast("Any", error.validator_value)
    if rule == "required" and isinstance(error.instance, Mapping):
        missing = [name for name in expected if name not in error.instance]
        # There is one error per missing name, and only its text has the name.
        name = next((n for n in missing if error.message.startswith(repr(n))), missing[0])
        return FieldError(f"detail.metadata{path}.{name}", "Missing data for required field.")
    phrase = _PHRASES.get(rule, f"breaks the rule {rule}:")
    shown = "(see the registry)" if isinstance(expected, dict) else json.dumps(expected)
    return FieldError(f"detail.metadata{path}", f"{phrase} {shown}")


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)
