"""The claims: one DynamoDB item an event, and the only code that writes them.

Every write is conditional, so whoever comes second learns it from the answer::

    worker A                     table                        worker B
    put if absent ──────────────► item, version 1
                                  refused, old item ◄───────── put if absent: a duplicate
    (dies; the lease runs out)
                                  version 2, holder B ◄─────── take over if version is still 1
    (wakes) settle if version 1 ► refused, old item: merges its outcomes into version 2

``due_at`` is when a sweep may take the claim: the end of the holder's lease while it is
processing, the next appointment (``schedule``) once it has settled with something left to do.
Finished claims have no ``due_at`` and so are not in the index ``due``. Those that wait for sinks
to recover have ``parked_for``, and so are in the index ``parked`` as well.
"""

import json
import logging
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property, partial
from heapq import merge
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import boto3
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tasks.audit import Record, downstream_result, verify
from tasks.clock import elapsed_ms, from_rfc3339, now, to_rfc3339
from tasks.errors import ClaimNotFoundError, StoreError, UnderWayError, UnknownSchemaError
from tasks.events import payload_hash
from tasks.outcomes import Delivery, Outcome, Status, calls_from, undelivered, waiting
from tasks.schedule import Appointment, partitions_with
from tasks.settings import Settings, settings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

#: What an item looks like; to be raised when the release before could not read it.
ITEM_SCHEMA = 1

#: Entries of an index that are read at once for somebody who looks at a page of them.
READ_AT_ONCE = 200

#: Characters of an event's or an interaction's id, at most.
LONGEST_ID = 256

#: Later than anything is due, in seconds since the epoch.
END_OF_TIME = 2**40

#: Before any event.
_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)

#: The condition of a write that does not read first: what a later release wrote is left to it.
_READABLE = "NOT item_schema > :known"

#: The index ``due`` is spread over this many partitions.
BUCKETS = 8

