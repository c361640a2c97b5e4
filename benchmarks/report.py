"""The result in three forms: a table for people, JSON for programs, a picture of bars. Pure but for `save`, `show`."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from rich.console import Console
from rich.table import Table

from benchmarks.figures import BARE, CISTERN, NGINX, PLAIN, REGISTRY, Figure, Row

PEERS = (CISTERN, REGISTRY, NGINX)
BASES = (PLAIN, BARE)
COLOURS = {CISTERN: "#1f6feb", REGISTRY: "#8b949e", NGINX: "#57ab5a", PLAIN: "#2d6a30", BARE: "#c69026"}
WIDTH, LABEL, LINE, GAP = 1000, 400, 16, 14
VERDICTS = {True: "yes", False: "NO", None: ""}


def number(value: float) -> str:
    """Three digits that matter, and no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 2)}f}"


def cell(figure: Figure | None) -> str:
    """A value with its range, where there is one."""
    if figure is None:
        return "-"
    spread = f" ({number(figure.low)}…{number(figure.high)})" if figure.samples > 1 else ""
    return number(figure.value) + spread


def table(rows: Sequence[Row], facts: Mapping[str, Any]) -> Table:
    """One line per row."""
    drawn = Table(title="Cistern and its peers", caption=caption(facts), show_lines=False)
    drawn.add_column("what", overflow="fold")
    drawn.add_column("unit")
    for name in (*PEERS, "base"):
        drawn.add_column(name, justify="right", overflow="fold")
    for name in ("ratio", "floor", "met"):
        drawn.add_column(name, justify="right")
    topic = rows[0].topic if rows else ""
    for row in rows:
        if row.topic != topic:
            drawn.add_section()
            topic = row.topic
        base = next((f"{name} {cell(row.cells[name])}" for name in BASES if name in row.cells), "")
        judged = "" if row.judged is None else number(row.judged)
        floor = "" if row.floor is None else str(row.floor)
        drawn.add_row(
            row.name, row.unit, *(cell(row.cells.get(name)) for name in PEERS), base, judged, floor, VERDICTS[row.met]
        )
    return drawn


def caption(facts: Mapping[str, Any]) -> str:
    """The machine in one line."""
    load = "/".join(f"{value:.1f}" for value in facts["load"])
    return f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}, load {load}"


def document(rows: Sequence[Row], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, samples included, as JSON types."""
    return {"machine": dict(facts), "rows": [asdict(row) | {"met": row.met} for row in rows]}


def picture(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """An SVG: per row one bar for each subject, on the row's own scale, so that only bars of one row compare."""
    drawn, top = [], 50
    for row in rows:
        drawn.append(_text(LABEL - 10, top + LINE - 4, f"{row.name} [{row.unit}]", anchor="end"))
        longest = max([figure.value for figure in row.cells.values()] + [1e-9])
        for subject, figure in row.cells.items():
            length = max(1.0, (WIDTH - LABEL - 180) * max(0.0, figure.value) / longest)
            colour = COLOURS.get(subject, "#d0d7de")
            drawn.append(f'<rect x="{LABEL}" y="{top}" width="{length:.1f}" height="{LINE - 3}" fill="{colour}"/>')
            drawn.append(_text(LABEL + length + 6, top + LINE - 5, f"{subject} {number(figure.value)}"))
            top += LINE
        top += GAP
    head = _text(10, 20, "Cistern and its peers, one machine, one run") + _text(10, 38, caption(facts))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>{head}{"".join(drawn)}</svg>\n'
    )


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def save(rows: Sequence[Row], facts: Mapping[str, Any], folder: Path) -> None:
    """Write `benchmarks.json` and `benchmarks.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.json").write_text(json.dumps(document(rows, facts), indent=1) + "\n")
    (folder / "benchmarks.svg").write_text(picture(rows, facts))


def show(rows: Sequence[Row], facts: Mapping[str, Any], console: Console) -> None:
    """Print the table, and what the rows have to add."""
    console.print(table(rows, facts))
    for row in rows:
        if row.note:
            console.print(f"  {row.name}: {row.note}", highlight=False, soft_wrap=True)
