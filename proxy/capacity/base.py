"""The port through which a body asks for room on the disk before its first byte is written."""

from typing import Protocol

from proxy.ledger import Claim, Ledger

STEP = 64 << 20  # bytes claimed at a time for a body whose size nobody told


class Admission(Protocol):
    """Room for bodies. Plain functions but for the waiting: no await between look and claim."""

    def claim(self, size: int, *, small: bool = False) -> Claim:
        """Room for `size` bytes more. `small`: a manifest, for which a little is set aside.

        Raises NotKept: there is none now, or the disk takes nothing; making room has begun.
        """

    def extend(self, claim: Claim, size: int) -> None:
        """Make a claim one of `size` bytes in all. Raises NotKept; the claim then stays as it was."""

    async def wait(self, size: int) -> Claim:
        """A claim, waited for while room is being made; for a bounded time. Raises NotKept."""

    def kept_part(self, name: str, size: int) -> None:
        """A transfer was broken off and left a part of `size` bytes behind, for the next one to go on from."""

    async def took_part(self, name: str) -> None:
        """A transfer begins to fill a part, new or kept; from now on nobody else touches its file. OSError: the disk is
        deleting it, and does not get done.
        """

    def left_part(self, name: str) -> None:
        """The part is adopted, or gone."""

    def refused(self, error: OSError) -> str:
        """The disk refused a write: the reason in a word. Nothing is written until a probe finds it well again."""


class Unbounded:
    """No limit at all: for rooms that are built without a disk."""

    def __init__(self) -> None:
        self._ledger = Ledger()

    def claim(self, size: int, *, small: bool = False) -> Claim:
        return self._ledger.claim(size)

    def extend(self, claim: Claim, size: int) -> None:
        claim.promised = size

    async def wait(self, size: int) -> Claim:
        return self.claim(size)

    def kept_part(self, name: str, size: int) -> None:
        """Nobody counts."""

    async def took_part(self, name: str) -> None:
        """Nobody counts."""

    def left_part(self, name: str) -> None:
        """Nobody counts."""

    def refused(self, error: OSError) -> str:
        return "disk"
