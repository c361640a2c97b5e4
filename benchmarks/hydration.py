"""Hydration: a client's time while another image is fetched in the background, over its time without."""

from benchmarks.bench import GIGABIT, MIB, Bench, ClientFailed, seconds_of
from benchmarks.figures import CISTERN, Row, at_most, ratios, summary

SLOWED = at_most(1.05)
LAYERS = 4


def measure(bench: Bench) -> list[Row]:
    """The upstream's 1 Gbit/s is the only thing to share; layers are big enough to last beyond the client's pull."""
    bench.say("a client beside hydration")
    size = bench.pick(128, 64) * MIB
    alone: list[float] = []
    beside: list[float] = []
    left: list[float] = []
    for _ in range(bench.pick(bench.rounds, 1)):
        with bench.caches(alone=True) as [subject]:
            first, second = bench.upstream.blobs(size, 2)
            image = bench.upstream.image([2 * size] * LAYERS)
            bench.upstream.limit(GIGABIT)
            alone.append(seconds_of(bench.pull(subject, first)))
            # A client that fetches the manifest and one blob, then leaves: the rest is hydrated.
            for path in (subject.manifest(image["tag"]), subject.blob(image["blobs"][0])):
                status, _, _ = subject.get(path)
                if status != 200:
                    raise ClientFailed(f"{path}: {status}")
            beside.append(seconds_of(bench.pull(subject, second)))
            fetched = sum(bench.upstream.sent(digest)[1] for digest in image["blobs"][1:])
            if fetched == 0 or fetched >= LAYERS * 2 * size:
                raise ClientFailed(f"hydration did not run beside the client: {fetched} bytes fetched")
            left.append(fetched / MIB)
    cells = {CISTERN: summary(ratios(beside, alone))}
    note = f"alone {summary(alone).value:.2f} s; meanwhile hydrated {summary(left).value:.0f} MiB"
    what = "client's pull with hydration running / without"
    return [Row("hydration", what, "x", cells, cells[CISTERN].value, SLOWED, note, {"alone": alone, "beside": beside})]
