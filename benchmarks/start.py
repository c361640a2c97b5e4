"""The store by itself: how long a start takes with so many blobs, how fast rot is looked for, what the index costs.

A start is the whole process, from its command to its ready line, after kill -9: nothing was written down for it. The
blobs are empty files with a link and a seal each, as many as real ones; what they hold is not read at a start.
"""

import asyncio
import os
import shlex
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import MIB, Bench, ClientFailed
from benchmarks.figures import CISTERN, Figure, Row, at_most, summary
from proxy.oci import Digest
from proxy.rules import Place
from proxy.store import rows as tables
from proxy.store.base import Link, Verdict
from proxy.store.opened import Disk, open_disk

PLACE = Place("origin.test", "team/app")
STARTS = (1_000, 10_000, 100_000)
MILLION = 1_000_000
JUDGED = 100_000
FLOOR = at_most(2.0)
BLOBS, BLOB = 32, 8 * MIB  # what is hashed for the scrub's speed
LOOKS = 2_000


def measure(bench: Bench) -> list[Row]:
    """Starts by the number of blobs; the scrub in MB/s; a look at a seal in microseconds."""
    counts = STARTS if bench.quick else (*STARTS, MILLION)
    return [*(_starts(bench, count) for count in counts), *asyncio.run(_store_rows(bench))]


def _starts(bench: Bench, count: int) -> Row:
    bench.say(f"start with {count} blobs")
    with tempfile.TemporaryDirectory(dir=bench.home) as folder:
        home = Path(folder)
        asyncio.run(_fill(home, count))
        with _running(bench.cistern_command, home):
            pass  # the first start counts what stands there; those that follow were killed
        taken = []
        for _ in range(bench.rounds):
            with _running(bench.cistern_command, home) as seconds:
                taken.append(seconds)
    figure = summary(taken)
    judged, floor = (figure.value, FLOOR) if count == JUDGED else (None, None)
    return Row("start", f"start with {count} blobs, after kill -9", "s", {CISTERN: figure}, judged, floor)


@contextmanager
def _running(command: str, home: Path) -> Iterator[float]:
    """Start it, tell the seconds to its ready line, and kill it on the way out."""
    words = ["serve", "--cache-dir", str(home), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    started = time.monotonic()
    with subprocess.Popen([*shlex.split(command), *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        seconds = time.monotonic() - started
        try:
            if not line.startswith(b"cistern ready"):
                raise ClientFailed(f"cistern does not start over {home}")
            yield seconds
        finally:
            server.send_signal(signal.SIGKILL)


def _digest(number: int) -> Digest:
    return Digest("sha256", f"{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}" * 4)


async def _fill(home: Path, count: int) -> None:
    """So many blobs, each with a link and a seal."""
    async with open_disk(home) as disk:
        digests = [_digest(number) for number in range(count)]
        for digest in digests:
            path = disk.blobs.path_of(digest)
            path.parent.mkdir(exist_ok=True)
            path.touch()
        links = [Link(PLACE, digest, None, 1) for digest in digests]
        await disk.records.database.alone(lambda connection: _insert(connection, links))
        await disk.index.database.alone(lambda connection: _seal(connection, digests))


def _insert(connection: sqlite3.Connection, links: list[Link]) -> None:
    values = [(PLACE.scope, PLACE.repository, str(link.digest), None, 1) for link in links]
    with connection:
        connection.execute("BEGIN")
        connection.executemany(tables.SAVE_LINK, [(*row, tables.crc_of(row)) for row in values])


def _seal(connection: sqlite3.Connection, digests: list[Digest]) -> None:
    with connection:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO seals VALUES (?, 0, 0, 0, 0)", [(str(digest),) for digest in digests])


async def _store_rows(bench: Bench) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=bench.home) as folder:
        async with open_disk(Path(folder)) as disk:
            return [await _scrub(bench, disk), *await _looks(bench, disk)]


async def _scrub(bench: Bench, disk: Disk) -> Row:
    """Blobs that are in the page cache: what the hash and its thread allow; a disk may allow less."""
    bench.say("scrub")
    digests = []
    for _ in range(bench.pick(BLOBS, 8)):
        data = os.urandom(BLOB)
        digests.append(Digest.of(data))
        await disk.blobs.put(data, digests[-1])
    taken = []
    for _ in range(bench.rounds):
        started = time.monotonic()
        for digest in digests:
            if await disk.blobs.check(digest, _nothing) is not Verdict.WHOLE:
                raise ClientFailed("a blob of the benchmark's own is not whole")
        taken.append(len(digests) * BLOB / 1e6 / (time.monotonic() - started))
    return Row("start", "scrub, one thread", "MB/s", {CISTERN: summary(taken, max)})


async def _nothing(_: int) -> None: ...


async def _looks(bench: Bench, disk: Disk) -> list[Row]:
    """What a request pays for its link and its blob's seal: known lately, and looked up in the files."""
    bench.say("index per request")
    digests = [_digest(number) for number in range(LOOKS)]
    await disk.records.database.alone(
        lambda connection: _insert(connection, [Link(PLACE, digest, None, 1) for digest in digests])
    )

    async def look(digest: Digest) -> object:
        return await disk.records.link(PLACE, digest), await disk.seals.unsealed([digest])

    async def recall(digest: Digest) -> object:
        return await disk.records.link(PLACE, digest), disk.seals.recall(digest)

    cold = await _each_us(look, digests)
    known = await _each_us(recall, digests)
    return [
        Row("start", "link and seal, looked up", "us/request", {CISTERN: cold}),
        Row("start", "link and seal, known lately", "us/request", {CISTERN: known}),
    ]


async def _each_us(look: Callable[[Digest], Awaitable[object]], digests: list[Digest]) -> Figure:
    taken = []
    for digest in digests:
        started = time.perf_counter()
        await look(digest)
        taken.append((time.perf_counter() - started) * 1e6)
    return summary(taken)
