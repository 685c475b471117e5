"""Secrets that settings name by ARN, from an emulator of AWS Secrets Manager."""

import base64
import json
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest

from tasks.errors import SettingsError
from tasks.settings import load
from tests.support.nodes import ROOT, free_port, python
from tests.support.system import CREDENTIALS, REGION, aws, environment
from tests.support.waiting import TIMEOUT

SECRET = "s3cr3t-of-many-letters"

Keep = Callable[..., str]


@pytest.fixture
def keep(aws_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keep]:
    """Store a secret and return its ARN; this process has the settings to read it."""
    for name, value in {"AWS_ENDPOINT_URL": aws_url, **CREDENTIALS}.items():
        monkeypatch.setenv(name, value)
    with closing(aws("secretsmanager", aws_url)) as client:

        def keep(text: str | None = None, **options: Any) -> str:
            options = options or {"SecretString": text}
            return str(client.create_secret(Name=f"cxone/{uuid.uuid4()}", **options)["ARN"])

        yield keep


def problems_of(environ: Mapping[str, str]) -> list[str]:
    """The problems of an environment; none shows a secret or its name."""
    with pytest.raises(SettingsError) as raised:
        load(environ)
    assert "s3cr3t" not in str(raised.value)
    assert "arn:" not in str(raised.value)
    return list(raised.value.problems)


def test_an_arn_is_replaced_by_its_secret(keep: Keep) -> None:
    signing = f"whsec_{base64.b64encode(bytes(24)).decode()}"
    settings = load(
        {
            "CRM_BEARER_TOKEN": keep(f"{SECRET}\n"),  # as a file ends
            "CRM_SIGNING_SECRETS": keep(signing),
            "INGEST_API_KEYS": keep(f"{SECRET},another"),
            "REDIS_URL": keep(f"rediss://user:{SECRET}@redis.example.com/0"),
        }
    )
    credential = settings.sinks["crm"].credential
    assert credential
    assert credential.value == f"Bearer {SECRET}"
    assert settings.sinks["crm"].signing_secrets == (signing,)
    assert settings.ingest_api_keys == (SECRET.encode(), b"another")
    assert settings.redis_url == f"rediss://user:{SECRET}@redis.example.com/0"


def test_one_secret_can_hold_several_values(keep: Keep) -> None:
    arn = keep(json.dumps({"client": SECRET, "user": "operator:pässword", "a#b": "x"}))
    settings = load(
        {
            "CXONE_API_URL": "https://api.example.com",
            "CXONE_CLIENT_ID": "id",
            "CXONE_CLIENT_SECRET": f"{arn}#client",
            "FLOWER_BASIC_AUTH": f"{arn}#user",
            "CRM_BEARER_TOKEN": f"{arn}#a#b",
        }
    )
    assert settings.cxone
    assert settings.cxone.client == ("id", SECRET)
    assert settings.flower_basic_auth == "operator:pässword"


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        ("s3cr3t", "#key"),
        ('{"key": "s3cr3t"}', "#other"),
        ('{"key": 1}', "#key"),
        ('{"key": {"s3cr3t": ""}}', "#key"),
        ('["s3cr3t"]', "#0"),
        ('"s3cr3t"', "#key"),
        ("[" * 60_000, "#key"),
    ],
)
def test_a_key_without_a_text_is_refused(keep: Keep, secret: str, key: str) -> None:
    (problem,) = problems_of({"CRM_BEARER_TOKEN": f"{keep(secret)}{key}"})
    assert problem.startswith("CRM_BEARER_TOKEN: its secret is no JSON object with a text")


def test_a_wrong_value_in_a_secret_is_refused(keep: Keep) -> None:
    (problem,) = problems_of({"CRM_BASIC_AUTH": keep(SECRET)})
    assert problem.startswith("CRM_BASIC_AUTH: not user:password; expected")


def test_a_binary_secret_is_refused(keep: Keep) -> None:
    (problem,) = problems_of({"CRM_BEARER_TOKEN": keep(SecretBinary=b"s3cr3t")})
    assert "not to be had from AWS Secrets Manager: it is binary" in problem


def missing(name: str = "s3cr3t-name") -> str:
    """Return the ARN of a secret that is not there."""
    return f"arn:aws:secretsmanager:{REGION}:000000000000:secret:{name}-AbCdEf"


def test_every_unreadable_secret_is_reported(keep: Keep) -> None:
    problems = problems_of({"CRM_BEARER_TOKEN": missing(), "INGEST_API_KEYS": f"{missing()}#key"})
    assert [problem.split(";")[0] for problem in sorted(problems)] == [
        f"{name}: its secret is not to be had from AWS Secrets Manager: ResourceNotFoundException"
        for name in ("CRM_BEARER_TOKEN", "INGEST_API_KEYS")
    ]


def test_an_unreachable_secrets_manager_is_reported(
    keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    (problem,) = problems_of({"CRM_BEARER_TOKEN": missing()})
    assert problem.split(";")[0] == (
        "CRM_BEARER_TOKEN: its secret is not to be had from AWS Secrets Manager: "
        "EndpointConnectionError"
    )


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:secretsmanager:",
        "arn:aws:secretsmanager:eu-west-1:1:secret:s3cr3t",
        "arn:aws:secretsmanager:EU:000000000000:secret:s3cr3t",
        "arn:aws:secretsmanager:eu-west-1:000000000000:secret:",
        "arn:aws:secretsmanager:eu-west-1:000000000000:s3cr3t",
    ],
)
def test_a_malformed_arn_is_refused(arn: str) -> None:
    (problem,) = problems_of({"CRM_BEARER_TOKEN": arn})
    assert problem.startswith("CRM_BEARER_TOKEN: not the ARN of a secret")


def test_a_setting_that_is_no_secret_is_not_looked_up() -> None:
    with pytest.raises(SettingsError, match=r"^EVENT_SOURCE: not an EventBridge source"):
        load({"EVENT_SOURCE": missing()})


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("CXONE_CLIENT_SECRET", ["celery", "-A", "tasks", "worker"]),
        ("INGEST_API_KEYS", ["ingest"]),
        ("FLOWER_BASIC_AUTH", ["celery", "-A", "tasks", "flower"]),
    ],
)
def test_a_process_whose_secret_is_missing_does_not_start(
    aws_url: str, name: str, module: list[str]
) -> None:
    settings = {"AWS_ENDPOINT_URL": aws_url, **CREDENTIALS, name: missing()}
    done = subprocess.run(
        python(*module),
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode != 0
    assert f"{name}: its secret is not to be had" in done.stderr
    for shown in (done.stdout, done.stderr):
        assert "s3cr3t" not in shown
        assert "Traceback" not in shown
