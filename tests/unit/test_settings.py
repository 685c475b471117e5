import re
import sys
from pathlib import Path

import certifi
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tasks
from tasks.errors import SettingsError
from tasks.events.metadata import SHIPPED
from tasks.settings import Role, Settings, load, load_or_exit, loading
from tasks.settings import cxone as cxone_settings
from tasks.settings.checks import suggest_names
from tasks.settings.docs import as_markdown
from tasks.settings.model import variables
from tasks.settings.sink_table import variables_of
from tasks.sinks import SINKS
from tests.support.samples import attempt

#: Variable → the field that holds it, good values and bad ones.
TABLE = {
    "REDIS_URL": (
        "redis_url",
        [
            "redis://h",
            "redis://127.0.0.1:6379/0",
            "rediss://user:p%40w%2F@h:6380/15",
            "redis://:pw@h/",
            "redis://[::1]:1/",
        ],
        [
            "h:6379",
            "http://h",
            "redis://",
            "redis:///0",
            "redis://h:0",
            "redis://h:x",
            "redis://[h",
            "redis://h/one",
            "redis://h/0/1",
            "redis://h/-1",
            "redis://h/0?ssl_cert_reqs=none",
            "redis://h?db=1",
            "redis://h/0#1",
            "REDISS://h",
            *(f"{scheme}://h" for scheme in ("sentinel", "amqp", "amqps", "pyamqp", "sqs")),
        ],
    ),
    "REDIS_CA_FILE": ("redis_ca_file", [certifi.where()], ["/nowhere.pem", str(SHIPPED), "/"]),
    "AWS_REGION": (
        "aws_region",
        ["us-east-1", "eu-west-1", "us-gov-west-1", "ap-southeast-2", "eusc-de-east-1"],
        ["us", "US-EAST-1", "us-east", "us-east-1x", "us east 1", "us-east-"],
    ),
    "AWS_ENDPOINT_URL": (
        "aws_endpoint_url",
        ["http://127.0.0.1:4566", "https://dynamodb.example.com"],
        ["127.0.0.1:4566", "ftp://h", "http://", "http://h:99999"],
    ),
    "PROCESSING_TABLE": (
        "processing_table",
        ["abc", "cxone_event_processor", "a.b-c_9", "x" * 255],
        ["ab", "x" * 256, "a b c", "tablé", "a/bc"],
    ),
    "CURRENT_ENVIRONMENT": (
        "current_environment",
        ["prod", "staging", "dev"],
        ["prod!", "pröd", "two words", "x" * 65],
    ),
    "METADATA_REGISTRY": (
        "metadata_registry",
        [str(SHIPPED)],
        ["/nowhere/rules.json", str(SHIPPED.parent), str(SHIPPED.with_name("model.py"))],
    ),
    "HEARTBEAT_FILE": (
        "heartbeat_file",
        [str(SHIPPED.with_name("heartbeat"))],
        ["/nowhere/heartbeat", str(SHIPPED.parent), str(SHIPPED / "heartbeat"), "/"],
    ),
    "ALLOW_HTTP_SINKS": (
        "allow_http_sinks",
        ["1", "true", "True", "yes", "on", "0", "false", "no", "off"],
        ["please", "2", "t"],
    ),
    "EVENT_SOURCE": (
        "event_source",
        ["nice.cxone", "aws.partner/nice.com/123", "a" * 256],
        ["nice cxone", "nicé", "a" * 257],
    ),
    "CLAIM_LEASE_SECONDS": ("claim_lease", ["306", "600", "86400"], ["0", "-1", "86401"]),
    "REPLAY_POLICY": ("replay_policy", ["all", "missing"], ["some", "ALL"]),
    "SWEEP_RATE": ("sweep_rate", ["1", "100", "10000"], ["0", "10001", "fast"]),
    "MAX_DISPATCHES": ("max_dispatches", ["1", "5", "100"], ["0", "101"]),
    "SWEEP_INTERVAL_SECONDS": ("sweep_interval", ["1", "30", "3600"], ["0", "-1", "3601"]),
    "VISIBILITY_TIMEOUT_SECONDS": (
        "visibility_timeout",
        ["61", "300", "86400"],
        ["0", "-1", "86401"],
    ),
    "RETENTION_DAYS": ("retention_days", ["4", "30", "3650"], ["3", "0", "3651"]),
    "REDRIVE_SCHEDULE_SECONDS": (
        "redrive_schedule",
        ["60", "60,300", " 60 , 300 ", "9999999"],
        ["0", "60,", ",", "1.5", "-60", "60;300", "99999999"],
    ),
    "REDRIVE_MAX_AGE_SECONDS": ("redrive_max_age", ["1", "259200"], ["0", "-1", "2592001"]),
    "INGEST_API_KEYS": (
        "ingest_api_keys",
        ["k", "new-key,old-key", " new , old ", "a=b+c/d=="],
        [",", " , ", "two words", "schlüssel", "a\tb"],
    ),
    "INGEST_HOST": (
        "ingest_host",
        ["127.0.0.1", "0.0.0.0", "localhost"],
        ["a b", "http://h", "h/"],
    ),
    "INGEST_PORT": ("ingest_port", ["1", "8080", "65535"], ["0", "65536", "-1"]),
    "INGEST_WORKERS": ("ingest_workers", ["1", "64"], ["0", "65"]),
    "INGEST_MAX_BYTES": ("ingest_max_bytes", ["1024", "67108864"], ["1023", "67108865"]),
    "INGEST_MAX_BACKLOG": ("ingest_max_backlog", ["1", "1000000000"], ["0", "1000000001"]),
    "INGEST_URL": ("ingest_url", ["https://h/events"], ["h/events", "https://user:pw@h/events"]),
    "DEAD_LETTERS_URL": ("dead_letters_url", ["https://sqs.example.com/1/q"], ["q", "sqs://h/q"]),
    "FLOWER_ADDRESS": ("flower_address", ["127.0.0.1", "localhost"], ["a b", "http://h"]),
    "FLOWER_PORT": ("flower_port", ["1", "65535"], ["0", "65536"]),
    "FLOWER_BASIC_AUTH": (
        "flower_basic_auth",
        ["operator:pw", "a:b,c:d", "a:b:c"],
        ["operator", ":pw", "operator:", "a:b,c", "a:b,"],
    ),
    "FLOWER_READONLY_AUTH": (
        "flower_readonly_auth",
        ["viewer:pw", "a:b,c:d", "a:b:c"],
        ["viewer", ":pw", "viewer:", "a:b,c", "a:b,"],
    ),
    "FLOWER_AUTH": ("flower_auth", [".*@example.com", "ann@example.com"], []),
    "FLOWER_OPERATORS": (
        "flower_operators",
        ["ann@example.com", " ann@example.com , Bob@example.com"],
        [",", "ann@example.com,"],
    ),
    "DASHBOARD_SHOW_PAYLOADS": ("dashboard_show_payloads", ["1", "true", "0"], ["please", "t"]),
    "FLOWER_UNAUTHENTICATED_API": (
        "flower_unauthenticated_api",
        ["0", "false", "False", "no", "off"],
        ["1", "true", "yes", "on", "please"],
    ),
}
OF_CXONE = {variable.name for variable in cxone_settings.VARIABLES.values()}
OF_SINKS = {v.name: v for sink in SINKS.values() for v in variables_of(sink).values()}
ENDPOINTS = [sink.endpoint_variable for sink in SINKS.values()]
NAMES = [variable.name for variable in variables()]
WHOLE_NUMBERS = [
    name
    for name in NAMES
    if name.endswith(("_SECONDS", "_DAYS", "_PORT", "_WORKERS")) and "SCHEDULE" not in name
] + ["INGEST_MAX_BYTES", "INGEST_MAX_BACKLOG"]

