import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.counters import LAG_BOUNDS, added_up, lag_bucket, lag_percentile, name_of


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ({}, "settled"),
        ({"status": "failed"}, 'settled{status="failed"}'),
        ({"sink": "crm", "outcome": "failed"}, 'settled{outcome="failed",sink="crm"}'),
    ],
)
def test_a_counter_is_named_as_prometheus_names_it(labels, name):
    assert name_of("settled", **labels) == name


@pytest.mark.parametrize(
    ("seconds", "bound"),
    [(0, "0.05"), (0.05, "0.05"), (0.051, "0.1"), (1, "1"), (86_400, "86400"), (86_401, "inf")],
)
def test_a_lag_belongs_to_the_first_bound_that_is_not_below_it(seconds, bound):
    assert lag_bucket(seconds) == f'lag{{le="{bound}"}}'


def test_of_nothing_there_is_no_percentile():
    assert lag_percentile({}, 0.5) is None
    assert lag_percentile({'settled{status="failed"}': 3}, 0.99) is None


@given(st.lists(st.floats(0, 100_000), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_the_upper_bound_of_its_bucket(lags, share):
    counts = added_up([{lag_bucket(lag): 1} for lag in lags])
    bound = lag_percentile(counts, share)
    assert sum(lag <= bound for lag in lags) >= share * len(lags)
    below = [b for b in LAG_BOUNDS if b < bound]
    if below:
        assert sum(lag <= below[-1] for lag in lags) < share * len(lags)
