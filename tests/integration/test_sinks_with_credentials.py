"""Sinks that require authentication; credentials are in no log and no task event."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from embedded.sinks import SampleSinks
from tests.support.envelopes import envelope
from tests.support.system import System
from tests.support.token_server import TokenServer

BEARER, CLIENT_SECRET = "bearer-s3cr3t", "client-s3cr3t"

SIGNING = f"whsec_{base64.b64encode(b's3cr3t' * 5).decode()}"


@pytest.fixture(scope="module")
def tokens() -> Iterator[TokenServer]:
    """The token endpoint of the CRM."""
    with TokenServer() as server:
        yield server


@pytest.fixture(scope="module")
def system(
    aws_url: str,
    sample_sinks: SampleSinks,
    tokens: TokenServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """A system whose sinks have different credentials."""
    settings = {
        "ANALYTICS_BEARER_TOKEN": BEARER,
        "ANALYTICS_HEADERS": '{"X-Tenant": "acme"}',
        "CRM_OAUTH_TOKEN_URL": f"{tokens.url}/token",
        "CRM_OAUTH_CLIENT_ID": "cxone",
        "CRM_OAUTH_CLIENT_SECRET": CLIENT_SECRET,
        "CRM_SIGNING_SECRETS": SIGNING,
        "COMPLIANCE_EVENT_TYPES": "completed",
    }
    folder: Path = tmp_path_factory.mktemp("credentials")
    with System(folder, aws_url=aws_url, sinks=sample_sinks, **settings) as system:
        yield system


def assert_no_secret_in_the_output(system: System) -> None:
    """Neither in logs nor in task events."""
    output = system.worker.logs() + json.dumps(system.task_events.all(), default=str)
    for private in (BEARER, CLIENT_SECRET, SIGNING.removeprefix("whsec_"), "token-1"):
        assert private not in output


def test_each_sink_gets_its_own_credentials(
    system: System, sinks: SampleSinks, tokens: TokenServer
) -> None:
    claim = system.settle(envelope("routed"))
    assert {sink: d.outcome for sink, d in claim.deliveries.items()} == {
        "analytics": "delivered",
        "crm": "delivered",
    }
    (analytics,) = sinks.received("analytics", f"{claim.id}:analytics")
    assert analytics.headers["Authorization"] == f"Bearer {BEARER}"
    assert analytics.headers["X-Tenant"] == "acme"
    (crm,) = sinks.received("crm", f"{claim.id}:crm")
    assert crm.headers["Authorization"] == f"Bearer {tokens.newest}"
    sent = json.dumps(crm.body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert Webhook(SIGNING).verify(sent, dict(crm.headers)) == crm.body
    assert_no_secret_in_the_output(system)


def test_a_refused_token_request_names_the_settings(
    system: System, sinks: SampleSinks, tokens: TokenServer
) -> None:
    system.broker.client.delete(*system.broker.client.keys("oauth.crm.*"))
    tokens.response = (401, {}, {"error": "invalid_client", "hint": CLIENT_SECRET})
    claim = system.settle(envelope("routed"))
    tokens.response = None
    assert claim.status == "partial_failure"
    error = str(claim.deliveries["crm"].error)
    assert error.startswith("no access token: 401 Unauthorized, invalid_client (see CRM_OAUTH_")
    assert sinks.received("crm", f"{claim.id}:crm") == []
    assert_no_secret_in_the_output(system)
