"""Warm blobs: gigabytes per CPU second of the server, 16 connections, plain HTTP, beside nginx sending a plain file."""

from benchmarks.bench import MIB, Bench
from benchmarks.figures import CISTERN, PLAIN, Row, at_least, summary
from benchmarks.peers import plain_file

CONNECTIONS = 16
BLOB = 64 * MIB
GOAL = at_least(0.80)


def measure(bench: Bench) -> list[Row]:
    """Interleaved rounds, the best of each: noise only ever takes away."""
    bench.say("warm blobs")
    reached: dict[str, list[float]] = {}
    with bench.caches() as caches:
        [digest] = bench.upstream.blobs(BLOB)
        for subject in caches:
            bench.pull(subject, digest)
        server = caches[-1]
        targets = [(subject, subject.blob(digest)) for subject in caches]
        targets.append((plain_file(server, "blob", BLOB), "/blob"))
        for turn in range(bench.rounds + 1):
            # The order turns round: whoever comes first after a pause gets a cooler machine.
            for subject, path in targets[turn % len(targets) :] + targets[: turn % len(targets)]:
                received, spent = bench.loop(subject, path, connections=CONNECTIONS, seconds=bench.pick(12, 5) / 10)
                reached.setdefault(subject.name, []).append(received / spent / 1e9)
    cells = {subject: summary(taken, max) for subject, taken in reached.items()}
    ratio = cells[CISTERN].value / cells[PLAIN].value
    name = f"warm blob / nginx sendfile, {CONNECTIONS} connections"
    return [Row("warm", name, "GB/cpu-s", cells, ratio, GOAL, samples=reached)]
