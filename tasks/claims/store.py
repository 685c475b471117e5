"""The writes of the table of claims. Every one that changes a claim is conditional.

The loser of a race gets the existing item from the failed condition, and need not read::

    worker A                     table                        worker B
    put if absent ──────────────► item, version 1
                                  refused, old item ◄───────── put if absent: a duplicate
    (dies; the lease runs out)
                                  version 2, holder B ◄─────── take over if version is still 1
    (wakes) settle if version 1 ► refused, old item: merges its outcomes into version 2

``due_at`` is when a sweep may take the claim: the end of the holder's lease while it is
processing, the next retry (``schedule``) once it has settled with something pending. Finished
claims have no ``due_at`` and so are not in the index ``due``. Those that only wait for sinks to
recover have ``parked_for`` as well, and so are also in the index ``parked``.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tasks.claims.codec import ITEM_SCHEMA, claim_of, due_bucket, item_of
from tasks.claims.dynamodb import ConditionFailedError, Table
from tasks.claims.model import (
    Acquired,
    AuditRecord,
    Claim,
    ClaimSnapshot,
    Conflict,
    Duplicate,
    NextRetry,
)
from tasks.claims.outcomes import Delivery, Status, deliveries_to_plain
from tasks.claims.queries import ClaimQueries
from tasks.clock import epoch, from_rfc3339, now
from tasks.errors import ClaimInProgressError, ClaimNotFoundError, StoreError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

#: The condition of a write that does not read first: what a later release wrote is left to it.
_READABLE = "NOT item_schema > :known"


class Claims(ClaimQueries):
    """The table of claims: reads (``ClaimQueries``) and writes.

    Every method raises ``StoreError`` where DynamoDB cannot be reached or answers with an error,
    and ``UnknownSchemaError``, leaving it as it is, where a later release wrote the item.
    """

    def __init__(
        self, client: "DynamoDBClient", table: str, *, lease: int, retention_days: int
    ) -> None:
        """Use ``table``; ``lease`` is in seconds."""
        super().__init__(Table(client, table), retention_days=retention_days)
        self._lease = lease

    def claim(self, new: Claim) -> Acquired | Duplicate | Conflict:
        """Claim an event: one conditional put, which is all that a duplicate costs.

        A claim that is processing gets its lease here. An item past its retention counts as
        absent: DynamoDB may take two days to delete it (docs/facts.md, D8).
        """
        if new.status is Status.PROCESSING:
            new = replace(new, due_at=self._lease_end(), dispatched_at=epoch())
        try:
            self._put(new, "attribute_not_exists(id) OR expires_at < :now", {":now": epoch()})
        except ConditionFailedError as failed:
            return self._resolve_conflict(failed, new)
        return Acquired(new)

    def _resolve_conflict(
        self, failed: ConditionFailedError, new: Claim
    ) -> Acquired | Duplicate | Conflict:
        """Decide what a refused put means."""
        if failed.existing is None:  # deleted between the put and its answer
            raise StoreError(f"the claim of {new.id} went away while it was read")
        old = claim_of(failed.existing)
        if old.payload_sha256 != new.payload_sha256:
            return Conflict(old)
        in_progress = old.status is Status.PROCESSING
        if old.holder == new.holder if in_progress else old.audit and old.audit == new.audit:
            # It is the caller's: the answer to the first put was lost, or the worker that sent it.
            return Acquired(old)
        if in_progress and old.due_at is not None and old.due_at <= epoch() and new.holder:
            taken = self.take_over(old.id, old.version, new.holder)
            return Acquired(taken) if taken else Duplicate(old)
        return Duplicate(old)

    def take_over(
        self, key: str, version: int, holder: str, *, settled: bool = False, parked: bool = False
    ) -> Claim | None:
        """Give a claim that is overdue, or parked, to ``holder``, for its next generation.

        ``settled``: that version has settled, so a delayed retry of it is due; otherwise it is in
        progress, so its dispatch was lost. ``parked``: it may be taken before it is due.
        Returns None where another was faster, or it is not overdue any more.
        """
        if parked:
            counts, overdue = "dispatches = :one", "attribute_exists(parked_for)"
        elif settled:
            counts, overdue = "dispatches = :one, redrives = redrives + :one", "due_at <= :now"
        else:
            counts, overdue = "dispatches = dispatches + :one", "due_at <= :now"
        try:
            return self._acquire_lease(
                key,
                version,
                holder,
                counts,
                condition=f"version = :version AND {overdue}",
                values={} if parked else {":now": epoch()},
            )
        except ConditionFailedError as failed:
            return _held_by(holder, failed.existing)

    def reopen(self, claim: Claim, targets: Sequence[str], *, actor: str, holder: str) -> Claim:
        """Give a settled claim to ``holder`` to deliver to ``targets``, as ``actor`` asked.

        Returns the claim as it is, where ``holder`` has it already.

        Raises:
            ClaimInProgressError: another holds it, or was faster to reopen it.
        """
        if claim.status is Status.PROCESSING:
            if claim.holder == holder:
                return claim
            raise ClaimInProgressError(f"{claim.id} is in progress; try again once it has settled")
        try:
            return self._acquire_lease(
                claim.id,
                claim.version,
                holder,
                "dispatches = :one, targets = :targets, actor = :actor",
                condition="version = :version",
                values={":targets": list(targets), ":actor": actor},
            )
        except ConditionFailedError as failed:
            return _held_or_in_progress(claim.id, holder, failed)

    def replace_invalid(self, old: Claim, new: Claim) -> Claim:
        """Put ``new`` in the place of ``old``, the claim of an event that was invalid once.

        Raises:
            ClaimInProgressError: another was faster.
        """
        new = replace(
            new,
            version=old.version + 1,
            generation=old.generation + 1,
            audit=old.audit,
            due_at=self._lease_end(),
            dispatched_at=epoch(),
        )
        try:
            self._put(new, "version = :version", {":version": old.version})
        except ConditionFailedError as failed:
            return _held_or_in_progress(new.id, str(new.holder), failed)
        return new

    def extend_lease(self, key: str, version: int, until: int) -> None:
        """Let an overdue claim's lease end later, unless the claim has changed meanwhile.

        It keeps its version, so that a settle in progress need not start again.
        """
        with suppress(ConditionFailedError):
            self._table.update(
                key,
                "SET due_at = :due_at",
                {":known": ITEM_SCHEMA, ":version": version, ":now": epoch(), ":due_at": until},
                ConditionExpression=f"version = :version AND due_at <= :now AND {_READABLE}",
            )

    def settle(
        self,
        snapshot: ClaimSnapshot,
        deliveries: Mapping[str, Delivery],
        status: Status,
        record: AuditRecord | None,
        retry: NextRetry | None,
    ) -> ClaimSnapshot | None:
        """Write what an event came to: one conditional update, and no read before it.

        ``record`` is None where nothing happened that is worth one; ``retry`` is when a settled
        event is due again.
        Returns None when it is written, else the claim's present snapshot, to be merged again.

        Raises:
            ClaimNotFoundError: there is no such claim.
        """
        sets = ["#status = :status", "version = :next", "deliveries = :deliveries"]
        values: dict[str, Any] = {
            ":known": ITEM_SCHEMA,
            ":status": status.value,
            ":version": snapshot.version,
            ":next": snapshot.version + 1,
            ":deliveries": deliveries_to_plain(deliveries),
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
        if retry:
            sets += ["due_at = :due_at", "due_bucket = :bucket"]
            values |= {":due_at": retry.at, ":bucket": due_bucket(snapshot.id)}
        elif removes:
            removes += ["due_at", "due_bucket"]
        if retry and retry.parked_for:
            sets += ["parked_for = :parked_for"]
            values |= {":parked_for": retry.parked_for}
        elif removes:
            removes += ["parked_for"]
        try:
            self._table.update(
                snapshot.id,
                f"SET {', '.join(sets)}" + (f" REMOVE {', '.join(removes)}" if removes else ""),
                values,
                ConditionExpression=f"version = :version AND {_READABLE}",
                ExpressionAttributeNames={"#status": "status"},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ConditionFailedError as failed:
            if failed.existing is None:
                raise ClaimNotFoundError(f"no claim of {snapshot.id}") from None
            return claim_of(failed.existing).snapshot
        return None

    def count_redelivery(self, task_id: str) -> int:
        """Count, in an item of its own, that a task's message came again; return the sum.

        Not on the claim, since an event may kill its worker before there is one.
        """
        counted = self._table.update(
            f"redelivered:{task_id}",
            "SET expires_at = :expires ADD redeliveries :one",
            {":expires": self._expires(), ":one": 1},
            ReturnValues="UPDATED_NEW",
        )
        return int(counted["redeliveries"])

    def _put(self, claim: Claim, condition: str, values: Mapping[str, Any]) -> None:
        self._table.put(item_of(claim) | self._index_attributes(claim), condition, values)

    def _acquire_lease(
        self,
        key: str,
        version: int,
        holder: str,
        changes: str,
        *,
        condition: str,
        values: Mapping[str, Any],
    ) -> Claim:
        """Make ``holder`` the one who works on a claim, in a new generation of it."""
        item = self._table.update(
            key,
            "SET #status = :processing, holder = :holder, version = :next,"
            f" generation = generation + :one, {changes},"
            " due_at = :due_at, due_bucket = :bucket, dispatched_at = :epoch"
            " REMOVE parked_for",
            {
                ":known": ITEM_SCHEMA,
                ":processing": Status.PROCESSING.value,
                ":holder": holder,
                ":version": version,
                ":next": version + 1,
                ":one": 1,
                ":due_at": self._lease_end(),
                ":bucket": due_bucket(key),
                ":epoch": epoch(),
                **values,
            },
            ConditionExpression=f"{condition} AND {_READABLE}",
            ExpressionAttributeNames={"#status": "status"},
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
        return claim_of(item)

    def _lease_end(self) -> int:
        return epoch() + self._lease

    def _expires(self) -> int:
        return int((now() + timedelta(days=self._retention_days)).timestamp())

    def _index_attributes(self, claim: Claim) -> dict[str, Any]:
        """Return what an item has beside its claim: keys of the indexes, schema, end of retention.

        A claim with nothing pending has no ``due_bucket``, and so is not in the index ``due``.
        """
        due = {"due_bucket": due_bucket(claim.id)} if claim.due_at is not None else {}
        return {
            "received_day": from_rfc3339(claim.received_at).date().isoformat(),
            "expires_at": self._expires(),
            "item_schema": ITEM_SCHEMA,
            **due,
        }


def _held_by(holder: str, existing: Mapping[str, Any] | None) -> Claim | None:
    """Return the claim if ``holder`` has it: the answer to its own earlier write was lost."""
    claim = claim_of(existing) if existing else None
    return claim if claim and claim.status is Status.PROCESSING and claim.holder == holder else None


def _held_or_in_progress(key: str, holder: str, failed: ConditionFailedError) -> Claim:
    if held := _held_by(holder, failed.existing):
        return held
    raise ClaimInProgressError(f"{key} has just changed; look at it again") from None
