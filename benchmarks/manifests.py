"""Hot manifests: requests per CPU second of the server, by wrk, beside the peers and a bare aiohttp handler."""

import re
import subprocess
from contextlib import ExitStack

from benchmarks import peers
from benchmarks.bench import MIB, Bench, ClientFailed
from benchmarks.figures import BARE, CISTERN, NGINX, REGISTRY, Figure, Floor, Row, at_least, summary
from benchmarks.peers import Subject
from benchmarks.upstream import OCI_MANIFEST

CONNECTIONS = 32
COMPLETED = re.compile(r"(\d+) requests in")
GOALS = ((BARE, at_least(0.80)), (REGISTRY, at_least(20)), (NGINX, at_least(0.25)))
BY_TAG = "Cistern, by tag"
HOP_BY_HOP = {"date", "server", "content-length", "connection", "keep-alive"}


def measure(bench: Bench) -> list[Row]:
    """By digest, which every cache answers without asking upstream; Cistern by tag as well."""
    bench.say("hot manifests")
    reached: dict[str, list[float]] = {}
    with ExitStack() as stack:
        caches = stack.enter_context(bench.caches(others=True))
        image = bench.upstream.image([MIB] * 10)
        local = [subject for subject in caches if subject.process is not None]
        targets = [(subject.name, subject, subject.manifest(image["digest"])) for subject in local]
        targets.append((BY_TAG, caches[0], caches[0].manifest(image["tag"])))
        for _, subject, path in targets:
            status, headers, body = subject.get(path, accept=OCI_MANIFEST)
            if status != 200:
                raise ClientFailed(f"{subject.name} answers {status} for a manifest")
        # The same bytes and headers as Cistern's, which was asked last.
        sent = {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}
        server = stack.enter_context(peers.bare(bench.home / "bare", sent, body))
        targets.append((BARE, server, "/"))
        for turn in range(bench.rounds):
            for name, subject, path in targets[turn % len(targets) :] + targets[: turn % len(targets)]:
                reached.setdefault(name, []).append(requests_per_cpu_s(subject, path))
    cells = {subject: summary(taken, max) for subject, taken in reached.items()}
    return [_row(cells, base, floor) for base, floor in GOALS if base in cells] + [_by_tag(cells)]


def _row(cells: dict[str, Figure], base: str, floor: Floor) -> Row:
    ratio = cells[CISTERN].value / cells[base].value
    shown = {name: figure for name, figure in cells.items() if name != BY_TAG}
    return Row("manifests", f"hot manifest by digest / {base}", "req/cpu-s", shown, ratio, floor)


def _by_tag(cells: dict[str, Figure]) -> Row:
    ratio = cells[BY_TAG].value / cells[BARE].value
    shown = {CISTERN: cells[BY_TAG], BARE: cells[BARE]}
    return Row("manifests", "hot manifest by tag / bare aiohttp", "req/cpu-s", shown, ratio, dict(GOALS)[BARE])


def requests_per_cpu_s(subject: Subject, path: str, connections: int = CONNECTIONS) -> float:
    """What wrk gets from so many kept connections, over the subject's CPU seconds. ClientFailed: not all were 200."""
    before = subject.cpu_seconds()
    url = f"http://127.0.0.1:{subject.port}{path}"
    words = [
        "wrk",
        "-t1",
        f"-c{connections}",
        "-d1s",
        "--timeout",
        "10s",
        "-H",
        f"Accept: {OCI_MANIFEST}",
        url,
    ]
    ended = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    spent = subject.cpu_seconds() - before
    completed = COMPLETED.search(ended.stdout)
    if completed is None or "Non-2xx" in ended.stdout:
        raise ClientFailed(f"{subject.name}: {ended.stdout}")
    return int(completed[1]) / spent
