"""Hydration: a client's time while another image is fetched in the background, over its time without."""

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.bench import GIGABIT, MIB, Bench, ClientFailed, seconds_of
from benchmarks.figures import CISTERN, Row, at_most, ratios, summary
from benchmarks.peers import Subject
from benchmarks.upstream import LARGEST

SLOWED = at_most(1.05)
LAYERS = 4
BEGINS_WITHIN_S = 20.0
LOOK_S = 0.02


def measure(bench: Bench) -> list[Row]:
    """The upstream's 1 Gbit/s is the only thing to share; layers are big enough to last beyond the client's pull."""
    rows = [_row(bench, "client's pull with hydration running / without", bench.pick(256, 96), 1, bench.rounds)]
    if not bench.quick:
        rows.append(_row(bench, "the same, three blobs of 512 MiB one after the other", 512, 3, 1))
    return rows


def _row(bench: Bench, name: str, mebibytes: int, count: int, rounds: int) -> Row:
    bench.say(f"a client beside hydration: {count} x {mebibytes} MiB")
    alone: list[float] = []
    beside: list[float] = []
    meanwhile: list[float] = []
    for _ in range(rounds):
        with bench.caches(alone=True) as [subject]:
            blobs = bench.upstream.blobs(mebibytes * MIB, 2 * count)
            image = bench.upstream.image([LARGEST] * LAYERS)
            bench.upstream.limit(GIGABIT)
            alone.append(_pulls(bench, subject, blobs[:count]))
            _begin_hydration(bench, subject, image)
            before = _hydrated(bench, image)
            beside.append(_pulls(bench, subject, blobs[count:]))
            after = _hydrated(bench, image)
            if after >= LAYERS * LARGEST:
                raise ClientFailed("hydration ended before the client's pull")
            meanwhile.append((after - before) / MIB)
    cells = {CISTERN: summary(ratios(beside, alone))}
    note = f"alone {summary(alone).value:.2f} s; meanwhile hydrated {summary(meanwhile).value:.0f} MiB"
    return Row("hydration", name, "x", cells, cells[CISTERN].value, SLOWED, note, {"alone": alone, "beside": beside})


def _pulls(bench: Bench, subject: Subject, digests: Sequence[str]) -> float:
    return sum(seconds_of(bench.pull(subject, digest)) for digest in digests)


def _begin_hydration(bench: Bench, subject: Subject, image: dict[str, Any]) -> None:
    """A client that fetches the manifest and the config, then leaves: the rest is hydrated. Waits until it flows."""
    for path in (subject.manifest(image["tag"]), subject.blob(image["blobs"][0])):
        status, _, _ = subject.get(path)
        if status != 200:
            raise ClientFailed(f"{path}: {status}")
    latest = time.monotonic() + BEGINS_WITHIN_S
    while not _hydrated(bench, image):
        if time.monotonic() > latest:
            raise ClientFailed("hydration did not begin")
        time.sleep(LOOK_S)


def _hydrated(bench: Bench, image: dict[str, Any]) -> int:
    """Bytes of the image's layers that left the upstream."""
    return sum(bench.upstream.sent(digest)[1] for digest in image["blobs"][1:])
