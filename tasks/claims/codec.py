"""Between a claim and its DynamoDB item: attributes, the keys of the indexes, schema versions."""

import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import combinations
from types import NoneType
from typing import Any, TypeVar, get_args

from tasks.claims.model import Claim, Due, Summary
from tasks.claims.outcomes import Status, deliveries_from_plain, deliveries_to_plain
from tasks.errors import UnknownSchemaError
from tasks.sinks import SINKS

#: Version of the items; raised when workers of the previous release could not read them.
ITEM_SCHEMA = 1

#: The index ``due`` is spread over this many partitions.
DUE_BUCKETS = 8

#: The fields of a claim; those that its item need not have; and its numbers.
_FIELDS = tuple(field.name for field in fields(Claim))
_OPTIONAL = frozenset(field.name for field in fields(Claim) if NoneType in get_args(field.type))
_NUMBERS = ("version", "generation", "dispatches", "redrives", "dispatched_at", "due_at")

Item = Mapping[str, Any]

T = TypeVar("T")

_log = logging.getLogger(__name__)


def due_bucket(key: str) -> str:
    """Return the partition of the index ``due`` that a claim belongs to."""
    return str(zlib.crc32(key.encode()) % DUE_BUCKETS)


def parked_partition(sinks: Iterable[str]) -> str:
    """Name the partition of the index ``parked`` of what waits for all of these sinks."""
    return "+".join(sorted(sinks))


def parked_partitions(sink: str) -> Iterator[str]:
    """Name every partition that holds something for this sink: 2^(n-1) of them for n sinks."""
    others = [name for name in SINKS if name != sink]
    for size in range(len(others) + 1):
        for some in combinations(others, size):
            yield parked_partition([sink, *some])


def item_of(claim: Claim) -> dict[str, Any]:
    """Return the attributes of a claim, without those of the indexes."""
    item = {name: getattr(claim, name) for name in _FIELDS} | {
        "status": claim.status.value,
        "payload": zlib.compress(claim.payload),
        "deliveries": deliveries_to_plain(claim.deliveries),
        "notes": list(claim.notes),
        "audit": [json.dumps(record, ensure_ascii=False) for record in claim.audit],
    }
    return {name: value for name, value in item.items() if value is not None}


def claim_of(item: Item) -> Claim:
    """Read a claim.

    Raises:
        UnknownSchemaError: a later release wrote it, or it cannot be read.
    """
    if (schema := item.get("item_schema", ITEM_SCHEMA)) > ITEM_SCHEMA:
        raise UnknownSchemaError(
            f"claim of {item['id']}: item schema {schema}; known up to {ITEM_SCHEMA}"
        )
    try:
        values: dict[str, Any] = {
            name: item.get(name) if name in _OPTIONAL else item[name] for name in _FIELDS
        }
        values |= {name: int(values[name]) for name in _NUMBERS if values[name] is not None}
        values |= {
            "status": Status(item["status"]),
            "payload": zlib.decompress(bytes(item["payload"])),
            "deliveries": deliveries_from_plain(item["deliveries"]),
            "audit": [json.loads(record) for record in item["audit"]],
        }
        return Claim(**values)
    except (KeyError, ValueError, TypeError, zlib.error) as error:
        raise UnknownSchemaError(f"claim of {item['id']}: cannot be read: {error!r}") from error


def readable(read: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
    """Read entries of an index; one that cannot be read must not hide those behind it."""
    for item in items:
        try:
            yield read(item)
        except (KeyError, ValueError) as error:
            _log.error("entry of %s in an index cannot be read: %r", item.get("id"), error)


def summary_of(item: Item) -> Summary:
    """Read an entry of the index ``received``."""
    return Summary(
        item["id"],
        Status(item["status"]),
        item["received_at"],
        item.get("event_type"),
        item.get("interaction_id"),
        deliveries_from_plain(item["deliveries"]),
    )


def due_of(item: Item, *, parked: bool = False) -> Due:
    """Read an entry of the index ``due`` or ``parked``."""
    return Due(
        int(item["due_at"]),
        item["id"],
        int(item["version"]),
        Status(item["status"]),
        int(item["dispatched_at"]),
        parked,
    )
