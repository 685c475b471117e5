"""The reads of the table of claims: one claim, and what its indexes find."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from heapq import merge
from operator import itemgetter
from typing import Any

from tasks.claims.codec import (
    DUE_BUCKETS,
    claim_of,
    due_of,
    parked_partitions,
    readable,
    summary_of,
)
from tasks.claims.dynamodb import Table
from tasks.claims.model import MAX_ID_LENGTH, Claim, Cursor, Due, Summary
from tasks.claims.outcomes import Status
from tasks.clock import epoch, from_rfc3339, now, to_rfc3339
from tasks.errors import ClaimNotFoundError

#: Entries of an index that are read at once for a list that is shown page by page.
PAGE_SIZE = 200

#: Later than anything is due, in seconds since the epoch.
MAX_TIMESTAMP = 2**40

#: Before any event was received.
_MIN_RECEIVED_AT = datetime(2000, 1, 1, tzinfo=UTC)


class ClaimQueries:
    """Reads of claims.

    Every method raises ``StoreError`` where DynamoDB cannot be reached or answers with an error,
    and ``UnknownSchemaError`` where a later release wrote the item.
    """

    def __init__(self, table: Table, *, retention_days: int) -> None:
        """Read ``table``, in which a claim is kept for ``retention_days``."""
        self._table = table
        self._retention_days = retention_days

    def get(self, key: str) -> Claim | None:
        """Read one claim, consistently."""
        if len(key) > MAX_ID_LENGTH:
            return None
        item = self._table.get(key)
        return claim_of(item) if item else None

    def due(self, until: int | None = None) -> Iterator[Due]:
        """Yield what is due up to ``until`` (now, if not given), oldest first in each bucket.

        The first bucket is chosen at random: two sweeps seldom meet, and no bucket is always last.
        """
        first = random.randrange(DUE_BUCKETS)  # noqa: S311 - not used for security
        for bucket in (*range(first, DUE_BUCKETS), *range(first)):
            items = self._table.query(
                IndexName="due",
                KeyConditionExpression="due_bucket = :bucket AND due_at <= :until",
                ExpressionAttributeValues={
                    ":bucket": str(bucket),
                    ":until": epoch() if until is None else until,
                },
            )
            yield from readable(due_of, items)

    def count_due(self) -> tuple[int, int]:
        """Count the claims with something pending, and those of them that are in progress."""
        pending = in_progress = 0
        for bucket in range(DUE_BUCKETS):
            for page in self._table.pages(
                Select="COUNT",
                IndexName="due",
                KeyConditionExpression="due_bucket = :bucket",
                FilterExpression="#status = :processing",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues={
                    ":bucket": str(bucket),
                    ":processing": Status.PROCESSING.value,
                },
            ):
                pending += page["ScannedCount"]
                in_progress += page["Count"]
        return pending, in_progress

    def parked(self, sink: str) -> Iterator[Due]:
        """Yield what waits for a sink to recover, oldest first."""
        partitions = [
            self._table.query(**_parked_for(partition), Limit=100)
            for partition in parked_partitions(sink)
        ]
        oldest_first = merge(*partitions, key=itemgetter("received_at"))
        yield from readable(partial(due_of, parked=True), oldest_first)

    def count_parked(self, sink: str) -> int:
        """Count what waits for a sink to recover."""
        return sum(
            page["Count"]
            for partition in parked_partitions(sink)
            for page in self._table.pages(**_parked_for(partition), Select="COUNT")
        )

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
            items = self._table.query(
                IndexName="received",
                KeyConditionExpression="received_day = :day",
                ExpressionAttributeValues={":day": day.isoformat()},
            )
            yield from readable(summary_of, items)
            day += timedelta(days=1)

    def newest(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        after: Cursor | None = None,
    ) -> Iterator[Summary]:
        """Yield a summary of every claim received in that time, newest first; the rest ``after``.

        Reads the index page by page: a caller that stops early has read at most a page too much.
        """
        newest = from_rfc3339(after.received_at) if after else min(until or now(), _tomorrow())
        day = newest.astimezone(UTC).date()
        oldest = max(now() - timedelta(days=self._retention_days), since or _MIN_RECEIVED_AT).date()
        low = to_rfc3339(since or _MIN_RECEIVED_AT)
        high = to_rfc3339(until or _tomorrow())
        if low > high:
            return
        start: dict[str, Any] = {}
        if after:
            entry = {"id": after.id, "received_day": f"{day}", "received_at": after.received_at}
            start = {"ExclusiveStartKey": entry}
        while day >= oldest:
            span = {":low": max(low, f"{day}"), ":high": min(high, f"{day}T24")}
            items = self._table.query(
                IndexName="received",
                KeyConditionExpression="received_day = :day AND received_at BETWEEN :low AND :high",
                ExpressionAttributeValues={":day": day.isoformat(), **span},
                ScanIndexForward=False,
                Limit=PAGE_SIZE,
                **start,
            )
            yield from readable(summary_of, items)
            day -= timedelta(days=1)
            start = {}

    def of_interaction(self, interaction_id: str) -> Iterator[Claim]:
        """Yield the claims of an interaction's events, oldest first: one query, a read of each."""
        if len(interaction_id) > MAX_ID_LENGTH:
            return
        for item in self._table.query(
            IndexName="interaction",
            KeyConditionExpression="interaction_id = :interaction",
            ExpressionAttributeValues={":interaction": interaction_id},
        ):
            if claim := self.get(item["id"]):
                yield claim


def get_or_raise(claims: ClaimQueries, key: str) -> Claim:
    """Read one claim.

    Raises:
        ClaimNotFoundError: there is none.
    """
    claim = claims.get(key)
    if claim is None:
        raise ClaimNotFoundError(f"no claim of {key}: it never came, or is past its retention")
    return claim


def _parked_for(partition: str) -> dict[str, Any]:
    return {
        "IndexName": "parked",
        "KeyConditionExpression": "parked_for = :partition",
        "ExpressionAttributeValues": {":partition": partition},
    }


def _tomorrow() -> datetime:
    """Return a moment that nothing was received after, however wrong a clock is."""
    return now() + timedelta(days=1)
