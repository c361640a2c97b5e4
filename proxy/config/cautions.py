"""What is allowed but deserves a word at start and in `check`. Looks at the disk and at where secrets stand; changes
nothing and repeats no secret.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from proxy.config.models import Config
from proxy.config.mounts import network_file_system, read_mounts
from proxy.config.names import upstream_names
from proxy.config.secrets import SecretUnavailable

FOR_OTHERS: Final = stat.S_IRGRP | stat.S_IROTH


def disk_bytes(directory: Path) -> int | None:
    """The size of the file system that `directory` stands on, or will; None if that cannot be told."""
    nearest = next((path for path in (directory, *directory.absolute().parents) if path.exists()), None)
    try:
        return None if nearest is None else shutil.disk_usage(nearest).total
    except OSError:
        return None


def warnings(
    config: Config,
    environ: Mapping[str, str] = os.environ,
    disk_bytes: Callable[[Path], int | None] = disk_bytes,
    mounts: Callable[[], str] = read_mounts,
) -> list[str]:
    """One line for each caution, naming its key."""
    found = [*_disk(config, disk_bytes), *_network(config, mounts), *_exposure(config), *_files(config)]
    return [*found, *_data(config), *_secrets(config, environ), *_open_to_others(config), *_idle(config)]


def _disk(config: Config, disk_bytes: Callable[[Path], int | None]) -> Iterator[str]:
    total, wanted = disk_bytes(config.cache.directory), config.cache.max_size.bytes
    if total is not None and wanted is not None and wanted > total:
        yield f"cache.max_size: {wanted} bytes are more than the disk has ({total}): the disk counts"


def _network(config: Config, mounts: Callable[[], str]) -> Iterator[str]:
    kind = network_file_system(config.cache.directory.resolve(), mounts())
    if kind is not None:
        yield (
            f"cache.directory: {config.cache.directory} is on a network file system ({kind}): it is not safe there,"
            " and hangs when that server does; use a local disk"
        )


def _exposure(config: Config) -> Iterator[str]:
    private = list(_private(config))
    if private and not config.registry.listen.is_local:
        yield (
            f"registry.listen: whoever reaches {config.registry.listen} can read what the credentials of"
            f" {', '.join(private)} fetch: there is no access control"
        )
    for name, upstream in config.upstreams.items():
        if upstream.allow_insecure_credentials:
            yield f"upstreams.{name}.allow_insecure_credentials: credentials go over the network unencrypted"


def _data(config: Config) -> Iterator[str]:
    """A data address that is weaker than the registry address, or that nobody here serves."""
    redirect = config.blobs.redirect
    if redirect is None:
        return
    if config.blobs.listen is None:
        yield f"blobs.redirect.url: nothing here answers at {redirect.url}: blobs.listen is not given"
    if config.registry.tls is not None and redirect.url.startswith("http:"):
        yield f"blobs.redirect.url: {redirect.url} is not encrypted, and the registry address is"


def _private(config: Config) -> Iterator[str]:
    """The rules, explicit and implicit, whose content is not anybody's."""
    names = upstream_names(config.upstreams)
    whole: set[str] = set()
    for rule in config.rules:
        upstream = names[rule.upstream.host]
        if (rule.credentials or config.upstreams[upstream].credentials) and not (rule.public or rule.deny):
            yield f"rule {rule.name}"
        if str(rule.upstream.pattern) == "*":
            whole.add(upstream)  # it stands in the place of the implicit rule
    for name, item in config.upstreams.items():
        if config.implicit_rules and item.credentials and name not in whole:
            yield f"upstream {name}"


def _files(config: Config) -> Iterator[str]:
    named = [(f"upstreams.{name}.tls.ca", upstream.tls.ca) for name, upstream in config.upstreams.items()]
    if config.registry.tls is not None:
        named.append(("registry.tls.certificate", config.registry.tls.certificate))
        named.append(("registry.tls.key", config.registry.tls.key))
    for key, path in named:
        if path is not None and not os.access(path, os.R_OK):
            yield f"{key}: {path} is not there or not readable"


def _secrets(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    named = [(f"credentials.{name}.password", item.password) for name, item in config.credentials.items()]
    named += [] if config.blobs.key is None else [("blobs.key", config.blobs.key)]
    for key, secret in named:
        try:
            secret.read(environ)
        except SecretUnavailable as cause:
            yield f"{key}: {cause}"


def _open_to_others(config: Config) -> Iterator[str]:
    """Secrets in files that more than their owner may read."""
    named = [(f"credentials.{name}.password.file", item.password.file) for name, item in config.credentials.items()]
    if config.registry.tls is not None:
        named.append(("registry.tls.key", config.registry.tls.key))
    if config.blobs.key is not None:
        named.append(("blobs.key.file", config.blobs.key.file))
    for key, path in named:
        try:
            mode = None if path is None else stat.S_IMODE(os.stat(path).st_mode)
        except OSError:
            continue  # told above: it is not there
        if mode is not None and mode & FOR_OTHERS:
            who = "everybody" if mode & stat.S_IROTH else "its group"
            yield f"{key}: {path} may be read by {who} (mode {mode:04o}): chmod 600"


def _idle(config: Config) -> Iterator[str]:
    """What is written down and has no effect."""
    used = {rule.credentials for rule in config.rules} | {item.credentials for item in config.upstreams.values()}
    for name in config.credentials:
        if name not in used:
            yield f"credentials.{name}: no upstream and no rule uses it"
    if not config.implicit_rules:
        names = upstream_names(config.upstreams)
        led_to = {names[rule.upstream.host] for rule in config.rules if not rule.deny}
        for name in config.upstreams:
            if name not in led_to:
                yield f"upstreams.{name}: no rule leads to it, and implicit_rules is off"
