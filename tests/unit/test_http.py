from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.delivery.http import error_for_status, parse_retry_after
from tasks.errors import DeliveryError, TransientDeliveryError

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


# ── Statuses ──────────────────────────────────────────────────────────────────────────────────

DELIVERED = [200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 299]
UNHEALTHY = [500, 501, 502, 503, 504, 505, 507, 508, 511, 520, 599, 999]
BUSY = [408, 425, 429]
FINAL = [400, 401, 402, 403, 404, 405, 406, 407, 409, 411, 412, 413, 414, 415, 416, 417, 418]
FINAL += [421, 422, 423, 424, 426, 428, 431, 451, 499]
REDIRECTS = [300, 301, 302, 303, 304, 305, 307, 308, 399]
INTERIM = [101, 102, 103, 199]

#: Status → the error's class, whether it counts as a failure, the end of its message.
ERRORS = {
    **dict.fromkeys(UNHEALTHY, (TransientDeliveryError, True, "")),
    **dict.fromkeys(BUSY, (TransientDeliveryError, False, "")),
    **dict.fromkeys(FINAL + INTERIM, (DeliveryError, None, "")),
    **dict.fromkeys(REDIRECTS, (DeliveryError, None, ": redirects are not followed")),
    410: (DeliveryError, None, ": the sink says that it is gone for good"),
}


@pytest.mark.parametrize("status", DELIVERED)
def test_a_2xx_is_no_error(status):
    assert error_for_status(status, None, NOW) is None
    assert error_for_status(status, "120", NOW) is None


@pytest.mark.parametrize("status", ERRORS)
def test_any_other_status_is_an_error(status):
    kind, counts, ending = ERRORS[status]
    error = error_for_status(status, "120", NOW)
    assert type(error) is kind
    assert getattr(error, "counts_as_failure", None) is counts
    assert getattr(error, "retry_after", None) == (
        120.0 if kind is TransientDeliveryError else None
    )
    phrase = f" {HTTPStatus(status).phrase}" if status in list(HTTPStatus) else ""
    assert str(error) == f"{status}{phrase}{ending}"


@pytest.mark.parametrize("status", UNHEALTHY + BUSY)
def test_retry_after_may_be_missing(status):
    assert error_for_status(status, None, NOW).retry_after is None


# ── Retry-After ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("0", 0.0, id="at-once"),
        pytest.param("120", 120.0, id="seconds"),
        pytest.param(" 120 ", 120.0, id="spaces"),
        pytest.param("0007", 7.0, id="leading-zeros"),
        pytest.param("Sat, 31 Jan 2026 12:02:00 GMT", 120.0, id="date"),
        pytest.param("Saturday, 31-Jan-26 12:02:00 GMT", 120.0, id="rfc-850-date"),
        pytest.param("Sat Jan 31 12:02:00 2026", 120.0, id="asctime-date"),
        pytest.param("Sat, 31 Jan 2026 14:02:00 +0200", 120.0, id="date-of-another-zone"),
        pytest.param("Sat, 31 Jan 2026 11:59:59 GMT", 0.0, id="past-date"),
        pytest.param("Thu, 01 Jan 1970 00:00:00 GMT", 0.0, id="long-past-date"),
        pytest.param(None, None, id="none"),
        pytest.param("", None, id="empty"),
        pytest.param("   ", None, id="blank"),
        pytest.param("soon", None, id="garbage"),
        pytest.param("-5", None, id="negative"),
        pytest.param("+5", None, id="signed"),
        pytest.param("1.5", None, id="fraction"),
        pytest.param("1e3", None, id="exponent"),
        pytest.param("5, 10", None, id="two"),
        pytest.param("٣", None, id="another-script"),
        pytest.param("²", None, id="superscript"),
        pytest.param("Sat, 31 Feb 2026 12:00:00 GMT", None, id="no-such-day"),
        pytest.param("Sat, 31 Jan 2026 25:00:00 GMT", None, id="no-such-hour"),
        pytest.param("Mon, 99999999999 Jan 2026 00:00:00 GMT", None, id="day-beyond-an-int"),
        pytest.param("8 Jan 6 12:00:00 +70893626853855", None, id="zone-beyond-a-day"),
    ],
)
def test_retry_after_is_read_in_both_forms(text, seconds):
    assert parse_retry_after(text, NOW) == seconds


def test_a_retry_after_of_years_is_read():
    assert parse_retry_after("9" * 400, NOW) > 10**8
    assert parse_retry_after("Fri, 31 Dec 9999 23:59:59 GMT", NOW) > 10**8


@given(st.integers(-(10**9), 10**9))
def test_a_date_and_its_seconds_are_equal(seconds):
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(date, NOW) == max(0, seconds)


header_texts = st.text(st.characters(codec="latin-1"), max_size=30)
malformed_dates = st.from_regex(
    r"(Mon, )?\d{1,12} (Jan|Dec) -?\d{1,6} \d{1,3}:\d{1,3}(:\d{1,12})?( (GMT|[+-]\d{1,14}))?",
    fullmatch=True,
    alphabet=st.characters(codec="ascii"),
)


@given(header_texts | malformed_dates, st.sampled_from([429, 503]))
def test_any_retry_after_gives_a_transient_error(text, status):
    error = error_for_status(status, text, NOW)
    assert type(error) is TransientDeliveryError
    assert error.retry_after is None or error.retry_after >= 0
