"""The claims: one DynamoDB item per event, its outcomes, its audit records, when it is due."""

from tasks.claims.model import (
    Acquired,
    AuditRecord,
    Claim,
    ClaimSnapshot,
    Conflict,
    Cursor,
    Due,
    Duplicate,
    NextRetry,
    Summary,
)
from tasks.claims.outcomes import Call, Delivery, Outcome, Report, Status
from tasks.claims.store import Claims

__all__ = [
    "Acquired",
    "AuditRecord",
    "Call",
    "Claim",
    "ClaimSnapshot",
    "Claims",
    "Conflict",
    "Cursor",
    "Delivery",
    "Due",
    "Duplicate",
    "NextRetry",
    "Outcome",
    "Report",
    "Status",
    "Summary",
]
