"""The sink of the log: order, a bound, nobody who waits, nothing lost at an orderly end."""

import fcntl
import os
import threading
from select import PIPE_BUF

import pytest

from proxy import sink as sinks
from proxy.sink import Sink


def lost(count: int) -> bytes:
    return b"lost %d\n" % count


class Pipe:
    """A sink that writes into a pipe; the test is its reader."""

    def __init__(self, most_bytes: int = sinks.MOST_BYTES, *, is_shared: bool = False) -> None:
        self.reader, self.writer = os.pipe()
        self.sink = Sink(self.writer, lost, most_bytes=most_bytes, is_shared=is_shared)

    def end(self) -> bytes:
        """Everything that comes until the sink is closed and the pipe ends."""
        read: list[bytes] = []
        reading = threading.Thread(target=self._read, args=(read,))
        reading.start()
        self.sink.close()
        os.close(self.writer)
        reading.join()
        os.close(self.reader)
        return b"".join(read)

    def _read(self, into: list[bytes]) -> None:
        while data := os.read(self.reader, 1 << 16):
            into.append(data)


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


def test_all_lines_are_written_in_order_by_the_end(pipe: Pipe) -> None:
    """What was taken before `close` has been handed to the kernel when it returns, far more than a pipe holds."""
    lines = [b"%d %s\n" % (number, b"x" * 200) for number in range(10_000)]
    for line in lines:
        pipe.sink.write(line)
    assert pipe.end() == b"".join(lines)


def test_lines_leave_without_an_end(pipe: Pipe) -> None:
    """A line is written soon after it was taken: nobody has to stop the server to read it."""
    pipe.sink.write(b"first\n")
    assert os.read(pipe.reader, 100) == b"first\n"
    pipe.sink.write(b"second\n")
    assert os.read(pipe.reader, 100) == b"second\n"
    assert pipe.end() == b""


def test_nobody_waits_for_a_reader_that_stands_still() -> None:
    """With a full pipe lines are lost and counted; what was taken and the count are read once somebody reads again."""
    pipe = Pipe(most_bytes=1 << 16)
    line = b"y" * 1023 + b"\n"
    for _ in range(1000):  # a pipe holds 64 KiB, the sink as much, and as much again is on its way
        pipe.sink.write(line)
    told = pipe.end().splitlines(keepends=True)
    kept = told.count(line)
    words = [int(one.split()[1]) for one in told if one.startswith(b"lost ")]
    assert 64 <= kept < 1000
    assert kept + sum(words) == 1000
    assert len(told) == kept + len(words)


def test_threads_may_write_at_once(pipe: Pipe) -> None:
    """Lines of several threads come whole, each thread's in its order."""
    writers = [
        threading.Thread(target=lambda name=name: [pipe.sink.write(b"%d %d\n" % (name, n)) for n in range(500)])
        for name in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    told = [tuple(map(int, line.split())) for line in pipe.end().splitlines()]
    for name in range(4):
        assert [number for writer, number in told if writer == name] == list(range(500))


def test_a_reader_that_is_gone_breaks_nothing(pipe: Pipe) -> None:
    """A closed pipe costs the lines, never the writer."""
    os.close(pipe.reader)
    pipe.sink.write(b"unheard\n")
    pipe.sink.close()
    pipe.sink.close()  # a second end is no error
    os.close(pipe.writer)


def test_the_end_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads, the pipe is full: `close` gives up after `CLOSE_S`."""
    monkeypatch.setattr(sinks, "CLOSE_S", 0.1)
    pipe = Pipe()
    os.set_blocking(pipe.writer, False)
    for _ in range(200):
        pipe.sink.write(b"z" * 4095 + b"\n")
    pipe.sink.close()
    os.close(pipe.writer)
    os.close(pipe.reader)


def test_a_non_blocking_descriptor_gets_everything(pipe: Pipe) -> None:
    """Standard error may have been set so by whoever shares it."""
    os.set_blocking(pipe.writer, False)
    lines = [b"%d\n" % number for number in range(100_000)]
    for line in lines:
        pipe.sink.write(line)
    assert pipe.end() == b"".join(lines)


def test_a_loose_line_waits_for_nobody() -> None:
    """What the pipe takes is written; once it is full, or its reader is gone, lines are lost and nothing is raised."""
    reader, writer = os.pipe()
    loose = sinks.Loose(writer)
    assert loose.write(b"first\n") == 6
    for _ in range(1000):
        assert loose.write(b"x" * 2000) == 2000
    assert os.read(reader, 6) == b"first\n"
    os.close(reader)
    assert loose.write(b"gone\n") == 5
    os.close(writer)


def test_two_that_share_a_pipe_tear_no_line() -> None:
    """As the processes of one server share standard error; a small pipe is given page by page to who writes much."""
    pipe = Pipe(is_shared=True)
    fcntl.fcntl(pipe.writer, fcntl.F_SETPIPE_SZ, PIPE_BUF)
    other, count = Sink(pipe.writer, lost, is_shared=True), 4_000
    lines = [mark * 300 + b"\n" for mark in (b"a", b"b")]
    for _ in range(count):
        pipe.sink.write(lines[0])
        other.write(lines[1])
    ending = threading.Thread(target=other.close)
    ending.start()
    read: list[bytes] = []
    while sum(map(len, read)) < 2 * count * len(lines[0]):
        read.append(os.read(pipe.reader, 1000))
    ending.join()
    assert sorted(b"".join(read).splitlines(keepends=True)) == sorted(lines * count)
    assert pipe.end() == b""


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("length", [PIPE_BUF - 1, PIPE_BUF, PIPE_BUF + 1, 3 * PIPE_BUF])
def test_a_line_of_any_length_is_written(length: int, is_shared: bool) -> None:
    """Between shorter ones, and as the last one without an end."""
    pipe = Pipe(is_shared=is_shared)
    lines = [b"first\n", b"x" * (length - 1) + b"\n", b"y" * 100 + b"\n", b"z" * length]
    for line in lines:
        pipe.sink.write(line)
    assert pipe.end() == b"".join(lines)
