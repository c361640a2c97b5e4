"""Ranges of a warm blob as real clients ask for them: what is sent beyond need, and what small ranges cost."""

from benchmarks import clients
from benchmarks.bench import MB, MIB, Bench, ClientFailed, whole
from benchmarks.clients import Fetches
from benchmarks.figures import CISTERN, Row, at_most, summary
from benchmarks.peers import Subject

CHUNKS = ((8 * MIB, at_most(1.15)), (4 * MIB, at_most(1.3)))
PARALLEL, RATE = 4, 30 * MB  # connections of one client, and what each reads


def measure(bench: Bench) -> list[Row]:
    """containerd 2's open-ended ranges with an early close; then the small ranges of lazy pullers."""
    size = bench.pick(128, 64) * MIB
    bench.upstream.limit(None)
    with bench.caches(others=True) as caches:
        image = bench.upstream.image([size])
        digest = image["blobs"][1]
        for subject in caches:
            if not subject.takes_blobs:
                subject.get(subject.manifest(image["tag"]))
            bench.pull(subject, digest)
        rows = [_over_sent(bench, caches, digest, size, chunk) for chunk, _ in CHUNKS]
        return [*rows, *_small(bench, caches, digest, size)]


def _over_sent(bench: Bench, caches: list[Subject], digest: str, size: int, chunk: int) -> Row:
    """Bytes that came over the wire by the close, over those that were read. Heads count too: they are nothing here."""
    bench.say(f"open-ended ranges, {chunk // MIB} MiB read")
    found: dict[str, list[float]] = {}
    for _ in range(bench.pick(min(3, bench.rounds), 1)):
        for subject in caches:
            fetches = clients.containerd(subject.blob(digest), size, chunk=chunk, parallel=PARALLEL, rate=RATE)
            pulled = bench.fleet(subject, fetches, mode="read")
            if any(one.status != 206 for one in pulled):
                continue  # no ranges here
            sent = sum(whole(subject, one).wired for one in pulled)
            found.setdefault(subject.name, []).append(sent / clients.useful(fetches, size))
    cells = {subject: summary(taken) for subject, taken in found.items()}
    name = f"bytes sent / read, open-ended ranges closed after {chunk // MIB} MiB"
    note = f"{PARALLEL} connections of 30 MB/s each; what was still in the server's send buffer is not counted"
    return Row("ranges", name, "x", cells, cells[CISTERN].value, dict(CHUNKS)[chunk], note, found)


def _small(bench: Bench, caches: list[Subject], digest: str, size: int) -> list[Row]:
    reads = bench.pick(96, 32)
    rows = []
    for client in ("stargz", "nydus"):
        bench.say(f"small ranges as {client} asks")
        found: dict[str, list[float]] = {}
        for _ in range(bench.rounds):
            for subject in caches:
                path = subject.blob(digest)
                fetches = (
                    clients.stargz(path, size, reads=reads)
                    if client == "stargz"
                    else clients.nydus(path, size, reads=min(reads, size // MIB))
                )
                answered = _cpu_ms(bench, subject, fetches)
                if answered is not None:
                    found.setdefault(subject.name, []).append(answered)
        cells = {subject: summary(taken, min) for subject, taken in found.items()}
        name = f"CPU per range, as {client} asks, a connection each"
        rows.append(Row("ranges", name, "ms", cells, cells[CISTERN].value, None, samples=found))
    return rows


def _cpu_ms(bench: Bench, subject: Subject, fetches: Fetches) -> float | None:
    """CPU milliseconds of the subject per range, over enough of them for the clock's 10 ms; None: it has no ranges."""
    if subject.process is None:
        return None
    again = [{**fetch, "lane": 16 * turn + fetch["lane"]} for turn in range(8) for fetch in fetches]
    before = subject.cpu_seconds()
    pulled = bench.fleet(subject, again, mode="read")
    spent = subject.cpu_seconds() - before
    if any(one.status == 200 for one in pulled):
        return None
    failed = [one for one in pulled if not one.ok]
    if failed:
        raise ClientFailed(f"{subject.name}: {failed[0]}")
    return spent * 1000 / len(pulled)
