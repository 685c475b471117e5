import json

import pytest

from tasks.delivery.context import context_in, endpoint_in
from tasks.delivery.http import Response
from tasks.errors import DeliveryError, TransientDeliveryError

CONTACT = {"contactId": "interaction-1", "firstName": "Jané"}


def answer(status=200, said=None, *, whole=True):
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    return Response(status, None, body, whole)


def refusal_of(function, *arguments, **options):
    with pytest.raises(DeliveryError) as raised:
        function(*arguments, **options)
    assert "Jan" not in str(raised.value)
    assert "interaction-1" not in str(raised.value)
    return raised.value


# ── Contexts ──────────────────────────────────────────────────────────────────────────────────


def test_a_context_is_the_object_that_is_answered():
    assert context_in(answer(200, CONTACT), "") == CONTACT


@pytest.mark.parametrize(
    ("given", "how"),
    [
        (answer(404, CONTACT), "404 Not Found"),
        (answer(404, b"<html>"), "404 Not Found"),
        (answer(204, b""), "an empty answer"),
        (answer(200, b""), "an empty answer"),
        (answer(200, b" \r\n"), "an empty answer"),
        (answer(200, {}), "an empty answer"),
    ],
)
def test_data_that_lags_is_none_yet(given, how):
    error = refusal_of(context_in, given, "")
    assert isinstance(error, TransientDeliveryError)
    assert not error.counts_as_failure
    assert str(error) == f"CXone has none yet: {how}"


@pytest.mark.parametrize(("status", "reason"), [(401, "401 Unauthorized"), (403, "403 Forbidden")])
def test_a_refusal_of_the_credentials_names_their_settings(status, reason):
    error = refusal_of(context_in, answer(status, CONTACT), "CXONE_SCOPE")
    assert type(error) is DeliveryError
    assert str(error) == f"CXone: {reason} (see CXONE_SCOPE)"


@pytest.mark.parametrize("status", [400, 405, 301])
def test_any_other_refusal_names_where_it_was_asked(status):
    error = refusal_of(context_in, answer(status, CONTACT), "CXONE_SCOPE")
    assert type(error) is DeliveryError
    assert str(error).endswith("(see CXONE_API_URL, CXONE_CONTACT_PATH)")


@pytest.mark.parametrize(
    "given",
    [
        answer(200, b"<html>"),
        answer(200, [CONTACT]),
        answer(200, "Jane"),
        answer(200, b"null"),
        answer(200, b'{"n": NaN}'),
        answer(200, rb'{"half": "\ud83d"}'),
        answer(200, b'{"a": "\xff"}'),
        answer(200, b"[" * 60_000),
        answer(200, CONTACT, whole=False),
    ],
)
def test_what_could_not_be_passed_on_is_no_context(given):
    error = refusal_of(context_in, given, "")
    assert type(error) is DeliveryError
    assert str(error) == "CXone: the answer is no JSON object (see CXONE_CONTACT_PATH)"


# ── Discovery ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("url", ["https://api.example.com", "http://127.0.0.1:1/x"])
def test_an_endpoint_is_read(url):
    assert endpoint_in(answer(200, {"api_endpoint": url}), "api_endpoint", allow_http=False) == url


def test_an_endpoint_by_http_can_be_allowed():
    said = answer(200, {"api_endpoint": "http://h"})
    assert endpoint_in(said, "api_endpoint", allow_http=True) == "http://h"


@pytest.mark.parametrize(
    "given",
    [
        answer(200, {}),
        answer(200, []),
        answer(200, b""),
        answer(200, {"api_endpoint": None}),
        answer(200, {"api_endpoint": "api"}),
        answer(200, {"api_endpoint": "http://h"}),
        answer(200, {"api_endpoint": "https://user:pw@h"}),
        answer(404, {"api_endpoint": "https://h"}),
        answer(302, {"api_endpoint": "https://h"}),
    ],
)
def test_what_no_secret_may_be_sent_to_is_no_endpoint(given):
    error = refusal_of(endpoint_in, given, "api_endpoint", allow_http=False)
    assert type(error) is DeliveryError
    assert str(error) == (
        f"CXone: api_endpoint is not discovered, {given.status} "
        "(see CXONE_DISCOVERY_URL, CXONE_TENANT_ID)"
    )
