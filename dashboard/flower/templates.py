"""The dashboard's templates, and Flower's with additions spliced in.

Flower's templates have no block for a button or a link, so a piece of their text is replaced. If
another release of Flower does not have that text, Flower does not start and reports it, instead of
running without the Retry button.
"""

from pathlib import Path
from typing import NamedTuple

TEMPLATES = Path(__file__).parents[1] / "templates"

#: Flower's buttons on the page of a task.
BUTTONS = """\
      {% if not read_only %}
      {% if task.state == "STARTED" %}
      <button class="btn btn-danger" id="task-terminate">Terminate</button>
      {% elif task.state == "RECEIVED" or task.state == "RETRY" %}
      <button class="btn btn-danger" id="task-revoke">Revoke</button>
      {% end %}
      {% end %}
"""

#: Refreshes what the dashboard adds to it.
SCRIPT = """<script src="{{ asset('dashboard.js') }}" defer></script>\n"""

#: Where Flower's navigation begins.
NAVIGATION = """      <ul class="app-nav navbar-nav">\n"""


class Splice(NamedTuple):
    """What is replaced in a template of Flower."""

    template: str
    text: str
    replacement: str


SPLICES = (
    Splice("task.html", BUTTONS, '{% include "task_actions.html" %}' + SCRIPT),
    Splice("navbar.html", NAVIGATION, NAVIGATION + '{% include "navigation.html" %}'),
)


class FlowerChangedError(Exception):
    """Raised when Flower differs from the release that ``dashboard/flower`` was written for."""


def templates(folder: Path) -> dict[str, str]:
    """Return all templates by name; ``folder`` has Flower's.

    Raises:
        FlowerChangedError: a text to replace does not occur exactly once, or a name is taken.
    """
    texts = _texts(folder)
    for splice in SPLICES:
        if texts.get(splice.template, "").count(splice.text) != 1:
            raise FlowerChangedError(
                f"Flower's {splice.template} does not have, once, the text that the dashboard "
                f"replaces:\n{splice.text}"
            )
        texts[splice.template] = texts[splice.template].replace(splice.text, splice.replacement)
    added = _texts(TEMPLATES)
    if clash := texts.keys() & added.keys():
        names = ", ".join(sorted(clash))
        raise FlowerChangedError(f"Flower has templates with names of the dashboard's: {names}")
    return texts | added


def _texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("*.html"))}
