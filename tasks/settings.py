"""Every setting, in one typed place: read from the environment, checked before anything starts.

``docs/settings.md`` is rendered from here (``python -m tasks.settings``).
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tasks import registry
from tasks.errors import SettingsError
from tasks.sinks import SINKS, Policy

#: What may stand between ``celery`` and its command, and takes the next word.
_CELERY_OPTIONS_WITH_VALUE = frozenset(
    {"-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir"}
)


class Role(StrEnum):
    """What a process is for; decides which settings it cannot do without."""

    WORKER = "worker"
    INGEST = "ingest"
    FLOWER = "flower"

    @classmethod
    def of_command(cls, argv: Sequence[str]) -> "Role | None":
        """Tell it from a ``celery -A tasks …`` command line; other commands need nothing."""
        words = iter(argv[1:])
        for word in words:
            if word in _CELERY_OPTIONS_WITH_VALUE:
                next(words, None)
            elif not word.startswith("-"):
                return cls(word) if word in ("worker", "flower") else None
        return None


class ReplayPolicy(StrEnum):
    """What a replay from an EventBridge archive does."""

    ALL = "all"  # every event of it is an event of its own
    MISSING = "missing"  # it fills in what was lost


class Variable(NamedTuple):
    """One environment variable."""

    name: str
    doc: str
    parse: Callable[[str], Any]
    example: str
    default: str | None
    needed_by: frozenset[Role]
    secret: bool

    def read(self, environ: Mapping[str, str], role: Role | None) -> Any:
        """Return its value, or None where it is absent and this role can do without.

        Raises:
            ValueError: what is wrong and an example of right, ready to print.
        """
        text = environ.get(self.name, "").strip() or self.default
        if text is None:
            if role in self.needed_by:
                raise ValueError(f"{self.name}: missing; expected, for example: {self.example}")
            return None
        try:
            return self.parse(text)
        except ValueError as error:
            shown = "" if self.secret else f" (it is {text!r})"
            line = f"{self.name}: {error}{shown}; expected, for example: {self.example}"
            raise ValueError(line) from None


def _setting(
    name: str,
    parse: Callable[[str], Any],
    doc: str,
    *,
    example: str,
    default: str | None = None,
    needed_by: Sequence[Role] = (),
    secret: bool = False,
) -> Any:
    variable = Variable(name, doc, parse, example, default, frozenset(needed_by), secret)
    return field(metadata={"variable": variable})


_HOST = re.compile(r"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|[0-9a-f:.]*:[0-9a-f:.]*(%\w+)?")


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        try:
            parts = urlsplit(text)
            right = (
                parts.scheme in schemes
                and parts.port != 0
                and _HOST.fullmatch(parts.hostname or "")
            )
        except ValueError:  # its text repeats part of the URL, which may be a secret
            right = None
        if not right:
            raise ValueError(f"not a URL with {' or '.join(f'{s}://' for s in schemes)} and a host")
        return text

    return parse


def _sink_url(text: str) -> str:
    parts = urlsplit(_url("http", "https")(text))
    if parts.username or parts.password:
        raise ValueError("a URL must not carry credentials: they would end up in logs")
    return text


def _matching(pattern: str, words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"not {words}")
        return text

    return parse


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"not a whole number from {low} to {high}")
        return int(text)

    return parse


def _seconds(text: str) -> tuple[int, ...]:
    waits = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"[1-9][0-9]{0,6}", wait) for wait in waits):
        raise ValueError("not whole numbers of seconds, comma-separated")
    return tuple(map(int, waits))


def _one_of(choices: type[StrEnum]) -> Callable[[str], StrEnum]:
    def parse(text: str) -> StrEnum:
        if text not in list(choices):
            raise ValueError(f"not one of {', '.join(choices)}")
        return choices(text)

    return parse


def _keys(text: str) -> tuple[bytes, ...]:
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys or any(re.search(r"[^!-~]", key) for key in keys):
        raise ValueError("not one or more keys of printable ASCII, comma-separated")
    return tuple(key.encode() for key in keys)


def _basic_auth(text: str) -> str:
    pairs = [pair.partition(":") for pair in text.split(",")]
    if not all(user.strip() and password for user, _, password in pairs):
        raise ValueError("not user:password (several are separated by commas)")
    return text


def _false(text: str) -> bool:
    if text.lower() not in ("0", "false", "no", "off"):
        raise ValueError("Flower must not answer to strangers: unset it")
    return False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a process of ours is told from outside. Absent ones are None."""

    redis_url: str = _setting(
        "REDIS_URL",
        _url("redis", "rediss"),
        "Broker, chord results, breakers. `rediss://` for TLS.",
        example="redis://127.0.0.1:6379/0",
        default="redis://127.0.0.1:6379/0",
        secret=True,
    )
    aws_region: str = _setting(
        "AWS_REGION",
        _matching(r"[a-z]{2,8}(-[a-z]+)+-[0-9]{1,2}", "an AWS region"),
        "Region of the table.",
        example="eu-west-1",
        default="us-east-1",
    )
    aws_endpoint_url: str | None = _setting(
        "AWS_ENDPOINT_URL",
        _url("http", "https"),
        "Set only to use an emulator in place of AWS.",
        example="http://127.0.0.1:4566",
    )
    processing_table: str = _setting(
        "PROCESSING_TABLE",
        _matching(r"[A-Za-z0-9_.-]{3,255}", "a table's name: 3 to 255 of A-Z a-z 0-9 _ . -"),
        "DynamoDB table of claims (`deploy/storage.yaml`).",
        example="cxone_event_processor",
        default="cxone_event_processor",
    )
    current_environment: str = _setting(
        "CURRENT_ENVIRONMENT",
        _matching(r"[A-Za-z0-9_-]{1,64}", "a name of letters, digits, _ and -"),
        "Environment whose metadata rules apply.",
        example="prod",
        default="prod",
    )
    metadata_registry: Path = _setting(
        "METADATA_REGISTRY",
        Path,
        "JSON file of metadata rules: environment → JSON Schema.",
        example="/etc/cxone/metadata_registry.json",
        default=str(registry.SHIPPED),
    )
    event_source: str = _setting(
        "EVENT_SOURCE",
        _matching(r"[A-Za-z0-9/_.#-]{1,256}", "an EventBridge source"),
        "The `source` of the events we process; others are ignored.",
        example="nice.cxone",
        default="nice.cxone",
    )
    replay_policy: ReplayPolicy = _setting(
        "REPLAY_POLICY",
        _one_of(ReplayPolicy),
        "`all`: a replay from an EventBridge archive is delivered again, once a replay. "
        "`missing`: only events that have no claim are.",
        example="missing",
        default="all",
    )
    endpoints: Mapping[str, str | None]  # by sink; see _endpoint
    policies: Mapping[str, Policy]  # by sink; see _policy_variables
    claim_lease: int = _setting(
        "CLAIM_LEASE_SECONDS",
        _integer(1, 86_400),
        "How long the holder of a claim may work before a sweep may take over.",
        example="600",
        default="600",
    )
    sweep_interval: int = _setting(
        "SWEEP_INTERVAL_SECONDS",
        _integer(1, 3_600),
        "How often a sweep looks for overdue claims.",
        example="30",
        default="30",
    )
    sweep_rate: int = _setting(
        "SWEEP_RATE",
        _integer(1, 10_000),
        "Claims a second that sweeps take over, at most: a backlog is worked off, not dumped.",
        example="100",
        default="100",
    )
    max_dispatches: int = _setting(
        "MAX_DISPATCHES",
        _integer(1, 100),
        "How often an event is started before it is given up, where its worker dies each time.",
        example="5",
        default="5",
    )
    redrive_schedule: tuple[int, ...] = _setting(
        "REDRIVE_SCHEDULE_SECONDS",
        _seconds,
        "Waits before a delivery whose quick tries were used up is tried again, comma-separated; "
        "the last one repeats.",
        example="60,300,900,3600",
        default="60,300,900,3600,10800,21600,43200,86400",
    )
    redrive_max_age: int = _setting(
        "REDRIVE_MAX_AGE_SECONDS",
        _integer(1, 30 * 86_400),
        "Age at which an event that some sink still lacks is given up.",
        example="259200",
        default="259200",
    )
    visibility_timeout: int = _setting(
        "VISIBILITY_TIMEOUT_SECONDS",
        _integer(1, 86_400),
        "After how long Redis hands a lost worker's messages to another.",
        example="300",
        default="300",
    )
    retention_days: int = _setting(
        "RETENTION_DAYS",
        _integer(4, 3_650),
        "How long a claim and its audit records are kept, and a duplicate is known as one.",
        example="30",
        default="30",
    )
    ingest_api_keys: tuple[bytes, ...] | None = _setting(
        "INGEST_API_KEYS",
        _keys,
        "Accepted `x-api-key` values, comma-separated: two during a rotation.",
        example="a-long-random-key,another-long-key",
        needed_by=[Role.INGEST],
        secret=True,
    )
    ingest_host: str = _setting(
        "INGEST_HOST",
        _matching(r"[A-Za-z0-9.:_-]+", "a host name or address"),
        "Address that ingest listens on.",
        example="0.0.0.0",  # noqa: S104 - an example, not a default
        default="127.0.0.1",
    )
    ingest_port: int = _setting(
        "INGEST_PORT",
        _integer(1, 65_535),
        "Port that ingest listens on.",
        example="8080",
        default="8080",
    )
    ingest_workers: int = _setting(
        "INGEST_WORKERS",
        _integer(1, 64),
        "Processes of ingest; each has 16 threads.",
        example="2",
        default="2",
    )
    ingest_max_bytes: int = _setting(
        "INGEST_MAX_BYTES",
        _integer(1_024, 64 * 1_048_576),
        "Largest body that ingest reads; an EventBridge entry is under 1 MB.",
        example="2097152",
        default="2097152",
    )
    ingest_max_backlog: int = _setting(
        "INGEST_MAX_BACKLOG",
        _integer(1, 10**9),
        "Events waiting in Redis above which ingest answers 503.",
        example="100000",
        default="100000",
    )
    flower_address: str = _setting(
        "FLOWER_ADDRESS",
        _matching(r"[A-Za-z0-9.:_-]+", "a host name or address"),
        "Address that Flower listens on.",
        example="0.0.0.0",  # noqa: S104
        default="127.0.0.1",
    )
    flower_port: int = _setting(
        "FLOWER_PORT",
        _integer(1, 65_535),
        "Port that Flower listens on.",
        example="5555",
        default="5555",
    )
    flower_basic_auth: str | None = _setting(
        "FLOWER_BASIC_AUTH",
        _basic_auth,
        "Who may see Flower: `user:password`, several comma-separated.",
        example="operator:a-long-password",
        needed_by=[Role.FLOWER],
        secret=True,
    )
    flower_unauthenticated_api: bool | None = _setting(
        "FLOWER_UNAUTHENTICATED_API",
        _false,
        "Refused: it would open Flower's API, and its CORS, to everybody.",
        example="(unset)",
    )

    def endpoint(self, sink: str) -> str:
        """Return a sink's URL.

        Raises:
            SettingsError: it is not set; a worker does not start without it.
        """
        url = self.endpoints.get(sink)
        if url is None:
            raise SettingsError([f"{SINKS[sink].endpoint_variable}: missing"])
        return url


