"""Secrets of the configuration: read at each use, and shown by nothing."""

from pathlib import Path

import pytest

from proxy.config import SecretUnavailable, parse
from tests.support.refused import CANARY


def test_a_secret_is_read_at_each_use(tmp_path: Path) -> None:
    """A rotated file is seen by the next use, and its closing line break is not part of it."""
    file = tmp_path / "secret"
    credentials = parse(f"credentials: {{c: {{username: u, password: {{file: {file}}}}}}}").credentials["c"]
    file.write_text("one\n")
    assert credentials.secret() == "one"
    file.write_text("two")
    assert credentials.secret() == "two"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff" + CANARY.encode(), CANARY.encode() * 10_000])
def test_a_secret_that_is_not_there_names_its_file_only(tmp_path: Path, content: bytes) -> None:
    """An unusable secret is told by where it should stand, never by what stands there."""
    file = tmp_path / "secret"
    credentials = parse(f"credentials: {{c: {{username: u, password: {{file: {file}}}}}}}").credentials["c"]
    with pytest.raises(SecretUnavailable, match="cannot be read"):
        credentials.secret()
    file.write_bytes(content)
    with pytest.raises(SecretUnavailable, match=str(file)) as refused:
        credentials.secret()
    assert CANARY not in repr(refused.value)
    assert refused.value.__cause__ is None


def test_a_secret_variable_that_is_not_set_is_named() -> None:
    """An unset and an empty variable are both no secret."""
    credentials = parse("credentials: {c: {username: u, password: {env: HUB_TOKEN}}}").credentials["c"]
    for environ in ({}, {"HUB_TOKEN": ""}):
        with pytest.raises(SecretUnavailable, match="environment variable HUB_TOKEN"):
            credentials.secret(environ)


def test_no_representation_holds_a_secret() -> None:
    """A config printed by accident shows where secrets stand and none of them."""
    config = parse("credentials: {c: {username: u, password: {env: HUB_TOKEN}}}", environ={"HUB_TOKEN": CANARY})
    assert CANARY not in repr(config)
    assert "HUB_TOKEN" in repr(config)
