import pytest

from tasks.recovery.decision import GiveUp, Resume, next_step
from tests.support.samples import delivered, failed, make_claim

SINKS = ("analytics", "crm", "compliance")
LIMIT = 5


def claim(dispatches=1, targets=None, **deliveries):
    pending = make_claim().deliveries
    return make_claim(dispatches=dispatches, targets=targets, deliveries={**pending, **deliveries})


ALL_DELIVERED = {sink: delivered() for sink in SINKS}
GONE = {"fax": make_claim().deliveries["crm"]}


@pytest.mark.parametrize(
    ("taken_over", "step"),
    [
        pytest.param(claim(), Resume(SINKS), id="all pending: resume all"),
        pytest.param(
            claim(crm=delivered()), Resume(("analytics", "compliance")), id="one has it: the others"
        ),
        pytest.param(
            claim(crm=failed("400 Bad Request")),
            Resume(("analytics", "compliance")),
            id="one refused it: the others",
        ),
        pytest.param(claim(**ALL_DELIVERED), Resume(()), id="all have it: only settle"),
        pytest.param(
            claim(targets=["crm"], **ALL_DELIVERED), Resume(("crm",)), id="forced: the target"
        ),
        pytest.param(claim(dispatches=LIMIT), Resume(SINKS), id="the last dispatch: resume"),
        pytest.param(
            claim(dispatches=LIMIT + 1, crm=delivered()),
            GiveUp(("analytics", "compliance"), "5 dispatches did not live to settle it"),
            id="too many dispatches: give up what is pending",
        ),
        pytest.param(
            claim(dispatches=LIMIT + 1, **ALL_DELIVERED),
            GiveUp((), "5 dispatches did not live to settle it"),
            id="too many, nothing pending: settle as it is",
        ),
        pytest.param(
            claim(**GONE), GiveUp(("fax",), "there is no such sink any more"), id="removed sink"
        ),
        pytest.param(
            claim(dispatches=LIMIT + 1, **ALL_DELIVERED, **GONE),
            GiveUp(("fax",), "5 dispatches did not live to settle it"),
            id="removed sink and too many dispatches",
        ),
    ],
)
def test_next_step(taken_over, step):
    decided = next_step(taken_over, SINKS, LIMIT)
    assert type(decided) is type(step)
    assert tuple(decided.sinks) == tuple(step.sinks)
    assert getattr(decided, "reason", None) == getattr(step, "reason", None)
