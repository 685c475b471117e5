"""What an environment variable is, which roles need it, and how its text is read.

A parser turns the text into a value. It raises ``ValueError`` with what the text is not, and never
repeats the text, which may be a secret.
"""

import re
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, fields
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tasks.settings.secrets_manager import Secrets, is_arn


class Role(StrEnum):
    """What a process is for; decides which settings it requires."""

    WORKER = "worker"
    INGEST = "ingest"
    FLOWER = "flower"


class Variable(NamedTuple):
    """An environment variable; that of a ``secret`` may hold an ARN (``secrets_manager.py``)."""

    parse: Callable[[str], Any]
    doc: str
    example: str = ""
    default: str | None = None
    name: str = ""
    needed_by: Sequence[Role] = ()
    secret: bool = False
    unless: str | None = None  # the variable that makes it unnecessary where it is set

    def problem(self, what: str, example: object = None) -> str:
        """Return a line with what is wrong with it, and an example of what is right."""
        return f"{self.name}: {what}; expected, for example: {example or self.example}"


def named(prefix: str, variables: Mapping[str, Variable]) -> dict[str, Variable]:
    """Name variables like their keys, unless they have names; a default is an example, too."""
    return {
        key: variable._replace(
            name=prefix + (variable.name or key.upper()),
            example=variable.example or variable.default or "",
        )
        for key, variable in variables.items()
    }


def setting(
    parse: Callable[[str], Any],
    doc: str,
    example: str = "",
    default: str | None = None,
    **options: Any,
) -> Any:
    """Declare a field of a dataclass that is read from a ``Variable`` of these arguments."""
    variable = Variable(parse, doc, example, default, **options)
    return field(metadata={"variable": variable}, repr=not variable.secret)


def variables_of_class(cls: type[Any], prefix: str = "") -> dict[str, Variable]:
    """Return the variables of a dataclass's fields, by field."""
    return named(prefix, {f.name: f.metadata["variable"] for f in fields(cls) if f.metadata})


#: Yields what contradicts among values, by the keys of their variables.
Check = Callable[[Mapping[str, Any]], Iterable[str]]


class Reader:
    """Reads variables for a process with this role, and collects all that is wrong."""

    def __init__(self, environ: Mapping[str, str], role: Role | None) -> None:
        self.problems: list[str] = []
        self._environ = environ
        self._role = role
        self._secrets = Secrets()

    def read(self, variable: Variable) -> Any:
        """Return a variable's value; None where it is absent, or wrong, which is recorded."""
        try:
            return self._value(variable)
        except ValueError as error:
            self.problems.append(str(error))
            return None

    def read_group(self, variables: Mapping[str, Variable], check: Check) -> dict[str, Any] | None:
        """Return the values of variables that belong together; None if something is wrong.

        ``check`` is called if each value is right by itself.
        """
        known = len(self.problems)
        values = {key: self.read(variable) for key, variable in variables.items()}
        if len(self.problems) == known:
            self.problems += check(values)
        return values if len(self.problems) == known else None

    def _value(self, variable: Variable) -> Any:
        text = self._text(variable.name) or self._file_text(variable) or variable.default
        if text is None:
            if self._role in variable.needed_by and not self._text(variable.unless or ""):
                raise ValueError(variable.problem("missing"))
            return None
        secret = variable.secret
        try:
            return variable.parse(self._secrets.read(text) if secret and is_arn(text) else text)
        except ValueError as error:
            shown = "" if secret else f" (it is {text!r})"
            raise ValueError(variable.problem(f"{error}{shown}")) from None

    def _text(self, name: str) -> str:
        return self._environ.get(name, "").strip()

    def _file_text(self, variable: Variable) -> str | None:
        """Read a secret from the file that ``<NAME>_FILE`` names, as containers get them."""
        path = self._text(f"{variable.name}_FILE")
        if not variable.secret or not path:
            return None
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            why = error.strerror
        except ValueError:  # of its text or its name; the error would show a part of the secret
            why = "not a file of UTF-8 text"
        raise ValueError(f"{variable.name}_FILE: {path} cannot be read: {why}")


_HOST = re.compile(r"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|[0-9a-f:.]*:[0-9a-f:.]*(%\w+)?")


def url(*schemes: str) -> Callable[[str], str]:
    """Parse a URL with one of these schemes and a host."""

    def parse(text: str) -> str:
        try:
            parts = urlsplit(text)
            host = parts.port != 0 and _HOST.fullmatch(parts.hostname or "")
        except ValueError:  # its text repeats part of the URL, which may be a secret
            host = None
        if not host or parts.scheme not in schemes:
            raise ValueError(f"not a URL with {' or '.join(f'{s}://' for s in schemes)} and a host")
        return text

    return parse


def url_to_call(text: str) -> str:
    """Parse a URL that requests are sent to."""
    parts = urlsplit(url("http", "https")(text))
    if parts.username or parts.password:
        raise ValueError("a URL must not carry credentials: they would end up in logs")
    return text


#: Brokers of Celery that are often asked for; docs/deploy.md has the reason for each.
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


#: The problem of a URL that is not safe, unless plain http is allowed.
PLAIN_HTTP = "http:// outside loopback is refused unless ALLOW_HTTP_SINKS is true"


def is_safe(url: str) -> bool:
    """Return whether what is sent there cannot be read on the way: TLS, or loopback."""
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
    """Parse a text that matches a pattern, which ``words`` describes."""

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
