"""What an environment variable is, who needs it, and how its text is read.

A parser turns the text into a value or raises ``ValueError`` saying what the text is not, without
repeating it: it may be a secret.
"""

import re
import ssl
from collections.abc import Callable, Mapping
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tasks.settings.secrets_manager import Secrets, is_arn


class Role(StrEnum):
    """What a process is for; decides which settings it cannot do without."""

    WORKER = "worker"
    INGEST = "ingest"
    FLOWER = "flower"


class Variable(NamedTuple):
    """One environment variable. If it is a ``secret``, it may name one (``secretsmanager``)."""

    name: str
    doc: str
    parse: Callable[[str], Any]
    example: str
    default: str | None = None
    needed_by: frozenset[Role] = frozenset()
    secret: bool = False
    unless: str | None = None  # the variable that makes it needless where it is set

    def read(self, environ: Mapping[str, str], role: Role | None, secrets: Secrets) -> Any:
        """Return its value, or None where it is absent and this role can do without.

        Raises:
            ValueError: what is wrong and an example of right, ready to print.
        """
        text = environ.get(self.name, "").strip() or self._from_file(environ) or self.default
        if text is None:
            if role in self.needed_by and not environ.get(self.unless or "", "").strip():
                raise ValueError(self.problem("missing"))
            return None
        try:
            return self.parse(secrets.read(text) if self.secret and is_arn(text) else text)
        except ValueError as error:
            shown = "" if self.secret else f" (it is {text!r})"
            raise ValueError(self.problem(f"{error}{shown}")) from None

    def _from_file(self, environ: Mapping[str, str]) -> str | None:
        """Read a secret from the file that ``<NAME>_FILE`` names, as containers are handed them."""
        path = environ.get(f"{self.name}_FILE", "").strip()
        if not self.secret or not path:
            return None
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            why = error.strerror
        except ValueError:  # of its text or its name; the error would show a part of the secret
            why = "not a file of UTF-8 text"
        raise ValueError(f"{self.name}_FILE: {path} cannot be read: {why}")

    def problem(self, what: str, example: object = None) -> str:
        """Say what is wrong with it, and what would be right."""
        return f"{self.name}: {what}; expected, for example: {example or self.example}"


class Reader:
    """Reads variables for a process with this role, and notes all that is wrong."""

    def __init__(self, environ: Mapping[str, str], role: Role | None) -> None:
        self.problems: list[str] = []
        self._environ = environ
        self._role = role
        self._secrets = Secrets()

    def read(self, variable: Variable) -> Any:
        """Return a variable's value; None where it is absent, or wrong, which is then noted."""
        try:
            return variable.read(self._environ, self._role, self._secrets)
        except ValueError as error:
            self.problems.append(str(error))
            return None


_HOST = re.compile(r"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|[0-9a-f:.]*:[0-9a-f:.]*(%\w+)?")


def url(*schemes: str) -> Callable[[str], str]:
    """Parse a URL with one of these schemes and a host."""

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


def url_to_call(text: str) -> str:
    """Parse a URL that we send requests to."""
    parts = urlsplit(url("http", "https")(text))
    if parts.username or parts.password:
        raise ValueError("a URL must not carry credentials: they would end up in logs")
    return text


#: Brokers that Celery knows and people ask for; why not here: docs/deploy.md.
_OTHER_BROKERS = ("sentinel", "amqp", "amqps", "pyamqp", "sqs", "redis+socket", "redis+cluster")


def redis_url(text: str) -> str:
    """Parse the URL of a Redis server: host, port, user, password and database, nothing else."""
    scheme, separator, _ = text.partition("://")
    if separator and scheme in _OTHER_BROKERS:
        raise ValueError(
            f"{scheme}:// is not supported: messages, chords and breakers share one Redis server "
            '(docs/deploy.md, "Other brokers")'
        )
    if scheme not in ("redis", "rediss"):
        raise ValueError("not a URL with redis:// or rediss:// and a host")
    parts = urlsplit(url("redis", "rediss")(text))
    if parts.query or parts.fragment:
        raise ValueError("nothing may follow behind a ? or #, such as options of a connection")
    if not re.fullmatch(r"(/[0-9]{0,5})?", parts.path):
        raise ValueError("the database, behind the host, is not a number")
    return text


def ca_file(text: str) -> str:
    """Parse the name of a PEM file of certificate authorities."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(text)
    except (OSError, ValueError):
        raise ValueError("not a PEM file of certificates that can be read") from None
    return text


#: What is wrong with a URL that is not safe, where that is asked for.
PLAIN_HTTP = "http:// outside loopback is refused unless ALLOW_HTTP_SINKS is true"


def is_safe(url: str) -> bool:
    """Tell whether what is sent there cannot be read on the way."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        return parts.scheme == "https" or ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def printable(text: str) -> str:
    """Parse a text without control characters."""
    if not text.isprintable():
        raise ValueError("not printable")
    return text


def matching(pattern: str, words: str) -> Callable[[str], str]:
    """Parse what matches a pattern, which ``words`` describe."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"not {words}")
        return text

    return parse


def integer(low: int, high: int) -> Callable[[str], int]:
    """Parse a whole number."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"not a whole number from {low} to {high}")
        return int(text)

    return parse


def number(low: int, high: int) -> Callable[[str], float]:
    """Parse a number that may have decimals."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
            raise ValueError(f"not a number from {low} to {high}")
        return float(text)

    return parse


def boolean(text: str) -> bool:
    """Parse yes or no."""
    if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise ValueError("not true or false")
    return text.lower() in ("1", "true", "yes", "on")


def seconds(text: str) -> tuple[int, ...]:
    """Parse whole numbers of seconds, comma-separated."""
    waits = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"[1-9][0-9]{0,6}", wait) for wait in waits):
        raise ValueError("not whole numbers of seconds, comma-separated")
    return tuple(map(int, waits))


def one_of(choices: type[StrEnum]) -> Callable[[str], StrEnum]:
    """Parse a member of an enumeration."""

    def parse(text: str) -> StrEnum:
        if text not in list(choices):
            raise ValueError(f"not one of {', '.join(choices)}")
        return choices(text)

    return parse


def keys(text: str) -> tuple[bytes, ...]:
    """Parse keys of printable ASCII, comma-separated."""
    found = [key.strip() for key in text.split(",") if key.strip()]
    if not found or any(re.search(r"[^!-~]", key) for key in found):
        raise ValueError("not one or more keys of printable ASCII, comma-separated")
    return tuple(key.encode() for key in found)
