"""`python -m benchmarks`: every topic, Cistern beside its peers; a table, benchmarks/out/benchmarks.json and .svg.

Exit code 0 when everything could be measured, whatever the figures; 1 when something could not; 2 for wrong use.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import (
    cold,
    crowd,
    eviction,
    firstbyte,
    growth,
    hydration,
    ingest,
    latency,
    machine,
    manifests,
    memory,
    others,
    peers,
    ranges,
    redirect,
    report,
    rules,
    start,
    storm,
    warm,
    workers,
)
from benchmarks.bench import Bench, ClientFailed
from benchmarks.figures import Row
from benchmarks.process import CannotStart, found

OUT = Path(__file__).parent / "out"
TOPICS: dict[str, Callable[[Bench], list[Row]]] = {
    "cold": cold.measure,
    "ingest": ingest.measure,
    "firstbyte": firstbyte.measure,
    "crowd": crowd.measure,
    "memory": memory.measure,
    "warm": warm.measure,
    "redirect": redirect.measure,
    "manifests": manifests.measure,
    "ranges": ranges.measure,
    "latency": latency.measure,
    "growth": growth.measure,
    "hydration": hydration.measure,
    "storm": storm.measure,
    "rules": rules.measure,
    "eviction": eviction.measure,
    "start": start.measure,
    "workers": workers.measure,
}
NEEDED = ("docker-registry", "nginx", "wrk")
ROUNDS, ROUNDS_QUICK = 5, 2
OTHERS_MAX = 0.1  # of the machine; above that the figures are not to be trusted


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen topics, then show and save what was found."""
    chosen = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # what was started is ended on the way out
    console = Console(width=None if sys.stdout.isatty() else 190)
    errors = Console(stderr=True)
    missing = [name for name in NEEDED if found(name) is None]
    if missing:
        errors.print(f"missing: {', '.join(missing)}; `make parts` installs them")
        return 1
    facts: dict[str, Any] = machine.facts()
    started, busy, own = time.monotonic(), machine.busy_seconds(), machine.own_seconds()
    rows, failed = _measured(
        chosen,
        lambda words: errors.print(f"[{time.monotonic() - started:5.0f} s] {words}"),
        lambda so_far: report.save(so_far, facts, chosen.out),  # whoever stops a long run keeps what it found
    )
    facts |= {"versions": _versions(), "seconds": round(time.monotonic() - started), "failed": failed}
    others = (machine.busy_seconds() - busy) - (machine.own_seconds() - own)
    facts["others_share"] = round(others / (time.monotonic() - started) / (os.cpu_count() or 1), 3)
    report.show(rows, facts, console)
    report.save(rows, facts, chosen.out)
    console.print(f"{facts['seconds']} s; written to {chosen.out}")
    if facts["others_share"] > OTHERS_MAX:
        errors.print(
            f"others used {facts['others_share']:.0%} of this machine meanwhile: measure again when it is quiet"
        )
    return 1 if failed else 0


def _measured(
    chosen: argparse.Namespace, say: Callable[[str], None], keep: Callable[[list[Row]], None]
) -> tuple[list[Row], list[str]]:
    """The rows of every chosen topic, and the topics that failed: one that does takes no other with it."""
    rows: list[Row] = []
    failed: list[str] = []
    rounds = chosen.rounds or (ROUNDS_QUICK if chosen.quick else ROUNDS)
    with (
        tempfile.TemporaryDirectory(prefix="cistern-bench-") as folder,
        peers.upstream(Path(folder), chosen.upstream) as origin,
    ):
        Path(folder).chmod(0o755)
        bench = Bench(origin, Path(folder), rounds, chosen.quick, chosen.cistern, say)
        bench.with_others = not chosen.few
        if chosen.target is not None:
            bench.target = others.target(chosen.target)
            say(f"waiting for {chosen.target}, whose upstream is http://127.0.0.1:{origin.port} now")
            try:
                others.await_target(bench.target)
            except CannotStart as error:
                say(str(error))
                return [], ["target"]
        for topic in chosen.only or TOPICS:
            try:
                rows += TOPICS[topic](bench)
                keep(rows)
            except (ClientFailed, CannotStart, OSError) as error:
                failed.append(topic)
                say(f"{topic} could not be measured: {error}")
    return rows, failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Cistern and its peers, in ratios.")
    parser.add_argument("--only", action="append", choices=sorted(TOPICS), metavar="NAME", help=", ".join(TOPICS))
    parser.add_argument("--quick", action="store_true", help="smaller and fewer: about 90 seconds, more noise")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"repetitions (default {ROUNDS}; quick {ROUNDS_QUICK})")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where JSON and picture go")
    parser.add_argument("--cistern", default=peers.DEFAULT_CISTERN, metavar="COMMAND", help="another build to measure")
    parser.add_argument("--few", action="store_true", help="Debian's peers only, whatever else is installed")
    parser.add_argument("--target", metavar="URL", help="a running cache whose upstream is ours, as one more peer")
    parser.add_argument("--upstream", default="127.0.0.1:0", metavar="HOST:PORT", help="where our upstream listens")
    return parser


def _versions() -> dict[str, str]:
    """What every program that took part says of itself."""
    flags = {"docker-registry": "--version", "nginx": "-v", "wrk": "-v", "varnishd": "-V", "squid": "-v"}
    flags |= {"registry": "--version", "zot": "--version"}
    return {name: machine.version_of(path, flag) for name, flag in flags.items() if (path := found(name)) is not None}


if __name__ == "__main__":
    sys.exit(main())
