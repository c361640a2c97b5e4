"""Client times at a constant rate: warm manifests and small warm blobs, each request on a connection of its own.

A rate that does not wait for answers shows what a queue does to the last ones; as many as answer in time would not.
"""

from benchmarks.bench import Bench, seconds_of, whole
from benchmarks.figures import CISTERN, Figure, Row, percentile
from benchmarks.peers import Subject

RATE = 200  # requests per second
BLOB = 256 << 10
SHARES = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))


def measure(bench: Bench) -> list[Row]:
    """Milliseconds from the connection to the last byte."""
    seconds = bench.pick(6, 2)
    bench.upstream.limit(None)
    rows: list[Row] = []
    with bench.caches(others=True) as caches:
        image = bench.upstream.image([BLOB])
        for what in ("manifest", "blob of 256 KiB"):
            bench.say(f"{what}s at {RATE} a second")
            found: dict[str, list[float]] = {}
            for _ in range(bench.pick(min(2, bench.rounds), 1)):
                for subject in caches:
                    path = _path(subject, image, what)
                    bench.fleet(subject, [{"path": path}] * 4, mode="read")  # warm
                    fetches = [{"path": path, "at_s": number / RATE} for number in range(RATE * seconds)]
                    pulled = [whole(subject, one) for one in bench.fleet(subject, fetches, mode="read")]
                    found.setdefault(subject.name, []).extend(1000 * seconds_of(one) for one in pulled)
            rows += [_row(f"{what}, {label}, {RATE} requests/s", found, share) for label, share in SHARES]
    return rows


def _path(subject: Subject, image: dict[str, object], what: str) -> str:
    """By digest, so that no cache has to ask upstream."""
    if what == "manifest":
        return subject.manifest(str(image["digest"]))
    blobs = image["blobs"]
    if not isinstance(blobs, list):
        raise TypeError("an image has a list of blobs")
    return subject.blob(str(blobs[1]))


def _row(name: str, found: dict[str, list[float]], share: float) -> Row:
    at = {subject: percentile(taken, share) for subject, taken in found.items()}
    cells = {subject: Figure(value, value, value, 1) for subject, value in at.items()}
    return Row("latency", name, "ms", cells, cells[CISTERN].value, None)