#: The variables that a variable requires.
WITH = {"REDIS_CA_FILE": {"REDIS_URL": "rediss://h"}}

#: Settings that are enough for every role.
COMPLETE = {
    "ANALYTICS_ENDPOINT": "https://analytics.example.com/events",
    "CRM_ENDPOINT": "https://crm.example.com/events",
    "COMPLIANCE_ENDPOINT": "https://compliance.example.com/events",
    "INGEST_API_KEYS": "new-key,old-key",
    "FLOWER_BASIC_AUTH": "operator:a-long-password",
}


def problems_of(environ, role=None):
    with pytest.raises(SettingsError) as raised:
        load(environ, role)
    return raised.value.problems


def cases(which):
    return [
        pytest.param(name, value, id=f"{name}={value[-40:]}")
        for name, row in TABLE.items()
        for value in row[which]
    ]


# ── Each variable ─────────────────────────────────────────────────────────────────────────────


def test_table_has_every_variable():
    assert {*TABLE, *OF_SINKS, *OF_CXONE} == set(NAMES)
    assert set(COMPLETE) >= {v.name for v in variables() if v.needed_by}


@pytest.mark.parametrize(
    ("name", "value"),
    [("VISIBILITY_TIMEOUT_SECONDS", "60"), ("CLAIM_LEASE_SECONDS", "305")],
)
def test_contradicting_settings_are_refused(name, value):
    load({name: str(int(value) + 1)})
    problems = problems_of({name: value})
    assert [problem.split(":")[0] for problem in problems] == [name] * len(SINKS)
    for sink, problem in zip(SINKS, problems, strict=True):
        assert sink in problem
        load({name: problem.rsplit(": ", 1)[1]})  # the example is valid


