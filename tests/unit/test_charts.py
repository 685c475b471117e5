"""Charts, read back from the SVG."""

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.charts import HEIGHT, WIDTH, Series, axis_top, bars, durations, lines

SVG = "{http://www.w3.org/2000/svg}"
TIMES = ["12:00", "12:01", "12:02"]


def series(*values, name="settled", style="dash-main"):
    return Series(name, style, values, f"{sum(v or 0 for v in values):g}")


def drawn(chart, tag, style):
    """The attributes of what is drawn with a class."""
    root = ET.fromstring(chart.svg)  # it is well-formed
    return [e.attrib for e in root.iter() if e.tag == tag and style in e.attrib["class"].split()]


def test_bars_are_stacked_and_as_high_as_their_counts():
    chart = bars("T", TIMES, [series(3, 0, 10, style="good"), series(1, 0, 0, style="bad")])
    assert chart.axis == ["10", "5", "0"]
    good, bad = (
        [(float(b["x"]), float(b["y"]), float(b["height"])) for b in drawn(chart, "rect", style)]
        for style in ("good", "bad")
    )
    assert good == [(0, 70, 30), (400, 0, 100)]
    assert bad == [(0, 60, 10)]


def test_a_line_has_steps_and_a_gap_where_a_value_is_missing():
    (line,) = drawn(lines("T", TIMES, [series(10, 5, None)]), "path", "dash-stroke")
    assert line["d"] == "M0.0 0.00H200.0V50.00H400.0"
    (line,) = drawn(lines("T", TIMES, [series(None, 0, 0)]), "path", "dash-stroke")
    assert line["d"] == "M200.0 100.00H400.0V100.00H600.0"


def test_durations_have_a_logarithmic_axis():
    chart = durations("T", TIMES, [series(0.1, 10, float("inf"))])
    assert chart.axis == ["10 s", "1 s", "0.1 s", "0.01 s"]
    (line,) = drawn(chart, "path", "dash-stroke")
    assert line["d"] == "M0.0 66.67H200.0V0.00H400.0V0.00H600.0"
    assert durations("T", TIMES, [series(300, None, None)]).axis[0] == "1,000 s"


@pytest.mark.parametrize("draw", [bars, lines, durations])
def test_without_values_the_chart_is_empty(draw):
    chart = draw("T", TIMES, [series(None, None, None)])
    assert chart.svg.count(": nothing</title>") == 3
    assert len(drawn(chart, "rect", "dash-bar")) == 0
    assert draw("T", [], [series()]).svg


def test_each_point_in_time_has_its_numbers_as_a_tooltip():
    chart = bars("T", TIMES, [series(3, 0, 10), series(1, 0, 0, name="failed")])
    titles = re.findall(r"<title>([^<]+)</title>", chart.svg)
    assert titles == [
        "T: settled 13; failed 1",
        "12:00: settled 3, failed 1",
        "12:01: nothing",
        "12:02: settled 10",
    ]
    points = drawn(chart, "rect", "dash-point")
    assert sum(float(point["width"]) for point in points) == WIDTH
    assert {point["height"] for point in points} == {str(HEIGHT)}


def test_text_is_escaped():
    chart = lines("<T>", ["<12>"], [series(1, name='"&<'), series(1)])
    root = ET.fromstring(chart.svg)
    assert root.find("title").text == '<T>: "&< 1; settled 1'


@pytest.mark.parametrize(
    ("most", "top"), [(0, 2), (1, 2), (3, 4), (5, 6), (7, 10), (11, 20), (61, 100), (100, 100)]
)
def test_the_top_of_an_axis_is_round(most, top):
    assert axis_top(most) == top


@given(st.integers(0, 10**12))
def test_the_top_of_an_axis_fits_the_values_closely(most):
    assert most <= axis_top(most) <= max(2, 2 * most)
    assert axis_top(most) % 2 == 0
