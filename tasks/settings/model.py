"""What can be set: every setting with its variable, its type and its default."""

import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from tasks.events import EventType, metadata
from tasks.settings import cxone
from tasks.settings.cxone import CxoneSettings
from tasks.settings.environment import (
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
from tasks.settings.sink_table import variables_of
from tasks.settings.sinks import SinkSettings
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
    example: str = "",
    default: str | None = None,
    needed_by: Sequence[Role] = (),
    secret: bool = False,
    unless: str | None = None,
) -> Any:
    """Declare one; its default is an example of it, unless there is a better one."""
    variable = Variable(
        name, doc, parse, example or default or "", default, frozenset(needed_by), secret, unless
    )
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
    try:
        right = "\0" not in text and path.parent.is_dir() and not path.is_dir()
    except OSError:  # its name is too long
        right = False
    if not right:
        raise ValueError("not a file in a folder that is there")
    return path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a process. Absent ones are None."""

    redis_url: str = _setting(
        "REDIS_URL",
        redis_url,
        "Broker, chord results, breakers. `rediss://` for TLS; "
        "`rediss://user:password@host:port/database`.",
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
        default="cxone_event_processor",
    )
    current_environment: str = _setting(
        "CURRENT_ENVIRONMENT",
        matching(r"[A-Za-z0-9_-]{1,64}", "a name of letters, digits, _ and -"),
        "Environment whose metadata rules apply.",
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
        default="600",
    )
    sweep_interval: int = _setting(
        "SWEEP_INTERVAL_SECONDS",
        integer(1, 3_600),
        "How often a sweep looks for overdue claims.",
        default="30",
    )
    sweep_rate: int = _setting(
        "SWEEP_RATE",
        integer(1, 10_000),
        "Claims a second that sweeps take over, at most: a backlog is worked off, not dumped.",
        default="100",
    )
    max_dispatches: int = _setting(
        "MAX_DISPATCHES",
        integer(1, 100),
        "How often an event is started before it is given up, where its worker dies each time.",
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
        default="259200",
    )
    visibility_timeout: int = _setting(
        "VISIBILITY_TIMEOUT_SECONDS",
        integer(1, 86_400),
        "After how long Redis hands a lost worker's messages to another.",
        default="300",
    )
    retention_days: int = _setting(
        "RETENTION_DAYS",
        integer(4, 3_650),
        "How long a claim and its audit records are kept, and a duplicate is known as one.",
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
        "INGEST_PORT", integer(1, 65_535), "Port that ingest listens on.", default="8080"
    )
    ingest_workers: int = _setting(
        "INGEST_WORKERS", integer(1, 64), "Processes of ingest; each has 16 threads.", default="2"
    )
    ingest_max_bytes: int = _setting(
        "INGEST_MAX_BYTES",
        integer(1_024, 64 * 1_048_576),
        "Largest body that ingest reads; an EventBridge entry is under 1 MB.",
        default="2097152",
    )
    ingest_max_backlog: int = _setting(
        "INGEST_MAX_BACKLOG",
        integer(1, 10**9),
        "Events waiting in Redis above which ingest answers 503.",
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
        "FLOWER_PORT", integer(1, 65_535), "Port that Flower listens on.", default="5555"
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


#: The variables that are neither a sink's nor CXone's, by the field that holds the value.
VARIABLES: Mapping[str, Variable] = {
    setting.name: setting.metadata["variable"] for setting in fields(Settings) if setting.metadata
}


def variables() -> Iterator[Variable]:
    """Every variable, in the order of the documentation."""
    yield from VARIABLES.values()
    for sink in SINKS.values():
        yield from variables_of(sink).values()
    yield from cxone.VARIABLES.values()
