"""Adds the dashboard to Flower: routes, the guard before every handler, templates.

Flower has no official way to do so. It reads the list ``flower.urls.handlers`` and the dictionary
``flower.urls.settings`` once it has executed ``flowerconfig.py``, which is where this is called.
"""

import logging
from pathlib import Path
from typing import Any

from flower import urls
from flower.api import tasks as task_api
from flower.api.control import TaskRevoke
from flower.views import BaseHandler
from flower.views.auth import LoginHandler
from flower.views.monitor import Metrics
from flower.views.tasks import TasksDataTable, TaskView
from tornado.template import DictLoader
from tornado.web import StaticFileHandler, url

from dashboard.flower import task_page
from dashboard.flower.auth import STATIC, guarded
from dashboard.flower.metrics import MetricsPage
from dashboard.flower.templates import FlowerChangedError, templates
from dashboard.pages.bulk_redrive import ChoosePage, RedrivePage
from dashboard.pages.event_detail import EventPage, PayloadPage
from dashboard.pages.event_list import EventsPage
from dashboard.pages.overview import OverviewPage
from dashboard.pages.retry import RetryPage
from dashboard.pages.runbook import RunbookPage
from tasks import json_lines

#: Handlers of Flower that are ours here.
REPLACED = {
    TaskView: task_page.TaskPage,
    TaskRevoke: task_page.Revoke,
    Metrics: MetricsPage,
    task_api.TaskApply: task_page.Apply,
    task_api.TaskAsyncApply: task_page.AsyncApply,
    task_api.TaskSend: task_page.Send,
    TasksDataTable: guarded(TasksDataTable, only_reads=True),
    LoginHandler: LoginHandler,  # for who is not signed in yet; it becomes FLOWER_AUTH_PROVIDER's
}

#: Pages that Flower does not have.
ADDED = [
    url(r"/overview", OverviewPage, name="overview"),
    url(r"/events", EventsPage, name="events"),
    url(r"/runbook", RunbookPage, name="runbook"),
    url(r"/redrives", ChoosePage, name="choose"),
    url(r"/redrives/([0-9a-f]+)", RedrivePage, name="redrive"),
    url(r"/event/(.+)/retry", RetryPage, name="retry"),
    url(r"/event/(.+)/payload", PayloadPage, name="payload"),
    url(r"/event/(.+)", EventPage, name="event"),
    url(r"/assets/(.*)", StaticFileHandler, {"path": str(STATIC)}, name="asset"),
]


def install() -> None:
    """Change Flower's routes and settings.

    Raises:
        FlowerChangedError: this Flower is not made as we know it.
    """
    handlers = {_parts(spec)[1] for spec in urls.handlers}
    if missing := REPLACED.keys() - handlers:
        names = ", ".join(sorted(handler.__name__ for handler in missing))
        raise FlowerChangedError(f"Flower does not use these handlers any more: {names}")
    urls.handlers[:] = [*ADDED, *map(_guarded, urls.handlers)]
    urls.settings["template_loader"] = DictLoader(templates(Path(urls.settings["template_path"])))
    urls.settings["xsrf_cookie_kwargs"] = {"samesite": "Strict"}
    json_lines.log_to_stdout()
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells of every client made


def _guarded(spec: Any) -> Any:
    """Return a route of Flower's with the guard before its handler."""
    pattern, handler, kwargs, name = _parts(spec)
    if handler in REPLACED:
        handler = REPLACED[handler]
    elif issubclass(handler, BaseHandler):
        handler = guarded(handler)
    return url(pattern, handler, kwargs, name)


def _parts(spec: Any) -> tuple[str, Any, dict[str, Any], str | None]:
    """Take a route apart, which Flower writes as a ``url`` or a tuple."""
    if isinstance(spec, tuple):
        pattern, handler, *kwargs = spec
        return pattern, handler, kwargs[0] if kwargs else {}, None
    return spec.regex.pattern, spec.handler_class, spec.kwargs, spec.name
