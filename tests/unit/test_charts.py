"""What is drawn, read back from the SVG."""

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.charts import HEIGHT, WIDTH, Series, bars, durations, lines, nice

SVG = "{http://www.w3.org/2000/svg}"
TIMES = ["12:00", "12:01", "12:02"]


def series(*values, name="settled", look="dash-main"):
    return Series(name, look, values, f"{sum(v or 0 for v in values):g}")


def drawn(plot, tag, look):
    """The attributes of what is drawn with a class."""
    root = ET.fromstring(plot.svg)  # it is well-formed
    return [e.attrib for e in root.iter() if e.tag == tag and look in e.attrib["class"].split()]


def test_bars_stand_on_each_other_and_are_as_high_as_their_counts():
    plot = bars("T", TIMES, [series(3, 0, 10, look="good"), series(1, 0, 0, look="bad")])
    assert plot.up == ["10", "5", "0"]
    good, bad = (
        [(float(b["x"]), float(b["y"]), float(b["height"])) for b in drawn(plot, "rect", look)]
        for look in ("good", "bad")
    )
    assert good == [(0, 70, 30), (400, 0, 100)]
    assert bad == [(0, 60, 10)]


def test_a_line_is_level_through_each_point_in_time_and_broken_where_nothing_is_known():
    (line,) = drawn(lines("T", TIMES, [series(10, 5, None)]), "path", "dash-stroke")
    assert line["d"] == "M0.0 0.00H200.0V50.00H400.0"
    (line,) = drawn(lines("T", TIMES, [series(None, 0, 0)]), "path", "dash-stroke")
    assert line["d"] == "M200.0 100.00H400.0V100.00H600.0"


def test_durations_have_an_axis_of_powers_of_ten():
    plot = durations("T", TIMES, [series(0.1, 10, float("inf"))])
    assert plot.up == ["10 s", "1 s", "0.1 s", "0.01 s"]
    (line,) = drawn(plot, "path", "dash-stroke")
    assert line["d"] == "M0.0 66.67H200.0V0.00H400.0V0.00H600.0"
    assert durations("T", TIMES, [series(300, None, None)]).up[0] == "1,000 s"


@pytest.mark.parametrize("draw", [bars, lines, durations])
def test_where_there_is_nothing_there_is_an_empty_plot(draw):
    plot = draw("T", TIMES, [series(None, None, None)])
    assert plot.svg.count(": nothing</title>") == 3
    assert len(drawn(plot, "rect", "dash-bar")) == 0
    assert draw("T", [], [series()]).svg


def test_each_point_in_time_tells_its_numbers():
    plot = bars("T", TIMES, [series(3, 0, 10), series(1, 0, 0, name="failed")])
    titles = re.findall(r"<title>([^<]+)</title>", plot.svg)
    assert titles == [
        "T: settled 13; failed 1",
        "12:00: settled 3, failed 1",
        "12:01: nothing",
        "12:02: settled 10",
    ]
    points = drawn(plot, "rect", "dash-point")
    assert sum(float(point["width"]) for point in points) == WIDTH
    assert {point["height"] for point in points} == {str(HEIGHT)}


def test_what_is_written_is_no_markup():
    plot = lines("<T>", ["<12>"], [series(1, name='"&<'), series(1)])
    root = ET.fromstring(plot.svg)
    assert root.find("title").text == '<T>: "&< 1; settled 1'


@pytest.mark.parametrize(
    ("most", "top"), [(0, 2), (1, 2), (3, 4), (5, 6), (7, 10), (11, 20), (61, 100), (100, 100)]
)
def test_the_top_of_an_axis_is_round(most, top):
    assert nice(most) == top


@given(st.integers(0, 10**12))
def test_the_top_is_above_and_not_far_above(most):
    assert most <= nice(most) <= max(2, 2 * most)
    assert nice(most) % 2 == 0