Item = dict[str, Any]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_serialize = TypeSerializer().serialize
_deserialize = TypeDeserializer().deserialize


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What settling needs to know of a claim; rides along in messages, so that it need not read.

    ``revision`` and ``lineage_hash`` are those of the newest audit record.
    """

    id: str
    status: Status
    version: int
    interaction_id: str | None
    event_type: str | None
    received_at: str
    deliveries: Mapping[str, Delivery]
    generation: int = 0
    notes: Sequence[str] = ()
    redrives: int = 0
    targets: Sequence[str] | None = None
    actor: str | None = None
    revision: int = 0
    lineage_hash: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As it travels."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "deliveries": _plain(self.deliveries)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Head":
        """Read what ``to_json`` wrote."""
        known = {"status": Status(data["status"]), "deliveries": _deliveries(data["deliveries"])}
        return cls(**{**data, **known})


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One event's item. Times are RFC 3339, but for ``due_at``: seconds since the epoch."""

    id: str
    status: Status
    received_at: str
    event_time: str | None
    interaction_id: str | None
    event_type: str | None
    payload: bytes  # canonical JSON of the envelope; empty where it was too large to keep
    payload_sha256: str
    deliveries: Mapping[str, Delivery]
    version: int = 1
    generation: int = 1  # how many times it has been dispatched
    dispatches: int = 1  # the same, since it last settled
    redrives: int = 0  # how often the schedule has brought it up again
    dispatched_at: int = 0  # seconds since the epoch: nothing of it in a queue is older
    holder: str | None = None  # task id of whoever works on it
    targets: Sequence[str] | None = None  # the sinks that an operator asked for, until it settles
    actor: str | None = None  # who that was
    due_at: int | None = None
    processed_at: str | None = None
    notes: Sequence[str] = ()
    audit: Sequence[Record] = field(default_factory=list)

    @cached_property
    def head(self) -> Head:
        """What settling needs to know of it."""
        newest: Record = self.audit[-1] if self.audit else {"revision": 0, "lineageHash": None}
        return Head(
            id=self.id,
            status=self.status,
            version=self.version,
            interaction_id=self.interaction_id,
            event_type=self.event_type,
            received_at=self.received_at,
            deliveries=self.deliveries,
            generation=self.generation,
            notes=self.notes,
            redrives=self.redrives,
            targets=self.targets,
            actor=self.actor,
            revision=newest["revision"],
            lineage_hash=newest["lineageHash"],
        )

    @property
    def undelivered(self) -> list[str]:
        """The sinks that do not have it yet."""
        return undelivered(self.deliveries)

    @property
    def to_deliver(self) -> Sequence[str]:
        """The sinks that its present dispatch is for."""
        return waiting(self.deliveries) if self.targets is None else self.targets

    def problems(self) -> list[str]:
        """Return what its audit records contradict: themselves, or the claim; nothing if all holds.

        Records dropped from the end together with a claim changed to match show only against the
        records that were logged. Times are not covered.
        """
        problems = verify(self.audit)
        if problems:
            return problems
        if any(record.get("eventId") != self.id for record in self.audit):
            problems.append("has records of another event")
        if self.payload and payload_hash(self.payload) != self.payload_sha256:
            problems.append("its payload is not the one that was claimed")
        if self.status is not Status.PROCESSING:
            stands = [downstream_result(s, d) for s, d in sorted(self.deliveries.items())]
            said: Record = self.audit[-1] if self.audit else {}
            if said.get("status") != self.status.value or not _agree(said, stands):
                problems.append("its newest record does not say how it stands")
        return problems

    def to_json(self) -> dict[str, Any]:
        """As ``claims show --json`` prints it: no metadata, no payload."""
        processed = self.processed_at
        return {
            "eventId": self.id,
            "interactionId": self.interaction_id,
            "eventType": self.event_type,
            "status": self.status.value,
            "version": self.version,
            "receivedAt": self.received_at,
            "processedAt": processed,
            "lagMs": elapsed_ms(self.received_at, processed) if processed else None,
            "deliveries": {sink: d.to_json() for sink, d in self.deliveries.items()},
            "dueAt": to_rfc3339(datetime.fromtimestamp(self.due_at, tz=now().tzinfo))
            if self.due_at
            else None,
            "audit": list(self.audit),
        }

    def summary(self) -> "Summary":
        """What a list shows of it."""
        return Summary(
            self.id,
            self.status,
            self.received_at,
            self.event_type,
            self.interaction_id,
            self.deliveries,
        )


@dataclass(frozen=True, slots=True)
class Won:
    """The claim is ours; ``claim`` may be an older one whose lease ran out, or our own."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The event is claimed already, by this payload."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Conflict:
    """The event's id is claimed already, but by another payload."""

    claim: Claim


def _tomorrow() -> datetime:
    """A moment that nothing was received after, whatever a clock says."""
    return now() + timedelta(days=1)


def _agree(record: Record, stands: Sequence[Record]) -> bool:
    """Tell whether a record has these results, but for attempts, which grow without a record."""

    def ends(results: Sequence[Record]) -> list[Record]:
        return [{k: v for k, v in result.items() if k != "attempts"} for result in results]

    return ends(record.get("downstreamResults", [])) == ends(stands)


class Due(NamedTuple):
    """An entry of the index ``due`` or ``parked``; times are in seconds since the epoch."""

    at: int
    key: str
    version: int
    status: Status
    dispatched_at: int
    parked: bool = False  # to be had at once, for its sink has recovered


class Summary(NamedTuple):
    """An entry of the index ``received``."""

    id: str
    status: Status
    received_at: str
    event_type: str | None
    interaction_id: str | None
    deliveries: Mapping[str, Delivery]


class Place(NamedTuple):
    """Where in the index ``received`` a summary stands."""

    received_at: str
    id: str


