"""The disk store beyond the suite of all stores: paths, links, modes, syncs, and callers who leave."""

import asyncio
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import DigestInvalid
from proxy.oci import Digest
from proxy.store.blocks import blob_path
from proxy.tasks import Tasks
from tests.support.checked import Bench
from tests.support.faulty import no_space
from tests.support.leaks import open_files
from tests.support.waiting import turns

DATA = b"layer" * 1000
DIGEST = Digest.of(DATA)


@given(st.text() | st.from_regex(r"(sha256|sha512|md5|\.\.):[0-9a-f./\\%]{0,130}", fullmatch=True))
def test_a_path_comes_only_from_a_digest(text: str) -> None:
    """Whatever text parses as a digest has its path below the store, and nothing else has one (V07, V42)."""
    try:
        digest = Digest.parse(text)
    except DigestInvalid:
        return
    path = str(blob_path(Path("/store/blobs"), digest))
    assert re.fullmatch(r"/store/blobs/sha(256|384|512)/([0-9a-f]{2})/\2[0-9a-f]+", path)


@pytest.mark.parametrize(
    "text",
    [
        "sha256:" + "a" * 63,
        "sha256:" + "A" * 64,
        "sha256:../" + "a" * 61,
        "md5:" + "a" * 32,
        "sha256:a/b",
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "\u0661" * 64,
        "sha256:" + "a" * (1 << 20),
        "../sha256:" + "a" * 64,
    ],
    ids=["short", "upper", "dots", "md5", "slash", "newline", "arabic", "1 MiB", "algorithm"],
)
def test_an_odd_digest_never_becomes_a_path(text: str) -> None:
    """The digests of V07 and V41 are refused before any file could be named."""
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


async def test_a_blob_is_one_plain_private_file(bench: Bench) -> None:
    """A blob is its bytes and nothing else, mode 0600, in a shard of mode 0700, however its part was made."""
    part = bench.part(DATA)
    part.chmod(0o666)
    await bench.store.adopt(part, DIGEST, len(DATA))
    path = bench.root / "blobs" / "sha256" / DIGEST.encoded[:2] / DIGEST.encoded
    assert path.read_bytes() == DATA
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert bench.here() == [DIGEST.encoded]


async def test_a_name_is_given_after_the_bytes_are_synced(bench: Bench) -> None:
    """Bytes, then the shard's own name, then the rename, then the shard: a power cut finds no hollow name (A05)."""
    await bench.store.adopt(bench.part(DATA), DIGEST, len(DATA))
    shard = DIGEST.encoded[:2]
    assert bench.files.steps == [
        "open x.part",
        "fsync x.part",
        f"mkdir {shard}",
        "open sha256",
        "fsync sha256",
        f"rename {DIGEST.encoded}",
        f"open {shard}",
        f"fsync {shard}",
    ]


async def test_a_shard_is_made_durable_once(bench: Bench) -> None:
    """The second blob of a shard pays one folder sync, not two."""
    await bench.store.put(DATA, DIGEST)
    await bench.store.delete(DIGEST)
    bench.files.steps.clear()
    await bench.store.put(DATA, DIGEST)
    assert [step for step in bench.files.steps if step.startswith("mkdir") or step == "fsync sha256"] == []


@pytest.mark.parametrize("step", ["fsync x.part", "fsync sha256", "rename", "fsync shard"])
async def test_a_failed_step_discards_the_file(bench: Bench, step: str) -> None:
    """After EIO nothing is visible, no part lingers, and no sync of that file is tried again (A05, F06)."""
    bench.files.at = {"fsync x.part": 2, "fsync sha256": 5, "rename": 6, "fsync shard": 8}[step]
    with pytest.raises(OSError, match="injected"):
        await bench.store.adopt(bench.part(DATA), DIGEST, len(DATA))
    assert await bench.store.stat(DIGEST) is None
    assert bench.here() == []
    syncs = [name for name in bench.files.steps if name.startswith("fsync")]
    assert len(syncs) == len(set(syncs))
    bench.files.at = 0
    await bench.store.adopt(bench.part(DATA), DIGEST, len(DATA))
    assert await bench.store.stat(DIGEST) == len(DATA)


