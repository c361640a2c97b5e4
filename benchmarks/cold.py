"""Cold pulls: what the way through a cache costs the first client, beside the same pull straight from the upstream.

A pull reads the body and hashes it, as every registry client must. The last rows show a client that only reads, and
the CPU. The bare relay is the least that one Python process can spend which sends on, writes and hashes: no goal of a
machine whose processors the client and the upstream share can be below it.
"""

from benchmarks import peers
from benchmarks.bench import GIGABIT, MB, MIB, Bench, seconds_of
from benchmarks.figures import CISTERN, NGINX, Floor, Row, at_most, ratios, summary
from benchmarks.peers import Subject

LIMITED = at_most(1.03)
UNLIMITED = at_most(1.5)
EACH = at_most(0.5)
EACH_RATE = 50 * MB  # bytes per second of one connection, as object stores and registries limit them
CPU = at_most(1.2)


def measure(bench: Bench) -> list[Row]:
    """Time through / direct: upstream limited to 1 Gbit/s in all, and not limited."""
    large = bench.pick(256, 128) * MIB
    with bench.caches(others=True) as caches, peers.relay(bench.home / "relay", bench.upstream) as relay:
        caches.append(relay)
        bench.warm_up([relay])
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
        each = _row(
            bench, caches, "cold pull / direct, upstream 50 MB/s a connection", None, large, "verify", EACH, EACH_RATE
        )
        if bench.quick:
            return [limited, unlimited, each]
        reading = _row(bench, caches, "the same, a client that does not hash", None, large, "read", None)
        cpu = _cpu(bench, caches, large)
    return [limited, unlimited, each, reading, cpu]


def _row(
    bench: Bench,
    caches: list[Subject],
    name: str,
    limit: int | None,
    size: int,
    mode: str,
    floor: Floor | None,
    each: int | None = None,
) -> Row:
    """Interleaved rounds: each subject pulls a blob of its own, cold, beside one pulled straight."""
    bench.say(name)
    bench.upstream.limit(limit, each=each)
    seconds: dict[str, list[float]] = {}
    for _ in range(bench.rounds if limit else bench.rounds + 1):
        for subject in (bench.upstream, *(one for one in caches if one.takes_blobs)):
            [digest] = bench.upstream.blobs(size)
            pulled = bench.pull(subject, digest, mode=mode)
            seconds.setdefault(subject.name, []).append(seconds_of(pulled))
    direct = seconds[bench.upstream.name]
    cells = {subject: summary(ratios(taken, direct)) for subject, taken in seconds.items()}
    note = f"direct {summary(direct).value:.2f} s"
    return Row("cold", name, "x", cells, cells[CISTERN].value, floor, note, seconds)


def _cpu(bench: Bench, caches: list[Subject], size: int) -> Row:
    """CPU seconds of the cache per GiB of a cold blob; nginx, which does not hash, is the base."""
    bench.say("CPU of cold pulls")
    bench.upstream.limit(None)
    spent: dict[str, list[float]] = {}
    for _ in range(bench.rounds):
        for subject in caches:
            if subject.process is None or not subject.takes_blobs:
                continue
            [digest] = bench.upstream.blobs(size)
            before = subject.cpu_seconds()
            bench.pull(subject, digest, mode="discard")
            spent.setdefault(subject.name, []).append((subject.cpu_seconds() - before) * (1 << 30) / size)
    cells = {subject: summary(taken, min) for subject, taken in spent.items()}
    ratio = cells[CISTERN].value / cells[NGINX].value
    note = "the best of all rounds; what a cache does behind its client, as flushing, is in the next round"
    return Row("cold", "CPU of a cold blob / nginx proxy_cache", "s/GiB", cells, ratio, CPU, note, spent)
