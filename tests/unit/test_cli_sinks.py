import base64
import json

import pytest
import requests
from click.testing import CliRunner

from tasks.cli import sinks as cli_sinks
from tasks.delivery.client import SinkClient
from tasks.events import EventType
from tasks.settings import load
from tasks.sinks import SINKS
from tests.support.loopback import answers, sends_and_closes, sink_that

SECRET = "whsec_" + "c2VjcmV0" * 4

OAUTH = {
    "CRM_OAUTH_TOKEN_URL": "https://login.example.com/s3cr3t",
    "CRM_OAUTH_CLIENT_ID": "s3cr3t",
    "CRM_OAUTH_CLIENT_SECRET": "s3cr3t",
}
CREDENTIALS = [
    ({"CRM_BEARER_TOKEN": "s3cr3t"}, "bearer"),
    ({"CRM_BASIC_AUTH": "user:s3cr3t"}, "basic"),
    ({"CRM_API_KEY": "X-Key: s3cr3t"}, "API key"),
    (OAUTH, "OAuth"),
]


class OneToken:
    """An access token that is there."""

    def use(self, call):
        return call("s3cr3t-token"), "s3cr3t-token"


@pytest.fixture
def run(monkeypatch):
    """Run a command with these settings."""
    with requests.Session() as session:
        session.trust_env = False

        def run(command, exit_code=0, **environ):
            settings = load(environ)
            tokens = OneToken() if settings.sinks["crm"].grant else None
            client = SinkClient(settings.sinks["crm"], session, tokens)
            others = {name: SinkClient(sink, session) for name, sink in settings.sinks.items()}
            monkeypatch.setattr(cli_sinks, "settings", lambda: settings)
            monkeypatch.setattr(cli_sinks, "client_of", (others | {"crm": client}).get)
            result = CliRunner().invoke(cli_sinks.sinks, command.split())
            assert result.exit_code == exit_code, result.output
            return result

        yield run


# ── sinks list ────────────────────────────────────────────────────────────────────────────────


def test_each_sink_is_listed_with_its_policy(run):
    lines = run("list --json").stdout.splitlines()
    listed = [json.loads(line) for line in lines]
    assert [sink["sink"] for sink in listed] == list(SINKS)
    assert listed[0] == {
        "sink": "analytics",
        "endpoint": None,
        "eventTypes": [kind.value for kind in EventType],
        "policy": {
            "tries": 5,
            "backoffBase": 1,
            "backoffCap": 30,
            "retryAfterCap": 60,
            "connectTimeout": 3,
            "readTimeout": 10,
            "rate": 0,
            "concurrency": 0,
            "breakerFailures": 10,
            "breakerSeconds": 30,
        },
        "authentication": None,
        "signing": False,
        "breaker": "unknown: Redis does not answer",
    }


@pytest.mark.parametrize(("settings", "kind"), CREDENTIALS)
@pytest.mark.parametrize("command", ["list", "list --json"])
def test_how_a_sink_is_called_is_listed_without_secrets(run, command, settings, kind):
    output = run(
        command,
        CRM_ENDPOINT="https://crm.example.com:8443/s3cr3t?token=s3cr3t",
        CRM_EVENT_TYPES="completed",
        CRM_RATE="2.5",
        CRM_CONCURRENCY="7",
        CRM_HEADERS='{"X-Tenant": "s3cr3t"}',
        CRM_SIGNING_SECRETS=SECRET,
        **settings,
    ).stdout
    assert "crm.example.com" in output
    assert kind in output
    assert "2.5" in output
    assert "s3cr3t" not in output
    assert SECRET[6:] not in output


def test_a_list_fits_a_page(run):
    output = run("list", CRM_RATE="2.5", CRM_CONCURRENCY="7").stdout
    assert "2.5 calls a second, 7 at once" in output
    assert max(map(len, output.splitlines())) <= 100


# ── sinks test ────────────────────────────────────────────────────────────────────────────────


def test_a_sample_is_delivered_and_marked(run):
    with sink_that(answers("201 Created", body=b'{"id": 7}')) as sink:
        shown = json.loads(run("test crm --json", CRM_ENDPOINT=sink.url).stdout)
    (request,) = sink.requests
    assert request.headers["X-Test-Delivery"] == "true"
    assert request.headers["Idempotency-Key"].startswith("test-")
    assert request.headers["Idempotency-Key"].endswith(":crm")
    assert json.loads(request.body) == shown["request"]["body"]
    assert shown["request"]["body"]["type"] == "created"
    assert shown["request"]["headers"].items() <= dict(request.headers).items()
    assert (shown["delivered"], shown["status"], shown["error"]) == (True, 201, None)
    assert shown["response"] == '{"id": 7}'
    assert shown["ms"] >= 0


@pytest.mark.parametrize("kind", EventType)
@pytest.mark.parametrize("name", SINKS)
def test_the_sample_is_of_a_type_that_the_sink_gets(run, name, kind):
    upper = name.upper()
    with sink_that(answers("200 OK")) as sink:
        environ = {f"{upper}_ENDPOINT": sink.url, f"{upper}_EVENT_TYPES": kind.value}
        shown = json.loads(run(f"test {name} --json", **environ).stdout)
    body = shown["request"]["body"]
    assert kind in (body.get("type", kind), body.get("eventType"))
    assert body["interactionId"].startswith("test-")


@pytest.mark.parametrize(("settings", "_kind"), CREDENTIALS)
@pytest.mark.parametrize("command", ["test crm", "test crm --json"])
def test_an_exchange_is_shown_without_secrets(run, command, settings, _kind):
    headers, signing = '{"X-Tenant": "s3cr3t"}', {"CRM_SIGNING_SECRETS": SECRET}
    with sink_that(answers("200 OK", body=b"thanks, s3cr3t")) as sink:
        result = run(command, CRM_ENDPOINT=sink.url, CRM_HEADERS=headers, **signing, **settings)
    name = "X-Key" if "CRM_API_KEY" in settings else "Authorization"
    assert sink.requests[0].headers[name]
    for shown in (name, "X-Tenant", "***", "webhook-signature", "test-", "thanks, …"):
        assert shown in result.stdout
    assert "s3cr3t" not in result.stdout
    assert base64.b64encode(b"user:s3cr3t").decode() not in result.stdout


@pytest.mark.parametrize(
    ("script", "error", "status", "response"),
    [
        (answers("422 No", body=b"no such field"), "422 Unprocessable", 422, "no such field"),
        (answers("503 No"), "503 Service Unavailable", 503, ""),
        (sends_and_closes(), "connection failed: ", None, None),
    ],
)
def test_a_sample_that_is_not_taken_is_told_with_the_reason(run, script, error, status, response):
    with sink_that(script) as sink:
        shown = json.loads(run("test crm --json", exit_code=1, CRM_ENDPOINT=sink.url).stdout)
        output = run("test crm", exit_code=1, CRM_ENDPOINT=sink.url).stdout
    assert shown["delivered"] is False
    assert shown["error"].startswith(error)
    assert (shown["status"], shown["response"]) == (status, response)
    assert f"not delivered: {error}" in output
    assert (response or "") in output


def test_a_sink_that_is_nowhere_cannot_be_tested(run):
    assert "CRM_ENDPOINT: missing" in run("test crm", exit_code=1).output


def test_an_unknown_sink_is_refused(run):
    assert "analytics" in run("test billing", exit_code=2).output
