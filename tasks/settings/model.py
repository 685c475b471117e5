"""Every setting, in one typed place: read from the environment, checked before anything starts.

``docs/settings.md`` is rendered from here (``python -m tasks.settings``).
"""

import os
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from tasks.errors import SettingsError
from tasks.events import EventType, metadata
from tasks.settings import cxone as cxone_settings
from tasks.settings.cxone import CxoneSettings
from tasks.settings.environment import (
    Reader,
    Role,
    Variable,
    boolean,
    ca_file,
    integer,
    keys,
    matching,
    one_of,
    redis_url,
    seconds,
    url,
    url_to_call,
)
from tasks.settings.sink_table import documented, variables_of
from tasks.settings.sinks import SinkSettings, configure
from tasks.sinks import SINKS


class ReplayPolicy(StrEnum):
    """What a replay from an EventBridge archive does."""

    ALL = "all"  # every event of it is an event of its own
    MISSING = "missing"  # it fills in what was lost


def _setting(
    name: str,
    parse: Callable[[str], Any],
    doc: str,
    *,
    example: str,
    default: str | None = None,
    needed_by: Sequence[Role] = (),
    secret: bool = False,
    unless: str | None = None,
) -> Any:
    variable = Variable(name, doc, parse, example, default, frozenset(needed_by), secret, unless)
    return field(metadata={"variable": variable})


def _basic_auth(text: str) -> str:
    pairs = [pair.partition(":") for pair in text.split(",")]
    if not all(user.strip() and password for user, _, password in pairs):
        raise ValueError("not user:password (several are separated by commas)")
    return text


def _names(text: str) -> frozenset[str]:
    names = frozenset(name.strip().lower() for name in text.split(","))
    if "" in names:
        raise ValueError("not e-mail addresses, comma-separated")
    return names


def _false(text: str) -> bool:
    if text.lower() not in ("0", "false", "no", "off"):
        raise ValueError("Flower must not answer to strangers: unset it")
    return False


