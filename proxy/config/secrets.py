"""Secrets by reference: where a password stands, never what it is. Read at each use, since files rotate."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SECRET_MAX_BYTES: Final = 64 * 1024


class SecretUnavailable(ValueError):
    """The variable or file that should hold a secret does not; the message names it and never holds a value."""


def from_variable(name: str, environ: Mapping[str, str]) -> str:
    value = environ.get(name, "")
    if not value:
        raise SecretUnavailable(f"environment variable {name} is not set or empty")
    return value


def from_file(path: Path) -> str:
    """The file's text without its closing line break."""
    try:
        with open(path, "rb") as file:
            data = file.read(SECRET_MAX_BYTES + 1)
    except OSError as cause:
        raise SecretUnavailable(f"file {path} cannot be read: {os.strerror(cause.errno or 0)}") from cause
    if len(data) > SECRET_MAX_BYTES:
        raise SecretUnavailable(f"file {path} is too long to be a secret")
    try:
        value = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        # Without its cause: that one carries the bytes.
        raise SecretUnavailable(f"file {path} is not UTF-8 text") from None
    if not value:
        raise SecretUnavailable(f"file {path} is empty")
    return value
