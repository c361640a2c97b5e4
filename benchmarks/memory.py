"""Memory: of a server that idles, and how much it grows while slow and fast clients read one large cold blob."""

import time

from benchmarks import machine
from benchmarks.bench import MB, MIB, Bench, ClientFailed, seconds_of
from benchmarks.crowd import fast_among_slow
from benchmarks.figures import CISTERN, Row, at_most, summary

IDLE_MB = at_most(60)
STALLED_KIB = at_most(32)
STALLED = 200
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
    stalled = _stalled(bench)
    what = f"memory growth, {SLOW} slow and a fast client, cold {size // MIB} MiB"
    return [
        Row("memory", what, "MiB", grown, grown[CISTERN].value, GROWTH_MIB, f"the fast client took: {note}"),
        stalled,
        Row("memory", "idle memory", "MB", resting, resting[CISTERN].value, IDLE_MB),
    ]


def _stalled(bench: Bench) -> Row:
    """Clients of a warm blob that read its first bytes and then nothing: resident memory for each of them."""
    bench.say(f"{STALLED} stalled readers")
    per: dict[str, list[float]] = {}
    for _ in range(bench.pick(min(3, bench.rounds), 1)):
        with bench.caches() as caches:
            [digest] = bench.upstream.blobs(64 * MIB)
            for subject in caches:
                bench.pull(subject, digest)
                fetches = [{"path": subject.blob(digest), "rate": 1.0} for _ in range(STALLED)]
                bench.fleet(subject, fetches[:8], mode="read", until_s=0.5)  # what one more reader never costs again
                before = machine.resident_bytes(subject.pid)
                with bench.started(subject, fetches, mode="read", until_s=2.5) as finish:
                    time.sleep(2.0)
                    held = machine.resident_bytes(subject.pid) - before
                    if any(one.received > MIB for one in finish()):
                        raise ClientFailed(f"{subject.name}: a reader did not stall")
                per.setdefault(subject.name, []).append(max(0, held) / STALLED / 1024)
    cells = {subject: summary(taken) for subject, taken in per.items()}
    return Row("memory", "memory per stalled reader", "KiB", cells, cells[CISTERN].value, STALLED_KIB)
