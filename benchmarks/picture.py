"""The rows as one SVG: bars side by side for each row, and a line chart for each curve. Pure."""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.figures import (
    BARE,
    CISTERN,
    DIRECT,
    DISTRIBUTION,
    NGINX,
    PLAIN,
    REGISTRY,
    SQUID,
    VARNISH,
    ZOT,
    Row,
)

COLOURS = {
    CISTERN: "#1f6feb",
    REGISTRY: "#8b949e",
    NGINX: "#57ab5a",
    VARNISH: "#a371f7",
    SQUID: "#e07a5f",
    DISTRIBUTION: "#444c56",
    ZOT: "#d4a72c",
    PLAIN: "#2d6a30",
    BARE: "#c69026",
    DIRECT: "#d0d7de",
}
UNKNOWN = "#db61a2"
WIDTH, LABEL, LINE, GAP = 1000, 400, 16, 14
CHART, LEFT, BELOW = 220, 110, 40  # a chart's height, and the room for its numbers


def number(value: float) -> str:
    """Three digits that matter, and no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 2)}f}"


def picture(rows: Sequence[Row], caption: str) -> str:
    """An SVG: per row one bar for each subject, on the row's own scale, so that only bars of one row compare."""
    drawn: list[str] = []
    top = 50.0
    for row in rows:
        if not row.curve:
            bars, top = _bars(row, top)
            drawn += bars
    for name in dict.fromkeys(row.curve for row in rows if row.curve):
        lines, top = _chart(name, [row for row in rows if row.curve == name], top)
        drawn += lines
    head = _text(10, 20, "Cistern and its peers, one machine, one run") + _text(10, 38, caption)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top:g}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>{head}{"".join(drawn)}</svg>\n'
    )


def _bars(row: Row, top: float) -> tuple[list[str], float]:
    drawn = [_text(LABEL - 10, top + LINE - 4, f"{row.name} [{row.unit}]", anchor="end")]
    longest = max([figure.value for figure in row.cells.values()] + [1e-9])
    for subject, figure in row.cells.items():
        length = max(1.0, (WIDTH - LABEL - 180) * max(0.0, figure.value) / longest)
        colour = COLOURS.get(subject, UNKNOWN)
        drawn.append(f'<rect x="{LABEL}" y="{top}" width="{length:.1f}" height="{LINE - 3}" fill="{colour}"/>')
        drawn.append(_text(LABEL + length + 6, top + LINE - 5, f"{subject} {number(figure.value)}"))
        top += LINE
    return drawn, top + GAP


def _chart(name: str, points: Sequence[Row], top: float) -> tuple[list[str], float]:
    """One curve for each subject: what it reached over the number of the row, the latter as logarithm."""
    drawn = [_text(10, top + 12, f"{name} [{points[0].unit}]")]
    ats = sorted({row.at for row in points})
    most = max([figure.value for row in points for figure in row.cells.values()] + [1e-9])
    bottom = top + CHART

    def x_of(at: float) -> float:
        span = math.log(ats[-1] / ats[0]) or 1.0
        return LEFT + (WIDTH - LEFT - 200) * math.log(at / ats[0]) / span

    def y_of(value: float) -> float:
        return bottom - (CHART - 30) * value / most

    drawn.append(_line([(LEFT, bottom), (WIDTH - 190, bottom)], "#d0d7de"))
    drawn += [_text(x_of(at), bottom + 16, f"{at:g}", anchor="middle") for at in ats]
    drawn.append(_text(LEFT - 8, y_of(most) + 4, number(most), anchor="end"))
    for subject in dict.fromkeys(name for row in points for name in row.cells):
        reached = sorted((row.at, row.cells[subject].value) for row in points if subject in row.cells)
        places = [(x_of(at), y_of(value)) for at, value in reached]
        drawn.append(_line(places, COLOURS.get(subject, UNKNOWN)))
        drawn.append(_text(places[-1][0] + 6, places[-1][1] + 4, f"{subject} {number(reached[-1][1])}"))
    return drawn, bottom + BELOW


def _line(places: Sequence[tuple[float, float]], colour: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
