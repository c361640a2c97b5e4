"""What the owner of a SQLite file does for it when it is missing, broken, old, or about to change."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxy.store.copies import DatabaseBroken


class Keeper:
    """What the owner of a file does for it; everything here blocks, in the thread that opens or writes the file."""

    def missing(self, path: Path) -> None:
        """No file is there: put one, or leave it to be made empty."""

    def replace(self, path: Path, error: DatabaseBroken) -> None:
        """Set the broken file aside, and put a whole one in its place or none."""
        raise error

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Bring a file that was opened just now up to date. DatabaseBroken: it cannot be."""

    def scan(self, connection: sqlite3.Connection) -> None:
        """Look at every row. DatabaseBroken: one is damaged."""

    def note(self, connection: sqlite3.Connection, entries: Sequence[Any]) -> None:
        """A transaction that makes these changes is about to be committed."""
