"""What the tests of several rooms are given."""

from pathlib import Path

import pytest


@pytest.fixture
def password(tmp_path: Path) -> Path:
    """The file of an upstream's password."""
    file = tmp_path / "password"
    file.write_text("secret-word\n")
    return file
