import pytest
from celery import Celery, states
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.exceptions import Retry, SoftTimeLimitExceeded, TaskRevokedError, WorkerLostError
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
from tasks.worker.chord_backend import SettlingBackend, join_chord
from tests.support.samples import report
from tests.support.strategies import reports


def request(retries=0):
    return Context(task="deliver.crm", retries=retries, id="x.crm.1", chord=None)


@given(reports())
def test_a_delivery_that_succeeded_is_its_own_report(made):
    assert report_of(request(), states.SUCCESS, made.to_json()) == made


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        # The text of an error of a library may contain a URL or a part of the event.
        (ValueError("Jane-4711"), "ValueError"),
        (ConnectionError("https://crm/secret"), "ConnectionError"),
        (WorkerLostError("Worker exited prematurely: signal 9"), "WorkerLostError"),
        (SoftTimeLimitExceeded(), "SoftTimeLimitExceeded"),
        (StoreError("DynamoDB update_item: away"), "StoreError"),
        (ClaimNotFoundError("no claim of x"), "ClaimNotFoundError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_failed_delivery_reports_a_reason_without_secrets(raised, error):
    made = report_of(request(retries=4), states.FAILURE, raised)
    known = {"outcome": Outcome.FAILED, "attempts": 5, "error": error}
    # Only a sink's rejection is permanent: any other error may not happen again.
    transient = not isinstance(raised, DeliveryError)
    assert made == report("crm", **known, at=made.at, transient=transient)


def test_a_delivery_out_of_retries_is_transient():
    raised = TransientDeliveryError("503 Service Unavailable", 7.0)
    made = report_of(request(retries=4), states.FAILURE, raised)
    assert (made.outcome, made.attempts, made.transient) == (Outcome.FAILED, 5, True)
    assert made.error == "503 Service Unavailable"


def test_a_parked_delivery_made_no_call_and_is_transient():
    made = report_of(request(retries=2), states.FAILURE, ParkedError("parked: crm is down"))
    assert (made.outcome, made.attempts, made.transient) == (Outcome.PARKED, 2, True)
    assert made.error == "parked: crm is down"


def test_a_delivery_without_context_made_no_call():
    raised = ContextMissingError("waits for its context: CXone has none yet")
    made = report_of(request(retries=2), states.FAILURE, raised)
    assert (made.outcome, made.attempts, made.transient) == (Outcome.FAILED, 2, True)
    assert made.error == "waits for its context: CXone has none yet"


def test_a_revoked_delivery_reports_that():
    made = report_of(request(), states.REVOKED, TaskRevokedError("revoked"))
    assert (made.outcome, made.transient) == (Outcome.REVOKED, False)
    assert made.attempts == 0
    assert made.error == "revoked by an operator"


def test_a_delivery_revoked_before_a_retry_counts_attempts():
    assert report_of(request(retries=2), states.REVOKED, TaskRevokedError("x")).attempts == 2


def test_a_request_without_retries_is_a_first_attempt():
    assert report_of(request(retries=None), states.FAILURE, DeliveryError("x")).attempts == 1


def test_the_time_of_a_report_is_rfc_3339():
    made = report_of(request(), states.FAILURE, DeliveryError("x"))
    assert from_rfc3339(made.at).tzinfo is not None
    assert made.at.endswith("Z")


class Backend(SettlingBackend):
    """Records the parts of chords instead of counting them in Redis."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.parts = []

    def on_chord_part_return(self, request, state, result, **_):
        self.parts.append((request.group, request.chord, state, result))


@pytest.fixture
def app():
    app = Celery("test", broker="memory://", set_as_current=False)
    app.conf.update(task_ignore_result=True, result_backend=f"{__name__}:Backend+redis://")
    return app


ERROR = DeliveryError("400 Bad Request")


@pytest.mark.parametrize(
    ("end", "part"),
    [
        (lambda _: "report", (states.SUCCESS, "report")),
        (lambda task: task.fail(), (states.FAILURE, ERROR)),
        (lambda task: task.try_again(), None),
    ],
    ids=["success", "failure", "retry"],
)
def test_the_end_of_a_task_that_joined_a_chord_is_a_part(app, end, part):
    """The contract with Celery's tracer that ``join_chord`` relies on."""
    body = app.signature("settle", args=("key",), headers={"chord_size": 1})

    class Deliver(app.Task):
        name = "deliver.test"
        throws = (DeliveryError,)

        def run(self):
            join_chord(self.request, body, "group-1")
            return end(self)

        def fail(self):
            raise ERROR

        def try_again(self):
            raise Retry("503")

    task = app.register_task(Deliver())
    build_tracer(task.name, task, app=app)("id", (), {}, {"chord": None, "group": None})
    assert app.backend.parts == ([("group-1", body, *part)] if part else [])
