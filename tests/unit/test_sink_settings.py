import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import SettingsError
from tasks.events import EventType
from tasks.settings import Role, load
from tasks.settings.environment import Reader
from tasks.settings.sink_table import documented, variables_of
from tasks.settings.sinks import read_sink
from tasks.sinks import SINKS, Policy, Sink
from tests.support.certificates import Authority
from tests.support.samples import attempt


def secret_of(size):
    return f"whsec_{base64.b64encode(bytes(size)).decode()}"


#: The end of a policy's variable → its part, good values and bad ones.
POLICY = {
    "MAX_TRIES": ("max_attempts", ["1", "20"], ["0", "21", "1.5"]),
    "BACKOFF_BASE_SECONDS": ("backoff_base", ["1", "30"], ["0", "3601", "1.5"]),
    "BACKOFF_CAP_SECONDS": ("backoff_cap", ["1", "59"], ["0", "3601"]),
    "RETRY_AFTER_CAP_SECONDS": ("retry_after_cap", ["1", "59"], ["0", "3601"]),
    "CONNECT_TIMEOUT_SECONDS": ("connect_timeout", ["1", "9"], ["0", "301"]),
    "READ_TIMEOUT_SECONDS": ("read_timeout", ["1", "40"], ["0", "301"]),
    "RATE": ("rate", ["0", "0.5", "10", "10000"], ["-1", "10001", "1e3", "fast", ".5", "nan"]),
    "CONCURRENCY": ("concurrency", ["0", "1", "10000"], ["-1", "10001", "1.5"]),
    "BREAKER_FAILURES": ("breaker_failures", ["1", "1000"], ["0", "1001"]),
    "BREAKER_SECONDS": ("breaker_seconds", ["1", "3600"], ["0", "3601"]),
}

#: The end of any other variable → good values and bad ones. Files have tests of their own.
OTHERS = {
    "ENDPOINT": (
        ["http://127.0.0.1", "https://h:8443/a?b=c", "HTTPS://H/", "http://[::1]:80/"],
        [
            "crm.example.com",
            "ftp://h/",
            "http://",
            "http:///x",
            "http://h:0/",
            "http://h:x/",
            "http://user:pw@h/",
            "http://user@h/",
            "http://a..b/",
            "http://two words/",
        ],
    ),
    "EVENT_TYPES": (
        ["created", "created,routed", " created , abandoned ", "transfer,transfer"],
        ["transferred", "created;routed", "created,", ",", "CREATED"],
    ),
    "HEADERS": (
        ["{}", '{"X-Tenant": "acme"}', '{"x-a": "b", "User-Agent": "c d"}'],
        [
            "X-Tenant: acme",
            '["X-Tenant"]',
            '"X-Tenant"',
            '{"X-Tenant": 1}',
            '{"X-Tenant": null}',
            '{"X-Tenant": ""}',
            '{"": "acme"}',
            '{"X Tenant": "acme"}',
            '{"X-Tenant:": "acme"}',
            '{"X-Tenant": "acme\\r\\nHost: h"}',
            '{"X-Tenant": " acme"}',
            '{"X-Tenant": "acmé"}',
            '{"X-Tenant": "a", "x-tenant": "b"}',
            "[" * 100_000,
            *(
                json.dumps({name: "x"})
                for name in (
                    "Idempotency-Key",
                    "idempotency-key",
                    "CONTENT-TYPE",
                    "Content-Length",
                    "Transfer-Encoding",
                    "Host",
                    "Authorization",
                    "webhook-id",
                    "Webhook-Signature",
                )
            ),
        ],
    ),
    "BEARER_TOKEN": (["t0ken", "a.b-c_d=="], ["two words", "schlüssel"]),
    "BASIC_AUTH": (["user:pw", "us:er:pw", "usér:two words"], ["user", "user:", ":pw", "u:p\tw"]),
    "API_KEY": (
        ["X-Api-Key: k", "x-api-key:k", "Authorization: ApiKey k"],
        ["k", "X-Api-Key", "X-Api-Key:", ": k", "X Api Key: k", "Host: h", "webhook-id: k"],
    ),
    "OAUTH_CLIENT_ID": ([], ["cx\tone"]),
    "OAUTH_CLIENT_SECRET": ([], ["s3cr\tt"]),
    "OAUTH_SCOPE": ([], ["events\nwrite"]),
    "OAUTH_TOKEN_URL": ([], ["login.example.com", "https://user:pw@h/"]),
    "SIGNING_SECRETS": (
        [secret_of(24), secret_of(64), f"{secret_of(32)},{secret_of(32)}"],
        [
            "whsec_",
            secret_of(23),
            secret_of(65),
            secret_of(32).removeprefix("whsec_"),
            secret_of(32) + ",",
            secret_of(32)[:-1],
            secret_of(32).replace("A", "_"),
        ],
    ),
    "CA_FILE": ([], ["/nowhere/ca.pem", "/dev/null", "/"]),
}
NAMES = [variable.name for variable in variables_of(SINKS["crm"]).values()]


