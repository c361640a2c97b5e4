"""The configuration that runs now, with its rules: one snapshot, swapped whole.

Rooms that outlive a reload ask for it at each use and keep nothing of it across an await that matters: a request is
routed once, by one snapshot, and its route carries the policies it began with.
"""

from proxy.config import Config
from proxy.oci import Digest
from proxy.rules import Rules


class Current:
    """`config`, `rules` and `blocked` of one moment belong together: `take` swaps all three in one step."""

    __slots__ = ("blocked", "config", "rules")

    def __init__(self, config: Config) -> None:
        self.take(config, Rules(config))

    def take(self, config: Config, rules: Rules) -> None:
        """From now on this configuration; `rules` were made of it, which may have taken a while."""
        self.config, self.rules, self.blocked = config, rules, config.block

    def max_blob_bytes(self) -> int:
        return self.config.limits.max_blob_bytes

    def max_ranges(self) -> int:
        return self.config.limits.max_ranges_per_blob

    def is_blocked(self, digest: Digest) -> bool:
        return digest in self.blocked
