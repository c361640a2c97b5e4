"""Eviction: the policy's hit ratio beside LRU's, what a scan costs the hot set, and how long a round takes.

The ratios are a simulation over the policy itself (`proxy.evict.policy`), no server: pulls of images of log-normal
size, drawn by Zipf's law; and a mix after Anwar et al., "Improving Docker Registry Design Based on Production Workload
Analysis" (FAST 2018): few images take most pulls, popularity drifts, and many images are pulled once and never again.
A round is measured in a store of so many blobs, ten to an image.
"""

import asyncio
import bisect
import itertools
import json
import random
import sqlite3
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.figures import CISTERN, Figure, Row, at_least, at_most
from proxy.app import open_rooms
from proxy.collector import settle
from proxy.config import Config, parse
from proxy.evict.policy import S3Fifo
from proxy.images import Images
from proxy.oci import OCI_MANIFEST, Digest
from proxy.rules import Place
from proxy.store import rows as tables
from proxy.store.base import Link

IMAGES = 5_000
CACHES = (0.01, 0.05, 0.1, 0.3)  # of the size of all images
AS_LRU = at_least(1.0)
LOST = at_most(0.1)
ONE_OFF_SHARE = 0.3  # of the pulls in the registry mix, for images that are pulled once
DRIFT_EVERY = 2_000  # pulls, after which the popular images are others by a tenth
BLOBS_PER_IMAGE = 10
UPSTREAM, REPOSITORY = "origin.test", "team/app"

Pulls = Sequence[int]


def zipf(count: int, skew: float, rng: random.Random) -> list[int]:
    """So many pulls of IMAGES images; image 0 is the most popular one."""
    weights = list(itertools.accumulate(1 / rank**skew for rank in range(1, IMAGES + 1)))
    return [bisect.bisect_left(weights, rng.random() * weights[-1]) for _ in range(count)]


