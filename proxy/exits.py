"""From what ended a command or the server to its exit code and the lines for standard error. Pure."""

import os
from typing import Final

from proxy.errors import CisternError, ConfigInvalid

DONE: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2


class CommandFailed(CisternError):
    """A command could not do its work, and says why in one line; `code` is its exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def lines_of(error: Exception) -> tuple[int, list[str]]:
    """The exit code and the lines of an error."""
    if isinstance(error, ConfigInvalid):
        return WRONG_USE, [printable(problem) for problem in error.problems]
    if isinstance(error, CommandFailed):
        return error.code, [line_of(str(error))]
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return FAILED, [line_of(f"{where}{os.strerror(error.errno) if error.errno else error}")]
    if isinstance(error, CisternError):
        return FAILED, [line_of(str(error))]
    return FAILED, [line_of(f"an internal error, please report it: {type(error).__name__}: {error}")]


def line_of(text: str) -> str:
    """One line for standard error."""
    return f"cistern: {printable(text)}"


def printable(text: str) -> str:
    """`text` on one line, without anything that moves a cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(text.split()))


def tell(error: Exception) -> int:
    """Tell an error of a process that no command will: its lines on standard error; the exit code."""
    code, lines = lines_of(error)
    for line in lines:
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))
    return code
