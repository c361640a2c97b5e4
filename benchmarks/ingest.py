"""Cold ingest over TLS: gigabytes per CPU second that come in, are decrypted, hashed, written, and sent to a client.

The upstream is nginx with TLS, which has the blob in its cache by then: a fast one, as a registry's storage is.
"""

from contextlib import ExitStack

from benchmarks import certificates, peers
from benchmarks.bench import MIB, Bench
from benchmarks.figures import CISTERN, Row, at_least, summary

GOAL = at_least(0.45)


def measure(bench: Bench) -> list[Row]:
    """Interleaved with nothing: the limit is absolute."""
    bench.say("cold ingest over TLS")
    size, home = bench.pick(256, 128) * MIB, bench.home / "ingest"
    bench.upstream.limit(None)
    with ExitStack() as stack:
        certificate = certificates.make(home / "tls")
        origin = stack.enter_context(peers.nginx(home / "nginx", bench.upstream, certificate=certificate))
        upstream = {
            "endpoints": [{"url": f"https://127.0.0.1:{origin.port}"}],
            "tls": {"ca": str(certificate.chain)},
            "proxy": "none",
        }
        settings = {"upstreams": {peers.UPSTREAM_NAME: upstream}}
        cache = stack.enter_context(
            peers.cistern(home / "cistern", bench.upstream, bench.cistern_command, settings=settings)
        )
        reached: list[float] = []
        for _ in range(bench.rounds + 1):
            [digest] = bench.upstream.blobs(size)
            bench.pull(origin, digest, mode="read")
            before = cache.cpu_seconds()
            bench.pull(cache, digest, mode="discard")
            reached.append(size / (cache.cpu_seconds() - before) / 1e9)
    cells = {CISTERN: summary(reached, max)}
    note = "the best of all rounds; two hashing threads and the loop run side by side, so this is CPU time, not speed"
    name = "cold blob over TLS: decrypted, hashed, written, sent"
    return [Row("ingest", name, "GB/cpu-s", cells, max(reached), GOAL, note, {CISTERN: reached})]
