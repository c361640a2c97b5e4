"""The commands: words in, rooms or a running server asked, text and an exit code out.

Exit codes: 0 done, 1 it failed, 2 wrong use or a bad config. An error is one line on standard error, or one per problem
of a config; never a traceback. Rooms are imported by the command that needs them, so that `--help` is quick.
"""

import os
import sys
from collections.abc import Sequence

import typer

from proxy.cli import asking, local
from proxy.cli.failures import DONE, FAILED, lines_of

app = typer.Typer(
    name="cistern",
    help="A pull-through caching proxy for container registries: serve now, hydrate for later.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
app.callback()(local.cistern)
local.enter(app)
asking.enter(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of `arguments` (those of the process); its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 gets escapes, not an error
    try:
        ended = app(arguments, prog_name="cistern", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has left: `cistern images | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (typer.Abort, KeyboardInterrupt):
        return FAILED
    except Exception as error:  # the one place: what a command raises becomes words
        code, lines = lines_of(error)
        for line in lines:
            typer.echo(line, err=True)
        return code
    return ended if isinstance(ended, int) else DONE
