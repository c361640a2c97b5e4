"""Growth: hot manifests and warm blobs at 1 to 1000 clients, and with 1 to 100 thousand blobs in the store.

Each curve is several rows with the same name but for its number; the picture draws them as lines.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import machine, peers
from benchmarks.bench import MIB, Bench
from benchmarks.figures import CISTERN, Row, summary
from benchmarks.manifests import requests_per_cpu_s
from benchmarks.peers import Subject
from benchmarks.process import CannotStart

CLIENTS = (1, 10, 100, 1000)
BLOBS = (1_000, 10_000, 100_000)
BLOB = 8 * MIB


def measure(bench: Bench) -> list[Row]:
    """By clients with Debian's peers, by blobs for Cistern alone."""
    return [*_by_clients(bench), *_by_blobs(bench)]


def _by_clients(bench: Bench) -> list[Row]:
    rows: list[Row] = []
    bench.upstream.limit(None)
    with bench.caches() as caches:
        image = bench.upstream.image([BLOB])
        for subject in caches:
            subject.get(subject.manifest(image["digest"]))
            bench.pull(subject, image["blobs"][1])
        for count in CLIENTS[: bench.pick(4, 3)]:
            bench.say(f"{count} clients")
            hot: dict[str, list[float]] = {}
            warm: dict[str, list[float]] = {}
            for _ in range(bench.pick(min(3, bench.rounds), 1)):
                for subject in caches:
                    asked = requests_per_cpu_s(subject, subject.manifest(image["digest"]), connections=count)
                    hot.setdefault(subject.name, []).append(asked)
                    path = subject.blob(image["blobs"][1])
                    received, spent = bench.loop(subject, path, connections=count, seconds=0.6)
                    warm.setdefault(subject.name, []).append(received / max(spent, 0.01) / 1e9)
            for what, unit, found in (("hot manifest", "req/cpu-s", hot), ("warm blob", "GB/cpu-s", warm)):
                cells = {subject: summary(taken) for subject, taken in found.items()}
                name = f"{what}, {count} client{'s' if count > 1 else ''}"
                rows.append(Row("growth", name, unit, cells, curve=f"{what} by clients", at=count))
    return rows


def _by_blobs(bench: Bench) -> list[Row]:
    """A store that holds so many other blobs: what start, memory and a hot manifest become."""
    rows: list[Row] = []
    for count in BLOBS[: bench.pick(3, 2)]:
        bench.say(f"{count} blobs stored")
        with _filled(bench, count) as subject:
            image = bench.upstream.image([MIB])
            for _ in range(3):
                subject.get(subject.manifest(image["digest"]))
            asked = [
                requests_per_cpu_s(subject, subject.manifest(image["digest"]), connections=32)
                for _ in range(bench.pick(min(3, bench.rounds), 1))
            ]
            memory_mb = machine.resident_bytes(subject.pid) / 1e6
        for what, unit, taken in (("hot manifest", "req/cpu-s", asked), ("resident memory", "MB", [memory_mb])):
            name = f"{what}, {count} blobs stored"
            rows.append(Row("growth", name, unit, {CISTERN: summary(taken)}, curve=f"{what} by blobs", at=count))
    return rows


@contextmanager
def _filled(bench: Bench, count: int) -> Iterator[Subject]:
    """Cistern over a store with so many small blobs beside what it is asked for, put there between two starts."""
    with tempfile.TemporaryDirectory(dir=bench.home) as folder:
        home = Path(folder)
        with peers.cistern(home / "first", bench.upstream, bench.cistern_command, cache=home / "cache"):
            pass  # it lays out its folders
        blobs = home / "cache" / "blobs" / "sha256"
        if not blobs.is_dir():
            raise CannotStart(f"no store at {blobs}")
        for number in range(count):
            data = b"blob %d" % number
            digest = hashlib.sha256(data).hexdigest()
            shard = blobs / digest[:2]
            shard.mkdir(mode=0o700, exist_ok=True)
            (shard / digest).write_bytes(data)
        with peers.cistern(home / "second", bench.upstream, bench.cistern_command, cache=home / "cache") as subject:
            yield subject
