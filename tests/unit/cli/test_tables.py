"""Tables of the commands: short sizes and ages, and the width of a terminal."""

import os
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from proxy.cli import tables
from tests.support.commands import IMAGE, ROOT
from tests.support.desk import canned_desk


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (3 << 39, "1.5 TiB")],
)
def test_a_size_is_short(count: int | None, text: str) -> None:
    """In the largest unit that fits."""
    assert tables.size(count) == text


@pytest.mark.parametrize(("ago", "text"), [(0, "0s ago"), (61, "1m ago"), (7200, "2h ago"), (1e6, "11d ago")])
def test_an_age_is_short(ago: float, text: str) -> None:
    """In the largest unit that fits; a clock that was set back gives no negative age."""
    assert tables.age(1e9 - ago, 1e9) == text
    assert tables.age(1e9 + 5, 1e9) == "0s ago"
    assert tables.age(None, 1e9) == "-"


@pytest.mark.parametrize(("columns", "folds"), [(100, True), (60, False)])
def test_a_terminal_gets_a_table_of_its_width(short_tmp: Path, columns: int, folds: bool) -> None:
    """Names are folded, not cut, where there is room to; a terminal too narrow for a table gets plain lines."""
    name = "registry.example/[bold]/" + "x" * 90
    with canned_desk(short_tmp / "control.sock") as desk:
        desk.answer("/api/v1/images", {"images": [IMAGE | {"repository": name}]})
        leader, follower = os.openpty()
        termios.tcsetwinsize(follower, (24, columns))
        with subprocess.Popen(
            [sys.executable, "-m", "proxy.cli", "images", "--admin", desk.where],
            stdout=follower,
            stderr=follower,
            cwd=ROOT,
            env={"TERM": "xterm", "PATH": os.environ["PATH"]},
        ) as process:
            os.close(follower)
            shown = re.sub(r"\x1b\[[0-9;]*m", "", read_terminal(leader))
        os.close(leader)
    assert process.returncode == 0
    assert ("3.0 MiB" in shown, shown.count("x")) == (True, 91)  # 90 of the name, one of "registry.example"
    assert (max(map(len, shown.splitlines())) <= columns) == folds
    assert (name in shown) == (not folds)
    assert "[bold]" in shown


def read_terminal(leader: int) -> str:
    """Everything until the other side has closed."""
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # EIO: the last one on the other side has left
            return shown.decode()
        if not piece:
            return shown.decode()
        shown += piece
