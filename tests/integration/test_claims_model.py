"""A model of the claims on a real table: whatever workers do, in whatever order, it holds.

Hypothesis plays the workers. A worker that acquired the claim may settle it at any time, in parts,
twice and long after others took it over: that is a zombie. Sweeps and operators act on what they
read a while ago. The test moves the clock, so a lease ends at once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from botocore.config import Config
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

import tasks.clock
from tasks.claims import (
    Acquired,
    Claim,
    Claims,
    Delivery,
    Due,
    Outcome,
    Report,
    Status,
    queries,
    settlement,
    store,
)
from tasks.claims.audit import verify_claim
from tasks.claims.settlement import settle_claim
from tasks.clock import to_rfc3339
from tasks.errors import ClaimInProgressError
from tasks.events import payload_hash
from tasks.settings import settings as product_settings
from tests.support.envelopes import SINKS, assert_chain_holds
from tests.support.system import aws, create_table

TABLE = "claims-model"

LEASE = 600

#: How many do the same thing at the same moment.
rivals = st.integers(1, 3)

#: What a delivery task may report: outcome, whether it is transient, attempts.
end = st.tuples(
    st.sampled_from([Outcome.DELIVERED, Outcome.FAILED, Outcome.PARKED, Outcome.REVOKED]),
    st.booleans(),
    st.integers(1, 2),
)

#: What the delivery tasks of a dispatch may report: as a rule all of them, sometimes some.
ends = st.fixed_dictionaries(dict.fromkeys(SINKS, end)) | st.dictionaries(
    st.sampled_from(SINKS), end, min_size=1
)

Ends = dict[str, tuple[Outcome, bool, int]]


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        """The time."""
        return self.moment

    def move(self, seconds: int) -> None:
        """Let time pass."""
        self.moment += timedelta(seconds=seconds)


class OneClaim(RuleBasedStateMachine):
    """One event, and all that can happen to its claim."""

    dispatches = Bundle("dispatches")  # claims as their winners know them
    shown = Bundle("shown")  # claims as operators read them
    found = Bundle("found")  # entries of the index as sweeps read them

    def __init__(self, client: Any, clock: Clock, pool: ThreadPoolExecutor) -> None:
        super().__init__()
        self.client = client
        self.clock = clock
        self.pool = pool
        self.claims = Claims(client, TABLE, lease=LEASE, retention_days=30)
        self.numbers = count(1)
        self.winners: dict[int, str | None] = {}  # by version
        self.tries: dict[str, dict[str, int]] = {sink: {} for sink in SINKS}
        self.delivered: set[str] = set()
        self.new = Claim(
            id=str(uuid4()),
            status=Status.PROCESSING,
            received_at=to_rfc3339(clock()),
            event_time="2026-11-20T09:30:01Z",
            interaction_id="interaction-1",
            event_type="completed",
            payload=b"{}",
            payload_sha256=payload_hash(b"{}"),
            deliveries={sink: Delivery() for sink in SINKS},
        )
        self.before = self.new
        self.too_old = clock() + timedelta(seconds=product_settings().redrive_max_age)

    def teardown(self) -> None:
        """Sweeps alone finish it, from any state. Then delete it."""
        try:
            if self.winners:
                self.sweep_until_nothing_is_due()
        finally:
            self.client.delete_item(TableName=TABLE, Key={"id": {"S": self.new.id}})

    def sweep_until_nothing_is_due(self) -> None:
        self.clock.move(LEASE)
        for _ in range(3):
            if not (overdue := self.overdue()):
                break
            [dispatch] = self.take_over_at_once(overdue[0], 1)
            self.settle([(dispatch, dict.fromkeys(SINKS, (Outcome.DELIVERED, False, 1)))])
        self.it_holds()
        assert self.claim().status is not Status.PROCESSING
        assert self.index() == {}

    # ── What the table holds ──────────────────────────────────────────────────────────────────

    def claim(self) -> Claim:
        claim = self.claims.get(self.new.id)
        assert claim is not None
        return claim

    def index(self) -> dict[str, int]:
        """Everything in the index of what is due, and when it is due."""
        items = self.client.scan(TableName=TABLE, IndexName="due")["Items"]
        return {item["id"]["S"]: int(item["due_at"]["N"]) for item in items}

    def overdue(self) -> list[Due]:
        """What a sweep or a drain would find."""
        parked = (due for sink in SINKS for due in self.claims.parked(sink))
        return [*self.claims.due(), *parked]

    # ── What workers do ───────────────────────────────────────────────────────────────────────

    def at_once(self, number: int, act: Callable[[str], Claim | None]) -> list[Claim]:
        """Let rivals act at the same moment, each under a name of its own. One wins at most."""
        barrier = Barrier(number)

        def act_as(name: str) -> Claim | None:
            barrier.wait()
            return act(name)

        names = [f"worker-{next(self.numbers)}" for _ in range(number)]
        won = [claim for claim in self.pool.map(act_as, names) if claim]
        assert len(won) <= 1, "two winners"
        for claim in won:
            assert claim.version not in self.winners, "this version has a winner already"
            self.winners[claim.version] = claim.holder
        return won

    def claim_as(self, holder: str | None) -> Claim | None:
        answer = self.claims.claim(replace(self.new, holder=holder))
        return answer.claim if isinstance(answer, Acquired) else None

    def take_over_at_once(self, seen: Due, number: int) -> list[Claim]:
        settled = seen.status is not Status.PROCESSING
        won = self.at_once(
            number,
            lambda name: self.claims.take_over(
                seen.key, seen.version, name, settled=settled, parked=seen.parked
            ),
        )
        assert not won or seen.parked or self.was_overdue()
        return won

    def was_overdue(self) -> bool:
        """Whether it was overdue after the step before."""
        due_at = self.before.due_at
        return due_at is not None and due_at <= self.clock().timestamp()

    @initialize(target=dispatches, number=rivals)
    def event_comes(self, number: int) -> Any:
        [winner] = self.at_once(number, self.claim_as)
        return winner

    @rule(target=dispatches, number=rivals)
    def event_comes_again(self, number: int) -> Any:
        won = self.at_once(number, self.claim_as)
        assert not won or self.was_overdue()
        return multiple(*won)

    @rule(target=dispatches, dispatch=dispatches)
    def message_comes_again(self, dispatch: Claim) -> Any:
        """A winner whose message is redelivered has still won, or wins again."""
        mine = self.claim_as(dispatch.holder)
        if mine is None:
            return multiple()
        assert (mine.status, mine.holder) == (Status.PROCESSING, dispatch.holder)
        assert self.winners.setdefault(mine.version, mine.holder) == mine.holder
        return mine

    @rule(target=found)
    def sweep_finds(self) -> Any:
        for due_at in self.index().values():
            self.clock.move(max(0, due_at - int(self.clock().timestamp())))
        return multiple(*self.overdue())

    @rule(target=dispatches, seen=found, number=rivals, extends=st.booleans())
    def sweeps_act(self, seen: Due, number: int, extends: bool) -> Any:
        if extends:
            self.extend_lease(seen)
        return multiple(*self.take_over_at_once(seen, number))

    def extend_lease(self, seen: Due) -> None:
        """Extend it once, if at all: after that it is not overdue."""
        overdue = self.was_overdue() and self.before.version == seen.version
        until = int(self.clock().timestamp()) + LEASE
        self.claims.extend_lease(seen.key, seen.version, until)
        claim = self.claim()
        assert (claim != self.before) == overdue
        self.clock.move(1)
        self.claims.extend_lease(seen.key, seen.version, until)
        assert self.claim() == claim
        self.before = claim

    @rule(target=shown)
    def operator_reads(self) -> Any:
        claim = self.claim()
        return multiple() if claim.status is Status.PROCESSING else claim

    @rule(target=dispatches, seen=shown, sink=st.sampled_from(SINKS), number=rivals)
    def operators_reopen(self, seen: Claim, sink: str, number: int) -> Any:
        def reopen(name: str) -> Claim | None:
            try:
                return self.claims.reopen(seen, [sink], actor="operator", holder=name)
            except ClaimInProgressError:
                return None

        return multiple(*self.at_once(number, reopen))

    @rule(reported=st.lists(st.tuples(dispatches, ends), min_size=1, max_size=2))
    def settle(self, reported: list[tuple[Claim, Ends]]) -> None:
        self.clock.move(1)

        def report(one: tuple[Claim, Ends]) -> None:
            dispatch, ended = one
            reports = [
                Report(
                    sink=sink,
                    outcome=outcome,
                    transient=transient and outcome is not Outcome.DELIVERED,
                    attempts=attempts,
                    at=to_rfc3339(self.clock()),
                )
                for sink, (outcome, transient, attempts) in ended.items()
            ]
            settle_claim(self.claims, dispatch.id, dispatch.snapshot, reports, dispatch.generation)

        list(self.pool.map(report, reported))
        for dispatch, ended in reported:
            for sink, (outcome, _, attempts) in ended.items():
                tries = self.tries[sink]
                generation = str(dispatch.generation)
                tries[generation] = max(attempts, tries.get(generation, 0))
                if outcome is Outcome.DELIVERED:
                    self.delivered.add(sink)

    # ── What holds ────────────────────────────────────────────────────────────────────────────

    @invariant()
    def it_holds(self) -> None:
        claim = self.claim()
        outcomes = {sink: delivery.outcome for sink, delivery in claim.deliveries.items()}

        # No report is ever lost; delivered is final.
        assert {sink: dict(d.tries) for sink, d in claim.deliveries.items()} == self.tries
        assert {s for s, o in outcomes.items() if o is Outcome.DELIVERED} == self.delivered

        # The status follows.
        if claim.status is not Status.PROCESSING:
            assert Outcome.PENDING not in outcomes.values()
            wanted = {0: Status.FAILED, len(SINKS): Status.COMPLETED}
            assert claim.status is wanted.get(len(self.delivered), Status.PARTIAL_FAILURE)
            assert claim.audit[-1]["status"] == claim.status

        # History only grows.
        assert claim.version >= self.before.version
        assert claim.generation >= self.before.generation
        assert claim.audit[: len(self.before.audit)] == self.before.audit
        assert verify_claim(claim) == []
        assert_chain_holds(list(claim.audit))
        if claim.audit:
            results = {r["service"]: r["success"] for r in claim.audit[-1]["downstreamResults"]}
            assert results == {sink: sink in self.delivered for sink in SINKS}

        # The index holds what is unfinished and nothing else.
        assert self.index() == ({} if claim.due_at is None else {claim.id: claim.due_at})
        if claim.status is Status.PROCESSING:
            assert claim.due_at is not None
            assert claim.holder in self.winners.values()
        else:
            transient = any(claim.deliveries[sink].transient for sink in SINKS)
            assert transient or claim.due_at is None
            assert claim.due_at or not transient or self.clock() >= self.too_old
        self.before = claim


def test_the_claim_holds_whatever_workers_do(aws_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create_table(aws_url, TABLE)
    clock = Clock()
    for module in (tasks.clock, queries, settlement, store):
        monkeypatch.setattr(module, "now", clock)
    client = aws("dynamodb", aws_url, Config(max_pool_connections=3))
    with closing(client), ThreadPoolExecutor(3) as pool:
        run_state_machine_as_test(
            lambda: OneClaim(client, clock, pool),
            settings=settings(
                max_examples=20,
                stateful_step_count=25,
                deadline=None,
                phases=[Phase.reuse, Phase.generate],  # to shrink takes minutes, on a real table
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