def _endpoint(name: str) -> Variable:
    return Variable(
        SINKS[name].endpoint_variable,
        f"URL of the {name} sink.",
        _sink_url,
        f"https://{name}.example.com/events",
        None,
        frozenset([Role.WORKER]),
        secret=True,  # a path may hold a token
    )


#: The settings of a sink's policy: the end of the variable's name, bounds, meaning.
_POLICY = {
    "tries": ("MAX_TRIES", 1, 20, "HTTP calls of a delivery, at most."),
    "backoff_base": ("BACKOFF_BASE_SECONDS", 1, 3_600, "Longest wait before the second try."),
    "backoff_cap": ("BACKOFF_CAP_SECONDS", 1, 3_600, "Longest wait before any try."),
    "retry_after_cap": ("RETRY_AFTER_CAP_SECONDS", 1, 3_600, "Longest `Retry-After` obeyed."),
    "connect_timeout": ("CONNECT_TIMEOUT_SECONDS", 1, 300, "Time to connect."),
    "read_timeout": ("READ_TIMEOUT_SECONDS", 1, 300, "Time to answer."),
    "breaker_failures": ("BREAKER_FAILURES", 1, 10_000, "Failures in a row that open the breaker."),
    "breaker_seconds": ("BREAKER_SECONDS", 1, 86_400, "Time that the breaker stays open."),
}


