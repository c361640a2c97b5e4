"""`cistern client-config`: prints the files that point a client at Cistern, or writes them where the client looks.

Writes over nothing that somebody else wrote: a file that is there and says something else is named, and all is left as
it is. A file appears whole or not at all.
"""

import enum
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.failures import WRONG_USE, CommandFailed
from proxy.cli.options import ConfigFile, load_config

if TYPE_CHECKING:
    from proxy.config import RegistryConfig

FILE_MODE = 0o644  # clients run as other users
ANY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104 - where clients cannot go, told from where they can


class Client(enum.StrEnum):
    CONTAINERD = "containerd"
    DOCKER = "docker"
    BUILDKIT = "buildkit"
    PODMAN = "podman"
    K3S = "k3s"


def client_config(
    client: Annotated[Client, typer.Argument(help="Whose files.")],
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where clients reach Cistern; by default the config's address.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the files where the client looks for them.")] = False,
    into: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --write: this folder in place of the client's own.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Print, or write, the files that point a client at Cistern."""
    if into is not None and not write:
        raise CommandFailed("--into says where to write: it needs --write", WRONG_USE)
    loaded = load_config(config)
    from proxy.clients import CLIENTS, FOLDERS, Mirror
    from proxy.errors import ConfigInvalid

    try:
        mirror = Mirror.parse(url if url is not None else _url_of(loaded.registry))
    except ConfigInvalid as cause:
        raise CommandFailed(f"--url: {cause}", WRONG_USE) from cause
    folder = into or Path(FOLDERS[client.value])
    made = CLIENTS[client.value](mirror, list(loaded.upstreams))
    files = {folder.joinpath(*_below(folder, name)): text for name, text in made.items()}
    if write:
        write_files(files)
    for path, text in files.items():
        # The name goes beside the text, not into it: `cistern client-config docker > daemon.json` is the file itself.
        typer.echo(f"cistern: {'written: ' if write else 'the file '}{path}", err=True)
        if not write:
            typer.echo(text, nl=False)


def _below(folder: Path, name: str) -> tuple[str, ...]:
    """The way from `folder` to the file: `--into certs.d` means that very folder, and no second one within it."""
    parts = Path(name).parts
    for named in range(len(parts) - 1, 0, -1):
        if folder.parts[-named:] == parts[:named]:
            return parts[named:]
    return parts


def _url_of(registry: "RegistryConfig") -> str:
    """The address of the config as clients on this machine write it."""
    listen = registry.listen
    if listen.path is not None or listen.host in ANY_ADDRESS or listen.port == 0:
        raise CommandFailed(f"--url is needed: the config's {listen} is no address that clients can go to", WRONG_USE)
    return f"{'http' if registry.tls is None else 'https'}://{listen}"


def write_files(files: Mapping[Path, str]) -> None:
    """Write all of `files`, or none if one of them stands there with another text."""
    missing: dict[Path, str] = {}
    for path, text in files.items():
        try:
            held = path.read_bytes()
        except FileNotFoundError:
            missing[path] = text
            continue
        if held != text.encode():
            raise CommandFailed(f"{path} is there already and says something else: merge it by hand, or remove it")
    for path, text in missing.items():
        _write_whole(path, text)


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), FILE_MODE)
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
