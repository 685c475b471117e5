"""The health check of the image."""

import importlib.util
import os
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from celery import signals

ROOT = Path(__file__).parents[2]


@pytest.fixture
def health() -> ModuleType:
    spec = importlib.util.spec_from_file_location("health", ROOT / "deploy/image/health.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def file(monkeypatch, tmp_path) -> Path:
    """The heartbeat file, which does not exist yet."""
    file = tmp_path / "heartbeat"
    monkeypatch.setenv("HEARTBEAT_FILE", str(file))  # for health.py
    monkeypatch.setattr("tasks.celery.settings", lambda: SimpleNamespace(heartbeat_file=file))
    return file


@pytest.mark.parametrize(
    ("interval", "age", "alive"), [(2, 0, True), (2, 33, True), (2, 35, False), (300, 600, True)]
)
def test_old_heartbeat_is_unhealthy(health, file, interval, age, alive):
    file.touch()
    os.utime(file, (0, time.time() - age))
    assert health.is_alive(interval) is alive


def test_missing_heartbeat_is_unhealthy(health, file):
    assert not health.is_alive(2)


@pytest.mark.parametrize("signal", ["a worker's heartbeat", "a sweep that beat sends"])
def test_heartbeat_is_written(file, signal):
    if signal == "a worker's heartbeat":
        signals.heartbeat_sent.send(sender=None)
    else:
        signals.after_task_publish.send(sender="sweep")
    assert file.exists()


def test_other_messages_write_no_heartbeat(file):
    signals.after_task_publish.send(sender="settle")
    assert not file.exists()


def test_no_heartbeat_file_is_written_unless_set(file, monkeypatch):
    monkeypatch.setattr("tasks.celery.settings", lambda: SimpleNamespace(heartbeat_file=None))
    signals.heartbeat_sent.send(sender=None)
    assert not file.exists()
