"""What docker-compose.yml promises of its containers."""

import json

import pytest
import requests

from tests.support.envelopes import envelope

from .conftest import SETTINGS
from .project import ONE_SHOTS, Project
from .system import ContainerSystem

SERVICES = (
    "ingest",
    "worker",
    "worker-analytics",
    "worker-crm",
    "worker-compliance",
    "beat",
    "flower",
)


def test_the_samples_end_as_they_should(project: Project) -> None:
    assert "Every sample reached the expected status" in project.run("run", "--rm", "demo")


def test_every_container_is_contained(project: Project) -> None:
    for container in project.containers():
        host = container.attrs["HostConfig"]
        assert host["ReadonlyRootfs"], container.name
        assert host["CapDrop"] == ["ALL"], container.name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], container.name
        assert container.attrs["Config"]["User"] not in ("", "root", "0"), container.name


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_written_but_to_tmp(system: ContainerSystem, service: str) -> None:
    part = system.part(service)
    assert part.execute("id", "-u").strip() == "10001"
    script = "for d in / /app /app/.venv /run/secrets /tmp; do touch $d/x && echo $d; done"
    assert part.execute("sh", "-c", f"({script}) 2>/dev/null").split() == ["/tmp"]


def test_ports_are_published_on_loopback_alone(project: Project) -> None:
    published = {
        binding["HostIp"]
        for container in project.containers()
        for bindings in container.attrs["NetworkSettings"]["Ports"].values()
        for binding in bindings or []
    }
    assert published == {"127.0.0.1"}


def test_secrets_are_generated_and_never_shown(system: ContainerSystem, project: Project) -> None:
    key = system.ingest.api_key
    assert len(key) >= 32
    for container in project.containers():
        assert key not in json.dumps(container.attrs)
        assert key not in container.logs().decode()
    assert system.ingest.post(envelope(), x_api_key="a-guess").status == 401


def test_flower_lists_the_workers_and_requires_a_login(
    system: ContainerSystem, project: Project
) -> None:
    url = f"{project.url('FLOWER_PORT')}/api/workers"
    assert requests.get(url, timeout=30).status_code == 401
    user, _, password = (
        system.part("flower").execute("cat", "/run/secrets/flower_basic_auth").partition(":")
    )
    workers = requests.get(f"{url}?refresh=1", auth=(user, password.strip()), timeout=30).json()
    assert {name.partition("@")[0] for name in workers} >= {
        "events",
        "analytics",
        "crm",
        "compliance",
    }


def test_up_again_changes_nothing(system: ContainerSystem, project: Project) -> None:
    def running() -> dict[str, str]:
        return {
            container.id: container.attrs["State"]["StartedAt"]
            for container in project.containers()
            if container.labels["com.docker.compose.service"] not in ONE_SHOTS
        }

    before, key = running(), system.ingest.api_key
    project.run("up", "--detach")
    project.until_healthy()
    assert running() == before
    assert system.part("ingest").execute("cat", "/run/secrets/ingest_api_keys").strip() == key


def test_a_setting_reaches_every_process(system: ContainerSystem) -> None:
    for service in SERVICES:
        lease = system.part(service).execute("printenv", "CLAIM_LEASE_SECONDS").strip()
        assert lease == SETTINGS["CLAIM_LEASE_SECONDS"]


def test_a_process_that_cannot_start_reports_why(project: Project) -> None:
    code, output = project.run_image("worker", REDIS_URL="not a URL")
    assert code == 1
    assert "cannot start" in output
    assert "REDIS_URL: not a URL" in output
    assert "CRM_ENDPOINT: missing" in output


def test_every_role_stops_when_asked(system: ContainerSystem) -> None:
    assert {service: system.part(service).stop() for service in SERVICES} == dict.fromkeys(
        SERVICES, 0
    )


def test_the_image_adds_little_to_its_base(project: Project) -> None:
    size = project.image_size(f"cxone-event-processor:{project.name}")
    assert size - project.image_size("python:3.13-slim") < 100_000_000
