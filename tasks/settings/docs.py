"""Rendering ``docs/settings.md`` from the variables."""

from collections.abc import Iterable

from tasks.settings import cxone
from tasks.settings.environment import Variable
from tasks.settings.model import VARIABLES
from tasks.settings.sink_table import documented
from tasks.sinks import SINKS


def as_markdown() -> str:
    """Render ``docs/settings.md``."""
    return f"""\
# Settings

All are read from the environment and checked when a process starts. This page is rendered by
`make docs`. AWS credentials are found in boto3's usual places.

A value marked † may be a secret. It may also be in a file that `<its name>_FILE` names, or the
value may be the ARN of a secret in AWS Secrets Manager: `arn:aws:secretsmanager:…:secret:NAME`, or
with `#KEY` behind it for a field of a JSON object. The secret is read when a process starts; if
that fails, the process does not start.

{_table(VARIABLES.values())}

## Each sink

`<NAME>` is one of {", ".join(name.upper() for name in SINKS)}; see [sinks](sinks.md).

{_table(documented(SINKS.values()))}

## CXone

All absent: no contexts. See [contexts](cxone.md).

{_table(cxone.VARIABLES.values())}
"""


def _table(variables: Iterable[Variable]) -> str:
    head = "| name | meaning | default | example | needed by |\n|---|---|---|---|---|"
    return "\n".join([head, *map(_row, variables)])


def _row(variable: Variable) -> str:
    value = "the one shipped" if variable.name == "METADATA_REGISTRY" else variable.default
    default = f"`{value}`" if value else "–"
    needed = ", ".join(sorted(variable.needed_by))
    name = f"`{variable.name}`" + (" †" if variable.secret else "")
    return f"| {name} | {variable.doc} | {default} | `{variable.example}` | {needed} |"
