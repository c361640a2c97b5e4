"""`python -m benchmarks.faults`: every fault row against Cistern and docker-registry; a table, and docs/faults.md.

With `--matrix` instead: real clients behind HAProxy and two Cisterns in every trouble, and docs/matrix.md.
Exit code 0 when Cistern passed all that was played, whatever its peer did; 1 when it did not; 2 for wrong use.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.faults import drain, report
from benchmarks.faults.report import Played
from benchmarks.faults.subjects import SUBJECTS
from benchmarks.figures import CISTERN
from tests.faults import matrix, playing
from tests.faults.matrix import Cell
from tests.faults.rows import ROWS, STALE, Row
from tests.faults.stage import staged
from tests.faults.troubles import TROUBLES

DOCS = Path(__file__).parents[2] / "docs"
PATIENCE_S = 45.0  # longer than Cistern's default `stall` and one resume
AT_ONCE = 4  # plays side by side: most of them wait


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the chosen rows, print what was seen, and write it down if asked."""
    chosen = _parser().parse_args(arguments)
    facts = machine.facts() | {"registry": machine.version_of("docker-registry", "--version")}
    if chosen.matrix:
        cells, wrong = asyncio.run(_matrix(chosen.row or [""]))
        text, good = report.matrix_markdown(cells, wrong, facts), not wrong
    else:
        rows = [
            row for row in ROWS if not row.is_long and (not chosen.row or any(word in row.name for word in chosen.row))
        ]
        played = asyncio.run(_all(rows, chosen))
        text = report.markdown(played, facts, PATIENCE_S)
        good = all(one.passed for one in played if one.subject == CISTERN)
    print(text)
    if chosen.out:
        (DOCS / ("matrix.md" if chosen.matrix else "faults.md")).write_text(text)
    return 0 if good else 1


async def _matrix(words: Sequence[str]) -> tuple[list[Cell], list[str]]:
    cells: list[Cell] = []
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cm") as folder:
        for number, trouble in enumerate(TROUBLES):
            if any(word in trouble.name for word in words):
                found, faults = await matrix.play(Path(folder) / str(number), trouble)
                cells, wrong = cells + found, wrong + faults
                print(f"{trouble.name}: {'; '.join(faults) or 'as it should be'}", file=sys.stderr)
    return cells, wrong


async def _all(rows: Sequence[Row], chosen: argparse.Namespace) -> list[Played]:
    places = asyncio.Semaphore(chosen.at_once)
    with tempfile.TemporaryDirectory(prefix="cistern-faults-") as folder:
        plays = [
            _play(row, name, clients, Path(folder) / f"{number}-{name}-{clients}", places)
            for number, row in enumerate([*rows, *([] if chosen.row else [None])])
            for clients in chosen.clients
            for name in chosen.subject or SUBJECTS
        ]
        return await asyncio.gather(*plays)


async def _play(row: Row | None, name: str, clients: int, home: Path, places: asyncio.Semaphore) -> Played:
    keys = "" if row is None else row.keys
    async with places, staged() as stage, SUBJECTS[name](home, stage, keys) as subject:
        if row is None:
            seen = await drain.play(stage, subject, clients, patience_s=PATIENCE_S)
            played = Played(drain.ID, drain.FAULT, clients, name, seen)
        else:
            seen = await playing.play(row, stage, subject, clients, patience_s=PATIENCE_S)
            played = Played(row.id, row.fault, clients, name, seen, is_marked=row.client == STALE)
    verdict = "as it should be" if played.passed else f"NO: {'; '.join(seen.faults)}"
    print(f"{played.id} {played.fault}, {clients} at {name}: {played.cell}: {verdict}", file=sys.stderr)
    return played


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description="Caches under the same faults.")
    parser.add_argument("--row", action="append", metavar="WORDS", help="only rows whose name has these words")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8], metavar="N")
    parser.add_argument("--subject", action="append", choices=sorted(SUBJECTS), help="one of the caches alone")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, metavar="N", help="plays side by side")
    parser.add_argument("--matrix", action="store_true", help="play the matrix; --row then chooses its troubles")
    parser.add_argument("--out", action="store_true", help="write the table to docs/")
    return parser


if __name__ == "__main__":
    sys.exit(main())
