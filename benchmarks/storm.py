"""A storm: a thousand clients, ten thousand requests, most for what is held, while the upstream answers nothing good.

What the upstream is asked, over the distinct objects that are wanted of it; how long held content takes; how long a
refusal takes once the circuit is open. The requests come at random moments, spread evenly: an open loop, so that a
server that falls behind shows it. Held tags are fresh here: a check that hangs costs `check_within` by contract.
"""

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from benchmarks.bench import LEAD_S, Bench
from benchmarks.figures import CISTERN, REGISTRY, Figure, Row, at_most, percentile
from benchmarks.peers import Subject
from benchmarks.upstream import OCI_MANIFEST

TROUBLES = ("503", "hang", "429")
CLIENTS = 1000
REQUESTS = 10_000
SECONDS = 20.0  # of the storm: the ten seconds that a first answer may take are over before its half
AFTER_S = 6.0  # for the last answers
IMAGES = 40  # held
OBJECTS = 200  # wanted and not held
WANTED = 0.3  # of all requests
LAYERS = (200_000, 30_000)
CALM_S = 3.0
ACCEPT = f"{OCI_MANIFEST}, */*"  # docker-registry has no OCI manifest for who does not name its type
CLIENT = (sys.executable, "-S", "-E", str(Path(__file__).with_name("storm_client.py")))
AMPLIFIED, LATE_MS = at_most(1.1), at_most(50.0)
Seen = list[tuple[str, float, float | None, int]]


@dataclass(frozen=True, slots=True)
class Storm:
    """What each request saw (kind, when sent, seconds, status), what the upstream was asked, and when the circuit was
    seen open.
    """

    found: Seen
    content: int
    pings: int
    opened_s: float

    def of(self, kind: str, since_s: float = 0.0) -> Seen:
        return [one for one in self.found if one[0] == kind and one[1] >= since_s]


def measure(bench: Bench) -> list[Row]:
    """Every trouble, at Cistern and at docker-registry."""
    rows: list[Row] = []
    for trouble in TROUBLES:
        asked: dict[str, Figure] = {}
        held: dict[str, Figure] = {}
        refused: dict[str, Figure] = {}
        note = ""
        bench.upstream.trouble()
        with bench.caches(alone=bench.quick) as caches:
            for subject in (cache for cache in caches if cache.name in (CISTERN, REGISTRY)):
                bench.say(f"a storm of {REQUESTS} requests, upstream: {trouble}, at {subject.name}")
                storm = _storm(bench, subject, trouble)
                asked[subject.name] = _one(storm.content / OBJECTS)
                held[subject.name] = _p99(storm.of("held"))
                if refusals := storm.of("wanted", storm.opened_s):
                    refused[subject.name] = _p99(refusals)
                if subject.name == CISTERN:
                    note = _told(storm)
        amplified = f"{trouble}: upstream requests / distinct objects"
        rows.append(Row("storm", amplified, "x", asked, asked[CISTERN].value, AMPLIFIED, note))
        for name, cells in (("held content", held), ("refusals once open", refused)):
            judged = cells[CISTERN].value if CISTERN in cells else None
            rows.append(Row("storm", f"{trouble}: {name}, p99", "ms", cells, judged, LATE_MS))
    return rows


def _told(storm: Storm) -> str:
    held, statuses = storm.of("held"), Counter(one[3] for one in storm.of("wanted"))
    good, unanswered = sum(one[3] == 200 for one in held), sum(one[2] is None for one in storm.found)
    answers = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    return (
        f"circuit seen open after {storm.opened_s:.1f} s; {good} of {len(held)} held answered 200; "
        f"the others: {answers}; {unanswered} of all not answered; "
        f"upstream: {storm.content} requests, {storm.pings} pings"
    )


def _storm(bench: Bench, subject: Subject, trouble: str) -> Storm:
    """One storm, to its end."""
    bench.upstream.trouble()
    chance = random.Random(11)
    held = [path for _ in range(IMAGES) for path in _hold(bench, subject)]
    wanted = [subject.blob(digest) for digest in bench.upstream.blobs(50_000, OBJECTS)]
    requests = []
    for _ in range(REQUESTS):
        is_wanted = chance.random() < WANTED
        kind, path = ("wanted", chance.choice(wanted)) if is_wanted else ("held", chance.choice(held))
        requests.append((kind, path, chance.random() * SECONDS))
    bench.upstream.trouble(trouble)
    begin_at = time.monotonic() + CALM_S + LEAD_S
    job: dict[str, object] = {"port": subject.port, "connections": CLIENTS, "begin_at": begin_at}
    job |= {"until_s": SECONDS + AFTER_S, "accept": ACCEPT, "requests": requests}
    with _watched(subject, begin_at) as opened:
        ended = subprocess.run(CLIENT, input=json.dumps(job) + "\n", capture_output=True, text=True, check=True)
    found: Seen = [tuple(one) for one in json.loads(ended.stdout)["requests"]]
    content, pings = bench.upstream.asked()
    bench.upstream.trouble()
    return Storm(found, content, pings, opened[0] if opened else 0.0)


def _hold(bench: Bench, subject: Subject) -> list[str]:
    """Pull a new image whole; the paths of its tag, its manifest and its blobs."""
    image = bench.upstream.image(LAYERS)
    paths = [subject.manifest(image["tag"]), subject.manifest(image["digest"]), *map(subject.blob, image["blobs"])]
    for path in paths:
        status, _, _ = subject.get(path, accept=ACCEPT)
        assert status == 200, f"{subject.name} does not serve {path} of an upstream that is well: {status}"
    return paths


@contextmanager
def _watched(subject: Subject, begin_at: float) -> Iterator[list[float]]:
    """When, from the storm's begin, the circuit was first seen open; nothing for a cache that tells of none."""
    opened: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not opened and not ended.wait(0.25):
            with urlopen(f"{subject.facts['admin']}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
            if any(line.startswith("cistern_breaker_open{") and line.endswith(" 1.0") for line in lines):
                opened.append(time.monotonic() - begin_at)

    watcher = threading.Thread(target=watch, name="breaker") if "admin" in subject.facts else None
    if watcher is not None:
        watcher.start()
    try:
        yield opened
    finally:
        ended.set()
        if watcher is not None:
            watcher.join()


def _p99(seen: Seen) -> Figure:
    """Milliseconds; a request that was never answered took for ever."""
    taken = [float("inf") if one[2] is None else one[2] * 1000 for one in seen]
    return Figure(percentile(taken, 0.99), percentile(taken, 0.5), max(taken), len(taken))


def _one(value: float) -> Figure:
    return Figure(value, value, value, 1)
