"""The head of an answer that stands ready as bytes: it was made once, and only the date is of the moment."""

import email.utils
from collections.abc import Mapping
from http import HTTPStatus


class _Dated:
    """The Date line; RFC 9110 has it in whole seconds."""

    second = 0
    line = b""


def date_line(seconds: float) -> bytes:
    """`Date: …` and its line end, made once a second."""
    whole = int(seconds)
    if whole != _Dated.second:
        _Dated.line = f"Date: {email.utils.formatdate(whole, usegmt=True)}\r\n".encode()
        _Dated.second = whole
    return _Dated.line


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Status line and header lines as they leave. ValueError: one of them cannot stand in a header."""
    for name, value in headers.items():
        if not (name.isprintable() and value.isprintable()):
            raise ValueError(f"not a header: {name}")
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "".join(f"{line}\r\n" for line in lines).encode()
