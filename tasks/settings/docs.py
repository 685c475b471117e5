"""Rendering ``docs/settings.md`` from the variables."""

from collections.abc import Iterable, Iterator

from tasks.settings import cxone
from tasks.settings.environment import Variable
from tasks.settings.model import VARIABLES
from tasks.settings.sink_table import documented
from tasks.sinks import SINKS


def as_markdown() -> str:
    """Render ``docs/settings.md``."""
    lines = [
        "# Settings",
        "",
        "All from the environment, checked when a process starts. "
        "Rendered by `python -m tasks.settings`.",
        "",
        *_table(VARIABLES.values()),
        "",
        "AWS credentials are found as boto3 finds them. A secret may also be in a file, which "
        "`<its name>_FILE` names: "
        + ", ".join(f"`{variable.name}`" for variable in VARIABLES.values() if variable.secret)
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
        *_table(documented(SINKS.values())),
        "",
        "## CXone",
        "",
        "All absent: no contexts. See [contexts](cxone.md).",
        "",
        *_table(cxone.VARIABLES.values()),
        "",
    ]
    return "\n".join(lines)


def _table(variables: Iterable[Variable]) -> Iterator[str]:
    yield "| name | meaning | default | example | needed by |"
    yield "|---|---|---|---|---|"
    for variable in variables:
        value = "the one shipped" if variable.name == "METADATA_REGISTRY" else variable.default
        default = f"`{value}`" if value else "–"
        needed = ", ".join(sorted(variable.needed_by))
        name = f"`{variable.name}`" + (" †" if variable.secret else "")
        yield f"| {name} | {variable.doc} | {default} | `{variable.example}` | {needed} |"
