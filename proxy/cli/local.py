"""The commands that ask no server: `serve`, `check` and `client-config`."""

import enum
import os
import sys
from typing import Annotated

import typer

from proxy import __version__
from proxy.cli import become
from proxy.cli.client_config import client_config
from proxy.cli.options import ConfigFile, load_config


class LogFormat(enum.StrEnum):
    JSON = "json"
    HUMAN = "human"


def enter(app: typer.Typer) -> None:
    """Give the commands to the app."""
    app.command()(serve)
    app.command()(check)
    app.command("client-config")(client_config)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cistern {__version__}")
        raise typer.Exit


def cistern(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """What stands before every command."""


def serve(
    config: ConfigFile = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where clients pull.")] = None,
    admin: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Probes, metrics, reading.")] = None,
    cache_dir: Annotated[str | None, typer.Option(metavar="DIR", help="Where content is kept.")] = None,
    workers: Annotated[str | None, typer.Option(metavar="N", help="Processes.")] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="Lines of the log; by default human on a terminal, else json.")
    ] = None,
) -> int:
    """Serve until SIGTERM or Ctrl-C. Flags win over the environment, and that over the file."""
    flags = {
        "--listen": ("registry.listen", listen),
        "--admin": ("admin.listen", admin),
        "--cache-dir": ("cache.directory", cache_dir),
        "--workers": ("registry.workers", workers),
    }
    chosen = log_format or (LogFormat.HUMAN if sys.stderr.isatty() else LogFormat.JSON)
    given = {flag: (key, text) for flag, (key, text) in flags.items() if text is not None}
    return become.become({"config": config and str(config), "flags": given, "log_format": chosen.value})


def check(
    config: ConfigFile = None,
    egress: Annotated[
        bool, typer.Option("--egress", help="Print every host and port to allow in a firewall instead.")
    ] = False,
) -> None:
    """Validate the config; print the rules in the order they match, and which of them overlap."""
    loaded = load_config(config)
    from proxy.check import render, render_egress
    from proxy.config import warnings

    for warning in warnings(loaded, os.environ):
        typer.echo(f"cistern: warning: {warning}", err=True)
    typer.echo(render_egress(loaded, os.environ) if egress else render(loaded))
