"""Sample events: what they are, what should become of them, and whether it did."""

import json
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import boto3
import requests
from botocore.exceptions import BotoCoreError, ClientError

from embedded.console import Account
from embedded.stubs.cxone import contact
from embedded.stack import Plan
from tasks.claims import Claim, Claims, Outcome, Status, dynamodb
from tasks.claims.audit import verify_chain
from tasks.clock import now, to_rfc3339
from tasks.errors import StoreError
from tasks.events import EventType
from tasks.settings import settings
from tasks.sinks import SINKS

#: Seconds that all samples together may take to their final status.
SETTLE_TIMEOUT = 60.0

#: How often the CRM refuses the sample that is to meet trouble.
REFUSALS = 2

#: How many events come while the CRM is down; more than open its breaker.
OUTAGE = 8


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One event for the bus, and what should become of it."""

    title: str
    type: EventType
    detail: Mapping[str, Any]
    typed: Mapping[str, Any]
    """The whole typed event, as the CRM should get it."""
    wrong_field: str | None = None
    """The field that its audit record must name; it is then delivered nowhere."""
    refusals: int = 0
    """How often the CRM refuses it first."""
    repeated: bool = False
    """Whether it comes twice."""
    early: bool = False
    """Whether CXone has no context of it yet."""

    @property
    def status(self) -> Status:
        """How it should end."""
        return Status.FAILED if self.wrong_field else Status.COMPLETED

    @property
    def sinks(self) -> Sequence[str]:
        """Who should get it."""
        return () if self.wrong_field else settings().wanted_by(self.type)


class _Kind(NamedTuple):
    channels: Sequence[str]
    status: str
    metadata: Mapping[str, Any]


_ALL_CHANNELS = ("voice", "chat", "email", "sms", "webchat")
_KINDS: Mapping[EventType, _Kind] = {
    EventType.CREATED: _Kind(_ALL_CHANNELS, "queued", {"queue": "billing"}),
    EventType.ROUTED: _Kind(_ALL_CHANNELS, "routed", {"agentId": "agent-7", "skill": "billing"}),
    EventType.TRANSFER: _Kind(
        ("voice", "chat"),
        "in-progress",
        {"toQueue": "complaints", "fromAgentId": "agent-7", "reason": "escalation"},
    ),
    EventType.COMPLETED: _Kind(
        _ALL_CHANNELS,
        "completed",
        {"disposition": "resolved", "durationMs": 184_000, "agentId": "agent-7"},
    ),
    # Nobody hangs up on an email or a text message.
    EventType.ABANDONED: _Kind(
        ("voice", "chat", "webchat"), "abandoned", {"queue": "billing", "waitMs": 95_000}
    ),
}


def make_sample(
    kind: EventType,
    channel: str,
    environment: str,
    *,
    title: str = "",
    changes: Mapping[str, Any] | None = None,
    **expectations: Any,
) -> Sample:
    """Make a sample with an interaction id of its own; ``changes`` are to its metadata."""
    added = _KINDS[kind].metadata
    common = {
        "interactionId": f"sample-{secrets.token_hex(6)}",
        "timestamp": to_rfc3339(now()),
        "accountId": "account-42",
    }
    detail = common | {
        "channel": channel,
        "status": _KINDS[kind].status,
        "lifecycleStage": kind.value,
        "metadata": {
            "environment": environment,
            "region": "us-east-1",
            "pipelineVersion": "1.4.2",
            **added,
            **(changes or {}),
        },
    }
    if kind is EventType.CREATED:
        del detail["lifecycleStage"]  # then the status decides
        added = {"channel": channel, "initialQueue": added["queue"]}
    return Sample(
        title=title or f"{kind.value} {channel}",
        type=kind,
        detail=detail,
        typed={"type": kind.value, **common, **added},
        **expectations,
    )


def all_samples(environment: str) -> list[Sample]:
    """Make one of each type on each sensible channel, and what a bus brings beside."""

    def special(kind: EventType, title: str, **options: Any) -> Sample:
        return make_sample(kind, "voice", environment, title=title, **options)

    return [
        special(EventType.CREATED, "created, comes twice", repeated=True),
        special(EventType.COMPLETED, "completed, CRM refuses it twice", refusals=REFUSALS),
        special(EventType.CREATED, "created, no context yet", early=True),
        *(
            make_sample(kind, channel, environment)
            for kind, (channels, _, _) in _KINDS.items()
            for channel in channels
        ),
        special(
            EventType.ROUTED,
            "unknown region",
            changes={"region": "us-east-1x"},
            wrong_field="detail.metadata.region",
        ),
        special(
            EventType.COMPLETED,
            "duration is a text",
            changes={"durationMs": "12"},
            wrong_field="detail.metadata.durationMs",
        ),
    ]


def envelope(sample: Sample, source: str) -> dict[str, Any]:
    """Wrap a sample as EventBridge would, under a new id."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": _detail_type(sample),
        "source": source,
        "account": "000000000000",
        "time": to_rfc3339(now()),
        "region": "us-east-1",
        "resources": [],
        "detail": sample.detail,
    }


