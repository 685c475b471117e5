import json

import pytest

from tasks.delivery.context import context_in, endpoint_in
from tasks.delivery.http import Response
from tasks.errors import DeliveryError, TransientDeliveryError

CONTACT = {"contactId": "interaction-1", "firstName": "Jané"}


def response(status=200, value=None, *, whole=True):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Response(status, None, body, whole)


def error_of(function, *arguments, **options):
    with pytest.raises(DeliveryError) as raised:
        function(*arguments, **options)
    assert "Jan" not in str(raised.value)
    assert "interaction-1" not in str(raised.value)
    return raised.value


# ── Contexts ──────────────────────────────────────────────────────────────────────────────────


def test_a_context_is_the_object_in_the_response():
    assert context_in(response(200, CONTACT), "") == CONTACT


@pytest.mark.parametrize(
    ("given", "how"),
    [
        (response(404, CONTACT), "404 Not Found"),
        (response(404, b"<html>"), "404 Not Found"),
        (response(204, b""), "an empty answer"),
        (response(200, b""), "an empty answer"),
        (response(200, b" \r\n"), "an empty answer"),
        (response(200, {}), "an empty answer"),
    ],
)
def test_lagging_data_is_a_transient_error(given, how):
    error = error_of(context_in, given, "")
    assert isinstance(error, TransientDeliveryError)
    assert not error.counts_as_failure
    assert str(error) == f"CXone has none yet: {how}"


@pytest.mark.parametrize(("status", "reason"), [(401, "401 Unauthorized"), (403, "403 Forbidden")])
def test_refused_credentials_name_their_settings(status, reason):
    error = error_of(context_in, response(status, CONTACT), "CXONE_SCOPE")
    assert type(error) is DeliveryError
    assert str(error) == f"CXone: {reason} (see CXONE_SCOPE)"


@pytest.mark.parametrize("status", [400, 405, 301])
def test_any_other_refusal_names_the_urls_settings(status):
    error = error_of(context_in, response(status, CONTACT), "CXONE_SCOPE")
    assert type(error) is DeliveryError
    assert str(error).endswith("(see CXONE_API_URL, CXONE_CONTACT_PATH)")


@pytest.mark.parametrize(
    "given",
    [
        response(200, b"<html>"),
        response(200, [CONTACT]),
        response(200, "Jane"),
        response(200, b"null"),
        response(200, b'{"n": NaN}'),
        response(200, rb'{"half": "\ud83d"}'),
        response(200, b'{"a": "\xff"}'),
        response(200, b"[" * 60_000),
        response(200, CONTACT, whole=False),
    ],
)
def test_what_is_no_json_object_is_no_context(given):
    error = error_of(context_in, given, "")
    assert type(error) is DeliveryError
    assert str(error) == "CXone: the answer is no JSON object (see CXONE_CONTACT_PATH)"


# ── Discovery ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("url", ["https://api.example.com", "http://127.0.0.1:1/x"])
def test_an_endpoint_is_read(url):
    assert (
        endpoint_in(response(200, {"api_endpoint": url}), "api_endpoint", allow_http=False) == url
    )


def test_an_http_endpoint_can_be_allowed():
    value = response(200, {"api_endpoint": "http://h"})
    assert endpoint_in(value, "api_endpoint", allow_http=True) == "http://h"


@pytest.mark.parametrize(
    "given",
    [
        response(200, {}),
        response(200, []),
        response(200, b""),
        response(200, {"api_endpoint": None}),
        response(200, {"api_endpoint": "api"}),
        response(200, {"api_endpoint": "http://h"}),
        response(200, {"api_endpoint": "https://user:pw@h"}),
        response(404, {"api_endpoint": "https://h"}),
        response(302, {"api_endpoint": "https://h"}),
    ],
)
def test_an_unsafe_or_missing_endpoint_is_refused(given):
    error = error_of(endpoint_in, given, "api_endpoint", allow_http=False)
    assert type(error) is DeliveryError
    assert str(error) == (
        f"CXone: api_endpoint is not discovered, {given.status} "
        "(see CXONE_DISCOVERY_URL, CXONE_TENANT_ID)"
    )