def _file_to_write(text: str) -> Path:
    path = Path(text)
    if "\0" in text or not path.parent.is_dir() or path.is_dir():
        raise ValueError("not a file in a folder that is there")
    return path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a process of ours is told from outside. Absent ones are None."""

    redis_url: str = _setting(
        "REDIS_URL",
        redis_url,
        "Broker, chord results, breakers. `rediss://` for TLS; "
        "`rediss://user:password@host:port/database`.",
        example="redis://127.0.0.1:6379/0",
        default="redis://127.0.0.1:6379/0",
        secret=True,
    )
    redis_ca_file: str | None = _setting(
        "REDIS_CA_FILE",
        ca_file,
        "PEM file of the only certificate authorities to trust for `rediss://`; absent: the "
        "system's.",
        example="/etc/cxone/redis-ca.pem",
    )
    aws_region: str = _setting(
        "AWS_REGION",
        matching(r"[a-z]{2,8}(-[a-z]+)+-[0-9]{1,2}", "an AWS region"),
        "Region of the table.",
        example="eu-west-1",
        default="us-east-1",
    )
    aws_endpoint_url: str | None = _setting(
        "AWS_ENDPOINT_URL",
        url("http", "https"),
        "Set only to use an emulator in place of AWS.",
        example="http://127.0.0.1:4566",
    )
    processing_table: str = _setting(
        "PROCESSING_TABLE",
        matching(r"[A-Za-z0-9_.-]{3,255}", "a table's name: 3 to 255 of A-Z a-z 0-9 _ . -"),
        "DynamoDB table of claims (`deploy/storage.yaml`).",
        example="cxone_event_processor",
        default="cxone_event_processor",
    )
    current_environment: str = _setting(
        "CURRENT_ENVIRONMENT",
        matching(r"[A-Za-z0-9_-]{1,64}", "a name of letters, digits, _ and -"),
        "Environment whose metadata rules apply.",
        example="prod",
        default="prod",
    )
    metadata_registry: Path = _setting(
        "METADATA_REGISTRY",
        Path,
        "JSON file of metadata rules: environment → JSON Schema.",
        example="/etc/cxone/metadata_registry.json",
        default=str(metadata.SHIPPED),
    )
    event_source: str = _setting(
        "EVENT_SOURCE",
        matching(r"[A-Za-z0-9/_.#-]{1,256}", "an EventBridge source"),
        "The `source` of the events we process; others are ignored.",
        example="nice.cxone",
        default="nice.cxone",
    )
    replay_policy: ReplayPolicy = _setting(
        "REPLAY_POLICY",
        one_of(ReplayPolicy),
        "`all`: a replay from an EventBridge archive is delivered again, once a replay. "
        "`missing`: only events that have no claim are.",
        example="missing",
        default="all",
    )
    sinks: Mapping[str, SinkSettings]  # by name; see sink_settings.py
    cxone: CxoneSettings | None = None  # see cxone_settings.py
    allow_http_sinks: bool = _setting(
        "ALLOW_HTTP_SINKS",
        boolean,
        "Whether sinks may be called by plain http outside loopback.",
        example="true",
        default="false",
    )
    claim_lease: int = _setting(
        "CLAIM_LEASE_SECONDS",
        integer(1, 86_400),
        "How long the holder of a claim may work before a sweep may take over.",
        example="600",
        default="600",
    )
    sweep_interval: int = _setting(
        "SWEEP_INTERVAL_SECONDS",
        integer(1, 3_600),
        "How often a sweep looks for overdue claims.",
        example="30",
        default="30",
    )
    sweep_rate: int = _setting(
        "SWEEP_RATE",
        integer(1, 10_000),
        "Claims a second that sweeps take over, at most: a backlog is worked off, not dumped.",
        example="100",
        default="100",
    )
    max_dispatches: int = _setting(
        "MAX_DISPATCHES",
        integer(1, 100),
        "How often an event is started before it is given up, where its worker dies each time.",
        example="5",
        default="5",
    )
    redrive_schedule: tuple[int, ...] = _setting(
        "REDRIVE_SCHEDULE_SECONDS",
        seconds,
        "Waits before a delivery whose quick tries were used up is tried again, comma-separated; "
        "the last one repeats.",
        example="60,300,900,3600",
        default="60,300,900,3600,10800,21600,43200,86400",
    )
    redrive_max_age: int = _setting(
        "REDRIVE_MAX_AGE_SECONDS",
        integer(1, 30 * 86_400),
        "Age at which an event that some sink still lacks is given up.",
        example="259200",
        default="259200",
    )
    visibility_timeout: int = _setting(
        "VISIBILITY_TIMEOUT_SECONDS",
        integer(1, 86_400),
        "After how long Redis hands a lost worker's messages to another.",
        example="300",
        default="300",
    )
    retention_days: int = _setting(
        "RETENTION_DAYS",
        integer(4, 3_650),
        "How long a claim and its audit records are kept, and a duplicate is known as one.",
        example="30",
        default="30",
    )
    ingest_api_keys: tuple[bytes, ...] | None = _setting(
        "INGEST_API_KEYS",
        keys,
        "Accepted `x-api-key` values, comma-separated: two during a rotation.",
        example="a-long-random-key,another-long-key",
        needed_by=[Role.INGEST],
        secret=True,
    )
    ingest_host: str = _setting(
        "INGEST_HOST",
        matching(r"[A-Za-z0-9.:_-]+", "a host name or address"),
        "Address that ingest listens on.",
        example="0.0.0.0",  # noqa: S104 - an example, not a default
        default="127.0.0.1",
    )
    ingest_port: int = _setting(
        "INGEST_PORT",
        integer(1, 65_535),
        "Port that ingest listens on.",
        example="8080",
        default="8080",
    )
    ingest_workers: int = _setting(
        "INGEST_WORKERS",
        integer(1, 64),
        "Processes of ingest; each has 16 threads.",
        example="2",
        default="2",
    )
    ingest_max_bytes: int = _setting(
        "INGEST_MAX_BYTES",
        integer(1_024, 64 * 1_048_576),
        "Largest body that ingest reads; an EventBridge entry is under 1 MB.",
        example="2097152",
        default="2097152",
    )
    ingest_max_backlog: int = _setting(
        "INGEST_MAX_BACKLOG",
        integer(1, 10**9),
        "Events waiting in Redis above which ingest answers 503.",
        example="100000",
        default="100000",
    )
    ingest_url: str | None = _setting(
        "INGEST_URL",
        url_to_call,
        "Where ingest takes events, for `celery -A tasks dead-letters`.",
        example="https://ingest.example.com/events",
    )
    dead_letters_url: str | None = _setting(
        "DEAD_LETTERS_URL",
        url_to_call,
        "SQS queue of the events that EventBridge gave up on (`deploy/eventbridge.yaml`), for the "
        "same.",
        example="https://sqs.eu-west-1.amazonaws.com/123456789012/cxone-events-DeadLetters",
    )
    flower_address: str = _setting(
        "FLOWER_ADDRESS",
        matching(r"[A-Za-z0-9.:_-]+", "a host name or address"),
        "Address that Flower listens on.",
        example="0.0.0.0",  # noqa: S104
        default="127.0.0.1",
    )
    flower_port: int = _setting(
        "FLOWER_PORT",
        integer(1, 65_535),
        "Port that Flower listens on.",
        example="5555",
        default="5555",
    )
    flower_basic_auth: str | None = _setting(
        "FLOWER_BASIC_AUTH",
        _basic_auth,
        "Operators, who may look and act in Flower: `user:password`, several comma-separated. "
        "Not needed where `FLOWER_AUTH` is set.",
        example="operator:a-long-password",
        needed_by=[Role.FLOWER],
        secret=True,
        unless="FLOWER_AUTH",
    )
    flower_readonly_auth: str | None = _setting(
        "FLOWER_READONLY_AUTH",
        _basic_auth,
        "Who may look, but not act: `user:password`, several comma-separated.",
        example="viewer:another-long-password",
        secret=True,
    )
    flower_auth: str | None = _setting(
        "FLOWER_AUTH",
        str,
        "Who may sign in by OAuth, as Flower's documentation says: a pattern of e-mail addresses. "
        "`FLOWER_AUTH_PROVIDER` and `FLOWER_OAUTH2_…` go with it.",
        example=".*@example.com",
    )
    flower_operators: frozenset[str] | None = _setting(
        "FLOWER_OPERATORS",
        _names,
        "Who of those that sign in by OAuth may act: e-mail addresses, comma-separated. "
        "Not set: all of them.",
        example="ann@example.com,bob@example.com",
    )
    flower_unauthenticated_api: bool | None = _setting(
        "FLOWER_UNAUTHENTICATED_API",
        _false,
        "Refused: it would open Flower's API, and its CORS, to everybody.",
        example="(unset)",
    )
    heartbeat_file: Path | None = _setting(
        "HEARTBEAT_FILE",
        _file_to_write,
        "File that workers and beat touch while they do their work, for health checks by its age.",
        example="/tmp/heartbeat",  # noqa: S108 - an example
    )
    dashboard_show_payloads: bool = _setting(
        "DASHBOARD_SHOW_PAYLOADS",
        boolean,
        "Whether operators may see an event's payload and what sinks answered, which are personal "
        "data; each look is logged.",
        example="true",
        default="false",
    )

    @property
    def redis_tls(self) -> dict[str, Any]:
        """The TLS options of a connection to Redis; none where ``REDIS_URL`` asks for no TLS."""
        if not self.redis_url.startswith("rediss:"):
            return {}
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": self.redis_ca_file}

    def wanted_by(self, event_type: EventType) -> list[str]:
        """Name the sinks that an event of this type goes to."""
        return [name for name, sink in self.sinks.items() if event_type in sink.event_types]


def variables() -> Iterator[Variable]:
    """Every variable, in the order of the documentation."""
    for setting in fields(Settings):
        if "variable" in setting.metadata:
            yield setting.metadata["variable"]
    for sink in SINKS.values():
        yield from variables_of(sink).values()
    yield from cxone_settings.VARIABLES.values()


def load(environ: Mapping[str, str], role: Role | None = None) -> Settings:
    """Read the settings for a process with this role.

    Raises:
        SettingsError: with a line for everything that is wrong, not only the first.
    """
    reader = Reader(environ, role)
    values: dict[str, Any] = {
        setting.name: reader.read(setting.metadata["variable"])
        for setting in fields(Settings)
        if "variable" in setting.metadata
    }
    allow_http = values["allow_http_sinks"] is not False
    cxone = values["cxone"] = cxone_settings.configure(reader, allow_http=allow_http)
    values["sinks"] = {
        name: configure(sink, reader, allow_http=allow_http, cxone=cxone)
        for name, sink in SINKS.items()
    }
    problems = reader.problems
    if values["metadata_registry"] and values["current_environment"]:
        try:
            metadata.MetadataRules.from_file(
                values["metadata_registry"], values["current_environment"]
            )
        except ValueError as error:
            problems.append(
                f"METADATA_REGISTRY: {error}; expected a JSON file with a JSON Schema for each "
                f"environment, as {metadata.SHIPPED.name} has"
            )
    if not problems:
        settings = Settings(**values)
        problems = list(_check_constraints(settings))
    if problems:
        raise SettingsError(problems)
    return settings


def _check_constraints(settings: Settings) -> Iterator[str]:
    """Tell which settings, each right by itself, break the promises together."""
    if settings.redrive_max_age >= settings.retention_days * 86_400:
        yield (
            f"REDRIVE_MAX_AGE_SECONDS: {settings.redrive_max_age} is not below the "
            f"{settings.retention_days} days of RETENTION_DAYS: a claim would go away with "
            "something left to do; expected, for example: 259200"
        )
    if settings.cxone and settings.cxone.wait >= settings.redrive_max_age:
        yield (
            f"CXONE_WAIT_SECONDS: {settings.cxone.wait} is not below the "
            f"{settings.redrive_max_age} of REDRIVE_MAX_AGE_SECONDS: an event would be given up "
            "before it goes without its context; expected, for example: 3600"
        )
    if settings.redis_ca_file and not settings.redis_url.startswith("rediss:"):
        yield "REDIS_CA_FILE: REDIS_URL does not ask for TLS; expected there: rediss://…"
    if both := _users(settings.flower_basic_auth) & _users(settings.flower_readonly_auth):
        yield (
            f"FLOWER_READONLY_AUTH: {', '.join(sorted(both))} is in FLOWER_BASIC_AUTH as well; "
            "expected, for example: viewer:another-long-password"
        )
    for name, sink in settings.sinks.items():
        policy, longest = sink.policy, sink.max_delivery_seconds
        if policy.max_wait >= settings.visibility_timeout:
            yield (
                f"VISIBILITY_TIMEOUT_SECONDS: {settings.visibility_timeout} is not above the "
                f"{policy.max_wait} s that {name} may wait for a retry: the waiting "
                f"message would be handed out twice; expected, for example: "
                f"{policy.max_wait * 5}"
            )
        if longest >= settings.claim_lease:
            yield (
                f"CLAIM_LEASE_SECONDS: {settings.claim_lease} is not above the {longest} s "
                f"that all tries of {name} may take: a sweep would take over from a worker "
                f"that is alive; expected, for example: {longest * 2}"
            )


def _users(accounts: str | None) -> set[str]:
    return {account.partition(":")[0] for account in (accounts or "").split(",") if account}


def suggest_names(environ: Mapping[str, str]) -> Iterator[str]:
    """Tell of variables of a sink or of CXone that nobody reads, and are nearly a setting."""
    known = {variable.name for variable in variables()}
    known |= {f"{variable.name}_FILE" for variable in variables() if variable.secret}
    prefixes = tuple(f"{name.upper()}_" for name in (*SINKS, "cxone"))
    for name in environ:
        if name.startswith(prefixes) and name not in known:
            for meant in get_close_matches(name, known, n=1, cutoff=0.75):
                yield f"{name}: no such setting, so it is ignored; meant is perhaps {meant}"


#: What may stand between ``celery`` and its command, and takes the next word.
_CELERY_OPTIONS_WITH_VALUE = frozenset(
    {"-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir"}
)


def role_of_command(argv: Sequence[str]) -> Role | None:
    """Find the role in a ``celery -A tasks …`` command line; other commands need nothing."""
    words = iter(argv[1:])
    for word in words:
        if word in _CELERY_OPTIONS_WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return Role(word) if word in ("worker", "flower") else None
    return None


@cache
def settings() -> Settings:
    """The settings of this process, read once; ends the process if they are wrong.

    What looks like a misspelt setting is only told: it may be somebody else's.
    """
    for line in suggest_names(os.environ):
        print(line, file=sys.stderr)  # noqa: T201 - there is no log yet
    return load_or_exit(role_of_command(sys.argv))


def load_or_exit(role: Role | None) -> Settings:
    """Read the settings from the environment; print all that is wrong and exit 1 if they are."""
    try:
        return load(os.environ, role)
    except SettingsError as error:
        lines = "\n".join(f"  {problem}" for problem in error.problems)
        raise SystemExit(f"cannot start: {len(error.problems)} setting(s) wrong\n{lines}") from None


_HEAD = ["| name | meaning | default | example | needed by |", "|---|---|---|---|---|"]


def as_markdown() -> str:
    """Render ``docs/settings.md``."""
    own = [s.metadata["variable"] for s in fields(Settings) if "variable" in s.metadata]
    lines = [
        "# Settings",
        "",
        "All from the environment, checked when a process starts. "
        "Rendered by `python -m tasks.settings`.",
        "",
        *_HEAD,
        *map(_row, own),
        "",
        "AWS credentials are found as boto3 finds them. A secret may also be in a file, which "
        "`<its name>_FILE` names: "
        + ", ".join(f"`{variable.name}`" for variable in own if variable.secret)
        + ", and those of the sinks.",
        "",
        "In place of the value of one marked †, which may be a secret, the ARN of a secret in AWS "
        "Secrets Manager can stand: `arn:aws:secretsmanager:…:secret:NAME`, or with `#KEY` behind "
        "it for a field of a JSON object. It is read when a process starts; if that fails, it does "
        "not start.",
        "",
        "## Each sink",
        "",
        f"`<NAME>` is one of {', '.join(name.upper() for name in SINKS)}; see [sinks](sinks.md).",
        "",
        *_HEAD,
        *map(_row, documented(SINKS.values())),
        "",
        "## CXone",
        "",
        "All absent: no contexts. See [contexts](cxone.md).",
        "",
        *_HEAD,
        *map(_row, cxone_settings.VARIABLES.values()),
        "",
    ]
    return "\n".join(lines)


def _row(variable: Variable) -> str:
    value = "the one shipped" if variable.name == "METADATA_REGISTRY" else variable.default
    default = f"`{value}`" if value else "–"
    needed = ", ".join(sorted(variable.needed_by))
    name = f"`{variable.name}`" + (" †" if variable.secret else "")
    return f"| {name} | {variable.doc} | {default} | `{variable.example}` | {needed} |"