def test_event_is_given_up_before_its_claim_expires():
    days = {"RETENTION_DAYS": "10"}
    load({**days, "REDRIVE_MAX_AGE_SECONDS": "863999"})
    (problem,) = problems_of({**days, "REDRIVE_MAX_AGE_SECONDS": "864000"})
    assert problem.startswith("REDRIVE_MAX_AGE_SECONDS: 864000 is not below the 10 days")


@pytest.mark.parametrize(("name", "value"), cases(1))
def test_good_value_is_accepted(name, value):
    assert getattr(load({**WITH.get(name, {}), name: value}), TABLE[name][0]) is not None


@pytest.mark.parametrize(("name", "value"), cases(2))
def test_bad_value_is_refused_with_an_example(name, value):
    (problem,) = problems_of({name: value})
    assert problem.startswith(f"{name}: ")
    assert "; expected" in problem


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://:s3cr3t@h/one", "the database, behind the host, is not a number"),
        ("redis://:s3cr3t@h/0?socket_timeout=1", "nothing may follow behind a ? or #"),
        ("sentinel://:s3cr3t@h/0", "sentinel:// is not supported: messages, chords and breakers"),
        ("amqp://user:s3cr3t@h", "amqp:// is not supported"),
        ("sqs://s3cr3t:s3cr3t@", "sqs:// is not supported"),
        ("s3cr3t://h", "not a URL with redis:// or rediss:// and a host"),
    ],
)
def test_wrong_redis_url_is_reported_without_its_password(url, message):
    (problem,) = problems_of({"REDIS_URL": url})
    assert problem.startswith(f"REDIS_URL: {message}")
    assert "s3cr3t" not in problem


def test_ca_file_without_tls_is_refused():
    (problem,) = problems_of({"REDIS_CA_FILE": certifi.where()})
    assert problem.startswith("REDIS_CA_FILE: REDIS_URL does not ask for TLS; expected")


def test_environment_without_rules_is_refused():
    (problem,) = problems_of({"CURRENT_ENVIRONMENT": "qa"})
    assert problem.startswith("METADATA_REGISTRY: no rules for environment 'qa' (it has: dev, ")


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
@pytest.mark.parametrize("value", ["ten", "1.0", "1e3", "0x10", "1_0", "٣٠", "9" * 19, "--5", "+5"])
def test_whole_number_must_be_digits(name, value):
    (problem,) = problems_of({name: value})
    assert problem.startswith(f"{name}: not a whole number from ")


