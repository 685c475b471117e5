from pathlib import Path

import pytest

from tasks import sinks
from tasks.events import parse_detail
from tasks.sinks import SINKS, Policy
from tests.support.samples import EVENT_ID, FULL_METADATA, RECEIVED_AT, STAGES, TIME, make_detail

PLACES = {path.stem for path in Path(sinks.__file__).parent.glob("*.py")} - {"__init__", "base"}


def test_each_sink_is_the_file_of_its_name():
    assert list(SINKS) == ["analytics", "crm", "compliance"]
    assert set(SINKS) == PLACES
    assert all(sink.name == name for name, sink in SINKS.items())


def body(sink, stage, received_at=RECEIVED_AT):
    return SINKS[sink].body(parse_detail(make_detail(stage)).event, received_at)


@pytest.mark.parametrize("stage", STAGES)
def test_analytics_gets_type_and_time(stage):
    assert body("analytics", stage) == {
        "eventType": stage,
        "interactionId": "interaction-1",
        "timestamp": TIME,
    }


@pytest.mark.parametrize("stage", STAGES)
def test_crm_gets_the_whole_typed_event(stage):
    own = FULL_METADATA[stage]
    if stage == "created":
        own = {"channel": "voice", "initialQueue": "billing"}
    assert body("crm", stage) == {
        "type": stage,
        "interactionId": "interaction-1",
        "timestamp": TIME,
        "accountId": "account-1",
        **own,
    }


@pytest.mark.parametrize("stage", STAGES)
def test_compliance_gets_the_time_of_receipt(stage):
    assert body("compliance", stage) == {
        "interactionId": "interaction-1",
        "archivedAt": RECEIVED_AT,
    }


@pytest.mark.parametrize("sink", SINKS)
def test_body_is_the_same_on_every_attempt(sink):
    assert body(sink, "routed") == body(sink, "routed")


@pytest.mark.parametrize(
    ("sink", "task", "variable"),
    [
        ("analytics", "deliver.analytics", "ANALYTICS_ENDPOINT"),
        ("crm", "deliver.crm", "CRM_ENDPOINT"),
        ("compliance", "deliver.compliance", "COMPLIANCE_ENDPOINT"),
    ],
)
def test_names_follow_from_the_sink(sink, task, variable):
    assert SINKS[sink].task_name == task
    assert SINKS[sink].endpoint_variable == variable
    assert SINKS[sink].idempotency_key(EVENT_ID) == f"{EVENT_ID}:{sink}"
    assert SINKS[sink].idempotency_key(f"{EVENT_ID}@june") == f"{EVENT_ID}@june:{sink}"


def test_attempt_timeout_is_the_sum_of_both_timeouts():
    assert Policy(connect_timeout=3, read_timeout=10).attempt_timeout == 13


@pytest.mark.parametrize("sink", SINKS.values(), ids=list(SINKS))
def test_policy_retries_well_within_the_lease(sink):
    policy = sink.policy
    assert policy.max_attempts > 1
    assert 0 < policy.backoff_base <= policy.backoff_cap
    max_wait = max(policy.backoff_cap, policy.retry_after_cap)
    assert policy.max_attempts * (policy.attempt_timeout + max_wait) < 600