def _policy_variables(name: str) -> dict[str, Variable]:
    return {
        part: Variable(
            f"{name.upper()}_{suffix}",
            f"{doc[:-1]} ({name}).",
            _integer(low, high),
            str(getattr(SINKS[name].policy, part)),
            str(getattr(SINKS[name].policy, part)),
            frozenset(),
            secret=False,
        )
        for part, (suffix, low, high, doc) in _POLICY.items()
    }


def variables() -> Iterator[Variable]:
    """Every variable, in the order of the documentation."""
    for setting in fields(Settings):
        if "variable" in setting.metadata:
            yield setting.metadata["variable"]
    for name in SINKS:
        yield _endpoint(name)
        yield from _policy_variables(name).values()


def load(environ: Mapping[str, str], role: Role | None = None) -> Settings:
    """Read the settings for a process with this role.

    Raises:
        SettingsError: with a line for everything that is wrong, not only the first.
    """
    problems: list[str] = []

    def read(variable: Variable) -> Any:
        try:
            return variable.read(environ, role)
        except ValueError as error:
            problems.append(str(error))
            return None

    values: dict[str, Any] = {
        setting.name: read(setting.metadata["variable"])
        for setting in fields(Settings)
        if "variable" in setting.metadata
    }
    values["endpoints"] = {name: read(_endpoint(name)) for name in SINKS}
    policies = {
        name: {part: read(variable) for part, variable in _policy_variables(name).items()}
        for name in SINKS
    }
    if values["metadata_registry"] and values["current_environment"]:
        try:
            registry.MetadataRules.from_file(
                values["metadata_registry"], values["current_environment"]
            )
        except ValueError as error:
            problems.append(
                f"METADATA_REGISTRY: {error}; expected a JSON file with a JSON Schema for each "
                f"environment, as {registry.SHIPPED.name} has"
            )
    if not problems:
        values["policies"] = {name: Policy(**parts) for name, parts in policies.items()}
        settings = Settings(**values)
        problems = list(_contradictions(settings))
    if problems:
        raise SettingsError(problems)
    return settings


