"""Where the keys of the data address come from: the configuration, or else a file of the cache directory.

Read at start and at every reload. A key that cannot be had is told in the log and costs nobody a pull: blobs are then
sent from the registry address, and addresses signed before are good as long as they would have been.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from proxy.config import Config, SecretUnavailable
from proxy.events import ConfigTaken, Events
from proxy.log import logger
from proxy.signing import Keys, secrets_in
from proxy.store.filesystem import Filesystem
from proxy.store.keyfile import NAME, read_or_make
from proxy.store.threads import Threads
from proxy.tasks import Tasks

log = logger("keyring")


class Keyring:
    """Keeps `keys` as the configuration has them."""

    def __init__(self, keys: Keys, root: Path, threads: Threads, files: Filesystem, environ: Mapping[str, str]) -> None:
        self.keys = keys
        self._root = root
        self._threads = threads
        self._files = files
        self._environ = environ
        self._turn = asyncio.Lock()  # of two configurations the later one is read last

    def listen(self, events: Events, tasks: Tasks) -> None:
        """Read again whenever another configuration is taken."""

        def take(taken: ConfigTaken) -> None:
            tasks.start(self.take(taken.config), name="keyring: read")

        events.listen(ConfigTaken, take)

    async def take(self, config: Config) -> None:
        """Read the keys that this configuration needs, if it needs any."""
        try:
            async with self._turn:
                self.keys.take(await self._threads.disk(self._read, config) if needs_keys(config) else ())
        except (SecretUnavailable, OSError, ValueError) as error:
            where = "blobs.key" if config.blobs.key is not None else str(self._root / NAME)
            then = "the earlier one signs on" if self.keys.can_sign else "blobs are sent from here"
            log.warning(f"no key for the data address: {then}", where=where, error=str(error))

    def _read(self, config: Config) -> list[str]:
        """Blocks. Raises SecretUnavailable, ValueError, OSError."""
        key = config.blobs.key
        return secrets_in(read_or_make(self._root, self._files) if key is None else key.read(self._environ))


def needs_keys(config: Config) -> bool:
    """Whether anybody is sent to the data address, or it is here."""
    rules = any(rule.blobs is not None and rule.blobs.redirect is not None for rule in config.rules)
    return config.blobs.redirect is not None or config.blobs.listen is not None or rules
