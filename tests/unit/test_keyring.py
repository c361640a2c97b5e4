"""Where the keys of the data address come from, and what happens when they cannot be had."""

import asyncio
import os
from pathlib import Path

import pytest

from proxy.config import parse
from proxy.keyring import Keyring
from proxy.oci import Digest
from proxy.signing import Grant, Keys
from proxy.store.filesystem import Filesystem
from proxy.store.keyfile import NAME
from proxy.store.threads import Threads
from tests.support.clock import Clock

REDIRECT = "redirect: {url: https://d, clients: [10.0.0.0/8]}"
GRANT = Grant(None, None, "a/b", Digest("sha256", "0" * 64))
A, B = "a" * 40, "b" * 40


class Stage:
    """A keyring over a directory; `address` is what its keys would sign."""

    def __init__(self, root: Path, threads: Threads, clock: Clock, files: Filesystem | None = None) -> None:
        self.root, self.threads, self.clock = root, threads, clock
        self.environ: dict[str, str] = {}
        self.ring = Keyring(Keys(clock), root, threads, files or Filesystem(), self.environ)

    async def take(self, blobs: str) -> None:
        await self.ring.take(parse(f"blobs: {{{blobs}}}"))

    @property
    def address(self) -> str:
        return self.ring.keys.address("https://d", GRANT)


@pytest.fixture
def stage(tmp_path: Path, threads: Threads, clock: Clock) -> Stage:
    return Stage(tmp_path, threads, clock)


async def test_a_key_of_its_own_is_made_once(stage: Stage) -> None:
    """For its owner alone, and the same at the next start."""
    await stage.take(REDIRECT)
    assert (stage.root / NAME).stat().st_mode & 0o777 == 0o600
    again = Stage(stage.root, stage.threads, stage.clock)
    await again.take("listen: 127.0.0.1:1")
    assert again.address == stage.address


async def test_no_key_is_made_where_none_is_needed(stage: Stage) -> None:
    """A server that sends every blob itself has no such file."""
    await stage.take("redirect: none")
    assert not stage.ring.keys.can_sign
    assert list(stage.root.iterdir()) == []


async def test_an_emptied_file_is_made_anew(stage: Stage) -> None:
    """It cannot hold up a start."""
    (stage.root / NAME).write_text("\n")
    await stage.take(REDIRECT)
    assert stage.ring.keys.can_sign


async def test_a_key_of_the_configuration_is_its_only_one(stage: Stage) -> None:
    """From a variable or a file; members that share it agree, and nothing is written down."""
    stage.environ["KEY"] = A
    await stage.take(f"{REDIRECT}, key: {{env: KEY}}")
    by_variable = stage.address
    (stage.root / "shared").write_text(f"{A}\n")
    await stage.take(f"{REDIRECT}, key: {{file: {stage.root}/shared}}")
    assert stage.address == by_variable
    assert not (stage.root / NAME).exists()


BAD = {"not there": None, "empty": "", "short": "hunter2", "not text": b"\xff\xfe"}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
async def test_a_key_that_cannot_be_had_changes_nothing(stage: Stage, content: str | bytes | None) -> None:
    """What was there before signs on; a start without any sends blobs itself."""
    path = stage.root / "shared"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    await stage.take(f"{REDIRECT}, key: {{file: {path}}}")
    assert not stage.ring.keys.can_sign
    path.write_text(A)
    await stage.take(f"{REDIRECT}, key: {{file: {path}}}")
    before = stage.address
    path.unlink()
    await stage.take(f"{REDIRECT}, key: {{file: {path}}}")
    assert stage.address == before


async def test_a_disk_that_takes_no_file_is_no_reason_not_to_serve(
    tmp_path: Path, threads: Threads, clock: Clock
) -> None:
    """Blobs are sent from the registry address then."""

    class Full(Filesystem):
        def write(self, descriptor: int, data: bytes | memoryview) -> int:
            raise OSError(28, "No space left on device")

    stage = Stage(tmp_path, threads, clock, Full())
    await stage.take(REDIRECT)
    assert not stage.ring.keys.can_sign
    assert os.listdir(tmp_path) == []


async def test_each_configuration_is_read_in_its_turn(stage: Stage) -> None:
    """Of two that come at once the last one counts."""
    stage.environ |= {"A": A, "B": B}
    await asyncio.gather(*(stage.take(f"{REDIRECT}, key: {{env: {name}}}") for name in "ABABAB"))
    by_b = Stage(stage.root, stage.threads, stage.clock)
    by_b.environ["B"] = B
    await by_b.take(f"{REDIRECT}, key: {{env: B}}")
    assert stage.address == by_b.address