def crm(environ):
    """The settings of the CRM sink, and the problems with them."""
    reader = Reader({f"CRM_{name}": value for name, value in environ.items()}, None)
    settings = read_sink(SINKS["crm"], reader, allow_http=False)
    return settings, reader.problems


def cases(table, which):
    return [
        pytest.param(name, value, id=f"{name}={value[:40]}")
        for name, row in table.items()
        for value in row[which]
    ]


def test_tables_have_every_variable():
    files = {"CLIENT_CERT_FILE", "CLIENT_KEY_FILE"}
    assert {f"CRM_{name}" for name in {*POLICY, *OTHERS, *files}} == set(NAMES)


@pytest.mark.parametrize(("name", "value"), cases(POLICY, 1))
def test_policy_can_be_set(name, value):
    settings, problems = crm({name: value})
    assert problems == []
    assert getattr(settings.policy, POLICY[name][0]) == float(value)


@pytest.mark.parametrize(("name", "value"), cases(OTHERS, 0))
def test_good_value_is_accepted(name, value):
    assert crm({name: value})[1] == []


@pytest.mark.parametrize(("name", "value"), [*cases(POLICY, 2), *cases(OTHERS, 1)])
def test_bad_value_is_refused_with_an_example(name, value):
    (problem,) = crm({name: value})[1]
    assert problem.startswith(f"CRM_{name}: ")
    assert "; expected, for example: " in problem


def test_absent_settings_are_as_declared():
    sink = Sink(
        name="billing",
        body=dict,
        event_types=frozenset({EventType.COMPLETED}),
        policy=Policy(max_attempts=8, rate=2.5, breaker_failures=3),
        headers={"X-Tenant": "acme"},
    )
    reader = Reader({"BILLING_MAX_TRIES": "3"}, None)
    settings = read_sink(sink, reader, allow_http=False)
    assert reader.problems == []
    assert settings.policy == Policy(max_attempts=3, rate=2.5, breaker_failures=3)
    assert settings.event_types == sink.event_types
    assert settings.headers == sink.headers


def test_wrong_declarations_are_reported_like_settings():
    policy = Policy(max_attempts=0, rate=-1, breaker_seconds=0)
    sink = Sink(
        name="billing", body=dict, event_types=frozenset(), policy=policy, headers={"Host": "h"}
    )
    reader = Reader({}, None)
    read_sink(sink, reader, allow_http=False)
    named = [problem.partition(":")[0] for problem in reader.problems]
    assert named == [
        "BILLING_EVENT_TYPES",
        "BILLING_MAX_TRIES",
        "BILLING_RATE",
        "BILLING_BREAKER_SECONDS",
        "BILLING_HEADERS",
    ]


@pytest.mark.parametrize("name", ["", "CRM", "my-crm", "my crm", "2nd", "crm.eu", "crmé"])
def test_name_that_cannot_be_part_of_a_variable_is_refused(name):
    with pytest.raises(ValueError, match="a sink's name"):
        Sink(name=name, body=dict)


