"""Cold pulls: what the way through a cache costs the first client, beside the same pull straight from the upstream.

A pull reads the body and hashes it, as every registry client must. The last row shows a client that only reads.
"""

from benchmarks.bench import GIGABIT, MIB, Bench, seconds_of
from benchmarks.figures import CISTERN, Floor, Row, at_most, ratios, summary
from benchmarks.peers import Subject

LIMITED = at_most(1.03)
UNLIMITED = at_most(1.5)


def measure(bench: Bench) -> list[Row]:
    """Time through / direct: upstream limited to 1 Gbit/s in all, and not limited."""
    large = bench.pick(256, 128) * MIB
    with bench.caches() as caches:
        limited = _row(
            bench,
            caches,
            "cold pull / direct, upstream 1 Gbit/s",
            GIGABIT,
            bench.pick(128, 64) * MIB,
            "verify",
            LIMITED,
        )
        unlimited = _row(bench, caches, "cold pull / direct, upstream unlimited", None, large, "verify", UNLIMITED)
        if bench.quick:
            return [limited, unlimited]
        reading = _row(bench, caches, "the same, a client that does not hash", None, large, "read", None)
    return [limited, unlimited, reading]


def _row(
    bench: Bench, caches: list[Subject], name: str, limit: int | None, size: int, mode: str, floor: Floor | None
) -> Row:
    """Interleaved rounds: each subject pulls a blob of its own, cold, beside one pulled straight."""
    bench.say(name)
    bench.upstream.limit(limit)
    seconds: dict[str, list[float]] = {}
    for _ in range(bench.rounds if limit else bench.rounds + 1):
        for subject in (bench.upstream, *caches):
            [digest] = bench.upstream.blobs(size)
            pulled = bench.pull(subject, digest, mode=mode)
            seconds.setdefault(subject.name, []).append(seconds_of(pulled))
    direct = seconds[bench.upstream.name]
    cells = {subject: summary(ratios(taken, direct)) for subject, taken in seconds.items()}
    note = f"direct {summary(direct).value:.2f} s"
    return Row("cold", name, "x", cells, cells[CISTERN].value, floor, note, seconds)
