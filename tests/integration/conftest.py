"""The system under test, made once and shared by every test that does not break it.

A module whose tests do break it overrides ``system``; pytest-celery's own fixtures
(``celery_setup`` and what it stands on) follow, since they are made from it here.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from celery import Celery
from kombu import pools
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestSetup,
    CeleryWorkerCluster,
)

from embedded.backing_services import find_redis_server
from embedded.stubs.sinks import SampleSinks
from tests.support.dashboard import OPERATOR, READER, FlowerContainer, Visitor
from tests.support.envelopes import SINKS
from tests.support.nodes import (
    Backend,
    Broker,
    EmulatorContainer,
    RedisContainer,
    Worker,
    running,
)
from tests.support.system import IngestContainer, System, TaskEvents
from tests.support.waiting import eventually


@pytest.fixture(scope="session")
def engines() -> None:
    """Skip on a machine without the engines that these tests need; in CI that is a failure."""
    missing = [
        name
        for name, found in (
            ("redis-server", find_redis_server()),
            ("ministack", find_spec("ministack")),
        )
        if not found
    ]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"missing: {', '.join(missing)}")
    if missing:
        pytest.skip(f"missing: {', '.join(missing)}")


@pytest.fixture(scope="session")
def aws_url(engines: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The AWS emulator."""
    with running(EmulatorContainer(tmp_path_factory.mktemp("aws"))) as emulator:
        yield emulator.url


@pytest.fixture(scope="session")
def shared_redis(
    engines: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisContainer]:
    """A Redis for tests that need no more than that."""
    with running(RedisContainer(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture
def redis(shared_redis: RedisContainer) -> RedisContainer:
    """The same, empty."""
    shared_redis.client.flushall()
    return shared_redis


@pytest.fixture(scope="session")
def sample_sinks() -> Iterator[SampleSinks]:
    """The downstream services."""
    with SampleSinks() as sinks:
        yield sinks


@pytest.fixture(scope="session")
def shared_system(
    aws_url: str, sample_sinks: SampleSinks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A system that nobody breaks."""
    folder = tmp_path_factory.mktemp("shared")
    with System(folder, aws_url=aws_url, sinks=sample_sinks) as system:
        yield system


#: The schedule comes round at once a few times, and then no more during a test. The breaker of
#: analytics waits a second for a probe, that of the CRM for ever; that of compliance never opens.
PATIENT = {
    "SWEEP_INTERVAL_SECONDS": "1",
    "REDRIVE_SCHEDULE_SECONDS": "1,1,1,1,1,1,3600",
    "ANALYTICS_MAX_TRIES": "1",
    "ANALYTICS_BREAKER_FAILURES": "2",
    "ANALYTICS_BREAKER_SECONDS": "1",
    "CRM_MAX_TRIES": "1",
    "CRM_BREAKER_FAILURES": "3",
    "CRM_BREAKER_SECONDS": "3600",
    "COMPLIANCE_MAX_TRIES": "2",
    "COMPLIANCE_BACKOFF_CAP_SECONDS": "1",
    "COMPLIANCE_BREAKER_FAILURES": "1000",
}


@pytest.fixture(scope="session")
def patient_system(
    aws_url: str, sample_sinks: SampleSinks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A system with beat, whose sinks are forgiven much."""
    folder = tmp_path_factory.mktemp("patient")
    with System(folder, aws_url=aws_url, sinks=sample_sinks, beat=True, **PATIENT) as system:
        yield system


@pytest.fixture
def system(shared_system: System) -> System:
    """The system under test."""
    return shared_system


@pytest.fixture
def sinks(sample_sinks: SampleSinks) -> Iterator[SampleSinks]:
    """The downstream services, which take everything at the test's start."""
    for name in SINKS:
        sample_sinks.behave(name)
    yield sample_sinks
    for name in SINKS:
        sample_sinks.behave(name)


@pytest.fixture
def ingest(system: System, sinks: SampleSinks) -> IngestContainer:
    """Where events go in."""
    return system.ingest


@pytest.fixture(scope="session")
def shared_flower(shared_system: System) -> Iterator[FlowerContainer]:
    """Flower with the dashboard, beside the system that nobody breaks."""
    redis = shared_system.broker.client
    listeners = len(redis.client_list(_type="pubsub"))
    with running(FlowerContainer(shared_system.folder, shared_system.settings)) as flower:
        eventually(lambda: len(redis.client_list(_type="pubsub")) > listeners)
        yield flower


@pytest.fixture
def operator(shared_flower: FlowerContainer, sinks: SampleSinks) -> Visitor:
    """Somebody who may look and act."""
    return Visitor(shared_flower, OPERATOR)


@pytest.fixture
def reader(shared_flower: FlowerContainer) -> Visitor:
    """Somebody who may only look."""
    return Visitor(shared_flower, READER)


@pytest.fixture
def task_events(system: System) -> TaskEvents:
    """What workers tell of their tasks."""
    return system.task_events


@pytest.fixture
def celery_setup_cls() -> type[CeleryTestSetup]:
    """pytest-celery's setup, with an app that sends tasks where ours are consumed."""
    return Setup


class Setup(CeleryTestSetup):
    """Broker, backend and worker of the system, and an app to talk to them."""

    @classmethod
    def update_app_config(cls, app: Celery) -> None:
        """Route tasks as ``celeryconfig`` does."""
        app.conf.task_routes = (_route,)
        app.conf.task_create_missing_queues = True


def _route(name: str, *_: Any, **__: Any) -> dict[str, str]:
    return {"queue": "events" if name == "process_event" else name}


@pytest.fixture
def celery_broker_cluster(system: System) -> CeleryBrokerCluster:
    """Redis."""
    return CeleryBrokerCluster(Broker(system.broker))


@pytest.fixture
def celery_backend_cluster(system: System) -> CeleryBackendCluster:
    """The same Redis."""
    return CeleryBackendCluster(Backend(system.broker))


@pytest.fixture
def celery_worker_cluster(system: System, celery_setup_app: Celery) -> CeleryWorkerCluster:
    """One worker with two pool processes."""
    return CeleryWorkerCluster(Worker(system.worker, celery_setup_app))


@pytest.fixture
def celery_setup_app(celery_setup_cls: Any, celery_setup_config: Any) -> Iterator[Celery]:
    """An app that only sends; closed with the test."""
    pools.reset()  # kombu shares connections among apps: those to a Redis that was killed since
    app = celery_setup_cls.create_setup_app(celery_setup_config, "tests")
    yield app
    app.close()


@pytest.fixture
def app(celery_setup: CeleryTestSetup) -> Celery:
    """The app of the test, to call tasks by name."""
    return celery_setup.app
