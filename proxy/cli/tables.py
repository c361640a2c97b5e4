"""Tables and units for people: fitted to a terminal; anywhere else plain, aligned and unwrapped."""

import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any, Final

import typer

from proxy.cli.failures import printable

UNITS: Final = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
GAP: Final = 2  # between columns
FOLDED_MIN: Final = 12  # a column narrower than that says little
AGES: Final = (("d", 86_400), ("h", 3600), ("m", 60))


def show_json(document: Any) -> None:
    """What the server told, for scripts."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def show(headings: Sequence[str], rows: Sequence[Sequence[str]], fold: Sequence[int] = (0,)) -> None:
    """A table; nothing but its headings if there are no rows. `fold` are the columns that may take several lines."""
    cells = [list(headings), *([printable(cell) for cell in row] for row in rows)]
    if sys.stdout.isatty() and _fits(cells, fold):
        _show_fitted(cells, fold)
        return
    for line in aligned(cells):
        typer.echo(line)


def _fits(rows: Sequence[Sequence[str]], fold: Sequence[int]) -> bool:
    """Whether the columns that stay on one line leave room for the others."""
    fixed = sum(
        max(map(len, column)) + GAP for number, column in enumerate(zip(*rows, strict=True)) if number not in fold
    )
    return shutil.get_terminal_size().columns - fixed >= FOLDED_MIN * len(fold)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _show_fitted(rows: Sequence[Sequence[str]], fold: Sequence[int]) -> None:
    from rich.console import Console  # late: most runs are piped or small
    from rich.table import Table
    from rich.text import Text

    headings, *cells = rows
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=number not in fold)
    for row in cells:
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