class Claims:
    """The table of claims.

    Every method raises ``StoreError`` where DynamoDB cannot be reached or answers with an error,
    and ``UnknownSchemaError``, leaving it as it is, where a later release wrote the item.
    """

    def __init__(
        self, client: "DynamoDBClient", table: str, *, lease: int, retention_days: int
    ) -> None:
        """Use ``table``; ``lease`` is in seconds."""
        self._client = client
        self._table = table
        self._lease = lease
        self._retention_days = retention_days

    def claim(self, new: Claim) -> Won | Duplicate | Conflict:
        """Claim an event: one conditional put, which is all that a duplicate costs.

        A claim that is processing gets its lease here. An item past its retention counts as
        absent: DynamoDB may take two days to delete it (FACTS, DynamoDB).
        """
        if new.status is Status.PROCESSING:
            new = replace(new, due_at=self._lease_end(), dispatched_at=_epoch())
        absent = "attribute_not_exists(id) OR expires_at < :now"
        try:
            self._put(new, absent, {":now": _epoch()})
        except _RefusedError as refused:
            return self._judge(refused.existing, new)
        return Won(new)

    def _put(self, claim: Claim, condition: str, values: Item) -> None:
        self._call(
            "put_item",
            Item=_to_attributes(_to_item(claim) | self._housekeeping(claim)),
            ConditionExpression=condition,
            ExpressionAttributeValues=_to_attributes(values),
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )

    def _judge(self, old: Claim | None, new: Claim) -> Won | Duplicate | Conflict:
        """Decide what a refused put means."""
        if old is None:  # deleted between the put and its answer
            raise StoreError(f"the claim of {new.id} went away while it was read")
        if old.payload_sha256 != new.payload_sha256:
            return Conflict(old)
        unfinished = old.status is Status.PROCESSING
        if old.holder == new.holder if unfinished else old.audit and old.audit == new.audit:
            # Our own: the answer to the first put was lost, or the worker that made it was.
            return Won(old)
        if unfinished and old.due_at is not None and old.due_at <= _epoch() and new.holder:
            taken = self.take_over(old.id, old.version, new.holder)
            return Won(taken) if taken else Duplicate(old)
        return Duplicate(old)

    def take_over(
        self,
        key: str,
        version: int,
        holder: str,
        *,
        settled: bool = False,
        parked: bool = False,
    ) -> Claim | None:
        """Give a claim that is overdue, or parked, to ``holder``, for its next generation.

        ``settled`` tells what that version is: unfinished, so that its dispatch was lost, or
        settled, so that the schedule has come round; ``parked``, that a drain comes before it.
        Returns None where somebody else was faster, or it is not overdue any more.
        """
        if parked:
            counts, overdue = "dispatches = :one", "attribute_exists(parked_for)"
        elif settled:
            counts, overdue = "dispatches = :one, redrives = redrives + :one", "due_at <= :now"
        else:
            counts, overdue = "dispatches = dispatches + :one", "due_at <= :now"
        try:
            return self._hand_over(
                key,
                version,
                holder,
                counts,
                condition=f"version = :version AND {overdue}",
                more={} if parked else {":now": _epoch()},
            )
        except _RefusedError as refused:
            return self._if_held_by(holder, refused.existing)

    def reopen(self, claim: Claim, targets: Sequence[str], *, actor: str, holder: str) -> Claim:
        """Give a settled claim to ``holder`` to deliver to ``targets``, as ``actor`` asked.

        Returns the claim as it is, where ``holder`` has it already.

        Raises:
            UnderWayError: somebody is working on it, or was faster to reopen it.
        """
        if self._if_held_by(holder, claim):
            return claim
        if claim.status is Status.PROCESSING:
            raise UnderWayError(f"{claim.id} is being worked on; try again once it has settled")
        try:
            return self._hand_over(
                claim.id,
                claim.version,
                holder,
                "dispatches = :one, targets = :targets, actor = :actor",
                condition="version = :version",
                more={":targets": list(targets), ":actor": actor},
            )
        except _RefusedError as refused:
            if mine := self._if_held_by(holder, refused.existing):
                return mine
            raise UnderWayError(f"{claim.id} has just changed; look at it again") from None

    def revive(self, old: Claim, new: Claim) -> Claim:
        """Put ``new`` in the place of ``old``, the claim of an event that was invalid once.

        Raises:
            UnderWayError: somebody else was faster.
        """
        new = replace(
            new,
            version=old.version + 1,
            generation=old.generation + 1,
            audit=old.audit,
            due_at=self._lease_end(),
            dispatched_at=_epoch(),
        )
        try:
            self._put(new, "version = :version", {":version": old.version})
        except _RefusedError as refused:
            if mine := self._if_held_by(str(new.holder), refused.existing):
                return mine
            raise UnderWayError(f"{new.id} has just changed; look at it again") from None
        return new

    def prolong(self, key: str, version: int, until: int) -> None:
        """Let an overdue claim's lease end later, unless it has changed meanwhile.

        It keeps its version: whoever is about to settle it is not to be held up.
        """
        with suppress(_RefusedError):
            self._call(
                "update_item",
                Key=_to_attributes({"id": key}),
                UpdateExpression="SET due_at = :due_at",
                ConditionExpression="version = :version AND due_at <= :now",
                ExpressionAttributeValues=_to_attributes(
                    {":version": version, ":now": _epoch(), ":due_at": until}
                ),
            )

    def _hand_over(
        self,
        key: str,
        version: int,
        holder: str,
        changes: str,
        *,
        condition: str,
        more: Mapping[str, Any],
    ) -> Claim:
        answer = self._call(
            "update_item",
            Key=_to_attributes({"id": key}),
            UpdateExpression=(
                "SET #status = :processing, holder = :holder, version = :next,"
                " generation = generation + :one, " + changes + ","
                " due_at = :due_at, due_bucket = :bucket, dispatched_at = :epoch"
                " REMOVE parked_for"
            ),
            ConditionExpression=f"{condition} AND {_READABLE}",
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues=_to_attributes(
                {
                    ":known": ITEM_SCHEMA,
                    ":processing": Status.PROCESSING.value,
                    ":holder": holder,
                    ":version": version,
                    ":next": version + 1,
                    ":one": 1,
                    ":due_at": self._lease_end(),
                    ":bucket": bucket_of(key),
                    ":epoch": _epoch(),
                    **more,
                }
            ),
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
        return _from_attributes(answer["Attributes"])

    def _if_held_by(self, holder: str, claim: Claim | None) -> Claim | None:
        mine = claim and claim.status is Status.PROCESSING and claim.holder == holder
        return claim if mine else None

    def settle(
        self,
        head: Head,
        deliveries: Mapping[str, Delivery],
        status: Status,
        record: Record | None,
        appointment: Appointment | None,
    ) -> Head | None:
        """Write what an event came to: one conditional update, and no read before it.

        ``record`` is None where nothing happened that is worth one; ``appointment`` is when a
        settled event is due again.
        Returns None when it is written, else the claim's present head, to be merged anew.

        Raises:
            ClaimNotFoundError: there is no such claim.
        """
        sets = ["#status = :status", "version = :next", "deliveries = :deliveries"]
        values: Item = {
            ":known": ITEM_SCHEMA,
            ":status": status.value,
            ":version": head.version,
            ":next": head.version + 1,
            ":deliveries": _plain(deliveries),
        }
        removes = [] if status is Status.PROCESSING else ["holder", "targets", "actor"]
        if record:
            sets += [
                "processed_at = :processed_at",
                "audit = list_append(if_not_exists(audit, :none), :record)",
            ]
            values |= {
                ":processed_at": record["processedAt"],
                ":none": [],
                ":record": [json.dumps(record, ensure_ascii=False)],
            }
        if appointment:
            sets += ["due_at = :due_at", "due_bucket = :bucket"]
            values |= {":due_at": appointment.at, ":bucket": bucket_of(head.id)}
        elif removes:
            removes += ["due_at", "due_bucket"]
        if appointment and appointment.parked_for:
            sets += ["parked_for = :parked_for"]
            values |= {":parked_for": appointment.parked_for}
        elif removes:
            removes += ["parked_for"]
        try:
            self._call(
                "update_item",
                Key=_to_attributes({"id": head.id}),
                UpdateExpression=f"SET {', '.join(sets)}"
                + (f" REMOVE {', '.join(removes)}" if removes else ""),
                ConditionExpression=f"version = :version AND {_READABLE}",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues=_to_attributes(values),
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except _RefusedError as refused:
            if refused.existing is None:
                raise ClaimNotFoundError(f"no claim of {head.id}") from None
            return refused.existing.head
        return None

    def count_redelivery(self, task_id: str) -> int:
        """Count, in an item of its own, that a task's message came again; return the sum.

        Not on the claim, since an event may kill its worker before there is one.
        """
        answer = self._call(
            "update_item",
            Key=_to_attributes({"id": f"redelivered:{task_id}"}),
            UpdateExpression="SET expires_at = :expires ADD redeliveries :one",
            ExpressionAttributeValues=_to_attributes({":expires": self._expires(), ":one": 1}),
            ReturnValues="UPDATED_NEW",
        )
        return int(_deserialize(answer["Attributes"]["redeliveries"]))

    def get(self, key: str) -> Claim | None:
        """Read one claim, as it stands now."""
        if len(key) > LONGEST_ID:
            return None
        answer = self._call("get_item", Key=_to_attributes({"id": key}), ConsistentRead=True)
        return _from_attributes(answer["Item"]) if answer.get("Item") else None

    def due(self, until: int | None = None) -> Iterator[Due]:
        """Yield what is due up to ``until`` (now, if not given), oldest first in each bucket.

        The bucket to begin with is chosen by lot: two sweeps seldom meet, and none comes last.
        """
        first = random.randrange(BUCKETS)  # noqa: S311 - nobody is to be surprised
        for bucket in (*range(first, BUCKETS), *range(first)):
            for item in self._query(
                IndexName="due",
                KeyConditionExpression="due_bucket = :bucket AND due_at <= :until",
                ExpressionAttributeValues=_to_attributes(
                    {":bucket": str(bucket), ":until": _epoch() if until is None else until}
                ),
            ):
                yield from _entry(_due, item)

    def count_due(self) -> tuple[int, int]:
        """Count what has something left to do, and what of it is being worked on."""
        left = working = 0
        for bucket in range(BUCKETS):
            for page in self._pages(
                Select="COUNT",
                IndexName="due",
                KeyConditionExpression="due_bucket = :bucket",
                FilterExpression="#status = :processing",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues=_to_attributes(
                    {":bucket": str(bucket), ":processing": Status.PROCESSING.value}
                ),
            ):
                left += page["ScannedCount"]
                working += page["Count"]
        return left, working

    def parked(self, sink: str) -> Iterator[Due]:
        """Yield what waits for a sink to recover, oldest first."""
        partitions = [self._query(**self._in(p), Limit=100) for p in partitions_with(sink)]
        for item in merge(*partitions, key=itemgetter("received_at")):
            yield from _entry(partial(_due, parked=True), item)

    def count_parked(self, sink: str) -> int:
        """Count what waits for a sink to recover."""
        return sum(
            page["Count"]
            for partition in partitions_with(sink)
            for page in self._pages(**self._in(partition), Select="COUNT")
        )

    def _in(self, partition: str) -> dict[str, Any]:
        return {
            "IndexName": "parked",
            "KeyConditionExpression": "parked_for = :partition",
            "ExpressionAttributeValues": _to_attributes({":partition": partition}),
        }

    def received(
        self, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[Summary]:
        """Yield a summary of every claim received on the days in question, oldest first.

        Reads the index a day at a time; without bounds, every day that is kept.
        """
        newest = min(until or now(), _tomorrow()).astimezone(UTC).date()
        oldest = now().date() - timedelta(days=self._retention_days)
        day = max(oldest, since.astimezone(UTC).date()) if since else oldest
        while day <= newest:
            for item in self._query(
                IndexName="received",
                KeyConditionExpression="received_day = :day",
                ExpressionAttributeValues=_to_attributes({":day": day.isoformat()}),
            ):
                yield from _entry(_summary, item)
            day += timedelta(days=1)

    def newest(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        after: Place | None = None,
    ) -> Iterator[Summary]:
        """Yield a summary of every claim received in that time, newest first; the rest ``after``.

        Reads the index by and by: who stops early reads no more than a page too much.
        """
        newest = from_rfc3339(after.received_at) if after else min(until or now(), _tomorrow())
        day = newest.astimezone(UTC).date()
        oldest = max(now() - timedelta(days=self._retention_days), since or _BEGINNING).date()
        low = to_rfc3339(since or _BEGINNING)
        high = to_rfc3339(until or _tomorrow())
        if low > high:
            return
        start = (
            {"id": after.id, "received_day": day.isoformat(), "received_at": after.received_at}
            if after
            else {}
        )
        while day >= oldest:
            span = {":low": max(low, f"{day}"), ":high": min(high, f"{day}T24")}
            for item in self._query(
                IndexName="received",
                KeyConditionExpression="received_day = :day AND received_at BETWEEN :low AND :high",
                ExpressionAttributeValues=_to_attributes({":day": day.isoformat(), **span}),
                ScanIndexForward=False,
                Limit=READ_AT_ONCE,
                **({"ExclusiveStartKey": _to_attributes(start)} if start else {}),
            ):
                yield from _entry(_summary, item)
            day -= timedelta(days=1)
            start = {}

    def of_interaction(self, interaction_id: str) -> Iterator[Claim]:
        """Yield the claims of an interaction's events, oldest first: one query, a read of each."""
        if len(interaction_id) > LONGEST_ID:
            return
        for item in self._query(
            IndexName="interaction",
            KeyConditionExpression="interaction_id = :interaction",
            ExpressionAttributeValues=_to_attributes({":interaction": interaction_id}),
        ):
            if claim := self.get(item["id"]):
                yield claim

    def _query(self, **arguments: Any) -> Iterator[Item]:
        for page in self._pages(**arguments):
            for attributes in page["Items"]:
                yield {name: _deserialize(value) for name, value in attributes.items()}

    def _pages(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        while True:
            page = self._call("query", **arguments)
            yield page
            if "LastEvaluatedKey" not in page:
                return
            arguments["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(
                TableName=self._table, **arguments
            )
        except ClientError as error:
            details = error.response["Error"]
            if details["Code"] == "ConditionalCheckFailedException":
                item: Any = error.response.get("Item")
                raise _RefusedError(_from_attributes(item) if item else None) from None
            message = f"DynamoDB {operation}: {details['Code']}: {details.get('Message', '')}"
            raise StoreError(message) from None
        except BotoCoreError as error:
            raise StoreError(f"DynamoDB {operation}: {error}") from None
        return answer

    def _lease_end(self) -> int:
        return _epoch() + self._lease

    def _expires(self) -> int:
        return int((now() + timedelta(days=self._retention_days)).timestamp())

    def _housekeeping(self, claim: Claim) -> Item:
        """What an item has beside its claim: the keys of the indexes, and its retention."""
        received = from_rfc3339(claim.received_at)
        due = {"due_bucket": bucket_of(claim.id)} if claim.due_at is not None else {}
        return {
            "received_day": received.date().isoformat(),
            "expires_at": self._expires(),
            "item_schema": ITEM_SCHEMA,
            **due,
        }


class _RefusedError(Exception):
    """A condition did not hold; ``existing`` is the item that was there, None where none was."""

    def __init__(self, existing: Claim | None) -> None:
        super().__init__()
        self.existing = existing


def _summary(item: Item) -> Summary:
    return Summary(
        item["id"],
        Status(item["status"]),
        item["received_at"],
        item.get("event_type"),
        item.get("interaction_id"),
        _deliveries(item["deliveries"]),
    )


def bucket_of(key: str) -> str:
    """The partition of the index ``due`` that a claim belongs to."""
    return str(zlib.crc32(key.encode()) % BUCKETS)


def _entry(read: Callable[[Item], T], item: Item) -> Iterator[T]:
    """Read an entry of an index; one that cannot be read must not hide those behind it."""
    try:
        yield read(item)
    except (KeyError, ValueError) as error:
        _log.error("entry of %s in an index cannot be read: %r", item.get("id"), error)


def _due(item: Item, *, parked: bool = False) -> Due:
    return Due(
        int(item["due_at"]),
        item["id"],
        int(item["version"]),
        Status(item["status"]),
        int(item["dispatched_at"]),
        parked,
    )


def _epoch() -> int:
    return int(now().timestamp())


def _plain(deliveries: Mapping[str, Delivery]) -> dict[str, Any]:
    return {sink: delivery.to_plain() for sink, delivery in deliveries.items()}


def _deliveries(plain: Mapping[str, Mapping[str, Any]]) -> dict[str, Delivery]:
    return {
        sink: Delivery(
            outcome=Outcome(data["outcome"]),
            tries={generation: int(count) for generation, count in data["tries"].items()},
            error=data["error"],
            at=data["at"],
            transient=data["transient"],
            response=data["response"],
            calls=calls_from(data.get("calls", ())),  # items of earlier releases have none
        )
        for sink, data in plain.items()
    }


def _to_item(claim: Claim) -> Item:
    item = {
        "id": claim.id,
        "status": claim.status.value,
        "version": claim.version,
        "generation": claim.generation,
        "dispatches": claim.dispatches,
        "redrives": claim.redrives,
        "dispatched_at": claim.dispatched_at,
        "holder": claim.holder,
        "targets": claim.targets,
        "actor": claim.actor,
        "due_at": claim.due_at,
        "received_at": claim.received_at,
        "processed_at": claim.processed_at,
        "event_time": claim.event_time,
        "interaction_id": claim.interaction_id,
        "event_type": claim.event_type,
        "payload": zlib.compress(claim.payload),
        "payload_sha256": claim.payload_sha256,
        "deliveries": _plain(claim.deliveries),
        "notes": list(claim.notes),
        "audit": [json.dumps(record, ensure_ascii=False) for record in claim.audit],
    }
    return {name: value for name, value in item.items() if value is not None}


def _to_attributes(item: Item) -> dict[str, Any]:
    return {name: _serialize(value) for name, value in item.items()}


def _from_attributes(attributes: Mapping[str, Any]) -> Claim:
    item = {name: _deserialize(value) for name, value in attributes.items()}
    if (schema := item.get("item_schema", ITEM_SCHEMA)) > ITEM_SCHEMA:
        raise UnknownSchemaError(
            f"claim of {item['id']}: item schema {schema}; known up to {ITEM_SCHEMA}"
        )
    try:
        return _claim_of(item)
    except (KeyError, ValueError, TypeError, zlib.error) as error:
        raise UnknownSchemaError(f"claim of {item['id']}: cannot be read: {error!r}") from error


def _claim_of(item: Item) -> Claim:
    return Claim(
        id=item["id"],
        status=Status(item["status"]),
        version=int(item["version"]),
        generation=int(item["generation"]),
        dispatches=int(item["dispatches"]),
        redrives=int(item["redrives"]),
        dispatched_at=int(item["dispatched_at"]),
        holder=item.get("holder"),
        targets=item.get("targets"),
        actor=item.get("actor"),
        due_at=int(item["due_at"]) if "due_at" in item else None,
        received_at=item["received_at"],
        processed_at=item.get("processed_at"),
        event_time=item.get("event_time"),
        interaction_id=item.get("interaction_id"),
        event_type=item.get("event_type"),
        payload=zlib.decompress(bytes(item["payload"])),
        payload_sha256=item["payload_sha256"],
        deliveries=_deliveries(item["deliveries"]),
        notes=item["notes"],
        audit=[json.loads(record) for record in item["audit"]],
    )


def connect(config: Settings) -> Claims:
    """Make a client with bounded waits; credentials and emulator endpoint are found by boto3."""
    client = boto3.client(
        "dynamodb",
        region_name=config.aws_region,
        config=Config(
            connect_timeout=2,
            read_timeout=5,
            retries={"mode": "standard", "total_max_attempts": 4},
            parameter_validation=False,  # our own code makes them: DynamoDB checks them anyway
            max_pool_connections=32,
            user_agent="cxone-event-processor",  # else botocore puts a long one together each time
        ),
    )
    return Claims(
        client,
        config.processing_table,
        lease=config.claim_lease,
        retention_days=config.retention_days,
    )


@cache
def claims() -> Claims:
    """The claims of this process; made at first use, so never shared across a fork."""
    return connect(settings())
