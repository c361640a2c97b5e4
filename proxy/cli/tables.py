"""Tables and units for people: fitted to a terminal; anywhere else plain, aligned and unwrapped."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import typer

from proxy.cli.failures import printable

UNITS: Final = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
AGES: Final = (("d", 86_400), ("h", 3600), ("m", 60))


def show_json(document: Any) -> None:
    """What the server told, for scripts."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; nothing but its headings if there are no rows."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _show_fitted(headings, cells)
        return
    for line in aligned([list(headings), *cells]):
        typer.echo(line)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _show_fitted(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # late: most runs are piped or small
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: a bracket in a name is no markup
    Console(file=sys.stdout).print(table)


def size(count: float | None) -> str:
    """`1.4 GiB`."""
    if count is None:
        return "-"
    for unit, step in UNITS:
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{int(count)} B"


def age(then: float | None, now: float) -> str:
    """`3h ago`; `-` for never."""
    if then is None:
        return "-"
    seconds = max(0.0, now - then)
    for unit, step in AGES:
        if seconds >= step:
            return f"{int(seconds // step)}{unit} ago"
    return f"{int(seconds)}s ago"


def moment(then: float | None) -> str:
    """A Unix time in ISO 8601, UTC; `-` for none."""
    return "-" if then is None else datetime.fromtimestamp(then, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
