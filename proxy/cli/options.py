"""What several commands share: the options that name a config or a server, and the config they lead to."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from proxy.config import Config

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", envvar="CISTERN_CONFIG", help="The config file; none: the built-in one."),
]
Admin = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        envvar="CISTERN_ADMIN",
        help="The server: unix:PATH or a URL; by default the control socket in the config's cache directory.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for scripts.")]


def load_config(file: Path | None) -> "Config":
    """The config of `file` and the environment; raises ConfigInvalid."""
    from proxy.config import load  # late: --help needs none of it

    return load(file, os.environ)
