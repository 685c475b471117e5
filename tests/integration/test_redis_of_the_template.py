"""Redis as ``deploy/service.yaml`` starts it: writes are kept, and there is never a second one."""

import os
import shutil
from pathlib import Path

import pytest
import redis
import yaml

from embedded.backing_services import find_redis_server
from embedded.infrastructure import DEPLOY, Loader
from tests.support.nodes import HOST, RedisServer, free_port, running
from tests.support.waiting import eventually

PASSWORD = "s3cr3t"


class TemplateRedis(RedisServer):
    """The template's command, on a free port, with a folder of this machine for its volume."""

    def __init__(self, folder: Path, data: Path) -> None:
        template = yaml.load((DEPLOY / "service.yaml").read_text(), Loader)
        task = template["Resources"]["RedisTask"]["Properties"]
        [container] = task["ContainerDefinitions"]
        [script] = container["Command"]
        self.port = free_port()
        options = f"port {self.port}\nbind {HOST}\nEOF\n"
        script = script.removesuffix("EOF\n").replace("/data", str(data)) + options
        server = find_redis_server()
        assert server is not None, "no redis-server"
        path = f"{Path(server).parent}:{os.environ['PATH']}"  # the script calls it by its name
        environment = {**os.environ, "REDIS_PASSWORD": PASSWORD, "PATH": path}
        super().__init__("redis", [*container["EntryPoint"], script], folder, environment)
        self.client = redis.Redis(HOST, self.port, password=PASSWORD, decode_responses=True)


@pytest.fixture
def data(engines: None, tmp_path: Path) -> Path:
    """Its volume; skips where what the script locks it with is not on this machine."""
    if not shutil.which("flock"):
        pytest.skip("no flock on this machine")
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def test_a_write_survives_a_kill(tmp_path: Path, data: Path) -> None:
    with running(TemplateRedis(tmp_path, data)) as server:
        assert server.client.config_get("appendfsync") == {"appendfsync": "always"}
        assert server.client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        server.client.set("taken", "yes")
        server.kill()
        server.restart()
        assert server.client.get("taken") == "yes"
        assert server.stop() == 0  # the signal reaches Redis through the script


def test_a_client_without_the_password_is_refused(tmp_path: Path, data: Path) -> None:
    with running(TemplateRedis(tmp_path, data)) as server:
        with redis.Redis(HOST, server.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("taken")
        assert PASSWORD not in server.logs()


def test_a_second_waits_for_the_end_of_the_first(tmp_path: Path, data: Path) -> None:
    with running(TemplateRedis(tmp_path, data)) as first:
        second = TemplateRedis(tmp_path, data)
        try:
            second.start()
            eventually(lambda: waits_for_the_lock(second), what="the second waits")
            first.client.set("taken", "yes")
            assert not second.is_ready()
            first.kill()
            second.ready()
            assert second.client.get("taken") == "yes"
        finally:
            second.teardown()


def waits_for_the_lock(server: TemplateRedis) -> bool:
    """Whether it is flock by now, and not yet Redis."""
    return Path(f"/proc/{server.pid}/comm").read_text().strip() == "flock"