def _contradictions(settings: Settings) -> Iterator[str]:
    """Tell which settings, each right by itself, break the promises together."""
    if settings.redrive_max_age >= settings.retention_days * 86_400:
        yield (
            f"REDRIVE_MAX_AGE_SECONDS: {settings.redrive_max_age} is not below the "
            f"{settings.retention_days} days of RETENTION_DAYS: a claim would go away with "
            "something left to do; expected, for example: 259200"
        )
    for name, policy in settings.policies.items():
        if policy.longest_wait >= settings.visibility_timeout:
            yield (
                f"VISIBILITY_TIMEOUT_SECONDS: {settings.visibility_timeout} is not above the "
                f"{policy.longest_wait} s that {name} may wait for a retry: the waiting "
                f"message would be handed out twice; expected, for example: "
                f"{policy.longest_wait * 5}"
            )
        if policy.longest >= settings.claim_lease:
            yield (
                f"CLAIM_LEASE_SECONDS: {settings.claim_lease} is not above the {policy.longest} s "
                f"that all tries of {name} may take: a sweep would take over from a worker "
                f"that is alive; expected, for example: {policy.longest * 2}"
            )


@cache
def settings() -> Settings:
    """The settings of this process, read once; ends the process if they are wrong."""
    return load_or_exit(Role.of_command(sys.argv))


def load_or_exit(role: Role | None) -> Settings:
    """Read the settings from the environment; print all that is wrong and exit 1 if they are."""
    try:
        return load(os.environ, role)
    except SettingsError as error:
        lines = "\n".join(f"  {problem}" for problem in error.problems)
        raise SystemExit(f"cannot start: {len(error.problems)} setting(s) wrong\n{lines}") from None


def as_markdown() -> str:
    """Render ``docs/settings.md``."""
    lines = [
        "# Settings",
        "",
        "All from the environment, checked when a process starts. "
        "Rendered by `python -m tasks.settings`.",
        "",
        "| name | meaning | default | example | needed by |",
        "|---|---|---|---|---|",
    ]
    for variable in variables():
        default = "the one shipped" if variable.name == "METADATA_REGISTRY" else variable.default
        needed = ", ".join(sorted(variable.needed_by)) if variable.needed_by else ""
        shown = f"`{default}`" if default else "–"
        lines.append(
            f"| `{variable.name}` | {variable.doc} | {shown} | `{variable.example}` | {needed} |"
        )
    lines += ["", "AWS credentials are found as boto3 finds them.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
