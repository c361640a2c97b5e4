"""What a command raised, the command line's own errors included, as exit code and lines for standard error. Pure."""

from typer.exceptions import TyperException

from proxy import exits
from proxy.exits import DONE, FAILED, WRONG_USE, CommandFailed, line_of, printable

__all__ = ["DONE", "FAILED", "WRONG_USE", "CommandFailed", "lines_of", "printable"]


def lines_of(error: Exception) -> tuple[int, list[str]]:
    """The exit code and the lines of an error."""
    if isinstance(error, TyperException):
        return error.exit_code, [line_of(f"{error.format_message().rstrip('.')} ({_help_of(error)})")]
    return exits.lines_of(error)


def _help_of(error: TyperException) -> str:
    """Where to read on: the help of the command that was used wrongly."""
    context = getattr(error, "ctx", None)
    return f"see {context.command_path if context is not None else 'cistern'} --help"
