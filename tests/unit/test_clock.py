import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.clock import elapsed_ms, from_age, from_rfc3339, now, to_rfc3339
from tasks.recovery.redrive import throttle

moments = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001 - Hypothesis adds the zone
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
    allow_imaginary=False,
).filter(lambda moment: moment.year < 9999)


def test_now_is_in_utc():
    assert now().utcoffset() == timedelta(0)


def test_times_are_utc_milliseconds_with_a_z():
    moment = datetime(2026, 1, 31, 13, 0, 0, 5678, timezone(timedelta(hours=1)))
    assert to_rfc3339(moment) == "2026-01-31T12:00:00.005Z"
    assert to_rfc3339(datetime(2026, 1, 31, tzinfo=UTC)) == "2026-01-31T00:00:00.000Z"


@given(moments)
def test_a_time_comes_back_to_the_millisecond(moment):
    assert abs(from_rfc3339(to_rfc3339(moment)) - moment) < timedelta(milliseconds=1)


@given(moments, moments)
def test_times_sort_as_their_moments_do(one, other):
    if to_rfc3339(one) < to_rfc3339(other):
        assert one < other


@pytest.mark.parametrize("text", ["2026-01-31T12:00:00", "noon", "", "2026-01-31"])
def test_a_text_that_is_no_time_or_has_no_zone_is_refused(text):
    with pytest.raises(ValueError, match=r"time zone|isoformat"):
        from_rfc3339(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00+23:59", "9999-12-31T23:59-01:00"])
def test_a_time_that_is_none_in_utc_is_refused(text):
    with pytest.raises(ValueError, match="no moment in UTC"):
        from_rfc3339(text)


@given(moments, st.integers(0, 10**9))
def test_what_elapsed_is_in_milliseconds_and_never_negative(moment, milliseconds):
    moment = moment.replace(year=2026, day=1)
    later = moment + timedelta(milliseconds=milliseconds)
    assert elapsed_ms(to_rfc3339(moment), to_rfc3339(later)) == milliseconds
    assert elapsed_ms(to_rfc3339(later), to_rfc3339(moment)) == 0


@pytest.mark.parametrize(
    ("rate", "takes", "moments"),
    [
        (2, 0.0, [1000.0, 1000.5, 1001.0]),
        (2, 0.4, [1000.0, 1000.5, 1001.0]),  # what each takes counts
        (2, 0.7, [1000.0, 1000.7, 1001.4]),  # and who is slow does not wait on top
        (math.inf, 0.0, [1000.0, 1000.0, 1000.0]),
    ],
)
def test_a_pace_is_kept(monkeypatch, rate, takes, moments):
    class Clock:
        now = 1_000.0

        def sleep(self, seconds):
            self.now += seconds

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr("tasks.recovery.redrive.time", clock)
    done = []
    for item in throttle(iter("abc"), rate):
        done.append((item, clock.now))
        clock.now += takes
    assert done == [
        (item, pytest.approx(moment)) for item, moment in zip("abc", moments, strict=True)
    ]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("90m", 5_400), ("2h", 7_200), ("2d", 172_800), ("0s", 0)]
)
def test_an_age_is_the_moment_that_long_ago(text, seconds):
    before = now()
    assert before <= from_age(text) + timedelta(seconds=seconds) <= now()


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "2 h", "2w", "2h30m", "1" * 10 + "s"])
def test_what_is_no_age_is_none(text):
    assert from_age(text) is None


def test_an_age_before_the_first_year_is_an_error():
    with pytest.raises(OverflowError):
        from_age("999999999d")
