"""The templates: ours, and Flower's with our additions spliced in.

Flower's templates have no place of their own for a button or a link, so a piece of their text is
replaced. Where a release of Flower has no such text any more, Flower does not start and says so,
instead of running without the Retry button.
"""

from pathlib import Path
from typing import NamedTuple

OURS = Path(__file__).parents[1] / "templates"

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

#: Where Flower's navigation begins.
NAVIGATION = """      <ul class="app-nav navbar-nav">\n"""


class Splice(NamedTuple):
    """What is replaced in a template of Flower."""

    template: str
    text: str
    replacement: str


SPLICES = (
    Splice("task.html", BUTTONS, '{% include "task_actions.html" %}'),
    Splice("navbar.html", NAVIGATION, NAVIGATION + '{% include "navigation.html" %}'),
)


class FlowerChangedError(Exception):
    """Raised when this Flower is not made as we know it: look at ``dashboard/`` before going on."""


def templates(flowers: Path) -> dict[str, str]:
    """Return all templates by name; ``flowers`` is the folder of Flower's.

    Raises:
        FlowerChangedError: a text that we replace is not there, or not once.
    """
    texts = _texts(flowers)
    for splice in SPLICES:
        if texts.get(splice.template, "").count(splice.text) != 1:
            raise FlowerChangedError(
                f"Flower's {splice.template} does not have, once, the text that the dashboard "
                f"replaces:\n{splice.text}"
            )
        texts[splice.template] = texts[splice.template].replace(splice.text, splice.replacement)
    ours = _texts(OURS)
    if clash := texts.keys() & ours.keys():
        raise FlowerChangedError(f"Flower has templates named as ours: {', '.join(sorted(clash))}")
    return texts | ours


def _texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("*.html"))}
