"""What a pull is answered, as data: a manifest, a blob, and how long such an answer stands."""

from dataclasses import dataclass

from proxy.downloads.transfer import Reader
from proxy.oci import Descriptor
from proxy.outcome import Outcome
from proxy.store.base import OpenBlob


@dataclass(frozen=True, slots=True)
class Standing:
    """While nothing changed since `changes`, the same question under the same rules has the same answer, and nobody
    need be asked; a tag's for as long as it is fresh: `fresh_for_s` from `checked_at` (Unix seconds).
    """

    changes: int
    checked_at: float | None = None
    fresh_for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """`body` is None when only the descriptor was asked for. `standing` is there for a plain hit."""

    descriptor: Descriptor
    body: bytes | None
    outcome: Outcome
    standing: Standing | None = None


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """Exactly one of `held` and `reader` for a GET, closed by the receiver; neither for a HEAD, which has `size`.
    `standing` is there for a plain hit.
    """

    outcome: Outcome
    size: int | None = None
    held: OpenBlob | None = None
    reader: Reader | None = None
    standing: Standing | None = None

    def close(self) -> None:
        if self.held is not None:
            self.held.close()
        if self.reader is not None:
            self.reader.close()