def _detail_type(sample: Sample) -> str:
    return f"Interaction {sample.type.value.capitalize()}"


@dataclass
class _Followed:
    """A sample that is on its way."""

    sample: Sample
    id: str
    claim: Claim | None = None
    repetition: str = ""  # what ingest answered to it

    @property
    def settled(self) -> bool:
        return self.claim is not None and self.claim.status is not Status.PROCESSING


#: Waits until a condition holds (True), or for so many seconds (False).
Watch = Callable[[Callable[[], bool], float], bool]


def demonstrate(plan: Plan, watch: Watch, account: Account) -> int:
    """Run the demonstration, tell how it went, and return the exit code.

    Raises:
        SupervisorError, StopRequested: whatever ``watch`` does.
    """
    account.heading("Sample events")
    try:
        problems = Demonstration(plan, watch, account).run()
    except (OSError, BotoCoreError, ClientError, StoreError) as error:
        problems = [f"broken off: {error}"]
    for problem in problems:
        account.result(problem, good=False)
    if problems:
        account.failure(f"{len(problems)} thing(s) not as they should be")
        return 1
    account.result("every sample ended as it should, every sink got what it should", good=True)
    return 0


class Demonstration:
    """Puts the samples on the bus and follows each to its end."""

    def __init__(self, plan: Plan, watch: Watch, account: Account) -> None:
        """Talk to the system that ``plan`` describes; ``watch`` looks after it in every wait."""
        self._plan = plan
        self._watch = watch
        self._account = account
        # Not tasks.runtime's: it imports the Celery app, which reads the settings at once, and
        # these are not settled before the ports are known.
        config = settings()
        self._claims = Claims(
            dynamodb.connect(config),
            config.processing_table,
            lease=config.claim_lease,
            retention_days=config.retention_days,
        )

    def run(self) -> list[str]:
        """Send, follow, check; return what is not as it should be."""
        environment = self._plan.environment["CURRENT_ENVIRONMENT"]
        samples = all_samples(environment)
        self._tell_crm_to_refuse(samples)
        self._tell_cxone_to_lag(samples)
        followed = self._put_on_bus(samples)
        # What only a wrong rule would send: an event of another source.
        foreign = envelope(make_sample(EventType.CREATED, "voice", environment), "somebody.else")
        ignored = self._post("foreign source", json.dumps(foreign).encode())

        self._watch(lambda: self._look_at(followed), SETTLE_TIMEOUT)
        problems = [
            f"{one.sample.title} ({one.id}): {problem}"
            for one in followed
            for problem in self._problems_of(one)
        ]
        if self._plan.own_cxone and "crm" in self._plan.own_sinks:
            self._tell_of_contexts(followed)
        if ignored != "202 accepted=0 ignored=1" or self._claims.get(foreign["id"]):
            problems.append("foreign source: not ignored")
        if "crm" in self._plan.own_sinks:
            problems += self._outage(environment)
        return problems

    def _outage(self, environment: str) -> list[str]:
        """Take the CRM down, send it events, and bring it back."""
        samples = [make_sample(EventType.COMPLETED, "voice", environment) for _ in range(OUTAGE)]
        self._tell_crm(mode="status", status=503)
        followed = self._put_on_bus(samples)
        if not self._watch(lambda: self._are_parked(followed), SETTLE_TIMEOUT):
            return [f"crm is down: its deliveries are not parked after {SETTLE_TIMEOUT:g} s"]
        self._account.result(
            f"{'crm is down':<32} {OUTAGE} events → analytics, compliance; parked for crm",
            good=True,
        )
        self._tell_crm(mode="ok")
        begun = time.monotonic()
        if not self._watch(lambda: self._are_through(followed), SETTLE_TIMEOUT):
            return [f"crm is back: what was parked is not delivered after {SETTLE_TIMEOUT:g} s"]
        self._account.result(
            f"{'crm is back':<32} all {OUTAGE} delivered, completed, "
            f"{time.monotonic() - begun:.0f} s later",
            good=True,
        )
        return [
            f"crm is back ({one.id}): {problem}"
            for one in followed
            for problem in claim_problems(one.sample, cast("Claim", one.claim))
        ]

    def _are_parked(self, followed: Sequence[_Followed]) -> bool:
        return self._read(followed) and all(
            one.claim and one.claim.deliveries["crm"].outcome is Outcome.PARKED for one in followed
        )

    def _are_through(self, followed: Sequence[_Followed]) -> bool:
        return self._read(followed) and all(
            one.claim and one.claim.status is Status.COMPLETED for one in followed
        )

    def _read(self, followed: Sequence[_Followed]) -> bool:
        """Read the claims as they stand; tell whether that could be done."""
        try:
            for one in followed:
                one.claim = self._claims.get(one.id)
        except StoreError:
            return False  # it may be starting anew; SETTLE_TIMEOUT is the limit
        return True

    def _tell_crm_to_refuse(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            if sample.refusals and "crm" in self._plan.own_sinks:
                self._tell_crm(
                    mode="status",
                    status=503,
                    times=sample.refusals,
                    match=sample.detail["interactionId"],
                )

    def _tell_crm(self, **behaviour: Any) -> None:
        _instruct(self._plan.endpoint("crm"), behaviour)

    def _tell_cxone_to_lag(self, samples: Sequence[Sample]) -> None:
        for early in (sample.detail["interactionId"] for sample in samples if sample.early):
            if self._plan.own_cxone:
                behaviour = {"mode": "status", "status": 404, "match": early}
                _instruct(f"{self._plan.cxone_url}/contacts", behaviour)

    def _put_on_bus(self, samples: Sequence[Sample]) -> list[_Followed]:
        bus = boto3.client("events", region_name=self._plan.environment["AWS_REGION"])
        ids: list[str] = []
        for start in range(0, len(samples), 10):  # EventBridge takes ten at once
            answer = bus.put_events(
                Entries=[
                    {
                        "Source": self._plan.environment["EVENT_SOURCE"],
                        "DetailType": _detail_type(sample),
                        "Detail": json.dumps(sample.detail),
                    }
                    for sample in samples[start : start + 10]
                ]
            )
            ids += [entry.get("EventId", "refused by the bus") for entry in answer["Entries"]]
        return list(map(_Followed, samples, ids))

    def _post(self, title: str, body: bytes) -> str:
        """Send an event to ingest directly; tell its answer, and return it in short."""
        answer = requests.post(
            f"{self._plan.ingest_url}/events",
            data=body,
            headers={"x-api-key": self._plan.api_key, "Content-Type": "application/json"},
            timeout=10,
        )
        counts = " ".join(f"{name}={answer.json().get(name)}" for name in ("accepted", "ignored"))
        short = f"{answer.status_code} {counts}"
        self._account.result(f"{title:<32} ingest → {short}", good=answer.ok)
        return short

    def _tell_of_contexts(self, followed: Sequence[_Followed]) -> None:
        """Show what the CRM got beside the event, for one of them."""
        one = next(one for one in followed if one.sample.sinks and not one.sample.early)
        for request in self._received("crm", one)[-1:]:
            context = request["body"].get("context")
            self._account.result(
                f"{'context':<32} crm got with {one.sample.type}: {json.dumps(context)}",
                good=bool(context),
            )

    def _received(self, sink: str, one: _Followed) -> Any:
        """Return the requests of an event that one of our own sinks got."""
        url = f"{self._plan.endpoint(sink)}/received"
        key = SINKS[sink].idempotency_key(one.id)
        return requests.get(url, params={"key": key}, timeout=5).json()

    def _look_at(self, followed: Sequence[_Followed]) -> bool:
        """Read the claims that are not final yet; tell of those that are now."""
        for one in followed:
            if one.settled:
                continue
            try:
                one.claim = self._claims.get(one.id)
            except StoreError:
                continue  # it may be starting anew; SETTLE_TIMEOUT is the limit
            if one.claim and one.sample.repeated and not one.repetition:
                one.repetition = self._post(f"{one.sample.title}: again", one.claim.payload)
            if one.claim and one.settled:
                self._tell(one.sample, one.claim)
        return all(one.settled for one in followed)

    def _tell(self, sample: Sample, claim: Claim) -> None:
        steps = ["bus", "ingest", "claimed"]
        if claim.deliveries:
            tries = {sink: d.attempts for sink, d in claim.deliveries.items()}
            steps.append(", ".join(f"{s} (try {n})" if n > 1 else s for s, n in tries.items()))
        ending = f"{claim.status.value}, {claim.lag_ms} ms"
        for error in claim.audit[-1].get("validationErrors", []):
            ending += f"; {error['field']}: {error['message']}"
        for note in claim.audit[-1].get("notes", []):
            ending += f"; {note}"
        way = " → ".join([*steps, ending])
        good = not list(claim_problems(sample, claim))
        self._account.result(f"{sample.title:<32} {way}", good=good)

    def _problems_of(self, one: _Followed) -> Iterator[str]:
        if one.claim is None or not one.settled:
            how = "not settled" if one.claim else "not even claimed: see the log of aws"
            yield f"after {SETTLE_TIMEOUT:g} s {how}"
            return
        yield from claim_problems(one.sample, one.claim)
        if one.sample.repeated and one.repetition != "202 accepted=1 ignored=0":
            yield f"ingest answered its repetition {one.repetition}"
        if self._plan.own_cxone:
            yield from note_problems(one.sample, one.claim)
        for sink in self._plan.own_sinks:
            received = self._received(sink, one)
            if not self._plan.own_cxone:  # what another CXone says, we do not know
                for request in received:
                    request["body"].pop("context", None)
            for problem in receipt_problems(one.sample, sink, received, self._context(one.sample)):
                yield f"{sink} {problem}"

    def _context(self, sample: Sample) -> Mapping[str, Any]:
        """Return what a sink should get beside a sample's event if it gets contexts."""
        if sample.early or not self._plan.own_cxone:
            return {}
        return {"context": contact(sample.detail["interactionId"])}


def _instruct(service: str, behaviour: Mapping[str, Any]) -> None:
    """Tell a stand-in how to behave."""
    requests.put(f"{service}/behaviour", json=behaviour, timeout=5).raise_for_status()


def claim_problems(sample: Sample, claim: Claim) -> Iterator[str]:
    """Give what is wrong with a settled claim and its audit records."""
    record = claim.audit[-1]
    if not claim.status == record["status"] == sample.status:
        yield f"ended as {claim.status.value}, not {sample.status.value}"
    yield from (f"audit record: {problem}" for problem in verify_chain(claim.audit))
    results = {result["service"]: result["success"] for result in record["downstreamResults"]}
    if results != dict.fromkeys(sample.sinks, True):
        yield f"its audit record has {results} for downstreamResults"
    named = [error["field"] for error in record.get("validationErrors", [])]
    if named != ([sample.wrong_field] if sample.wrong_field else []):
        yield f"its audit record names the fields {named}"


def note_problems(sample: Sample, claim: Claim) -> Iterator[str]:
    """Give what is wrong with what the audit record notes of a sample's context."""
    notes = claim.audit[-1].get("notes", [])
    if notes != (["crm: without context: CXone has none yet: 404 Not Found"] * sample.early):
        yield f"its audit record notes {notes}"


def receipt_problems(
    sample: Sample, sink: str, received: Sequence[Mapping[str, Any]], context: Mapping[str, Any]
) -> Iterator[str]:
    """Give what is wrong with the requests of a sample that one of our own sinks got."""
    refusals = sample.refusals if sink == "crm" else 0
    answers = [503] * refusals + [200] if sink in sample.sinks else []
    if (answered := [request["answered"] for request in received]) != answers:
        yield f"answered {answered}, not {answers}"
    typed = sample.typed
    for body in (request["body"] for request in received):
        expected = {
            "analytics": {
                "eventType": typed["type"],
                "interactionId": typed["interactionId"],
                "timestamp": typed["timestamp"],
            },
            "crm": {**typed, **context},
            "compliance": {
                "interactionId": typed["interactionId"],
                "archivedAt": received[0]["body"].get("archivedAt"),  # one for every attempt
            },
        }
        if body != expected.get(sink, body):
            yield f"got {body}"