def registry_mix(count: int, rng: random.Random) -> list[int]:
    """Popular images that change by and by, among images that nobody pulls twice."""
    ranked, once, found = list(range(IMAGES)), itertools.count(IMAGES), []
    for number, rank in enumerate(zipf(count, 1.0, rng)):
        if number % DRIFT_EVERY == 0:
            for _ in range(IMAGES // 10):
                one, other = rng.randrange(IMAGES), rng.randrange(IMAGES)
                ranked[one], ranked[other] = ranked[other], ranked[one]
        found.append(next(once) if rng.random() < ONE_OFF_SHARE else ranked[rank])
    return found


def hits_of_lru(pulls: Pulls, size: Callable[[int], int], capacity: float) -> list[bool]:
    """Which pulls find their image in a cache that evicts what was used least recently."""
    held: OrderedDict[int, int] = OrderedDict()
    used, hits = 0, []
    for image in pulls:
        hits.append(image in held)
        if image in held:
            held.move_to_end(image)
            continue
        held[image] = size(image)
        used += held[image]
        while used > capacity:
            used -= held.popitem(last=False)[1]
    return hits


def hits_of_policy(pulls: Pulls, size: Callable[[int], int], capacity: float) -> list[bool]:
    """Which pulls find their image in a cache that evicts by the policy."""
    policy: S3Fifo[int] = S3Fifo()
    hits = []
    for image in pulls:
        hits.append(image in policy)
        if image in policy:
            policy.use(image)
            continue
        policy.insert(image, size(image))
        while policy.bytes > capacity and policy.evict() is not None:
            pass
    return hits


def sizes(rng: random.Random) -> Callable[[int], int]:
    """Log-normal, about 40 MB in the middle; an image that is pulled once has the middle size."""
    known = [int(rng.lognormvariate(17.5, 1.2)) for _ in range(IMAGES)]
    return lambda image: known[image] if image < IMAGES else 40_000_000


def ratio(hits: Sequence[bool]) -> float:
    """The share of hits, the first third left out: the cache was filling."""
    warm = hits[len(hits) // 3 :]
    return sum(warm) / len(warm)


def measure(bench: Bench) -> list[Row]:
    rng = random.Random(7)
    size = sizes(rng)
    whole = sum(map(size, range(IMAGES)))
    count = bench.pick(100_000, 20_000)
    mixes = {f"Zipf {skew}": zipf(count, skew, rng) for skew in (0.7, 0.9, 1.1)}
    mixes["registry mix"] = registry_mix(count, rng)
    rows = []
    for (name, pulls), share in itertools.product(mixes.items(), CACHES):
        bench.say(f"hit ratio, {name}, a cache of {share:.0%}")
        ours, lru = (ratio(hits(pulls, size, share * whole)) for hits in (hits_of_policy, hits_of_lru))
        what = f"hit ratio, {name}, cache of {share:.0%} of all images"
        rows.append(Row("eviction", what, "", {CISTERN: exact(ours)}, ours / lru, AS_LRU, f"LRU: {lru:.3f}"))
    rows.append(scan_row(zipf(count, 1.1, rng), size, 0.05 * whole))
    return [*rows, *round_rows(bench)]


def exact(value: float) -> Figure:
    return Figure(value, value, value, 1)


def scan_row(pulls: list[int], size: Callable[[int], int], capacity: float) -> Row:
    """What share of the hot set's hits is lost while ten times the cache is pulled once, a scanned image per pull."""
    half = len(pulls) // 2
    scanned = int(10 * capacity / size(IMAGES))
    step = max(1, half // scanned)
    strange = itertools.count(IMAGES)
    mixed = list(pulls[:half])
    for number, image in enumerate(pulls[half:]):
        mixed += [image, *itertools.islice(strange, 1 if number % step == 0 else 0)]

    def of_hot_set(hits: Sequence[bool], of: Pulls) -> float:
        hot = [hit for hit, image in list(zip(hits, of, strict=True))[half:] if image < IMAGES]
        return sum(hot) / len(hot)

    def lost(hits: Callable[[Pulls, Callable[[int], int], float], list[bool]]) -> float:
        calm = of_hot_set(hits(pulls, size, capacity), pulls)
        return 1 - of_hot_set(hits(mixed, size, capacity), mixed) / calm

    ours, lru = lost(hits_of_policy), lost(hits_of_lru)
    what = f"share of the hot set's hits lost to a scan of {next(strange) - IMAGES} images, 10 times the cache"
    return Row("eviction", what, "", {CISTERN: exact(ours)}, ours, LOST, f"LRU: {lru:.3f}")


NAP_S: Final = 0.001
ROUNDS_AMONG: Final = (1_000, 10_000, 100_000, 1_000_000)  # blobs; the last two are left out of a quick run
QUICK_ROUNDS: Final = 2


def round_rows(bench: Bench) -> Iterator[Row]:
    """How long a round takes that frees what a full cache keeps free ahead of need, for how long it holds the event
    loop, and how long listing all images takes, by how many blobs are here.
    """
    for blobs in ROUNDS_AMONG[: QUICK_ROUNDS if bench.quick else None]:
        bench.say(f"a round of eviction among {blobs} blobs")
        with tempfile.TemporaryDirectory(dir=bench.home) as folder:
            told = asyncio.run(timed_round(Path(folder) / "cache", blobs))
        for what, unit, value in (
            (f"a round of eviction among {blobs} blobs, the look at all of them included", "s", told.round_s),
            (f"longest stand of the event loop in it, {blobs} blobs", "ms", told.stood_s * 1e3),
            (f"list of all images, {blobs} blobs", "s", told.list_s),
        ):
            yield Row("eviction", what, unit, {CISTERN: exact(value)})


@dataclass(frozen=True, slots=True)
class Told:
    """One store: seconds of a round, the longest that the event loop stood in it, and of a list of all images."""

    round_s: float
    stood_s: float
    list_s: float


class Stands:
    """How long the event loop stood still at most, while this ran beside something else."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(NAP_S)
            self.longest_s = max(self.longest_s, time.perf_counter() - began - NAP_S)


async def timed_round(cache: Path, blobs: int) -> Told:
    """One round over a store of so many blobs, whose cap is hardly more than what it holds; then a list."""
    upstreams = f"upstreams: {{{UPSTREAM}: {{endpoints: [{{url: https://{UPSTREAM}}}]}}}}"

    def config(max_size: str) -> Config:
        text = f"cache: {{directory: {cache}, max_size: {max_size}, keep_free: 0B}}\n{upstreams}\n"
        return parse(text, "bench.yaml", {})

    async with open_rooms(config("100%")) as rooms:
        links = await asyncio.to_thread(filled, rooms.disk.blobs.path_of, blobs)
        await rooms.disk.records.database.alone(lambda connection: insert(connection, links))
        await rooms.capacity.count()
        taken = rooms.capacity.ledger.taken
    async with open_rooms(config(f"{int(taken * 1.02)}B")) as rooms:
        await rooms.capacity.count()
        settle()  # as a server does: modules and rooms are not collected over and over
        stands = Stands()
        watching = rooms.tasks.start(stands.watch(), name="watch the event loop")
        began = time.perf_counter()
        report = await rooms.make_room.round()
        round_s = time.perf_counter() - began
        watching.cancel()
        if not report.blobs:
            raise OSError("nothing was evicted")
        images = Images(rooms.ground, rooms.holdings, lambda: rooms.rules, rooms.capacity)
        began = time.perf_counter()
        await images.listing()
        return Told(round_s, stands.longest_s, time.perf_counter() - began)


def insert(connection: sqlite3.Connection, links: Sequence[Link]) -> None:
    """Past the store, too: a million links in one change would be a line of the log of changes."""
    values = [(link.place.scope, link.place.repository, str(link.digest), link.media_type, link.size) for link in links]
    with connection:
        connection.execute("BEGIN")
        connection.executemany(tables.SAVE_LINK, [(*row, tables.crc_of(row)) for row in values])


def filled(path_of: Callable[[Digest], Path], blobs: int) -> list[Link]:
    """Images of small blobs, written past the store since nothing here is of value; the links that hold them."""
    links: list[Link] = []
    place = Place(UPSTREAM, REPOSITORY)
    for image in range(blobs // BLOBS_PER_IMAGE):
        layers = [f"layer {image} {number}".encode() for number in range(BLOBS_PER_IMAGE - 1)]
        described = [{"mediaType": "x/y", "digest": str(Digest.of(data)), "size": len(data)} for data in layers]
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:]}
        bodies = [json.dumps(manifest).encode(), *layers]
        for body in bodies:
            digest = Digest.of(body)
            path_of(digest).parent.mkdir(parents=True, exist_ok=True)
            path_of(digest).write_bytes(body)
            links.append(Link(place, digest, OCI_MANIFEST if body is bodies[0] else None, len(body)))
    return links