def test_values_are_typed():
    settings, _ = crm(
        {
            "EVENT_TYPES": "completed, abandoned",
            "HEADERS": '{"X-Tenant": "acme"}',
            "RATE": "0.5",
            "API_KEY": "X-Api-Key: k:1",
        }
    )
    assert settings.event_types == {EventType.COMPLETED, EventType.ABANDONED}
    assert settings.headers == {"X-Tenant": "acme"}
    assert settings.policy.rate == 0.5
    assert (settings.credential.header, settings.credential.value) == ("X-Api-Key", "k:1")


def test_missing_endpoint_raises_when_it_is_used():
    with pytest.raises(SettingsError, match=r"^CRM_ENDPOINT: missing$"):
        _ = crm({})[0].endpoint


def test_endpoint_is_kept_unchanged():
    assert crm({"ENDPOINT": "HTTPS://H/a?b=c"})[0].endpoint == "HTTPS://H/a?b=c"


def test_sink_gets_the_event_types_that_are_set():
    settings = load({"CRM_EVENT_TYPES": "completed", "ANALYTICS_EVENT_TYPES": "created"})
    assert settings.wanted_by(EventType.COMPLETED) == ["crm", "compliance"]
    assert settings.wanted_by(EventType.CREATED) == ["analytics", "compliance"]
    assert settings.wanted_by(EventType.ROUTED) == ["compliance"]


@pytest.mark.parametrize("event_type", EventType)
def test_all_three_get_every_event_type(event_type):
    assert load({}).wanted_by(event_type) == ["analytics", "crm", "compliance"]


# ── Contradictions ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url", ["http://sink.example.com/", "http://10.0.0.7/", "http://localhost.example.com/"]
)
def test_plain_http_outside_loopback_must_be_allowed(url):
    environ = {"CRM_ENDPOINT": url}
    _, error = attempt(load, environ)
    (problem,) = error.problems
    assert problem.startswith("CRM_ENDPOINT: ")
    assert "ALLOW_HTTP_SINKS" in problem
    assert load(environ | {"ALLOW_HTTP_SINKS": "true"}).sinks["crm"].endpoint == url


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost", "a.localhost"])
def test_loopback_needs_no_tls(host):
    assert crm({"ENDPOINT": f"http://{host}:8000/events"})[1] == []


CREDENTIALS = {"BEARER_TOKEN": "t0ken", "BASIC_AUTH": "user:t0ken", "API_KEY": "X-Key: t0ken"}
OAUTH = {
    "OAUTH_TOKEN_URL": "https://login.example.com/t0ken",
    "OAUTH_CLIENT_ID": "t0ken",
    "OAUTH_CLIENT_SECRET": "t0ken",
}


@pytest.mark.parametrize("one", [*CREDENTIALS, "OAUTH_TOKEN_URL"])
@pytest.mark.parametrize("other", CREDENTIALS)
def test_second_kind_of_authentication_is_refused(one, other):
    given = {name: CREDENTIALS[name] for name in (one, other) if name in CREDENTIALS}
    _, problems = crm(given | (OAUTH if one in OAUTH else {}))
    assert len(problems) == (one != other)
    for problem in problems:
        assert f"CRM_{one}" in problem
        assert f"CRM_{other}" in problem
        assert "t0ken" not in problem


@pytest.mark.parametrize("missing", OAUTH)
def test_incomplete_oauth_is_refused(missing):
    assert crm(OAUTH)[1] == []
    (problem,) = crm({name: value for name, value in OAUTH.items() if name != missing})[1]
    assert problem.startswith(f"CRM_{missing}: missing, though CRM_OAUTH_")
    assert {problem.partition(":")[0] for problem in crm({"OAUTH_SCOPE": "a"})[1]} == {
        f"CRM_{name}" for name in OAUTH
    }


def test_token_url_by_plain_http_is_refused():
    (problem,) = crm(OAUTH | {"OAUTH_TOKEN_URL": "http://login.example.com/token"})[1]
    assert problem.startswith("CRM_OAUTH_TOKEN_URL: http:// outside loopback")


def test_grant_holds_the_oauth_settings():
    grant = crm(OAUTH | {"OAUTH_SCOPE": "events:write"})[0].grant
    assert grant.form == {"grant_type": "client_credentials", "scope": "events:write"}
    assert grant.client == ("t0ken", "t0ken")
    assert "t0ken" not in repr(grant)
    assert crm(OAUTH)[0].grant.form == {"grant_type": "client_credentials"}


