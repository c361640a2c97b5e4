"""Answers that a serving process gives again without asking: hot manifests from memory, whole blobs from open files.

Nothing is decided here. The engine gave each answer, and told for how long it stands: while the board shows the same
number, and a tag's as long as it is fresh. So hits go on while the engine is away.
"""

import io
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from proxy.lately import Lately
from proxy.workers.board import Board
from proxy.workers.words import Facts

MOST_BYTES: Final = 16 << 20  # of manifests in a generation; two are kept
ENTRY: Final = 2048  # bytes that one takes beside its body, rather more than less
FILES_MAX: Final = 512
HEARD_AGAIN_AFTER_S: Final = 1.0


@dataclass(slots=True, kw_only=True)
class Manifest:
    """One answer as bytes, and what its log line tells. `heard_at`: when its use was last told (monotonic seconds)."""

    facts: Facts
    head: bytes
    body: bytes
    heard_at: float


class Blob:
    """A whole blob's open file, closed when it is not kept any more and the last answer with it is over."""

    __slots__ = ("_uses", "facts", "file", "headers", "heard_at", "size")

    def __init__(self, facts: Facts, file: io.FileIO, size: int, headers: Mapping[str, str], heard_at: float) -> None:
        self.facts = facts
        self.file = file
        self.size = size
        self.headers = headers
        self.heard_at = heard_at
        self._uses = 1  # being kept is one

    def take(self) -> None:
        self._uses += 1

    def release(self) -> None:
        self._uses -= 1
        if not self._uses:
            self.file.close()


class Kept:
    """What one serving process keeps. `clock` tells Unix seconds."""

    def __init__(self, board: Board, *, files_max: int = FILES_MAX, clock: Callable[[], float] = time.time) -> None:
        self._board = board
        self._clock = clock
        self._files_max = files_max
        self._manifests: Lately[tuple[str, str], Manifest] = Lately(MOST_BYTES, _weight)
        self._blobs: OrderedDict[str, Blob] = OrderedDict()

    def stands(self, facts: Facts) -> bool:
        """Whether an answer may be given again now."""
        if facts.changes != self._board.changes:
            return False
        checked_at = facts.checked_at
        return checked_at is None or 0 <= self._clock() - checked_at < facts.fresh_for_s

    def manifest(self, method: str, target: str) -> Manifest | None:
        found = self._manifests.get((method, target))
        return found if found is not None and self.stands(found.facts) else None

    def keep_manifest(self, method: str, target: str, answer: Manifest) -> None:
        self._manifests.put((method, target), answer)

    def blob(self, target: str) -> Blob | None:
        """The blob, the caller's to release."""
        found = self._blobs.get(target)
        if found is None:
            return None
        if not self.stands(found.facts):
            self._drop(target)
            return None
        self._blobs.move_to_end(target)
        found.take()
        return found

    def keep_blob(self, target: str, blob: Blob) -> None:
        """Keep a blob from now on, in the place of one that the same target had."""
        self._drop(target)
        self._blobs[target] = blob
        while len(self._blobs) > self._files_max:
            self._drop(next(iter(self._blobs)))

    def forget(self, digests: Iterable[str]) -> None:
        """Let go of the files of these digests, of all for none: their content was deleted, and its blocks with it."""
        gone = frozenset(digests)
        for target, blob in list(self._blobs.items()):
            if not gone or blob.facts.digest in gone:
                self._drop(target)

    def forget_blob(self, target: str) -> None:
        """Let go of one file: reading it met an error."""
        self._drop(target)

    def _drop(self, target: str) -> None:
        if (blob := self._blobs.pop(target, None)) is not None:
            blob.release()


def _weight(answer: Manifest) -> int:
    return len(answer.body) + ENTRY
