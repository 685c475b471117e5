"""The check that libraries whose private methods are used are made as this release expects."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from gunicorn import util
from gunicorn.arbiter import Arbiter
from kombu.transport import redis

from ingest.__main__ import GUNICORN, GUNICORN_METHODS, GUNICORN_NAMES
from tasks.errors import ProcessorError
from tasks.worker import compat
from tasks.worker.compat import LibraryChangedError, verify

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def gunicorn() -> None:
    verify(GUNICORN, GUNICORN_METHODS, GUNICORN_NAMES)


def test_the_installed_versions_are_as_expected() -> None:
    verify()
    gunicorn()


def test_the_pins_are_the_versions_that_are_supported() -> None:
    pins = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    for library, known in (compat.SUPPORTED | GUNICORN).items():
        [pin] = [pin for pin in pins if pin.split("[")[0].split(">")[0] == library]
        *major, last = known.split(".")
        assert pin.endswith(f",<{'.'.join([*major, str(int(last) + 1)])}")
        assert f">={known}" in pin


def test_everything_that_changed_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def put(self: Any, queue: str, message: Any, *, batch: Any = None) -> None:
        """A ``_put`` of another kombu."""

    monkeypatch.delattr(redis.Channel, "_flush_brpop_reauth")
    monkeypatch.setattr(redis.Channel, "_put", put)
    monkeypatch.setattr(redis.QoS, "reject", lambda self, tag: None)
    with pytest.raises(LibraryChangedError) as caught:
        verify()
    assert isinstance(caught.value, ProcessorError)
    heading, *problems = str(caught.value).splitlines()
    assert heading.startswith("this release supports celery 5.7 (installed: 5.")
    assert [problem.strip() for problem in problems] == [
        "kombu.transport.redis:Channel._flush_brpop_reauth is missing",
        "kombu.transport.redis:Channel._put has parameters (self, queue, message, *, batch=None) "
        "instead of (self, queue, message, **kwargs)",
        "kombu.transport.redis:QoS.reject has parameters (self, tag) "
        "instead of (self, delivery_tag, requeue=False)",
        "kombu.transport.redis:Channel._put does not use _publish_batch, lpush",
    ]


def test_a_module_that_is_gone_is_missing() -> None:
    with pytest.raises(LibraryChangedError, match="celery:no_module is missing"):
        verify(compat.SUPPORTED, {"celery:no_module": "self"}, {})


def test_annotations_are_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_error(sock: Any, status_int: int, reason: str, mesg: str) -> None:
        """An annotated one."""

    monkeypatch.setattr(util, "write_error", write_error)
    gunicorn()


def test_a_gunicorn_without_listeners_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Arbiter, "start", lambda self: self.cfg.when_ready(self))
    monkeypatch.delattr(util, "write_nonblock")
    with pytest.raises(LibraryChangedError) as caught:
        gunicorn()
    assert str(caught.value).startswith("this release supports gunicorn 27 (installed: 27.")
    assert "gunicorn.arbiter:Arbiter.start does not use LISTENERS" in str(caught.value)
    assert "gunicorn.util:write_nonblock is missing" in str(caught.value)
