"""Warm blobs: gigabytes per CPU second of the server, 16 connections, beside nginx with a plain file; also by TLS."""

from contextlib import ExitStack

from benchmarks import certificates, peers
from benchmarks.bench import MIB, Bench
from benchmarks.figures import CISTERN, PLAIN, Floor, Row, at_least, summary
from benchmarks.peers import Subject, plain_file

CONNECTIONS = 16
BLOB = 64 * MIB
GOAL, GOAL_TLS = at_least(0.80), at_least(0.5)


def measure(bench: Bench) -> list[Row]:
    """Plain HTTP with every peer, then TLS with nginx."""
    return [_plain(bench), _tls(bench)]


def _plain(bench: Bench) -> Row:
    bench.say("warm blobs")
    with bench.caches(others=True) as caches:
        image = bench.upstream.image([BLOB])
        digest = image["blobs"][1]
        local = [subject for subject in caches if subject.process is not None]
        for subject in local:
            if not subject.takes_blobs:
                subject.get(subject.manifest(image["tag"]))
            bench.pull(subject, digest)
        server = next(subject for subject in caches if subject.files is not None)
        targets = [(subject, subject.blob(digest)) for subject in local]
        targets.append((plain_file(server, "blob", BLOB), "/blob"))
        return _row(bench, f"warm blob / nginx sendfile, {CONNECTIONS} connections", targets, GOAL)


def _tls(bench: Bench) -> Row:
    """The same with TLS 1.3 on both; AES by the processor in each."""
    bench.say("warm blobs over TLS")
    home = bench.home / "tls"
    with ExitStack() as stack:
        certificate = certificates.make(home)
        cache = stack.enter_context(peers.cistern(home / "cistern", bench.upstream, bench.cistern_command, certificate))
        server = stack.enter_context(peers.nginx(home / "nginx", bench.upstream, certificate=certificate))
        [digest] = bench.upstream.blobs(BLOB)
        bench.pull(cache, digest)
        targets = [(cache, cache.blob(digest)), (plain_file(server, "blob", BLOB), "/blob")]
        return _row(bench, f"warm blob over TLS / nginx TLS, {CONNECTIONS} connections", targets, GOAL_TLS)


def _row(bench: Bench, name: str, targets: list[tuple[Subject, str]], goal: Floor) -> Row:
    """Interleaved rounds, the best of each: noise only ever takes away."""
    reached: dict[str, list[float]] = {}
    for turn in range(bench.rounds + 1):
        # The order turns round: whoever comes first after a pause gets a cooler machine.
        for subject, path in targets[turn % len(targets) :] + targets[: turn % len(targets)]:
            received, spent = bench.loop(subject, path, connections=CONNECTIONS, seconds=bench.pick(12, 5) / 10)
            reached.setdefault(subject.name, []).append(received / spent / 1e9)
    cells = {subject: summary(taken, max) for subject, taken in reached.items()}
    ratio = cells[CISTERN].value / cells[PLAIN].value
    return Row("warm", name, "GB/cpu-s", cells, ratio, goal, samples=reached)
