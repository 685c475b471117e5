from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.claims import Delivery, NextRetry, Outcome
from tasks.claims.codec import parked_partition, parked_partitions
from tasks.claims.outcomes import waiting
from tasks.claims.schedule import next_retry
from tasks.clock import from_rfc3339
from tasks.settings import load
from tasks.sinks import SINKS
from tests.support.samples import RECEIVED_AT, delivered, failed
from tests.support.strategies import deliveries

MAX_AGE = 100_000

SETTINGS = load(
    {"REDRIVE_SCHEDULE_SECONDS": "60,300,3600", "REDRIVE_MAX_AGE_SECONDS": str(MAX_AGE)}
)

RECEIVED = from_rfc3339(RECEIVED_AT)

FAILING = Delivery(outcome=Outcome.FAILED, error="503", transient=True)
PARKED = Delivery(outcome=Outcome.PARKED, error="parked", transient=True)
REVOKED = Delivery(outcome=Outcome.REVOKED, error="revoked")

ages = st.integers(0, 2 * MAX_AGE)


def retry(age=10, redrives=0, **by_sink):
    """When an event of this age is due, given how its deliveries stand."""
    moment = RECEIVED + timedelta(seconds=age)
    return next_retry(by_sink, RECEIVED_AT, redrives, moment, SETTINGS)


def at(age, parked_for=None):
    return NextRetry(int((RECEIVED + timedelta(seconds=age)).timestamp()), parked_for)


@pytest.mark.parametrize(
    ("by_sink", "due"),
    [
        pytest.param({}, None, id="no-sink-wants-it"),
        pytest.param({"crm": delivered()}, None, id="delivered"),
        pytest.param({"crm": failed()}, None, id="failed-for-good"),
        pytest.param({"crm": REVOKED, "analytics": failed()}, None, id="revoked"),
        pytest.param({"crm": FAILING}, at(70), id="failing"),
        pytest.param({"crm": FAILING, "analytics": failed()}, at(70), id="failing-and-failed"),
        pytest.param({"crm": PARKED}, at(3610, "crm"), id="parked"),
        pytest.param(
            {"crm": PARKED, "analytics": failed(), "compliance": delivered()},
            at(3610, "crm"),
            id="parked-and-settled",
        ),
        pytest.param(
            {"crm": PARKED, "analytics": PARKED}, at(3610, "analytics+crm"), id="parked-for-two"
        ),
        pytest.param({"crm": PARKED, "analytics": FAILING}, at(70), id="parked-and-failing"),
    ],
)
def test_what_may_yet_get_through_is_due_again(by_sink, due):
    assert retry(**by_sink) == due


@pytest.mark.parametrize(
    ("redrives", "wait"), [(0, 60), (1, 300), (2, 3600), (3, 3600), (1000, 3600)]
)
def test_the_schedule_is_gone_through_and_its_last_wait_repeats(redrives, wait):
    assert retry(10, redrives, crm=FAILING) == at(10 + wait)


@pytest.mark.parametrize("delivery", [FAILING, PARKED], ids=["failing", "parked"])
@pytest.mark.parametrize(
    ("age", "due"), [(MAX_AGE - 1, MAX_AGE), (MAX_AGE, None), (MAX_AGE + 1, None)]
)
def test_the_last_try_is_at_the_age_limit(delivery, age, due):
    appointed = retry(age, 0, crm=delivery)
    assert (appointed and appointed.at) == (due and at(due).at)


def test_a_parked_delivery_waits_longest_in_any_position():
    settings = load({"REDRIVE_SCHEDULE_SECONDS": "10,500,20"})
    found = next_retry({"crm": PARKED}, RECEIVED_AT, 2, RECEIVED, settings)
    assert found == at(500, "crm")


many = st.dictionaries(st.sampled_from(sorted(SINKS)), deliveries(), max_size=3)


@given(many, ages, st.integers(0, 20))
def test_only_what_is_transient_and_not_too_old_is_due(by_sink, age, redrives):
    appointed = retry(age, redrives, **by_sink)
    assert (appointed is not None) == (bool(waiting(by_sink)) and age < MAX_AGE)


@given(many, ages, st.integers(0, 20))
def test_a_next_retry_is_in_the_future_within_the_age_limit(by_sink, age, redrives):
    appointed = retry(age, redrives, **by_sink)
    assume(appointed)
    assert at(age).at < appointed.at <= at(MAX_AGE).at
    assert appointed.at <= at(age + 3600).at


@given(many, st.integers(0, MAX_AGE - 1), st.integers(0, 20), st.integers(0, 20))
def test_one_more_redrive_is_never_followed_by_a_shorter_wait(by_sink, age, one, more):
    assume(waiting(by_sink))
    sooner, later = retry(age, one, **by_sink), retry(age, one + more, **by_sink)
    assert sooner.at <= later.at


@given(many, st.integers(0, MAX_AGE - 1))
def test_a_parked_event_is_in_the_partition_of_each_sink(by_sink, age):
    assume(waiting(by_sink))
    partition = retry(age, **by_sink).parked_for
    looking = {sink for sink in SINKS if partition in set(parked_partitions(sink))}
    outcomes = {by_sink[sink].outcome for sink in waiting(by_sink)}
    assert looking == (set(waiting(by_sink)) if outcomes == {Outcome.PARKED} else set())


def test_a_partition_has_one_name():
    assert parked_partition(["crm", "analytics"]) == parked_partition(["analytics", "crm"])
    assert len(set(parked_partitions("crm"))) == len(list(parked_partitions("crm"))) == 4
