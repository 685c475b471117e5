"""The system under test: one that all modules share, unless a module has a system of its own.

- ``shared_system``: default settings; no test may break it.
- ``module_system``: the shared one. A module that needs other settings, or breaks the system,
  overrides this fixture with a system from ``make_system``, or with ``retrying_system``.
- ``system``: what tests ask for: the ``module_system``, with sinks that accept everything. A module
  that has to repair its system between tests overrides this one as well.

pytest-celery's own fixtures (``celery_setup`` and those it depends on) are made from ``system``.
"""

import os
from collections.abc import Callable, Iterator
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
from tests.support.short_settings import SHORT_DELAYED_RETRIES
from tests.support.system import IngestContainer, System, TaskEvents
from tests.support.waiting import eventually

MakeSystem = Callable[..., System]


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
    """The sinks, shared by all systems."""
    with SampleSinks() as sinks:
        yield sinks


@pytest.fixture(scope="session")
def make_system(
    aws_url: str, sample_sinks: SampleSinks, tmp_path_factory: pytest.TempPathFactory
) -> MakeSystem:
    """Describe a system with a name and with settings of its own; ``with`` starts it."""

    def make(name: str, **options: Any) -> System:
        folder = tmp_path_factory.mktemp(name)
        return System(folder, aws_url=aws_url, sinks=sample_sinks, **options)

    return make


@pytest.fixture(scope="session")
def shared_system(make_system: MakeSystem) -> Iterator[System]:
    """A system with default settings, which no test breaks."""
    with make_system("shared") as system:
        yield system


@pytest.fixture(scope="session")
def retrying_system(make_system: MakeSystem) -> Iterator[System]:
    """A system with beat and ``SHORT_DELAYED_RETRIES``, which several modules share."""
    with make_system("retrying", beat=True, **SHORT_DELAYED_RETRIES) as system:
        yield system


@pytest.fixture(scope="module")
def module_system(shared_system: System) -> System:
    """The system of this module: the shared one, unless the module overrides this fixture."""
    return shared_system


@pytest.fixture
def system(module_system: System, sinks: SampleSinks) -> System:
    """The system under test, whose sinks accept everything at the test's start."""
    return module_system


@pytest.fixture
def sinks(sample_sinks: SampleSinks) -> Iterator[SampleSinks]:
    """The sinks, which accept everything at the test's start."""
    for name in SINKS:
        sample_sinks.behave(name)
    yield sample_sinks
    for name in SINKS:
        sample_sinks.behave(name)


@pytest.fixture
def ingest(system: System, sinks: SampleSinks) -> IngestContainer:
    """The ingest of the system."""
    return system.ingest


@pytest.fixture(scope="session")
def shared_flower(shared_system: System) -> Iterator[FlowerContainer]:
    """Flower with the dashboard, beside the shared system."""
    redis = shared_system.broker.client
    listeners = len(redis.client_list(_type="pubsub"))
    with running(FlowerContainer(shared_system.folder, shared_system.settings)) as flower:
        eventually(lambda: len(redis.client_list(_type="pubsub")) > listeners)
        yield flower


@pytest.fixture
def operator(shared_flower: FlowerContainer, sinks: SampleSinks) -> Visitor:
    """A user who may read and act."""
    return Visitor(shared_flower, OPERATOR)


@pytest.fixture
def reader(shared_flower: FlowerContainer) -> Visitor:
    """A user who may only read."""
    return Visitor(shared_flower, READER)


@pytest.fixture
def task_events(system: System) -> TaskEvents:
    """The task events that workers send."""
    return system.task_events


@pytest.fixture
def celery_setup_cls() -> type[CeleryTestSetup]:
    """pytest-celery's setup, with an app that sends tasks to this project's queues."""
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