def test_values_are_typed():
    settings = load(COMPLETE | {"INGEST_PORT": "18080", "METADATA_REGISTRY": str(SHIPPED)})
    assert settings.ingest_port == 18080
    assert settings.ingest_api_keys == (b"new-key", b"old-key")
    assert settings.metadata_registry == SHIPPED
    assert settings.sinks["crm"].endpoint == "https://crm.example.com/events"
    assert settings.flower_unauthenticated_api is None


@pytest.mark.parametrize("blank", ["", "   ", "\t"], ids=repr)
def test_blank_value_counts_as_absent(blank):
    assert load(dict.fromkeys(NAMES, blank)) == load({})
    (problem,) = problems_of(COMPLETE | {"CRM_ENDPOINT": blank}, Role.WORKER)
    assert problem.startswith("CRM_ENDPOINT: missing; expected, for example: ")


def test_white_space_around_a_value_is_removed():
    assert load({"AWS_REGION": " eu-west-1\n"}).aws_region == "eu-west-1"


def test_defaults_match_the_interface():
    settings = load({})
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert settings.processing_table == "cxone_event_processor"
    assert settings.current_environment == "prod"
    assert settings.metadata_registry == SHIPPED
    assert settings.event_source == "nice.cxone"
    assert (settings.ingest_host, settings.ingest_port) == ("127.0.0.1", 8080)
    assert settings.flower_port == 5555
    assert settings.aws_endpoint_url is None
    assert settings.ingest_api_keys is None
    assert [(name, sink.url) for name, sink in settings.sinks.items()] == [
        ("analytics", None),
        ("crm", None),
        ("compliance", None),
    ]


@pytest.mark.parametrize("variable", list(variables()), ids=lambda variable: variable.name)
def test_defaults_and_examples_are_valid(variable):
    assert variable.example
    for text in (variable.default, variable.example):
        if text and text != "(unset)" and not text.startswith("/etc/"):
            variable.parse(text)


# ── What a role requires ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("role", "needed"),
    [
        (Role.WORKER, {"ANALYTICS_ENDPOINT", "CRM_ENDPOINT", "COMPLIANCE_ENDPOINT"}),
        (Role.INGEST, {"INGEST_API_KEYS"}),
        (Role.FLOWER, {"FLOWER_BASIC_AUTH"}),
    ],
)
def test_role_names_its_missing_settings(role, needed):
    problems = problems_of({}, role)
    assert {problem.partition(":")[0] for problem in problems} == needed
    assert all("missing; expected, for example: " in problem for problem in problems)
    load({name: COMPLETE[name] for name in needed}, role)


def test_flower_with_oauth_needs_no_passwords():
    settings = load({"FLOWER_AUTH": ".*@example.com"}, Role.FLOWER)
    assert settings.flower_basic_auth is None
    assert problems_of({"FLOWER_AUTH": " "}, Role.FLOWER)


def test_user_that_is_operator_and_reader_is_refused():
    load({"FLOWER_BASIC_AUTH": "ann:pw", "FLOWER_READONLY_AUTH": "bob:pw"})
    (problem,) = problems_of(
        {"FLOWER_BASIC_AUTH": "ann:pw,bob:s3cr3t", "FLOWER_READONLY_AUTH": "bob:other"}
    )
    assert problem.startswith("FLOWER_READONLY_AUTH: bob is in FLOWER_BASIC_AUTH as well; expected")
    assert "s3cr3t" not in problem


