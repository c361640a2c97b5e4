"""Memory: of a server that idles, and how much it grows while slow and fast clients read one large cold blob."""

from benchmarks import machine
from benchmarks.bench import MB, MIB, Bench, seconds_of
from benchmarks.crowd import fast_among_slow
from benchmarks.figures import CISTERN, Row, at_most, summary

IDLE_MB = at_most(60)
GROWTH_MIB = at_most(8)
SLOW, SLOW_RATE = 8, 4 * MB


def measure(bench: Bench) -> list[Row]:
    """Idle memory, then the peak over it with 8 slow clients and a fast one; fresh servers in every round."""
    size = bench.pick(256, 128) * MIB
    idle: dict[str, list[float]] = {}
    growth: dict[str, list[float]] = {}
    fast: dict[str, list[float]] = {}
    for _ in range(bench.pick(min(3, bench.rounds), 1)):
        bench.say("memory of fresh servers")
        with bench.caches(warm=False) as caches:
            for subject in caches:
                idle.setdefault(subject.name, []).append(machine.resident_bytes(subject.pid) / MB)
            bench.warm_up(caches)
            for subject in caches:
                before = machine.resident_bytes(subject.pid)
                machine.reset_peak(subject.pid)
                [digest] = bench.upstream.blobs(size)
                pulled = fast_among_slow(bench, subject, digest, SLOW, SLOW_RATE)
                peak = machine.resident_bytes(subject.pid, "VmHWM")
                growth.setdefault(subject.name, []).append((peak - before) / MIB)
                fast.setdefault(subject.name, []).append(seconds_of(pulled))
    grown = {subject: summary(taken) for subject, taken in growth.items()}
    resting = {subject: summary(taken) for subject, taken in idle.items()}
    note = ", ".join(f"{subject} {summary(taken).value:.2f} s" for subject, taken in fast.items())
    what = f"memory growth, {SLOW} slow and a fast client, cold {size // MIB} MiB"
    return [
        Row("memory", what, "MiB", grown, grown[CISTERN].value, GROWTH_MIB, f"the fast client took: {note}"),
        Row("memory", "idle memory", "MB", resting, resting[CISTERN].value, IDLE_MB),
    ]