async def test_a_full_disk_leaves_no_torn_file(bench: Bench) -> None:
    """A put that meets ENOSPC in mid-write leaves nothing, and works once there is room (F03)."""
    bench.files.at, bench.files.fault = 2, no_space
    with pytest.raises(OSError, match="no space"):
        await bench.store.put(DATA, DIGEST)
    assert bench.here() == []
    await bench.store.put(DATA, DIGEST)
    assert bench.here() == [DIGEST.encoded]


async def test_a_torn_blob_is_replaced(bench: Bench) -> None:
    """A file of the wrong length under a digest's name does not keep the true one out."""
    path = bench.store.path_of(DIGEST)
    path.parent.mkdir()
    path.write_bytes(DATA[:7])
    await bench.store.adopt(bench.part(DATA), DIGEST, len(DATA))
    assert path.read_bytes() == DATA


async def test_a_shard_taken_away_by_hand_is_made_again(bench: Bench) -> None:
    """After somebody emptied the directory below a running server, the second try at the latest is kept (F39)."""
    await bench.store.put(DATA, DIGEST)
    path = bench.store.path_of(DIGEST)
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        await bench.store.put(DATA, DIGEST)
    await bench.store.put(DATA, DIGEST)
    assert path.read_bytes() == DATA


async def test_a_planted_link_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    """A link at a blob's or a part's name is no blob; its target is neither read, nor written, nor deleted (V48)."""
    secret = tmp_path / "secret"
    secret.write_bytes(DATA)
    path = bench.store.path_of(DIGEST)
    path.parent.mkdir()
    path.symlink_to(secret)
    assert await bench.store.stat(DIGEST) is None
    assert await bench.store.read(DIGEST) is None
    assert [stored async for stored in bench.store.list()] == []
    planted = bench.parts / "planted.part"
    planted.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        await bench.store.adopt(planted, DIGEST, len(DATA))
    (bench.parts / f"sha256-{DIGEST.encoded}.0.put").symlink_to(secret)
    with pytest.raises(FileExistsError):
        await bench.store.put(DATA, DIGEST)
    await bench.store.put(DATA, DIGEST)
    assert not path.is_symlink()
    await bench.store.delete(DIGEST)
    assert secret.read_bytes() == DATA


async def test_a_planted_shard_is_not_entered(bench: Bench, tmp_path: Path) -> None:
    """A link in place of a shard is refused when a blob would go there, and not listed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    bench.store.path_of(DIGEST).parent.symlink_to(elsewhere)
    with pytest.raises(NotADirectoryError):
        await bench.store.put(DATA, DIGEST)
    assert list(elsewhere.iterdir()) == []
    assert [stored async for stored in bench.store.list()] == []


@pytest.mark.parametrize("plant", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
async def test_what_is_no_plain_file_is_no_blob(bench: Bench, plant: Callable[[Path], object]) -> None:
    """A pipe or a folder at a blob's name is not here, and opening it does not hang."""
    path = bench.store.path_of(DIGEST)
    path.parent.mkdir()
    plant(path)
    before = open_files()
    assert await bench.store.read(DIGEST) is None
    assert await bench.store.stat(DIGEST) is None
    assert open_files() == before


async def test_strangers_are_not_listed(bench: Bench) -> None:
    """The list holds only files whose name is a digest of their shard."""
    await bench.store.put(DATA, DIGEST)
    shard = bench.store.path_of(DIGEST).parent
    for name in ("notes.txt", DIGEST.encoded.upper(), DIGEST.encoded[:-1], "zz" + DIGEST.encoded[2:]):
        (shard / name).write_bytes(b"?")
    (bench.root / "blobs" / "sha256" / "stray").write_bytes(b"?")
    assert [stored.digest async for stored in bench.store.list()] == [DIGEST]


async def test_a_cancelled_read_closes_its_file(bench: Bench) -> None:
    """A caller who leaves while the file is being opened leaks no descriptor."""
    await bench.store.put(DATA, DIGEST)
    before = open_files()
    tasks = Tasks()
    readers = [tasks.start(bench.store.read(DIGEST), name="reader") for _ in range(20)]
    await turns()
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    await bench.threads.close()
    await turns()
    assert open_files() == before


async def test_a_cancelled_adoption_is_finished(bench: Bench) -> None:
    """A caller who leaves does not stop an adoption halfway."""
    adopting = Tasks().start(bench.store.adopt(bench.part(DATA), DIGEST, len(DATA)), name="adopting")
    await turns()
    adopting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adopting
    await bench.threads.close()
    assert bench.here() == [DIGEST.encoded]
