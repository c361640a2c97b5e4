"""A command, and the server that it asks."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.__main__ import main as serve_here
from proxy.cli import become
from tests.support.commands import Cistern
from tests.support.desk import CannedDesk, canned_desk


@pytest.fixture
def cistern(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, short_tmp: Path, tmp_path: Path
) -> Cistern:
    """The command, without the variables of whoever runs the tests, and with a cache directory of its own."""
    for name in list(os.environ):
        if name.startswith("CISTERN_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    config = tmp_path / "given.yaml"
    config.write_text(f"cache: {{directory: {short_tmp}}}\n")
    monkeypatch.setenv("CISTERN_CONFIG", str(config))
    monkeypatch.setattr(become, "become", serve_here)  # another program would take the test's place
    return Cistern(capsys)


@pytest.fixture
def desk(short_tmp: Path) -> Iterator[CannedDesk]:
    """A server at the control socket of that cache directory."""
    with canned_desk(short_tmp / "control.sock") as started:
        yield started