def test_lease_must_cover_the_time_for_tokens():
    environ = {f"CRM_{name}": value for name, value in OAUTH.items()} | {"CRM_MAX_TRIES": "8"}
    assert load({"CRM_MAX_TRIES": "8"}).sinks["crm"].attempt_timeout == 13
    _, error = attempt(load, environ)
    (problem,) = error.problems
    assert problem.startswith("CLAIM_LEASE_SECONDS: ")


def test_header_set_twice_is_refused():
    _, problems = crm({"API_KEY": "X-Key: t0ken", "HEADERS": '{"x-key": "other"}'})
    assert [problem.partition(":")[0] for problem in problems] == ["CRM_HEADERS"]
    assert "CRM_API_KEY" in problems[0]


# ── Files ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def pair(authority):
    return authority.issue("client")


def test_files_that_load_are_accepted(authority, pair):
    settings, problems = crm(
        {
            "CA_FILE": str(authority.file),
            "CLIENT_CERT_FILE": str(pair.certificate),
            "CLIENT_KEY_FILE": str(pair.key),
        }
    )
    assert problems == []
    assert settings.tls.ca_file == str(authority.file)
    assert settings.tls.certificate == (str(pair.certificate), str(pair.key))


def test_key_file_is_refused_as_an_authority(pair):
    (problem,) = crm({"CA_FILE": str(pair.key)})[1]
    assert problem.startswith("CRM_CA_FILE: not a PEM file")


def test_certificate_needs_its_own_unencrypted_key(authority, pair):
    locked = authority.issue("locked", password=b"pw")
    wrong = [
        {"CLIENT_CERT_FILE": "/nowhere.pem", "CLIENT_KEY_FILE": str(pair.key)},
        {"CLIENT_CERT_FILE": str(pair.certificate), "CLIENT_KEY_FILE": "/nowhere.key"},
        {"CLIENT_CERT_FILE": str(pair.certificate)},
        {"CLIENT_CERT_FILE": str(pair.certificate), "CLIENT_KEY_FILE": str(locked.key)},
        {"CLIENT_CERT_FILE": str(locked.certificate), "CLIENT_KEY_FILE": str(locked.key)},
        {"CLIENT_KEY_FILE": str(pair.key)},
    ]
    for environ in wrong:
        (problem,) = crm(environ)[1]
        assert problem.startswith("CRM_CLIENT_CERT_FILE: ")


# ── No secrets ────────────────────────────────────────────────────────────────────────────────


@given(
    st.dictionaries(st.sampled_from(NAMES), st.text(max_size=10).map("s3cr3t".__add__), min_size=1)
)
def test_no_secret_is_printed(environ):
    secret = {v.name for v in variables_of(SINKS["crm"]).values() if v.secret}
    reader = Reader({name: text for name, text in environ.items() if name in secret}, Role.WORKER)
    settings = read_sink(SINKS["crm"], reader, allow_http=False)
    assert "s3cr3t" not in "".join(reader.problems)
    assert "s3cr3t" not in repr(settings)


@pytest.mark.parametrize("name", CREDENTIALS)
def test_credential_is_not_in_the_repr(name):
    secret = secret_of(32)
    settings, _ = crm(
        {name: CREDENTIALS[name], "HEADERS": '{"X": "t0ken"}', "SIGNING_SECRETS": secret}
    )
    shown = repr(settings)
    assert secret.removeprefix("whsec_") not in shown
    assert "t0ken" not in shown
    assert base64.b64encode(b"user:t0ken").decode() not in shown


# ── Their documentation ───────────────────────────────────────────────────────────────────────


def test_differing_defaults_are_documented_by_sink():
    patient = Sink(name="patient", body=dict, policy=Policy(max_attempts=9))
    rows = {v.name: v.default for v in documented([SINKS["crm"], patient])}
    assert rows["<NAME>_MAX_TRIES"] == "crm: 5, patient: 9"
    assert rows["<NAME>_RATE"] == "0"
    assert rows["<NAME>_API_KEY"] is None
