"""Flower is as ``dashboard/flower`` expects it.

Flower has no official way to add pages, so an upgrade may break the dashboard without an error. A
test that fails here names the part of ``dashboard/`` to review before another release is pinned.
"""

import inspect
from importlib.metadata import version
from pathlib import Path

import pytest
from celery.events.state import Task
from flower import events, options, urls
from flower.api import BaseApiHandler, control, tasks
from flower.utils.authentication import authenticate
from flower.views import BaseHandler, auth
from flower.views.tasks import TaskView
from tornado.web import StaticFileHandler

from dashboard.flower.auth import Guard
from dashboard.flower.install import REPLACED, install
from dashboard.flower.templates import SPLICES, FlowerChangedError, templates

FLOWER_TEMPLATES = Path(urls.settings["template_path"])


@pytest.fixture
def installed(monkeypatch):
    """Flower's routes and settings with the dashboard; restored afterwards."""
    monkeypatch.setattr(urls, "handlers", list(urls.handlers))
    monkeypatch.setattr(urls, "settings", dict(urls.settings))
    install()
    return urls


def test_flower_has_the_reviewed_version():
    assert version("flower") == "2.2.0", "review dashboard/ before another release is pinned"


@pytest.mark.parametrize("splice", SPLICES, ids=lambda splice: splice.template)
def test_flower_templates_have_the_replaced_text(splice):
    text = (FLOWER_TEMPLATES / splice.template).read_text()
    assert text.count(splice.text) == 1, f"dashboard/flower/templates.py replaces:\n{splice.text}"


def test_flower_routes_have_the_replaced_handlers(installed):
    handlers = {spec.handler_class for spec in installed.handlers}
    assert handlers >= set(REPLACED.values())


def test_the_guard_is_before_every_handler(installed):
    free = {StaticFileHandler, auth.LoginHandler}
    unguarded = {
        spec.handler_class
        for spec in installed.handlers
        if not issubclass(spec.handler_class, Guard)
    }
    assert unguarded == free, "dashboard/flower/install.py puts Guard before handlers"


def test_routes_keep_their_names_and_patterns(installed):
    names = {spec.name for spec in installed.handlers if spec.name}
    assert names >= {"main", "workers", "worker", "task", "tasks", "broker", "logout"}
    assert installed.handlers[-1].regex.pattern == ".*$"


@pytest.mark.parametrize(
    ("owner", "name", "user"),
    [
        (BaseHandler, "get_current_user", "auth.py replaces it"),
        (BaseHandler, "check_xsrf_cookie", "pages/base.py adds to it"),
        (BaseHandler, "write_error", "pages/base.py replaces it"),
        (BaseHandler, "set_default_headers", "auth.py adds to it"),
        (BaseHandler, "render", "auth.py adds to it"),
        (BaseApiHandler, "prepare", "auth.py runs before it"),
        (tasks.BaseTaskHandler, "get_task_args", "task_page.py adds the actor"),
        (tasks.TaskAsyncApply, "post", "task_page.py starts deliveries with it"),
        (control.TaskRevoke, "post", "task_page.py runs before it"),
        (TaskView, "get", "task_page.py shows tasks with it"),
    ],
)
def test_flower_handlers_have_the_overridden_methods(owner, name, user):
    assert name in vars(owner), f"dashboard/{user}"


def test_flower_handlers_call_the_overridden_methods():
    for handler in (tasks.TaskApply, tasks.TaskAsyncApply, tasks.TaskSend):
        source = inspect.getsource(handler.post)
        assert "args, kwargs, options = self.get_task_args()" in source, (
            "dashboard/flower/task_page.py"
        )
    assert "read_only=self.application.options.read_only" in inspect.getsource(TaskView.get)
    assert "_current_user" in inspect.getsource(BaseHandler.write_error), "dashboard/pages/base.py"
    login = inspect.getsource(auth)
    assert login.count("set_secure_cookie('user'") + login.count('set_secure_cookie("user"') >= 4, (
        "dashboard/flower/auth.py reads the cookie 'user'"
    )


def test_flower_has_the_options_that_are_set_and_read():
    known = options.default_options
    for name in ("address", "port", "basic_auth", "auth", "read_only", "auth_provider"):
        assert name in known, "flowerconfig.py and dashboard/flower/auth.py"
    assert "readonly_auth" not in known, "FLOWER_READONLY_AUTH is not Flower's"
    assert "operators" not in known, "FLOWER_OPERATORS is not Flower's"


def test_logins_match_the_whole_address():
    assert authenticate(".*@example.com", "ann@example.com")
    assert not authenticate(".*@example.com", "ann@example.com.evil.example")


def test_flower_tasks_have_the_fields_that_pages_show():
    for name in ("uuid", "name", "args", "state", "started", "failed", "revoked", "runtime"):
        assert name in Task._fields, "event_detail.py and task_page.py"
    assert issubclass(events.EventsState, object)
    assert "self.state.tasks" in inspect.getsource(events.Events), "dashboard/pages/event_detail.py"


@pytest.mark.parametrize(
    "name",
    ["js/theme.js", "js/bootstrap.bundle.min.js", "css/bootstrap.min.css", "css/flower.css"],
)
def test_flower_has_the_files_that_pages_load(name):
    assert (Path(urls.settings["static_path"]) / name).is_file(), "dashboard/templates/page.html"


def test_flower_has_the_styles_that_pages_use():
    css = (Path(urls.settings["static_path"]) / "css" / "flower.css").read_text()
    for name in ("surface", "surface-subtle", "text-muted", "success", "warning", "danger"):
        assert css.count(f"--flower-{name}:") == 2, "light and dark: dashboard/static/dashboard.css"
    for name in ("page-section", "page-eyebrow", "detail-card", "detail-list", "detail-row"):
        assert f".{name} " in css, "dashboard/templates"


# ── And if it is not ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def another_flower(tmp_path):
    for path in FLOWER_TEMPLATES.glob("*.html"):
        (tmp_path / path.name).write_text(path.read_text())
    return tmp_path


def test_install_fails_if_the_task_page_has_changed(another_flower):
    page = another_flower / "task.html"
    page.write_text(page.read_text().replace("task-terminate", "task-stop"))
    with pytest.raises(FlowerChangedError, match=r"task\.html does not have, once, the text"):
        templates(another_flower)


def test_install_fails_if_template_names_clash(another_flower):
    (another_flower / "event_detail.html").write_text("")
    with pytest.raises(FlowerChangedError, match=r"names of the dashboard.s: event_detail\.html"):
        templates(another_flower)


def test_install_fails_if_a_handler_is_gone(monkeypatch):
    with_revoke = (r"/api/task/revoke/(.+)", control.TaskRevoke)
    rest = [spec for spec in urls.handlers if spec != with_revoke]
    monkeypatch.setattr(urls, "handlers", rest)
    with pytest.raises(FlowerChangedError, match="TaskRevoke"):
        install()
