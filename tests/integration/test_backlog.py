"""A large backlog of overdue claims: sweeps take it over at a limited rate, each claim once."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from embedded.stubs.sinks import SampleSinks
from tasks.claims import Claims
from tasks.claims.codec import due_bucket
from tasks.claims.intake import read_event
from tasks.events import MetadataRules
from tasks.events.metadata import SHIPPED
from tests.support.envelopes import SINKS, envelope
from tests.support.system import System
from tests.support.waiting import eventually

OVERDUE = 1_000

#: Claims that one sweep takes over, at most: one a second until the next.
SHARE = 200

#: Entries per page; DynamoDB's own limit is a megabyte.
PAGE = 50


@pytest.fixture(scope="module")
def sweeping_system(
    aws_url: str, sample_sinks: SampleSinks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A system whose worker only runs sweeps, when a test sends them."""
    folder = tmp_path_factory.mktemp("backlog")
    settings = {"SWEEP_RATE": "1", "SWEEP_INTERVAL_SECONDS": str(SHARE)}
    system = System(folder, aws_url=aws_url, sinks=sample_sinks, **settings)
    system.worker = system.make_worker("worker", "-Q", "sweep")
    with system:
        yield system


@pytest.fixture
def system(sweeping_system: System) -> System:
    """The same."""
    return sweeping_system


@pytest.fixture(scope="module")
def backlog(sweeping_system: System) -> set[str]:
    """The keys of overdue claims; there is one more claim, which is not overdue."""
    system, event = sweeping_system, envelope()
    rules = MetadataRules.from_file(SHIPPED, "prod")
    claim, _ = read_event(rules, event["id"], event, "2026-11-20T09:30:02.000Z", holder="gone")
    system.claims.claim(claim)
    item = {**system.item(claim.id), "dispatched_at": {"N": "1"}, "due_at": {"N": "601"}}
    keys = [str(uuid4()) for _ in range(OVERDUE)]
    copies = [{**item, "id": {"S": key}, "due_bucket": {"S": due_bucket(key)}} for key in keys]
    puts = [{"PutRequest": {"Item": copy}} for copy in copies]
    with closing(system.client("dynamodb")) as dynamodb:
        for start in range(0, OVERDUE, 25):
            dynamodb.batch_write_item(RequestItems={system.table: puts[start : start + 25]})
    return set(keys)


def test_due_claims_are_read_page_by_page(system: System, backlog: set[str]) -> None:
    pages = 0

    def limit_page(params: dict[str, Any], **_: Any) -> None:
        nonlocal pages
        pages += 1
        params["Limit"] = PAGE

    with closing(system.client("dynamodb")) as dynamodb:
        dynamodb.meta.events.register("provide-client-params.dynamodb.Query", limit_page)
        due = Claims(dynamodb, system.table, lease=600, retention_days=30).due()
        keys = [entry.key for entry in islice(due, PAGE + 1)]
        assert pages == 2, "no page was read in advance"
        keys += [entry.key for entry in due]
    assert Counter(keys) == dict.fromkeys(backlog, 1)


def test_sweeps_take_over_at_a_rate_and_each_claim_once(
    system: System, backlog: set[str], app: Celery
) -> None:
    taken = sweep(system, app, "alone")
    assert taken == [SHARE]
    assert system.broker.client.llen("deliver.crm") == SHARE
    assert f"took over {SHARE} claims; more are overdue, for the next sweep" in system.worker.logs()

    while sum(taken) < OVERDUE:  # as with two beats
        taken += sweep(system, app, *(f"{len(taken)}-{beat}" for beat in range(2)))
    assert sum(taken) == OVERDUE
    assert max(taken) == SHARE
    for sink in SINKS:
        assert Counter(dispatched(system, sink)) == dict.fromkeys(
            (f"{key}.{sink}.2" for key in backlog), 1
        )
    [left] = system.due() - backlog
    assert system.claim(left).generation == 1, "it was not overdue"


def sweep(system: System, app: Celery, *task_ids: str) -> list[int]:
    """Run sweeps concurrently; return how many claims each took over, by its log."""
    for task_id in task_ids:
        app.send_task("sweep", task_id=task_id)

    def ended() -> list[int]:
        logged = re.findall(r"sweep\[(.+?)\] succeeded .*'takenOver': (\d+)", system.worker.logs())
        return [int(number) for task_id, number in logged if task_id in task_ids]

    eventually(lambda: len(ended()) == len(task_ids), 90, "the sweeps end")
    return ended()


def dispatched(system: System, sink: str) -> list[str]:
    """Return the ids of the tasks in the queue of a sink."""
    messages = map(json.loads, system.broker.client.lrange(f"deliver.{sink}", 0, -1))
    return [message["headers"]["id"] for message in messages]
