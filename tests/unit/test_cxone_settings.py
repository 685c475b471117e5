import pytest

from tasks.errors import SettingsError
from tasks.settings import load
from tasks.settings.cxone import DEFAULT_DISCOVERY_URL, VARIABLES, read_cxone
from tasks.settings.environment import Reader
from tasks.settings.http import MAX_TOKEN_SECONDS

#: The end of a variable → good values and bad ones.
TABLE = {
    "TOKEN_URL": (["https://h/t"], ["h/t", "https://user:pw@h/", "ftp://h"]),
    "API_URL": (["https://api-na1.example.com", "https://h/"], ["api", "https://user:pw@h/"]),
    "DISCOVERY_URL": (["https://h", "http://127.0.0.1:1"], ["cxone"]),
    "TENANT_ID": (["11eb660f-4c6d-34a0-8733-0242ac110002"], ["a&b", "a b", "a" * 65]),
    "CLIENT_ID": (["id"], ["a\tb"]),
    "CLIENT_SECRET": (["s3cr3t"], ["s3cr\tt"]),
    "GRANT": (["client_credentials"], ["implicit", "Password"]),
    "ACCESS_KEY_ID": ([], ["a\tb"]),
    "ACCESS_KEY_SECRET": ([], ["s3cr\tt"]),
    "SCOPE": (["view:interactions", "a b"], ["a\nb"]),
    "CONTACT_PATH": (
        ["/v1/{interactionId}", "/v2/contacts/{interactionId}?fields=all"],
        ["/v1/contacts", "v1/{interactionId}", "/{id}", "/{interactionId}/{interactionId}", "/ "],
    ),
    "MAX_TRIES": (["1", "10"], ["0", "11"]),
    "TIMEOUT_SECONDS": (["1", "40"], ["0", "301", "1.5"]),
    "READ_TIMEOUT_SECONDS": (["1", "300"], ["0", "301"]),
    "CACHE_SECONDS": (["0", "3600"], ["-1", "3601"]),
    "WAIT_SECONDS": (["0", "3600"], ["-1", "604801"]),
}

ON = {
    "CXONE_TOKEN_URL": "https://login.example.com/token",
    "CXONE_API_URL": "https://api.example.com",
    "CXONE_CLIENT_ID": "client",
    "CXONE_CLIENT_SECRET": "s3cr3t",
}
KEYED = {
    **ON,
    "CXONE_GRANT": "password",
    "CXONE_ACCESS_KEY_ID": "k3y",
    "CXONE_ACCESS_KEY_SECRET": "s3cr3t2",
}


def cases(which):
    return [(name, value) for name, row in TABLE.items() for value in row[which]]


def problems_of(environ):
    with pytest.raises(SettingsError) as raised:
        load(environ)
    assert "s3cr" not in str(raised.value)
    return [problem.partition(":")[0] for problem in raised.value.problems]


def test_table_has_every_variable():
    assert {f"CXONE_{name}" for name in TABLE} == {v.name for v in VARIABLES.values()}


@pytest.mark.parametrize(("name", "value"), cases(0))
def test_good_value_is_accepted(name, value):
    assert load({**ON, f"CXONE_{name}": value}).cxone


@pytest.mark.parametrize(("name", "value"), cases(1))
def test_bad_value_is_refused(name, value):
    assert problems_of({**ON, f"CXONE_{name}": value}) == [f"CXONE_{name}"]


def test_contexts_are_off_without_a_switch():
    settings = load({"CXONE_SCOPE": "a", "CXONE_WAIT_SECONDS": "60"})
    assert settings.cxone is None
    assert {sink.context_seconds for sink in settings.sinks.values()} == {0}


def test_client_credentials_make_the_form():
    cxone = load(ON).cxone
    assert cxone.form == {"grant_type": "client_credentials", "scope": "view:interactions"}
    assert cxone.client == ("client", "s3cr3t")
    assert cxone.discovery_url == DEFAULT_DISCOVERY_URL
    assert "s3cr3t" not in repr(cxone)


def test_access_key_is_a_user_and_a_password():
    cxone = load(KEYED).cxone
    assert cxone.form == {
        "grant_type": "password",
        "username": "k3y",
        "password": "s3cr3t2",
        "scope": "view:interactions",
    }
    assert "CXONE_ACCESS_KEY_SECRET" in cxone.credentials
    assert "s3cr" not in repr(cxone)


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"CXONE_TENANT_ID": "t"}, ["CXONE_CLIENT_ID", "CXONE_CLIENT_SECRET"]),
        (
            {"CXONE_CLIENT_SECRET": "s3cr3t"},
            ["CXONE_CLIENT_ID", "CXONE_API_URL"],
        ),
        (
            {**ON, "CXONE_GRANT": "password"},
            ["CXONE_ACCESS_KEY_ID", "CXONE_ACCESS_KEY_SECRET"],
        ),
        ({**KEYED, "CXONE_GRANT": "client_credentials"}, ["CXONE_GRANT"]),
        ({**ON, "CXONE_API_URL": "http://api.example.com"}, ["CXONE_API_URL"]),
        ({**ON, "CXONE_TOKEN_URL": "http://api.example.com"}, ["CXONE_TOKEN_URL"]),
        ({**ON, "CXONE_DISCOVERY_URL": "http://h.example.com"}, ["CXONE_DISCOVERY_URL"]),
    ],
)
def test_contradicting_settings_are_named(environ, names):
    allowed = {"ALLOW_HTTP_SINKS": "false", **environ}
    assert problems_of(allowed) == names


def test_tenant_and_client_are_enough():
    environ = {
        "CXONE_TENANT_ID": "tenant",
        "CXONE_CLIENT_ID": "client",
        "CXONE_CLIENT_SECRET": "s3cr3t",
    }
    cxone = load(environ).cxone
    assert (cxone.token_url, cxone.api_url) == (None, None)


def test_plain_http_can_be_allowed():
    load({**ON, "CXONE_API_URL": "http://api.example.com", "ALLOW_HTTP_SINKS": "true"})


def test_wait_must_end_before_an_event_is_given_up():
    load({**ON, "CXONE_WAIT_SECONDS": "3599", "REDRIVE_MAX_AGE_SECONDS": "3600"})
    environ = {**ON, "CXONE_WAIT_SECONDS": "3600", "REDRIVE_MAX_AGE_SECONDS": "3600"}
    assert problems_of(environ) == ["CXONE_WAIT_SECONDS"]


def test_lease_must_cover_the_wait_for_the_context():
    settings = load(ON)
    crm, analytics = settings.sinks["crm"], settings.sinks["analytics"]
    assert settings.cxone.max_seconds == 10 + MAX_TOKEN_SECONDS + 1
    assert crm.attempt_timeout == analytics.attempt_timeout + settings.cxone.max_seconds
    assert problems_of({**ON, "CXONE_TIMEOUT_SECONDS": "300"}) == ["CLAIM_LEASE_SECONDS"]


def test_problem_is_recorded_once():
    reader = Reader({"CXONE_API_URL": "nothing"}, None)
    assert read_cxone(reader, allow_http=False) is None
    assert len(reader.problems) == 1
