"""Adds the dashboard to Flower: routes, the authorization check before every handler, templates.

Flower has no official way to do so. It reads the list ``flower.urls.handlers`` and the dictionary
``flower.urls.settings`` after executing ``flowerconfig.py``, which calls ``install``
(docs/facts.md, F2).
"""

import logging
from pathlib import Path
from typing import Any

from flower import urls
from flower.api.control import TaskRevoke
from flower.api.tasks import TaskApply, TaskAsyncApply, TaskSend
from flower.views import BaseHandler
from flower.views.auth import LoginHandler
from flower.views.monitor import Metrics
from flower.views.tasks import TasksDataTable, TaskView
from tornado.template import DictLoader
from tornado.web import StaticFileHandler, url

from dashboard.flower.auth import STATIC, guarded
from dashboard.flower.metrics import MetricsPage
from dashboard.flower.task_page import Revoke, StartGuard, TaskPage
from dashboard.flower.templates import FlowerChangedError, templates
from dashboard.pages.bulk_redrive import RedrivePage, SelectPage
from dashboard.pages.event_detail import EventPage, PayloadPage
from dashboard.pages.event_list import EventListPage
from dashboard.pages.overview import OverviewPage
from dashboard.pages.retry import RetryPage
from dashboard.pages.runbook import RunbookPage
from tasks import json_lines

#: Handlers of Flower, and what replaces each.
REPLACED: dict[type[BaseHandler], type[BaseHandler]] = {
    TaskView: TaskPage,
    TaskRevoke: Revoke,
    Metrics: MetricsPage,
    **{handler: guarded(handler, StartGuard) for handler in (TaskApply, TaskAsyncApply, TaskSend)},
    TasksDataTable: guarded(TasksDataTable, only_reads=True),
    LoginHandler: LoginHandler,  # open to all; Flower replaces it by that of FLOWER_AUTH_PROVIDER
}

#: Pages that Flower does not have.
ADDED = [
    url(r"/overview", OverviewPage, name="overview"),
    url(r"/events", EventListPage, name="events"),
    url(r"/runbook", RunbookPage, name="runbook"),
    url(r"/redrives", SelectPage, name="redrives"),
    url(r"/redrives/([0-9a-f]+)", RedrivePage, name="redrive"),
    url(r"/event/(.+)/retry", RetryPage, name="retry"),
    url(r"/event/(.+)/payload", PayloadPage, name="payload"),
    url(r"/event/(.+)", EventPage, name="event"),
    url(r"/assets/(.*)", StaticFileHandler, {"path": str(STATIC)}, name="asset"),
]


def install() -> None:
    """Change Flower's routes and settings.

    Raises:
        FlowerChangedError: Flower differs from the release that this was written for.
    """
    routes: list[Any] = [url(*spec) if isinstance(spec, tuple) else spec for spec in urls.handlers]
    if missing := REPLACED.keys() - {route.handler_class for route in routes}:
        names = ", ".join(sorted(handler.__name__ for handler in missing))
        raise FlowerChangedError(f"Flower no longer uses these handlers: {names}")
    urls.handlers[:] = [*ADDED, *map(_guarded, routes)]
    urls.settings["template_loader"] = DictLoader(templates(Path(urls.settings["template_path"])))
    urls.settings["xsrf_cookie_kwargs"] = {"samesite": "Strict"}
    json_lines.log_to_stdout()
    logging.getLogger("botocore").setLevel(logging.WARNING)  # logs every client that is created


def _guarded(route: Any) -> Any:
    """Return a route of Flower's with the check before its handler."""
    handler = route.handler_class
    if handler in REPLACED:
        handler = REPLACED[handler]
    elif issubclass(handler, BaseHandler):
        handler = guarded(handler)
    return url(route.regex.pattern, handler, route.kwargs, route.name)
