"""Time to first byte of cold blobs, at a constant rate, beside the upstream's own: what the way through adds."""

from benchmarks.bench import GIGABIT, Bench, whole
from benchmarks.figures import CISTERN, Figure, Row, at_most, percentile
from benchmarks.peers import Subject

BLOB = 512 << 10
RATE = 50  # blobs per second: 26 MB/s, a fifth of the limited upstream
P50_MS, P99_MS = at_most(5), at_most(20)


def measure(bench: Bench) -> list[Row]:
    """Added milliseconds, median and 99th percentile, with the upstream limited and not."""
    rows = []
    with bench.caches() as caches:
        for name, limit in (("upstream 1 Gbit/s", GIGABIT), ("upstream unlimited", None)):
            bench.say(f"time to first byte, {name}")
            bench.upstream.limit(limit)
            rows += _rows(name, _first_bytes(bench, caches))
    return rows


def _first_bytes(bench: Bench, caches: list[Subject]) -> dict[str, list[float]]:
    """Milliseconds to the first byte, of each subject's own cold blobs."""
    count = bench.pick(100, 40)
    found: dict[str, list[float]] = {}
    for _ in range(bench.pick(2, 1)):
        for subject in (bench.upstream, *caches):
            digests = bench.upstream.blobs(BLOB, count)
            fetches = [{"path": subject.blob(digest), "at_s": n / RATE} for n, digest in enumerate(digests)]
            pulled = [whole(subject, one) for one in bench.fleet(subject, fetches, mode="verify")]
            first = [one.first_byte_s * 1000 for one in pulled if one.first_byte_s is not None]
            found.setdefault(subject.name, []).extend(first)
    return found


def _rows(name: str, found: dict[str, list[float]]) -> list[Row]:
    direct = found.pop("direct")
    base = percentile(direct, 0.5)
    note = f"direct p50 {base:.1f} ms, p99 {percentile(direct, 0.99):.1f} ms"
    rows = []
    for label, share, floor in (("p50", 0.5, P50_MS), ("p99", 0.99, P99_MS)):
        # Against the upstream's median in both rows: its own tail is not subtracted from ours.
        at = {subject: percentile(taken, share) - base for subject, taken in found.items()}
        cells = {subject: Figure(value, value, value, 1) for subject, value in at.items()}
        what = f"time to first byte added, {label}, {name}"
        rows.append(Row("firstbyte", what, "ms", cells, cells[CISTERN].value, floor, note))
    return rows
