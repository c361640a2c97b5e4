"""What a serving process gives again without asking: as long as it stands, and no file is held for longer."""

import io
import os
from pathlib import Path

import pytest

from proxy.workers.board import Board
from proxy.workers.kept import Blob, Kept, Manifest
from proxy.workers.words import Facts
from tests.support.clock import Clock

TARGET = "/v2/team/app/blobs/sha256:0"


def facts(board: Board, *, checked_at: float | None = None, fresh_for_s: float = 0.0, digest: str = "d") -> Facts:
    return Facts("blob", "hub", "team/app", digest, board.changes, checked_at, fresh_for_s)


def manifest(told: Facts, body: bytes = b"{}") -> Manifest:
    return Manifest(facts=told, head=b"", body=body, heard_at=0.0)


def blob(told: Facts, path: Path) -> Blob:
    path.write_bytes(b"content")
    return Blob(told, io.FileIO(path, "rb"), 7, {}, 0.0)


@pytest.fixture
def board() -> Board:
    return Board()


def test_nothing_stands_after_a_change(board: Board, tmp_path: Path) -> None:
    """The engine's bump is seen by the next look, without a message."""
    kept = Kept(board)
    kept.keep_manifest("GET", "/m", manifest(facts(board)))
    kept.keep_blob(TARGET, blob(facts(board), tmp_path / "b"))
    assert kept.manifest("GET", "/m") is not None
    assert kept.manifest("HEAD", "/m") is None
    found = kept.blob(TARGET)
    assert found is not None
    found.release()
    board.bump()
    assert kept.manifest("GET", "/m") is None
    assert kept.blob(TARGET) is None
    assert found.file.closed


def test_the_board_is_one_for_all_processes(board: Board) -> None:
    """Who was forked sees what the engine writes later."""
    read, write = os.pipe()
    told, tell = os.pipe()
    if (pid := os.fork()) == 0:
        os.read(read, 1)
        os.write(tell, str(board.changes).encode())
        os._exit(0)
    board.bump()
    board.bump()
    os.write(write, b"x")
    assert os.read(told, 10) == b"2"
    os.waitpid(pid, 0)
    for descriptor in (read, write, told, tell):
        os.close(descriptor)


def test_a_tag_stands_while_it_is_fresh(board: Board, clock: Clock) -> None:
    """And not when the clock was set back to before it was checked."""
    kept = Kept(board, clock=clock)
    kept.keep_manifest("GET", "/m", manifest(facts(board, checked_at=clock(), fresh_for_s=60)))
    clock.advance(59)
    assert kept.manifest("GET", "/m") is not None
    clock.advance(1)
    assert kept.manifest("GET", "/m") is None
    clock.advance(-70)
    assert kept.manifest("GET", "/m") is None


def test_a_forgotten_file_is_closed_after_its_last_answer(board: Board, tmp_path: Path) -> None:
    """An answer on its way goes on; what nobody sends is closed at once; other digests stay."""
    kept = Kept(board)
    for number in range(3):
        kept.keep_blob(f"/{number}", blob(facts(board, digest=str(number)), tmp_path / str(number)))
    used, other = kept.blob("/0"), kept.blob("/1")
    assert used is not None
    assert other is not None
    other.release()
    kept.forget(["0", "1", "none"])
    assert (used.file.closed, other.file.closed) == (False, True)
    assert os.pread(used.file.fileno(), 7, 0) == b"content"
    used.release()
    assert used.file.closed
    assert kept.blob("/0") is None
    left = kept.blob("/2")
    assert left is not None
    left.release()
    kept.forget([])
    assert left.file.closed


def test_so_many_files_are_open_and_no_more(board: Board, tmp_path: Path) -> None:
    """The one that nobody asked for longest goes first."""
    kept = Kept(board, files_max=2)
    blobs = [blob(facts(board), tmp_path / str(number)) for number in range(3)]
    kept.keep_blob("/0", blobs[0])
    kept.keep_blob("/1", blobs[1])
    assert kept.blob("/0") is blobs[0]
    blobs[0].release()
    kept.keep_blob("/2", blobs[2])
    assert [one.file.closed for one in blobs] == [False, True, False]
    kept.keep_blob("/2", blob(facts(board), tmp_path / "again"))
    assert blobs[2].file.closed
    kept.forget([])


def test_a_file_that_cannot_be_read_is_let_go(board: Board, tmp_path: Path) -> None:
    """The next request asks the engine; a second telling is no error."""
    kept = Kept(board)
    kept.keep_blob(TARGET, one := blob(facts(board), tmp_path / "b"))
    kept.forget_blob(TARGET)
    kept.forget_blob(TARGET)
    assert one.file.closed
    assert kept.blob(TARGET) is None
