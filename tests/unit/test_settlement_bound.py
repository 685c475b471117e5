import pytest

from tasks.settings import load
from tasks.settings.settlement_bound import worst_case_settlement_seconds


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 5 * (300 + 10 + 600 + 30)),
        ({"MAX_DISPATCHES": "1"}, 300 + 10 + 600 + 30),
        ({"VISIBILITY_TIMEOUT_SECONDS": "301"}, 5 * (301 + 10 + 600 + 30)),
        ({"CLAIM_LEASE_SECONDS": "700"}, 5 * (300 + 10 + 700 + 30)),
        ({"SWEEP_INTERVAL_SECONDS": "5"}, 5 * (300 + 10 + 600 + 5)),
    ],
    ids=["defaults", "dispatches", "visibility", "lease", "sweep"],
)
def test_bound_follows_its_formula(changes, seconds):
    assert worst_case_settlement_seconds(load(changes)) == seconds
