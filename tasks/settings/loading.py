"""Read the settings of this process, once; wrong ones end it with a message."""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache

from tasks.errors import SettingsError
from tasks.events import metadata
from tasks.settings.checks import check_constraints, suggest_names
from tasks.settings.cxone import read_cxone
from tasks.settings.environment import Reader, Role
from tasks.settings.model import VARIABLES, Settings
from tasks.settings.sinks import read_sink
from tasks.sinks import SINKS

#: Options between ``celery`` and its command whose value is the next word.
_CELERY_OPTIONS_WITH_VALUE = frozenset(
    {"-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir"}
)


def role_of_command(argv: Sequence[str]) -> Role | None:
    """Return the role of a ``celery -A tasks …`` command line; None if no setting is required."""
    words = iter(argv[1:])
    for word in words:
        if word in _CELERY_OPTIONS_WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return Role(word) if word in ("worker", "flower") else None
    return None


@cache
def settings() -> Settings:
    """Return the settings of this process, read once; end the process if they are wrong.

    A name that is nearly a setting's is only printed, since another program may use it.
    """
    for line in suggest_names(os.environ):
        print(line, file=sys.stderr)  # noqa: T201 - there is no log yet
    return load_or_exit(role_of_command(sys.argv))


def load_or_exit(role: Role | None) -> Settings:
    """Read the settings from the environment; if some are wrong, print why and exit 1."""
    try:
        return load(os.environ, role)
    except SettingsError as error:
        lines = "\n".join(f"  {problem}" for problem in error.problems)
        raise SystemExit(f"cannot start: {len(error.problems)} setting(s) wrong\n{lines}") from None


def load(environ: Mapping[str, str], role: Role | None = None) -> Settings:
    """Read the settings for a process with this role.

    Raises:
        SettingsError: Some are wrong; it has a line for each problem, not only the first.
    """
    reader = Reader(environ, role)
    values = {name: reader.read(variable) for name, variable in VARIABLES.items()}
    allow_http = values["allow_http_sinks"] is not False
    cxone = values["cxone"] = read_cxone(reader, allow_http=allow_http)
    values["sinks"] = {
        name: read_sink(sink, reader, allow_http=allow_http, cxone=cxone)
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
        problems = list(check_constraints(settings))
    if problems:
        raise SettingsError(problems)
    return settings
