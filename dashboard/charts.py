"""Charts over time as SVG, drawn on the server, without scripts or inline styles. Pure.

The drawing is stretched to fit the page, so the text beside it (axis, legend) is left to HTML.
Colours come from classes in ``dashboard.css``. Tooltips, and the description for screen readers,
are text inside the SVG.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

#: The drawing's own units.
WIDTH, HEIGHT = 600, 100


@dataclass(frozen=True, slots=True)
class Series:
    """One value per point in time, None where there is none."""

    name: str
    style: str  # CSS classes
    values: Sequence[float | None]
    summary: str  # shown in the legend


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing, and the text beside it."""

    title: str
    svg: str
    axis: Sequence[str]  # labels, the top one first, evenly spaced
    series: Sequence[Series]


def bars(title: str, times: Sequence[str], series: Sequence[Series]) -> Chart:
    """Draw counts as stacked bars, one per point in time."""
    columns = list(zip(*(each.values for each in series), strict=True))
    top = axis_top(max((sum(filter(None, column)) for column in columns), default=0))
    return _chart(title, times, series, "".join(_columns(series, columns, top)), _counts(top))


def lines(title: str, times: Sequence[str], series: Sequence[Series]) -> Chart:
    """Draw counts as lines with one step per point in time."""
    top = axis_top(max((value or 0 for each in series for value in each.values), default=0))
    paths = "".join(_path(each, lambda value: value / top) for each in series)
    return _chart(title, times, series, paths, _counts(top))


#: The bottom of an axis of durations, and the least it can have as its top: powers of ten, in s.
_BOTTOM, _MIN_TOP = -2, 1


def durations(title: str, times: Sequence[str], series: Sequence[Series]) -> Chart:
    """Draw seconds as such lines on a logarithmic axis; infinity is drawn at its top."""
    known = [v for each in series for v in each.values if v is not None and math.isfinite(v)]
    top = max(_MIN_TOP, math.ceil(math.log10(max(known, default=1))))

    def share(value: float) -> float:
        power = math.log10(value) if math.isfinite(value) else top
        return max(0.0, (power - _BOTTOM) / (top - _BOTTOM))

    paths = "".join(_path(each, share) for each in series)
    axis = [f"{10.0**power:,g} s" for power in range(top, _BOTTOM - 1, -1)]
    return _chart(title, times, series, paths, axis)


def axis_top(most: float) -> int:
    """Return the top of an axis for counts: a round number, and even."""
    power: int = 10 ** max(0, math.ceil(math.log10(max(most, 1))) - 1)
    return next(digit * power for digit in (2, 4, 6, 10) if digit * power >= most)


def _counts(top: int) -> list[str]:
    return [f"{top:,}", f"{top // 2:,}", "0"]


def _columns(
    series: Sequence[Series], columns: Sequence[Sequence[float | None]], top: int
) -> Iterator[str]:
    wide = WIDTH / max(1, len(columns))
    for place, column in enumerate(columns):
        base = float(HEIGHT)
        for each, value in zip(series, column, strict=True):
            if value:
                high = value / top * HEIGHT
                base -= high
                yield (
                    f'<rect class="dash-bar {each.style}" x="{place * wide:.1f}" y="{base:.2f}" '
                    f'width="{wide * 0.85:.1f}" height="{high:.2f}"/>'
                )


def _path(of: Series, share: Callable[[float], float]) -> str:
    """Draw a line; ``share`` returns how high a value is, from 0 to 1."""
    wide = WIDTH / max(1, len(of.values))
    steps = []
    before = None
    for place, value in enumerate(of.values):
        if value is not None:
            high = f"{(1 - share(value)) * HEIGHT:.2f}"
            begin = f"M{place * wide:.1f} {high}" if before is None else f"V{high}"
            steps.append(f"{begin}H{(place + 1) * wide:.1f}")
        before = value
    return f'<path class="dash-stroke {of.style}" d="{"".join(steps)}"/>'


def _chart(
    title: str, times: Sequence[str], series: Sequence[Series], drawn: str, axis: Sequence[str]
) -> Chart:
    summary = "; ".join(f"{each.name} {each.summary}" for each in series)
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img">'
        f"<title>{escape(title)}: {escape(summary)}</title>"
        f"{_grid(len(axis))}{drawn}{''.join(_points(times, series))}</svg>"
    )
    return Chart(title=title, svg=svg, axis=axis, series=series)


def _grid(count: int) -> str:
    places = [HEIGHT * number / (count - 1) for number in range(count)]
    return f'<path class="dash-grid" d="{"".join(f"M0 {y:.2f}H{WIDTH}" for y in places)}"/>'


def _points(times: Sequence[str], series: Sequence[Series]) -> Iterator[str]:
    """Cover each point in time with its tooltip."""
    wide = WIDTH / max(1, len(times))
    for place, time in enumerate(times):
        there = [(each.name, each.values[place]) for each in series]
        text = ", ".join(f"{name} {value:g}" for name, value in there if value) or "nothing"
        yield (
            f'<rect class="dash-point" x="{place * wide:.1f}" y="0" width="{wide:.1f}" '
            f'height="{HEIGHT}"><title>{escape(time)}: {escape(text)}</title></rect>'
        )
