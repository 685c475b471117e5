"""Sends the samples, waits until they are settled, and reports what became of each."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import boto3
import requests
from botocore.exceptions import BotoCoreError, ClientError

from embedded.console import Console
from embedded.demo.check import claim_problems, note_problems, receipt_problems
from embedded.demo.samples import Sample, all_samples, detail_type, envelope, make_sample
from embedded.stack import Plan
from embedded.stubs.cxone import contact
from tasks.claims import Claim, Claims, Outcome, Status, dynamodb
from tasks.errors import StoreError
from tasks.events import EventType
from tasks.settings import settings
from tasks.sinks import SINKS

#: Seconds that all samples together may take to their final status.
SETTLE_TIMEOUT = 60.0

#: How many events are sent while the CRM is down; more than open its circuit breaker.
OUTAGE_EVENTS = 8

#: Waits until a condition holds (True), or for so many seconds (False).
Watch = Callable[[Callable[[], bool], float], bool]


@dataclass
class _Sent:
    """A sample that was sent."""

    sample: Sample
    id: str
    claim: Claim | None = None
    duplicate_answer: str = ""  # of ingest, to the second copy

    @property
    def settled(self) -> bool:
        return self.claim is not None and self.claim.status is not Status.PROCESSING


def demonstrate(plan: Plan, watch: Watch, console: Console) -> int:
    """Run the demonstration, report what became of each sample, and return the exit code.

    Raises:
        SupervisorError, StopRequested: as ``watch`` does.
    """
    console.heading("Sample events, put on the event bus")
    try:
        problems = Demonstration(plan, watch, console).run()
    except (OSError, BotoCoreError, ClientError, StoreError) as error:
        problems = [f"the demonstration could not go on: {error}"]
    for problem in problems:
        console.problem(problem)
    if problems:
        console.failure(f"{len(problems)} problem(s) with the sample events")
        return 1
    console.write("\nEvery sample reached the expected status; every sink received what it should.")
    return 0


class Demonstration:
    """Puts the samples on the bus and follows each until it is settled."""

    def __init__(self, plan: Plan, watch: Watch, console: Console) -> None:
        """Use the system that ``plan`` describes; ``watch`` supervises it during every wait."""
        self._plan = plan
        self._watch = watch
        self._console = console
        # Not that of tasks.runtime, which imports the Celery app: that reads the settings at once,
        # before the embedded system has chosen them.
        config = settings()
        self._claims = Claims(
            dynamodb.connect(config),
            config.processing_table,
            lease=config.claim_lease,
            retention_days=config.retention_days,
        )

    def run(self) -> list[str]:
        """Send, follow and check the samples; return the problems."""
        environment = self._plan.environment["CURRENT_ENVIRONMENT"]
        samples = all_samples(environment)
        self._prepare_stubs(samples)
        sent = self._put_on_bus(samples)
        # Only a wrong rule would send an event of another source.
        foreign = envelope(make_sample(EventType.CREATED, "voice", environment), "another.source")
        answer = self._post(json.dumps(foreign).encode())
        ignored = answer == "202 accepted=0 ignored=1"
        self._report("event of another source", f"ingest: {answer}", good=ignored)
        self._watch(lambda: self._follow(sent), SETTLE_TIMEOUT)
        problems = []
        if not ignored or self._claims.get(foreign["id"]):
            problems.append("event of another source: not ignored")
        for one in sent:
            found = list(self._problems_of(one))
            problems += [f"{one.sample.title} ({one.id}): {problem}" for problem in found]
            if one.sample.duplicated and self._plan.own_sinks and not found:
                text = f"ingest: {one.duplicate_answer}; delivered to no sink"
                self._report(f"{one.sample.title}: the copy", text)
        if "crm" in self._plan.own_sinks:
            if self._plan.own_cxone:
                self._show_context(sent)
            problems += self._take_crm_down(environment)
        return problems

    def _prepare_stubs(self, samples: Sequence[Sample]) -> None:
        """Have the CRM fail, and CXone lack a context, for the samples that are about that."""
        for sample in samples:
            match = sample.detail["interactionId"]
            if sample.crm_failures and "crm" in self._plan.own_sinks:
                self._set_crm(mode="status", status=503, times=sample.crm_failures, match=match)
            if sample.without_context and self._plan.own_cxone:
                contacts = f"{self._plan.cxone_url}/contacts"
                _set_behaviour(contacts, mode="status", status=404, match=match)

    def _set_crm(self, **behaviour: Any) -> None:
        _set_behaviour(self._plan.endpoint("crm"), **behaviour)

    def _put_on_bus(self, samples: Sequence[Sample]) -> list[_Sent]:
        bus = boto3.client("events", region_name=self._plan.environment["AWS_REGION"])
        source = self._plan.environment["EVENT_SOURCE"]
        entries: list[Any] = [
            {"Source": source, "DetailType": detail_type(one), "Detail": json.dumps(one.detail)}
            for one in samples
        ]
        ids: list[str] = []
        for start in range(0, len(entries), 10):  # EventBridge takes ten per call
            answer = bus.put_events(Entries=entries[start : start + 10])
            ids += [entry.get("EventId", "refused by the bus") for entry in answer["Entries"]]
        return list(map(_Sent, samples, ids))

    def _post(self, body: bytes) -> str:
        """Send an event to ingest directly; return its answer in short."""
        answer = requests.post(
            f"{self._plan.ingest_url}/events",
            data=body,
            headers={"x-api-key": self._plan.api_key, "Content-Type": "application/json"},
            timeout=10,
        )
        counts = (f"{name}={answer.json().get(name)}" for name in ("accepted", "ignored"))
        return " ".join([str(answer.status_code), *counts])

    def _follow(self, sent: Sequence[_Sent]) -> bool:
        """Report those that are settled since the last call; return whether all are."""
        pending = [one for one in sent if not one.settled]
        self._read(pending)
        for one in pending:
            if one.claim and one.sample.duplicated and not one.duplicate_answer:
                one.duplicate_answer = self._post(one.claim.payload)
            if one.claim and one.settled:
                good = not list(claim_problems(one.sample, one.claim))
                self._report(one.sample.title, _way(one.claim), good=good)
        return all(one.settled for one in sent)

    def _read(self, sent: Sequence[_Sent]) -> None:
        with suppress(StoreError):  # the emulator may be restarting; SETTLE_TIMEOUT is the limit
            for one in sent:
                one.claim = self._claims.get(one.id)

    def _report(self, title: str, text: str, *, good: bool = True) -> None:
        if good:
            self._console.success(f"{title:<32}", text)
        else:
            self._console.problem(f"{title:<32} {text}")

    def _problems_of(self, one: _Sent) -> Iterator[str]:
        if one.claim is None or not one.settled:
            how = "settled" if one.claim else "claimed: see the log of aws"
            yield f"after {SETTLE_TIMEOUT:g} s not {how}"
            return
        yield from claim_problems(one.sample, one.claim)
        if one.sample.duplicated and one.duplicate_answer != "202 accepted=1 ignored=0":
            yield f"ingest answered its duplicate {one.duplicate_answer}"
        if self._plan.own_cxone:
            yield from note_problems(one.sample, one.claim)
        for sink in self._plan.own_sinks:
            received = self._received(sink, one)
            if not self._plan.own_cxone:  # the contexts of another CXone are not known here
                for request in received:
                    request["body"].pop("context", None)
            for problem in receipt_problems(one.sample, sink, received, self._context(one.sample)):
                yield f"{sink} {problem}"

    def _received(self, sink: str, one: _Sent) -> Any:
        """Return the requests for an event that a sample sink received."""
        url = f"{self._plan.endpoint(sink)}/received"
        key = SINKS[sink].idempotency_key(one.id)
        return requests.get(url, params={"key": key}, timeout=5).json()

    def _context(self, sample: Sample) -> Mapping[str, Any]:
        """Return what the CRM receives in addition to a sample's event."""
        if sample.without_context or not self._plan.own_cxone:
            return {}
        return {"context": contact(sample.detail["interactionId"])}

    def _show_context(self, sent: Sequence[_Sent]) -> None:
        """Show the context that the CRM received with one of the samples."""
        one = next(one for one in sent if one.sample.sinks and not one.sample.without_context)
        for request in self._received("crm", one)[-1:]:
            context = request["body"].get("context")
            shown = json.dumps(context, ensure_ascii=False)
            text = f"crm received the {one.sample.type} event with {shown}"
            self._report("context from CXone", text, good=bool(context))

    def _take_crm_down(self, environment: str) -> list[str]:
        """Take the CRM down, send events, and bring it back; return the problems."""
        completed = (EventType.COMPLETED, "voice", environment)
        samples = [make_sample(*completed) for _ in range(OUTAGE_EVENTS)]
        self._console.step(f"{'crm goes down':<32}", f"answers 503; {OUTAGE_EVENTS} more events")
        self._set_crm(mode="status", status=503)
        sent = self._put_on_bus(samples)
        if not self._watch(lambda: self._are_parked(sent), SETTLE_TIMEOUT):
            return [f"crm is down: its deliveries are not parked after {SETTLE_TIMEOUT:g} s"]
        text = f"all {OUTAGE_EVENTS} delivered to analytics and compliance, parked for crm"
        self._report("crm is down", text)
        self._set_crm(mode="ok")
        begun = time.monotonic()
        if not self._watch(lambda: self._are_completed(sent), SETTLE_TIMEOUT):
            return [f"crm is back: parked events are not delivered after {SETTLE_TIMEOUT:g} s"]
        seconds = time.monotonic() - begun
        text = f"all {OUTAGE_EVENTS} delivered to crm, completed, after {seconds:.0f} s"
        self._report("crm is back", text)
        return [
            f"crm is back ({one.id}): {problem}"
            for one in sent
            if one.claim
            for problem in claim_problems(one.sample, one.claim)
        ]

    def _are_parked(self, sent: Sequence[_Sent]) -> bool:
        self._read(sent)
        return all(
            one.claim and one.claim.deliveries["crm"].outcome is Outcome.PARKED for one in sent
        )

    def _are_completed(self, sent: Sequence[_Sent]) -> bool:
        self._read(sent)
        return all(one.claim and one.claim.status is Status.COMPLETED for one in sent)


def _way(claim: Claim) -> str:
    """Return the stages that a settled event went through, and how it ended."""
    deliveries = ", ".join(
        f"{sink} ({delivery.attempts} attempts)" if delivery.attempts > 1 else sink
        for sink, delivery in claim.deliveries.items()
    )
    record = claim.audit[-1]
    errors = (
        f"{error['field']}: {error['message']}" for error in record.get("validationErrors", [])
    )
    settled = f"{claim.status.value} after {claim.lag_ms} ms"
    ending = "; ".join([settled, *errors, *record.get("notes", [])])
    return " → ".join(filter(None, ["bus", "ingest", "claimed", deliveries, ending]))


def _set_behaviour(service: str, **behaviour: Any) -> None:
    """Set how a stand-in answers from now on."""
    requests.put(f"{service}/behaviour", json=behaviour, timeout=5).raise_for_status()
