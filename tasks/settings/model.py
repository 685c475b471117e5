"""What can be set: every setting with its variable, its type and its default."""

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    setting,
    url,
    url_to_call,
    variables_of_class,
)
from tasks.settings.sink_table import variables_of
from tasks.settings.sinks import SinkSettings
from tasks.sinks import SINKS


class ReplayPolicy(StrEnum):
    """What a replay from an EventBridge archive does."""

    ALL = "all"  # every replayed event is delivered as an event of its own
    MISSING = "missing"  # only events without a claim are processed


def _logins(text: str) -> str:
    pairs = [pair.partition(":") for pair in text.split(",")]
    if not all(user.strip() and password for user, _, password in pairs):
        raise ValueError("not user:password (several are separated by commas)")
    return text


def _addresses(text: str) -> frozenset[str]:
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


_HOST = matching(r"[A-Za-z0-9.:_-]+", "a host name or address")
_ANY_HOST = "0.0.0.0"  # noqa: S104 - an example, not a default
_PORT = integer(1, 65_535)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a process. Absent ones are None. Its repr shows no secret."""

    redis_url: str = setting(
        redis_url,
        "Redis: broker, chord results, circuit breakers; `rediss://` for TLS, "
        "`rediss://user:password@host:port/database`.",
        default="redis://127.0.0.1:6379/0",
        secret=True,
    )
    redis_ca_file: str | None = setting(
        ca_file,
        "PEM file of the only authorities to trust for `rediss://`; absent: the system's.",
        "/etc/cxone/redis-ca.pem",
    )
    aws_region: str = setting(
        matching(r"[a-z]{2,8}(-[a-z]+)+-[0-9]{1,2}", "an AWS region"),
        "Region of the table.",
        "eu-west-1",
        "us-east-1",
    )
    aws_endpoint_url: str | None = setting(
        url("http", "https"), "Only to use an emulator instead of AWS.", "http://127.0.0.1:4566"
    )
    processing_table: str = setting(
        matching(r"[A-Za-z0-9_.-]{3,255}", "a table's name: 3 to 255 of A-Z a-z 0-9 _ . -"),
        "DynamoDB table of claims (`deploy/storage.yaml`).",
        default="cxone_event_processor",
    )
    current_environment: str = setting(
        matching(r"[A-Za-z0-9_-]{1,64}", "a name of letters, digits, _ and -"),
        "Environment whose metadata rules apply.",
        default="prod",
    )
    metadata_registry: Path = setting(
        Path,
        "JSON file of metadata rules: environment → JSON Schema.",
        "/etc/cxone/metadata_registry.json",
        str(metadata.SHIPPED),
    )
    event_source: str = setting(
        matching(r"[A-Za-z0-9/_.#-]{1,256}", "an EventBridge source"),
        "The `source` of the events to process; others are ignored.",
        default="nice.cxone",
    )
    replay_policy: ReplayPolicy = setting(
        one_of(ReplayPolicy),
        "`all`: a replay from an EventBridge archive is delivered again, once per replay. "
        "`missing`: only its events that have no claim are.",
        "missing",
        "all",
    )
    sinks: Mapping[str, SinkSettings]  # by name; their variables: sink_table.py
    cxone: CxoneSettings | None = None
    allow_http_sinks: bool = setting(
        boolean, "Whether sinks may be called by plain http outside loopback.", "true", "false"
    )
    claim_lease: int = setting(
        integer(1, 86_400),
        "How long the holder of a claim may work before a sweep may take over.",
        default="600",
        name="CLAIM_LEASE_SECONDS",
    )
    sweep_interval: int = setting(
        integer(1, 3_600),
        "How often a sweep looks for overdue claims.",
        default="30",
        name="SWEEP_INTERVAL_SECONDS",
    )
    sweep_rate: int = setting(
        integer(1, 10_000), "Claims that sweeps take over per second, at most.", default="100"
    )
    max_dispatches: int = setting(
        integer(1, 100), "Dispatches of an event, at most, if each loses its worker.", default="5"
    )
    redrive_schedule: tuple[int, ...] = setting(
        seconds,
        "Waits before each delayed retry of a delivery, comma-separated; the last one repeats.",
        "60,300,900,3600",
        "60,300,900,3600,10800,21600,43200,86400",
        name="REDRIVE_SCHEDULE_SECONDS",
    )
    redrive_max_age: int = setting(
        integer(1, 30 * 86_400),
        "Age of an event at which deliveries that are still pending are given up.",
        default="259200",
        name="REDRIVE_MAX_AGE_SECONDS",
    )
    visibility_timeout: int = setting(
        integer(1, 86_400),
        "Time after which Redis hands the messages of a lost worker to another.",
        default="300",
        name="VISIBILITY_TIMEOUT_SECONDS",
    )
    retention_days: int = setting(
        integer(4, 3_650),
        "How long a claim and its audit records are kept, and duplicates are recognized.",
        default="30",
    )
    ingest_api_keys: tuple[bytes, ...] | None = setting(
        keys,
        "Accepted `x-api-key` values, comma-separated: two during a rotation.",
        "a-long-random-key,another-long-key",
        needed_by=[Role.INGEST],
        secret=True,
    )
    ingest_host: str = setting(_HOST, "Address that ingest listens on.", _ANY_HOST, "127.0.0.1")
    ingest_port: int = setting(_PORT, "Port that ingest listens on.", default="8080")
    ingest_workers: int = setting(
        integer(1, 64), "Processes of ingest; each has 16 threads.", default="2"
    )
    ingest_max_bytes: int = setting(
        integer(1_024, 64 * 1_048_576),
        "Largest body that ingest reads; an EventBridge entry is under 1 MB.",
        default="2097152",
    )
    ingest_max_backlog: int = setting(
        integer(1, 10**9),
        "Events waiting in Redis above which ingest answers 503.",
        default="100000",
    )
    ingest_url: str | None = setting(
        url_to_call,
        "Where ingest takes events, for `celery -A tasks dead-letters`.",
        "https://ingest.example.com/events",
    )
    dead_letters_url: str | None = setting(
        url_to_call,
        "SQS queue of the events that EventBridge gave up on (`deploy/eventbridge.yaml`), for the "
        "same.",
        "https://sqs.eu-west-1.amazonaws.com/123456789012/cxone-events-DeadLetters",
    )
    flower_address: str = setting(_HOST, "Address that Flower listens on.", _ANY_HOST, "127.0.0.1")
    flower_port: int = setting(_PORT, "Port that Flower listens on.", default="5555")
    flower_basic_auth: str | None = setting(
        _logins,
        "Operators, who may look and act in Flower: `user:password`, several comma-separated. "
        "Not needed where `FLOWER_AUTH` is set.",
        "operator:a-long-password",
        needed_by=[Role.FLOWER],
        secret=True,
        unless="FLOWER_AUTH",
    )
    flower_readonly_auth: str | None = setting(
        _logins,
        "Readers, who may look but not act: `user:password`, several comma-separated.",
        "viewer:another-long-password",
        secret=True,
    )
    flower_auth: str | None = setting(
        str,
        "Who may sign in by OAuth: a pattern of e-mail addresses (see Flower's documentation), "
        "with `FLOWER_AUTH_PROVIDER` and `FLOWER_OAUTH2_…`.",
        ".*@example.com",
    )
    flower_operators: frozenset[str] | None = setting(
        _addresses,
        "Who of them may act: e-mail addresses, comma-separated. Not set: all of them.",
        "ann@example.com,bob@example.com",
    )
    flower_unauthenticated_api: bool | None = setting(
        _false,
        "Refused: it would open Flower's API without authentication, to any origin.",
        "(unset)",
    )
    heartbeat_file: Path | None = setting(
        _file_to_write,
        "File that workers and beat touch while they work, for health checks by its age.",
        "/tmp/heartbeat",  # noqa: S108 - an example
    )
    dashboard_show_payloads: bool = setting(
        boolean,
        "Whether operators may see payloads and the sinks' responses, which are personal data; "
        "each view is logged.",
        "true",
        "false",
    )

    @property
    def redis_tls(self) -> dict[str, Any]:
        """The TLS options of a connection to Redis; none where ``REDIS_URL`` has no TLS."""
        if not self.redis_url.startswith("rediss:"):
            return {}
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": self.redis_ca_file}

    def wanted_by(self, event_type: EventType) -> list[str]:
        """Return the names of the sinks that get events of this type."""
        return [name for name, sink in self.sinks.items() if event_type in sink.event_types]


#: The variables that are neither a sink's nor CXone's, by the field that holds the value.
VARIABLES = variables_of_class(Settings)


def variables() -> Iterator[Variable]:
    """Yield every variable, sinks' and CXone's too."""
    yield from VARIABLES.values()
    for sink in SINKS.values():
        yield from variables_of(sink).values()
    yield from cxone.VARIABLES.values()
