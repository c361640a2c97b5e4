"""The result in three forms: a table for people, JSON for programs, a picture of bars. Pure but for `save`, `show`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import BARE, DIRECT, PLAIN, Figure, Row
from benchmarks.picture import COLOURS, number, picture

BASES = (PLAIN, BARE)
VERDICTS = {True: "yes", False: "NO", None: ""}


def subjects_of(rows: Sequence[Row]) -> list[str]:
    """The columns: every cache that some row has a figure of, Cistern first, those nobody knows by name last."""
    seen = [name for row in rows for name in row.cells if name not in (*BASES, DIRECT)]
    known = [name for name in COLOURS if name in seen]
    return known + sorted(set(seen) - set(known))


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
    peers = subjects_of(rows)
    for name in (*peers, "base"):
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
            row.name, row.unit, *(cell(row.cells.get(name)) for name in peers), base, judged, floor, VERDICTS[row.met]
        )
    return drawn


def caption(facts: Mapping[str, Any]) -> str:
    """The machine in one line."""
    load = "/".join(f"{value:.1f}" for value in facts["load"])
    return (
        f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}, load {load}, "
        f"first touch of memory {facts['first_touch_s_per_gib']:.1f} s/GiB"
    )


def document(rows: Sequence[Row], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, samples included, as JSON types."""
    return {"machine": dict(facts), "rows": [asdict(row) | {"met": row.met} for row in rows]}


def save(rows: Sequence[Row], facts: Mapping[str, Any], folder: Path) -> None:
    """Write `benchmarks.json` and `benchmarks.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.json").write_text(json.dumps(document(rows, facts), indent=1) + "\n")
    (folder / "benchmarks.svg").write_text(picture(rows, caption(facts)))


def show(rows: Sequence[Row], facts: Mapping[str, Any], console: Console) -> None:
    """Print the table, and what the rows have to add."""
    console.print(table(rows, facts))
    for row in rows:
        if row.note:
            console.print(f"  {row.name}: {row.note}", highlight=False, soft_wrap=True)