def test_other_processes_require_nothing():
    assert isinstance(load({}, None), Settings)


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("celery -A tasks worker -l INFO", Role.WORKER),
        ("celery --app=tasks worker", Role.WORKER),
        ("celery/__main__.py -A tasks worker", Role.WORKER),
        ("celery -A tasks flower --port=5555", Role.FLOWER),
        ("celery -A tasks beat", None),
        ("celery -A tasks claims list", None),
        ("celery -A tasks inspect ping -d worker@host", None),
        ("celery -A tasks claims show worker", None),
        ("celery -A tasks audit verify flower", None),
        ("celery", None),
        ("worker", None),
    ],
)
def test_subcommand_determines_the_role(command, role):
    assert loading.role_of_command(command.split()) is role


# ── All problems at once, and no secrets ──────────────────────────────────────────────────────


def test_all_problems_are_reported_at_once():
    environ = {name: bad[0] for name, (_, _, bad) in TABLE.items() if bad}
    del environ["CURRENT_ENVIRONMENT"]  # without one no rules are looked up
    problems = problems_of(environ, Role.WORKER)
    named = [problem.partition(":")[0] for problem in problems]
    assert sorted(named) == sorted([*environ, *ENDPOINTS])
    assert all("; expected" in problem for problem in problems)
    assert not any("\n" in problem for problem in problems)


def test_wrong_value_that_is_no_secret_is_shown():
    (problem,) = problems_of({"AWS_REGION": "mars"})
    assert (
        problem == "AWS_REGION: not an AWS region (it is 'mars'); expected, for example: eu-west-1"
    )


SECRETS = [variable.name for variable in variables() if variable.secret]


def test_settings_that_may_hold_a_secret_are_marked():
    own = set(SECRETS) - set(OF_SINKS) - OF_CXONE
    flower = {"FLOWER_BASIC_AUTH", "FLOWER_READONLY_AUTH"}
    assert own == {"REDIS_URL", "INGEST_API_KEYS", *flower}
    keys = {"CXONE_ACCESS_KEY_ID", "CXONE_ACCESS_KEY_SECRET"}
    assert OF_CXONE.intersection(SECRETS) == {"CXONE_CLIENT_SECRET", *keys}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "value",
    [
        "s3cr3t",
        "redis://user:s3cr3t@",
        "redis://user:s3cr3t/x@h:6379/0",
        "redis://user:s3cr3t#x@h:6379/0",
        "redis://user:s3cr3t[x@h:6379/0",
        "redis://user:s3cr3t℀x@h:6379/0",
        "http://user:s3cr3t@h/",
        "http://h:s3cr3t/",
        "http://h:s3cr3t℀/",
        "ftp://h/s3cr3t",
        "s3cr3t with a space",
        ":s3cr3t",
        "s3cr3t:",
    ],
)
def test_secret_is_never_printed(name, value):
    _, error = attempt(load, {name: value})
    assert "s3cr3t" not in str(error)


@given(
    st.sampled_from(SECRETS),
    st.tuples(st.text(max_size=20), st.text(max_size=20)).map("s3cr3t".join)
    | st.tuples(
        st.sampled_from(["redis://", "http://", "redis://u:", "http://h/", "http://h:", "u:"]),
        st.text(max_size=8),
        st.sampled_from(["", "@h", "@h:1/", ":1", "/@h", "]"]),
    ).map(lambda parts: f"{parts[0]}s3cr3t{parts[1]}{parts[2]}"),
)
@example("CRM_ENDPOINT", "http://h:s3cr3t")
def test_malformed_secret_is_never_printed(name, value):
    _, error = attempt(load, {name: value})
    assert "s3cr3t" not in str(error)


def test_repr_of_settings_shows_no_secret():
    environ = {
        "REDIS_URL": "redis://:s3cr3t@h",
        "INGEST_API_KEYS": "s3cr3t",
        "FLOWER_BASIC_AUTH": "ann:s3cr3t",
        "FLOWER_READONLY_AUTH": "bob:s3cr3t",
    }
    assert "s3cr3t" not in repr(load(environ))


# ── Secrets in files ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "redis-url"
    file.write_text("redis://:s3cr3t@h\n")
    return file


def test_secret_may_be_in_a_file(secret):
    assert load({"REDIS_URL_FILE": str(secret)}).redis_url == "redis://:s3cr3t@h"


