"""The checks of what became of a sample: its claim, its audit record, what the sinks received."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from embedded.demo.samples import Sample
from tasks.claims import Claim
from tasks.claims.audit import verify_chain


def claim_problems(sample: Sample, claim: Claim) -> Iterator[str]:
    """Yield what is wrong with a settled claim and its audit records."""
    record = claim.audit[-1]
    if not claim.status == record["status"] == sample.status:
        yield f"ended as {claim.status.value}, not {sample.status.value}"
    yield from (f"audit record: {problem}" for problem in verify_chain(claim.audit))
    results = {result["service"]: result["success"] for result in record["downstreamResults"]}
    if results != dict.fromkeys(sample.sinks, True):
        yield f"its audit record has {results} for downstreamResults"
    named = [error["field"] for error in record.get("validationErrors", [])]
    if named != ([sample.invalid_field] if sample.invalid_field else []):
        yield f"its audit record names the fields {named}"


def note_problems(sample: Sample, claim: Claim) -> Iterator[str]:
    """Yield what is wrong with the notes on a sample's context in the audit record."""
    notes = claim.audit[-1].get("notes", [])
    expected = ["crm: without context: CXone has none yet: 404 Not Found"]
    if notes != expected * sample.without_context:
        yield f"its audit record notes {notes}"


def receipt_problems(
    sample: Sample, sink: str, received: Sequence[Mapping[str, Any]], context: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what is wrong with the requests for a sample that a sink received."""
    failures = sample.crm_failures if sink == "crm" else 0
    answers = [503] * failures + [200] if sink in sample.sinks else []
    if (answered := [request["answered"] for request in received]) != answers:
        yield f"answered {answered}, not {answers}"
    typed = sample.typed
    interaction = {"interactionId": typed["interactionId"]}
    for body in (request["body"] for request in received):
        expected = {
            "analytics": interaction
            | {"eventType": typed["type"], "timestamp": typed["timestamp"]},
            "crm": {**typed, **context},
            # The same time on every attempt.
            "compliance": interaction | {"archivedAt": received[0]["body"].get("archivedAt")},
        }
        if body != expected.get(sink, body):
            yield f"received {body}"
