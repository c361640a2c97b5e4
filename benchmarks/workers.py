"""Several processes: what a request costs with two serving processes over what it costs in one, and what stays one."""

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine, peers
from benchmarks.bench import MB, MIB, Bench, ClientFailed, whole
from benchmarks.figures import CISTERN, Row, at_most, summary
from benchmarks.manifests import requests_per_cpu_s
from benchmarks.peers import Subject
from benchmarks.warm import CONNECTIONS

COST = at_most(1.15)
ONCE = at_most(1.0)
IDLE_MB = at_most(60)
SEVERAL = f"{CISTERN}, 2 serving processes"
READERS = 32


def measure(bench: Bench) -> list[Row]:
    """One process and two serving processes in interleaved rounds; Cistern alone."""
    bench.say("two serving processes")
    with (
        peers.cistern(bench.home / "one", bench.upstream, bench.cistern_command) as one,
        peers.cistern(bench.home / "two", bench.upstream, bench.cistern_command, workers=2) as two,
    ):
        bench.warm_up([one, two])
        idle = [resident / MB for resident in _each_resident(two)]
        image = bench.upstream.image([MIB, 64 * MIB])
        small, large = image["blobs"][1:]
        for subject in (one, two):
            for _ in range(8):  # so that both processes have been asked
                subject.get(subject.manifest(image["tag"]))
                bench.pull(subject, small)
                bench.pull(subject, large)
        rows = [
            _row(
                bench,
                one,
                two,
                "hot manifest",
                lambda subject: requests_per_cpu_s(subject, subject.manifest(image["digest"])),
            ),
            _row(bench, one, two, "warm blob of 1 MiB", lambda subject: _blobs_per_cpu_s(bench, subject, small, MIB)),
            _row(
                bench,
                one,
                two,
                "warm blob of 64 MiB",
                lambda subject: _blobs_per_cpu_s(bench, subject, large, 64 * MIB),
            ),
        ]
        fetches = [_fetches(bench, two) for _ in range(bench.rounds)]
    cells = {SEVERAL: summary(fetches, max)}
    what = f"upstream fetches of a cold blob, {READERS} clients over both processes"
    rows.append(Row("workers", what, "", cells, cells[SEVERAL].value, ONCE))
    shown = {SEVERAL: summary(idle, max)}
    rows.append(Row("workers", "idle memory per process, the largest", "MB", shown, shown[SEVERAL].value, IDLE_MB))
    return rows


def _row(bench: Bench, one: Subject, two: Subject, what: str, rate: Callable[[Subject], float]) -> Row:
    """CPU time of a request with two over one, the best of each: noise only ever takes away."""
    reached: dict[str, list[float]] = {CISTERN: [], SEVERAL: []}
    for turn in range(bench.rounds):
        pairs = [(CISTERN, one), (SEVERAL, two)]
        for name, subject in pairs if turn % 2 else reversed(pairs):
            reached[name].append(rate(subject))
    cells = {name: summary(taken, max) for name, taken in reached.items()}
    ratio = cells[CISTERN].value / cells[SEVERAL].value
    return Row("workers", f"CPU of a {what}, 2 / 1", "req/cpu-s", cells, ratio, COST, samples=reached)


def _blobs_per_cpu_s(bench: Bench, subject: Subject, digest: str, size: int) -> float:
    received, spent = bench.loop(subject, subject.blob(digest), connections=CONNECTIONS, seconds=bench.pick(12, 6) / 10)
    return received / size / spent


def _fetches(bench: Bench, subject: Subject) -> float:
    """How often the upstream was asked for a cold blob that many clients want at once."""
    [digest] = bench.upstream.blobs(8 * MIB)
    for pulled in bench.fleet(subject, [{"path": subject.blob(digest)} for _ in range(READERS)], mode="verify"):
        whole(subject, pulled)
    return float(bench.upstream.sent(digest)[0])


def _each_resident(subject: Subject) -> list[int]:
    """Resident bytes of each process of the family."""
    found = []
    for pid in machine.family(subject.pid):
        match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        if match is None:
            raise ClientFailed(f"{subject.name}: process {pid} is gone")
        found.append(int(match[1]) << 10)
    return found
