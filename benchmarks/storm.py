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

from benchmarks import peers
from benchmarks.bench import LEAD_S, Bench
from benchmarks.figures import BARE, CISTERN, REGISTRY, Figure, Row, at_most, percentile
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
Seen = list[tuple[str, float, float | None, int, float]]
Requests = list[tuple[str, str, float]]


@dataclass(frozen=True, slots=True)
class Storm:
    """What each request saw (kind, when sent, seconds, status, how much later than it should have been sent), what the
    server says of those for held content (seconds), what the upstream was asked, and when the circuit was seen open.
    """

    requests: Requests
    sizes: dict[str, int]  # by path, of what is held
    found: Seen
    own: list[float]
    content: int
    pings: int
    opened_s: float

    def of(self, kind: str, since_s: float = 0.0) -> Seen:
        return [one for one in self.found if one[0] == kind and one[1] >= since_s]


def measure(bench: Bench) -> list[Row]:
    """Every trouble, at Cistern and at docker-registry."""
    rows: list[Row] = []
    beside: Seen = []
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
                    beside = beside or _beside(bench, storm)
        amplified = f"{trouble}: upstream requests / distinct objects"
        rows.append(Row("storm", amplified, "x", asked, asked[CISTERN].value, AMPLIFIED, note))
        for kind, name, cells in (("held", "held content", held), ("wanted", "refusals once open", refused)):
            cells[BARE] = _p99([one for one in beside if one[0] == kind])
            judged = cells[CISTERN].value if CISTERN in cells else None
            rows.append(Row("storm", f"{trouble}: {name}, p99", "ms", cells, judged, LATE_MS))
    return rows


def _told(storm: Storm) -> str:
    held, statuses = storm.of("held"), Counter(one[3] for one in storm.of("wanted"))
    late, own = percentile([one[4] for one in storm.found], 0.99), percentile(storm.own, 0.99)
    good, unanswered = sum(one[3] == 200 for one in held), sum(one[2] is None for one in storm.found)
    answers = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    return (
        f"circuit seen open after {storm.opened_s:.1f} s; {good} of {len(held)} held answered 200; "
        f"the others: {answers}; {unanswered} of all not answered; "
        f"upstream: {storm.content} requests, {storm.pings} pings; the client's own lateness, p99: "
        f"{late * 1000:.1f} ms; held content by the server's own log, p99: {own * 1000:.1f} ms"
    )


def _storm(bench: Bench, subject: Subject, trouble: str) -> Storm:
    """One storm, to its end."""
    bench.upstream.trouble()
    chance = random.Random(11)
    sizes = {path: size for _ in range(IMAGES) for path, size in _hold(bench, subject).items()}
    held = list(sizes)
    wanted = [subject.blob(digest) for digest in bench.upstream.blobs(50_000, OBJECTS)]
    requests: Requests = []
    for _ in range(REQUESTS):
        is_wanted = chance.random() < WANTED
        kind, path = ("wanted", chance.choice(wanted)) if is_wanted else ("held", chance.choice(held))
        requests.append((kind, path, chance.random() * SECONDS))
    bench.upstream.trouble(trouble)
    before = subject.log.stat().st_size if subject.log is not None else 0
    begin_at = time.monotonic() + CALM_S + LEAD_S
    with _watched(subject, begin_at) as opened:
        found = _sent(subject, requests, begin_at)
    content, pings = bench.upstream.asked()
    bench.upstream.trouble()
    own = _logged(subject, before)
    return Storm(requests, sizes, found, own, content, pings, opened[0] if opened else 0.0)


def _sent(subject: Subject, requests: Requests, begin_at: float) -> Seen:
    """All requests, by a thousand clients in a process of their own."""
    job: dict[str, object] = {"port": subject.port, "connections": CLIENTS, "begin_at": begin_at}
    job |= {"until_s": SECONDS + AFTER_S, "accept": ACCEPT, "requests": requests}
    ended = subprocess.run(CLIENT, input=json.dumps(job) + "\n", capture_output=True, text=True, check=True)
    return [tuple(one) for one in json.loads(ended.stdout)["requests"]]


def _beside(bench: Bench, storm: Storm) -> Seen:
    """The same requests at a bare handler: what the machine and the client alone cost."""
    bench.say(f"the same {REQUESTS} requests at a bare handler")
    with peers.bare_storm(bench.home / "bare-storm", storm.sizes) as subject:
        return _sent(subject, storm.requests, time.monotonic() + CALM_S + LEAD_S)


def _logged(subject: Subject, offset: int) -> list[float]:
    """The seconds of each hit in the server's log from `offset` on; nothing for one that keeps no such log."""
    if subject.log is None or subject.name != CISTERN:
        return []
    lines = subject.log.read_bytes()[offset:].decode().splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return [line["seconds"] for line in told if line.get("event") == "request" and line.get("outcome") == "hit"]


def _hold(bench: Bench, subject: Subject) -> dict[str, int]:
    """Pull a new image whole; the paths of its tag, its manifest and its blobs, and the size of each."""
    image = bench.upstream.image(LAYERS)
    paths = [subject.manifest(image["tag"]), subject.manifest(image["digest"]), *map(subject.blob, image["blobs"])]
    sizes: dict[str, int] = {}
    for path in paths:
        status, _, body = subject.get(path, accept=ACCEPT)
        assert status == 200, f"{subject.name} does not serve {path} of an upstream that is well: {status}"
        sizes[path] = len(body)
    return sizes


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
