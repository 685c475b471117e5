import pickle

import pytest

from tasks import errors
from tasks.errors import FieldError

# Celery's workers hand exceptions from process to process by pickling them.
RAISED = [
    errors.ProcessorError("why"),
    errors.SettingsError(["REDIS_URL: missing", "AWS_REGION: not an AWS region"]),
    errors.InvalidEventError([FieldError("id", "Missing."), FieldError("time", "Not a time.")]),
    errors.StoreError("DynamoDB put_item: ThrottlingException"),
    errors.ClaimNotFoundError("no claim of x"),
    errors.UnknownSchemaError("message schema 2; known up to 1"),
    errors.ClaimInProgressError("x is being worked on"),
    errors.IngestError("ingest takes nothing: 503 Service Unavailable"),
    errors.DeliveryError("400 Bad Request"),
    errors.ParkedError("parked: the breaker of crm is open"),
    errors.TransientDeliveryError("503 Service Unavailable"),
    errors.TransientDeliveryError("503 Service Unavailable", 12.5),
    errors.RateLimitExceededError(1.5),
    errors.ContextMissingError("waits for its context: CXone has none yet"),
    errors.TransientDeliveryError("429 Too Many Requests", 12.5, counts_as_failure=False),
]
RAISED[-1].response = '{"error": "slow down"}'


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert copy.args == error.args


def test_every_error_has_the_one_root():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    raised = {kind for kind in kinds if issubclass(kind, Exception)}
    raised.remove(errors.AttemptTimeoutError)  # raised by Celery
    assert all(issubclass(kind, errors.ProcessorError) for kind in raised)
    assert {type(error) for error in RAISED} == raised


def test_an_invalid_event_names_each_field():
    error = errors.InvalidEventError([FieldError("id", "Missing."), FieldError("time", "No time.")])
    assert str(error) == "id: Missing.; time: No time."


def test_wrong_settings_have_a_line_each():
    assert str(errors.SettingsError(["A: bad", "B: bad"])) == "A: bad\nB: bad"
