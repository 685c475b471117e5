import pytest
from celery import states
from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, WorkerLostError
from hypothesis import given

from tasks.claims import Outcome
from tasks.clock import from_rfc3339
from tasks.delivery.report import report_of
from tasks.errors import (
    ClaimNotFoundError,
    ContextMissingError,
    DeliveryError,
    ParkedError,
    StoreError,
    TransientDeliveryError,
)
from tests.support.samples import report
from tests.support.strategies import reports


def request(retries=0):
    return Context(task="deliver.crm", retries=retries, id="x.crm.1", chord=None)


@given(reports())
def test_a_delivery_that_succeeded_reports_for_itself(said):
    assert report_of(request(), states.SUCCESS, said.to_json()) == said


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        # Anybody else's text than ours may hold a URL or a part of the event.
        (ValueError("Jane-4711"), "ValueError"),
        (ConnectionError("https://crm/secret"), "ConnectionError"),
        (WorkerLostError("Worker exited prematurely: signal 9"), "WorkerLostError"),
        (SoftTimeLimitExceeded(), "SoftTimeLimitExceeded"),
        (StoreError("DynamoDB update_item: away"), "StoreError"),
        (ClaimNotFoundError("no claim of x"), "ClaimNotFoundError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_delivery_that_failed_is_reported_with_a_reason_that_is_no_secret(raised, error):
    said = report_of(request(retries=4), states.FAILURE, raised)
    known = {"outcome": Outcome.FAILED, "attempts": 5, "error": error}
    # Only a sink's refusal is for good: what else went wrong may go right another time.
    transient = not isinstance(raised, DeliveryError)
    assert said == report("crm", **known, at=said.at, transient=transient)


def test_a_delivery_whose_tries_are_used_up_may_yet_get_through():
    raised = TransientDeliveryError("503 Service Unavailable", 7.0)
    said = report_of(request(retries=4), states.FAILURE, raised)
    assert (said.outcome, said.attempts, said.transient) == (Outcome.FAILED, 5, True)
    assert said.error == "503 Service Unavailable"


def test_a_delivery_that_was_parked_made_no_call_and_may_yet_get_through():
    said = report_of(request(retries=2), states.FAILURE, ParkedError("parked: crm is down"))
    assert (said.outcome, said.attempts, said.transient) == (Outcome.PARKED, 2, True)
    assert said.error == "parked: crm is down"


def test_a_delivery_that_waits_for_its_context_made_no_call_and_is_due_again():
    raised = ContextMissingError("waits for its context: CXone has none yet")
    said = report_of(request(retries=2), states.FAILURE, raised)
    assert (said.outcome, said.attempts, said.transient) == (Outcome.FAILED, 2, True)
    assert said.error == "waits for its context: CXone has none yet"


def test_a_delivery_that_was_revoked_is_reported_as_such():
    said = report_of(request(), states.REVOKED, TaskRevokedError("revoked"))
    assert (said.outcome, said.transient) == (Outcome.REVOKED, False)
    assert said.attempts == 0
    assert said.error == "revoked by an operator"


def test_a_delivery_that_was_revoked_while_it_waited_for_its_next_try_had_made_some():
    assert report_of(request(retries=2), states.REVOKED, TaskRevokedError("x")).attempts == 2


def test_a_request_that_knows_of_no_retries_is_a_first_try():
    assert report_of(request(retries=None), states.FAILURE, DeliveryError("x")).attempts == 1


def test_the_moment_is_rfc_3339():
    said = report_of(request(), states.FAILURE, DeliveryError("x"))
    assert from_rfc3339(said.at).tzinfo is not None
    assert said.at.endswith("Z")
