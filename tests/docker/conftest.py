"""The project of Compose that all these tests share, and pytest-celery's setup on it."""

import os
import signal
import subprocess
from collections.abc import Iterator

import docker
import pytest
from docker.errors import DockerException

from tests.integration.conftest import (  # noqa: F401 - fixtures, made here from the system below
    app,
    celery_backend_cluster,
    celery_broker_cluster,
    celery_setup_app,
    celery_setup_cls,
    celery_worker_cluster,
)
from tests.support.envelopes import SINKS
from tests.support.short_settings import FREQUENT_SWEEPS, for_every_sink

from .project import Project, compose
from .system import ContainerSystem, PublishedSinks

#: Short leases and visibility timeouts, as containers allow them: lost work is recovered soon.
SETTINGS = FREQUENT_SWEEPS | for_every_sink(
    MAX_TRIES="3",
    BACKOFF_CAP_SECONDS="1",
    RETRY_AFTER_CAP_SECONDS="1",
    CONNECT_TIMEOUT_SECONDS="1",
    READ_TIMEOUT_SECONDS="3",
)
SETTINGS |= {"CLAIM_LEASE_SECONDS": "15", "VISIBILITY_TIMEOUT_SECONDS": "5"}


@pytest.fixture(scope="session")
def engine() -> None:
    """Skip on a machine without Docker and Compose; in CI that is a failure."""
    missing = []
    try:
        docker.from_env().close()
        subprocess.run(["docker", "info"], check=True, capture_output=True)
    except (DockerException, OSError, subprocess.CalledProcessError):
        missing.append("a Docker engine that runs")
    if compose() is None:
        missing.append("docker compose or docker-compose")
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"missing: {', '.join(missing)}")
    if missing:
        pytest.skip(f"missing: {', '.join(missing)}")


@pytest.fixture(scope="session")
def project(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """docker-compose.yml, up and healthy."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # then it is taken down, too
    with Project(tmp_path_factory.mktemp("compose"), SETTINGS) as project:
        yield project


@pytest.fixture(scope="session")
def shared_system(project: Project) -> Iterator[ContainerSystem]:
    """What it runs."""
    with ContainerSystem(project) as system:
        yield system


@pytest.fixture
def system(shared_system: ContainerSystem) -> Iterator[ContainerSystem]:
    """The same; what the test has broken is restored after it."""
    yield shared_system
    shared_system.project.restore()
    for name in SINKS:
        shared_system.sinks.behave(name)


@pytest.fixture
def sinks(system: ContainerSystem) -> PublishedSinks:
    """The downstream services."""
    return system.sinks