def test_value_takes_precedence_over_its_file(secret):
    environ = {"REDIS_URL": "redis://other", "REDIS_URL_FILE": str(secret)}
    assert load(environ).redis_url == "redis://other"


def test_setting_that_is_no_secret_has_no_file(secret):
    assert load({"AWS_REGION_FILE": str(secret)}).aws_region == "us-east-1"


def test_unreadable_file_is_reported(secret):
    secret.unlink()
    (problem,) = problems_of({"REDIS_URL_FILE": str(secret)})
    assert problem == f"REDIS_URL_FILE: {secret} cannot be read: No such file or directory"


def test_binary_file_is_reported_without_its_content(secret):
    secret.write_bytes(b"redis://:s3cr3t\xff")
    (problem,) = problems_of({"REDIS_URL_FILE": str(secret)})
    assert problem == f"REDIS_URL_FILE: {secret} cannot be read: not a file of UTF-8 text"


def test_file_name_that_is_too_long_is_reported():
    (problem,) = problems_of({"HEARTBEAT_FILE": "/tmp/" + 300 * "x"})
    assert problem.startswith("HEARTBEAT_FILE: not a file in a folder")


def test_wrong_secret_in_a_file_is_not_printed(secret):
    secret.write_text("ftp://s3cr3t")
    (problem,) = problems_of({"REDIS_URL_FILE": str(secret)})
    assert problem.startswith("REDIS_URL: not a URL")
    assert "s3cr3t" not in problem


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=30)))
def test_any_environment_is_read_or_refused_by_name(environ):
    _, error = attempt(load, environ)
    if error:
        assert all(line.partition(":")[0] in NAMES for line in error.problems)
        assert len(error.problems) <= len(NAMES)


# ── A process that cannot start ───────────────────────────────────────────────────────────────


def clear(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_process_that_cannot_start_prints_why_and_exits_1(monkeypatch):
    clear(monkeypatch)
    monkeypatch.setenv("AWS_REGION", "mars")
    with pytest.raises(SystemExit) as raised:
        load_or_exit(Role.INGEST)
    lines = str(raised.value.code).splitlines()  # a text as exit code: printed, and exits 1
    assert lines[0] == "cannot start: 2 setting(s) wrong"
    assert [line.partition(":")[0].strip() for line in lines[1:]] == [
        "AWS_REGION",
        "INGEST_API_KEYS",
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CRM_READ_TIMEOUT", "CRM_READ_TIMEOUT_SECONDS"),
        ("CXONE_CLIENT_SECRETS_FILE", "CXONE_CLIENT_SECRET_FILE"),
        ("CRM_BEARER_TOKEN_FILE", None),  # is a setting
        ("CRM_LOGO", None),
        ("PROCESSING_TABEL", None),  # may belong to another program
    ],
)
def test_name_that_is_nearly_a_setting_is_reported(name, meant):
    lines = list(suggest_names({name: "secret"}))
    expected = f"{name}: no such setting, so it is ignored; meant is perhaps {meant}"
    assert lines == ([expected] if meant else [])


def test_settings_of_a_process_are_read_once(monkeypatch):
    clear(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["celery", "-A", "tasks", "beat"])
    loading.settings.cache_clear()
    try:
        first = loading.settings()
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        assert loading.settings() is first
    finally:
        loading.settings.cache_clear()


# ── Their documentation ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_is_documented(name):
    if name in OF_SINKS:
        name = re.sub(r"^(ANALYTICS|CRM|COMPLIANCE)_", "<NAME>_", name)
    (row,) = [line for line in as_markdown().splitlines() if line.startswith(f"| `{name}` ")]
    assert len(re.split(r"(?<!\\)\|", row)) == 7


def test_documentation_is_up_to_date():
    page = Path(tasks.__file__).parents[1] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == as_markdown(), "run: make docs"


def test_documentation_shows_no_local_path():
    assert str(SHIPPED.parent) not in as_markdown()
