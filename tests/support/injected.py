"""A Cistern process whose calls on its cache directory fail, or kill it, at the N-th: strace as the outside truth.

strace counts calls by thread, so "the N-th" is the first thread that comes to N.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from proxy.oci import HEX_LENGTH
from proxy.store.directory import FILES, FOLDERS
from tests.support.cistern import CISTERN, CisternProcess, stored_path
from tests.support.images import Blob
from tests.support.nursery import Nursery
from tests.support.process import Environment, Process

CALLS = {
    "write": "write,pwrite64,pwritev,pwritev2",
    "sync": "fsync,fdatasync",
    "rename": "rename,renameat,renameat2",
    "unlink": "unlink,unlinkat",
    "mkdir": "mkdir,mkdirat",
    "open": "openat",
    "truncate": "ftruncate",
    "read": "pread64,preadv,preadv2,sendfile",
}
FAULTS = {"kill": "signal=KILL", "no space": "error=ENOSPC", "I/O error": "error=EIO"}
PUTS = 8  # manifests put in one life, at most


class InjectedCistern(CisternProcess):
    """Born in a nursery, and under strace while `inject` is set; the next start after `heal` is an untouched one."""

    def __init__(self, nursery: Nursery, home: Path, config: Mapping[str, Any], content: Iterable[Blob]) -> None:
        super().__init__(home, config)
        self.trace = home / "trace"
        self.spawn = self._born
        self._nursery = nursery
        self._tracer: list[str] = []
        self._content = tuple(content)

    def _born(self, command: Sequence[str], env: Environment | None, cwd: Path | None) -> Process:
        return self._nursery.launch(command[len(CISTERN) :], self._tracer, env=env, cwd=cwd)

    def inject(self, calls: str, fault: str, when: int, *, sticky: bool = False) -> None:
        """From the next start on: the `when`-th call of a kind meets a fault, and with `sticky` all later ones too.

        Reads are those of stored blobs alone.
        """
        named = self._stored() if calls == "read" else self._paths()
        paths = [word for path in named for word in ("-P", str(path))]
        rule = f"inject={CALLS[calls]}:{FAULTS[fault]}:when={when}{'+' if sticky else ''}"
        traced = f"trace={CALLS[calls]}"
        self._tracer = ["strace", "-f", "-qq", "-o", str(self.trace), *paths, "-e", traced, "-e", rule]

    def heal(self) -> None:
        self._tracer = []

    @property
    def was_hit(self) -> bool:
        """Whether a call met the fault."""
        return "INJECTED" in self.trace.read_text() if self.trace.exists() else False

    def _stored(self) -> Iterable[Path]:
        return (stored_path(self.cache_dir, blob.digest) for blob in self._content)

    def _paths(self) -> Iterable[Path]:
        """Everything that is written on the way of an image into the store, the directory itself included."""
        root = self.cache_dir
        yield root
        yield from (root / name for name in (*FOLDERS, *FILES, "version.new", "boot.new"))
        yield from (root / "blobs" / algorithm for algorithm in HEX_LENGTH)
        for blob in self._content:
            name = f"{blob.digest.algorithm}-{blob.digest.encoded}"
            stored = stored_path(root, blob.digest)
            yield from (stored.parent, stored)
            yield from (root / "parts" / f"{name}{suffix}" for suffix in (".part", ".map"))
            yield from (root / "parts" / f"{name}.{n}.put" for n in range(PUTS))
