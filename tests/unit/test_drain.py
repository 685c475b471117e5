from dataclasses import replace

import pytest

from tasks.claims import Due, Status
from tasks.delivery.circuit_breaker import BreakerStatus, State
from tasks.drain import PACE_DOUBLING_SECONDS, pace, step
from tasks.settings import settings
from tests.support.samples import make_claim

from .test_settle import OneClaim
from .test_sweep import KEYS, WORN_OUT

CEILING = 100

OPEN = BreakerStatus(State.OPEN, failures=0, opened=1, probe_in=7, closed_for=None)
HALF_OPEN = replace(OPEN, state=State.HALF_OPEN, probe_in=0)
NEVER_OPENED = replace(HALF_OPEN, state=State.CLOSED, opened=0)


def closed_for(seconds):
    return replace(NEVER_OPENED, opened=1, closed_for=seconds)


@pytest.mark.parametrize(
    ("status", "a_second"),
    [
        pytest.param(OPEN, 0, id="open"),
        pytest.param(replace(OPEN, closed_for=10**6), 0, id="open-once-more"),
        pytest.param(HALF_OPEN, 1, id="half-open"),
        pytest.param(replace(HALF_OPEN, closed_for=10**6), 1, id="half-open-once-more"),
        pytest.param(closed_for(0), 1, id="just-closed"),
        pytest.param(closed_for(PACE_DOUBLING_SECONDS), 2, id="doubled-once"),
        pytest.param(closed_for(3 * PACE_DOUBLING_SECONDS), 8, id="doubled-three-times"),
        pytest.param(closed_for(6.5 * PACE_DOUBLING_SECONDS), 90, id="in-between"),
        pytest.param(closed_for(7 * PACE_DOUBLING_SECONDS), CEILING, id="at-its-ceiling"),
        pytest.param(closed_for(10**9), CEILING, id="long-ago"),
        pytest.param(NEVER_OPENED, CEILING, id="nothing-known"),
    ],
)
def test_the_pace_of_a_drain(status, a_second):
    assert pace(status, CEILING) == a_second


class Breaker:
    """A breaker that stands like this."""

    def __init__(self, status):
        self._look = status

    def status(self):
        return self._look


class Queue:
    """Redis, with so many messages in the queue of the CRM."""

    def __init__(self, length=0):
        self._length = length

    def llen(self, name):
        assert name == "deliver.crm"
        return self._length


class Parked:
    """The claims that are parked for the CRM; who is in ``taken`` was taken by somebody else."""

    def __init__(self, keys, taken=()):
        self.keys = keys
        self.taken = taken
        self.tables = {}

    def parked(self, sink):
        assert sink == "crm"
        return (Due(9, key, 1, Status.PARTIAL_FAILURE, 1, parked=True) for key in self.keys)

    def take_over(self, key, version, holder, *, settled, parked):
        assert (version, holder, settled, parked) == (1, "drain-1", True, True)
        if key in self.taken:
            return None
        # Settled at once, in place of being published.
        self.tables[key] = OneClaim(make_claim(id=key, dispatches=WORN_OUT))
        return self.tables[key].claim

    def settle(self, head, *written):
        return self.tables[head.id].settle(head, *written)


def drained(claims, status, waiting=0):
    """One step: which were taken, how many that was, and whether it goes on."""
    taken, goes_on = step(claims, Queue(waiting), Breaker(status), "crm", "drain-1")
    assert taken == len(claims.tables)
    return list(claims.tables), goes_on


def test_a_sink_that_is_down_gets_nothing():
    assert drained(Parked(KEYS), OPEN) == ([], False)


def test_a_sink_that_may_be_well_gets_one_as_a_probe():
    assert drained(Parked(KEYS), HALF_OPEN) == (KEYS[:1], False)


def test_a_sink_that_just_recovered_gets_one_then_more():
    assert drained(Parked(KEYS), closed_for(0)) == (KEYS[:1], True)


def test_the_oldest_go_first_ever_faster():
    assert drained(Parked(KEYS), closed_for(2 * PACE_DOUBLING_SECONDS)) == (KEYS[:4], True)


def test_the_last_step_ends_it():
    assert drained(Parked(KEYS), closed_for(10 * PACE_DOUBLING_SECONDS)) == (KEYS, False)
    assert drained(Parked([]), closed_for(10 * PACE_DOUBLING_SECONDS)) == ([], False)


def test_fresh_events_go_first():
    assert drained(Parked(KEYS), closed_for(2 * PACE_DOUBLING_SECONDS), waiting=1) == (
        KEYS[:3],
        True,
    )
    assert drained(Parked(KEYS), closed_for(2 * PACE_DOUBLING_SECONDS), waiting=4) == ([], True)
    assert drained(Parked(KEYS), closed_for(2 * PACE_DOUBLING_SECONDS), waiting=10_000) == (
        [],
        True,
    )


def test_what_somebody_else_took_is_passed_by():
    claims = Parked(KEYS, taken=KEYS[:5])
    assert drained(claims, closed_for(2 * PACE_DOUBLING_SECONDS)) == (KEYS[5:9], True)


def test_it_is_never_faster_than_sweeps():
    many = [f"event-{number}" for number in range(settings().sweep_rate + 1)]
    assert drained(Parked(many), closed_for(10**6)) == (many[:-1], True)
