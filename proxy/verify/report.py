"""What a check of everything stored found. Pure."""

from dataclasses import dataclass
from typing import Any

from proxy.oci import Digest


@dataclass(frozen=True, slots=True)
class Bad:
    """One blob that is not what its name says, or cannot be read. `mended`: it was fetched again and is whole now;
    else `why_not` says what kept it from that.
    """

    digest: Digest
    found: str
    mended: bool = False
    why_not: str | None = None

    def as_json(self) -> dict[str, Any]:
        told = {"digest": str(self.digest), "found": self.found, "mended": self.mended}
        return told if self.why_not is None else told | {"why_not": self.why_not}


@dataclass(frozen=True, slots=True)
class Report:
    """How many blobs and bytes were hashed, in how many seconds, and what was bad."""

    blobs: int
    bytes: int
    seconds: float
    bad: tuple[Bad, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing was bad that is not mended."""
        return all(found.mended for found in self.bad)

    def as_json(self) -> dict[str, Any]:
        return {
            "blobs": self.blobs,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "clean": self.is_clean,
            "bad": [found.as_json() for found in self.bad],
        }
