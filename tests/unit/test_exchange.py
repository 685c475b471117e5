from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.delivery.http import error_for_status, seconds_of
from tasks.errors import DeliveryError, TransientDeliveryError

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


# ── What an answer means ──────────────────────────────────────────────────────────────────────

DELIVERED = [200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 299]
SICK = [500, 501, 502, 503, 504, 505, 507, 508, 511, 520, 599, 999]
PATIENCE = [408, 425, 429]
FINAL = [400, 401, 402, 403, 404, 405, 406, 407, 409, 411, 412, 413, 414, 415, 416, 417, 418]
FINAL += [421, 422, 423, 424, 426, 428, 431, 451, 499]
REDIRECTS = [300, 301, 302, 303, 304, 305, 307, 308, 399]
NO_ANSWER = [101, 102, 103, 199]

#: Status → the error's class, whether the sink is sick, what the message ends in.
ANSWERS = {
    **dict.fromkeys(SICK, (TransientDeliveryError, True, "")),
    **dict.fromkeys(PATIENCE, (TransientDeliveryError, False, "")),
    **dict.fromkeys(FINAL + NO_ANSWER, (DeliveryError, None, "")),
    **dict.fromkeys(REDIRECTS, (DeliveryError, None, ": redirects are not followed")),
    410: (DeliveryError, None, ": the sink says that it is gone for good"),
}


@pytest.mark.parametrize("status", DELIVERED)
def test_a_2xx_is_delivered(status):
    assert error_for_status(status, None, NOW) is None
    assert error_for_status(status, "120", NOW) is None


@pytest.mark.parametrize("status", ANSWERS)
def test_what_any_other_answer_means(status):
    kind, sick, ending = ANSWERS[status]
    error = error_for_status(status, "120", NOW)
    assert type(error) is kind
    assert getattr(error, "counts_as_failure", None) is sick
    assert getattr(error, "retry_after", None) == (
        120.0 if kind is TransientDeliveryError else None
    )
    phrase = f" {HTTPStatus(status).phrase}" if status in list(HTTPStatus) else ""
    assert str(error) == f"{status}{phrase}{ending}"


@pytest.mark.parametrize("status", SICK + PATIENCE)
def test_a_sink_need_not_say_when_to_come_back(status):
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
    assert seconds_of(text, NOW) == seconds


def test_a_retry_after_of_ages_is_just_long():
    assert seconds_of("9" * 400, NOW) > 10**8
    assert seconds_of("Fri, 31 Dec 9999 23:59:59 GMT", NOW) > 10**8


@given(st.integers(-(10**9), 10**9))
def test_a_date_and_its_seconds_say_the_same(seconds):
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert seconds_of(date, NOW) == max(0, seconds)


header_texts = st.text(st.characters(codec="latin-1"), max_size=30)
dates_gone_wrong = st.from_regex(
    r"(Mon, )?\d{1,12} (Jan|Dec) -?\d{1,6} \d{1,3}:\d{1,3}(:\d{1,12})?( (GMT|[+-]\d{1,14}))?",
    fullmatch=True,
    alphabet=st.characters(codec="ascii"),
)


@given(header_texts | dates_gone_wrong, st.sampled_from([429, 503]))
def test_whatever_a_sink_says_in_retry_after_it_is_an_answer(text, status):
    error = error_for_status(status, text, NOW)
    assert type(error) is TransientDeliveryError
    assert error.retry_after is None or error.retry_after >= 0
