"""A Redis that requires TLS, a user and a password: events are processed, others are refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from embedded.stubs.sinks import SampleSinks
from tests.support.certificates import Authority
from tests.support.dashboard import FlowerContainer
from tests.support.envelopes import SINKS, assert_chain_holds, envelope
from tests.support.nodes import HOST, RedisContainer, running
from tests.support.short_settings import FREQUENT_SWEEPS
from tests.support.system import System

from .conftest import MakeSystem

PASSWORD = "p@ss/wörd:of?many#letters"
QUOTED = "p%40ss%2Fw%C3%B6rd%3Aof%3Fmany%23letters"

#: What the user may: all keys and channels, and no command for administrators.
RIGHTS = "~* &* +@all -@admin -@dangerous +info"


class GuardedRedis(RedisContainer):
    """Accepts TLS alone, and one user, who has no more rights than the project needs."""

    def __init__(self, folder: Path) -> None:
        """Make certificates and the list of users; one certificate is for another host."""
        self.authority = Authority(folder)
        pair = self.authority.issue("redis")
        users = folder / "users.acl"
        users.write_text(f"user default off\nuser cxone on >{PASSWORD} {RIGHTS}\n")
        super().__init__(
            folder,
            **{
                "tls-cert-file": str(pair.certificate),
                "tls-key-file": str(pair.key),
                "tls-ca-cert-file": str(self.authority.file),
                "tls-auth-clients": "no",
                "aclfile": str(users),
            },
        )
        self._command += ["--port", "0", "--tls-port", str(self.port)]
        self.client.close()
        self.url = f"rediss://cxone:{QUOTED}@{HOST}:{self.port}/0"
        self.client = redis.Redis.from_url(
            self.url, decode_responses=True, ssl_ca_certs=str(self.authority.file)
        )


@pytest.fixture(scope="module")
def broker(engines: None, tmp_path_factory: pytest.TempPathFactory) -> GuardedRedis:
    return GuardedRedis(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def module_system(make_system: MakeSystem, broker: GuardedRedis) -> Iterator[System]:
    """A system whose every process reaches Redis by TLS."""
    trust = {"REDIS_CA_FILE": str(broker.authority.file)}
    options = {"beat": True, "listen": False, "broker": broker}
    with make_system("guarded", **options, **trust, **FREQUENT_SWEEPS) as system:
        yield system


def test_an_event_is_delivered_to_every_sink(system: System, sinks: SampleSinks) -> None:
    event = envelope()
    claim = system.settle(event)
    assert claim.status == "completed"
    assert_chain_holds(list(claim.audit))
    calls = {sink: len(received) for sink, received in system.calls(event).items()}
    assert calls == dict.fromkeys(SINKS, 1)


def test_events_are_processed_after_redis_restarts(system: System, sinks: SampleSinks) -> None:
    system.broker.restart()
    assert system.settle(envelope()).status == "completed"


def test_flower_and_the_command_line_connect(system: System) -> None:
    done = system.celery("stats", "--json")
    assert done.returncode == 0, done.stderr
    with running(FlowerContainer(system.folder, system.settings)) as flower:
        assert "Traceback" not in flower.logs()


def test_a_redis_that_is_not_trusted_gets_no_password(system: System, broker: GuardedRedis) -> None:
    """Its certificate is from none of the authorities of this machine."""
    trusting_others = {**system.settings, "REDIS_CA_FILE": ""}
    ingest = system.make_ingest("ingest", **trusting_others)
    with running(ingest):
        assert ingest.request("GET", "/readyz").status == 503
    assert system.ingest.request("GET", "/readyz").status == 200


def test_a_wrong_password_is_refused(system: System) -> None:
    ingest = system.make_ingest("ingest", REDIS_URL=system.broker.url.replace(QUOTED, "wrong"))
    with running(ingest):
        assert ingest.request("GET", "/readyz").status == 503
        assert "wrong" not in ingest.logs()
