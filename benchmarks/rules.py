"""100 000 rules: the time to route one request, and to take a changed file of them over while serving.

Measured inside a server's rooms in a process of their own: both are decisions, and a client's road would drown them.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bench import Bench, ClientFailed
from benchmarks.figures import CISTERN, Row, at_most, summary
from proxy.app import World, open_rooms
from proxy.reload import Reload, Source
from proxy.rules import Rules

RULES, RULES_QUICK = 100_000, 20_000
UPSTREAMS = 20
ROUTED = 20_000  # requests per sample
ROUTE_US, RELOAD_S = 20.0, 3.0  # the floors, for RULES


def measure(bench: Bench) -> list[Row]:
    """One fresh process a round."""
    count = RULES_QUICK if bench.quick else RULES
    bench.say(f"{count} rules")
    rounds = [_round(count) for _ in range(bench.rounds)]
    route_us = [found["route_us"] for found in rounds]
    reload_s = [found["reload_s"] for found in rounds]
    cpu_s = summary([found["reload_cpu_s"] for found in rounds]).value
    return [
        _row(f"{count} rules: route one request", "us", route_us, ROUTE_US, "CPU time"),
        _row(f"{count} rules: reload", "s", reload_s, RELOAD_S, f"{cpu_s:.2f} s of CPU time"),
    ]


def _row(name: str, unit: str, samples: list[float], limit: float, note: str) -> Row:
    figure = summary(samples)
    return Row("rules", name, unit, {CISTERN: figure}, figure.value, at_most(limit), note, {CISTERN: samples})


def _round(count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.rules", str(count)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if ended.returncode != 0:
        raise ClientFailed(f"the rules cannot be measured: {ended.stderr[-500:]}")
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def text_of(count: int) -> str:
    """A config with so many rules, over twenty upstreams; each with its own repository and its own upstream side."""
    upstreams = [f"  u{n}.example: {{}}\n" for n in range(UPSTREAMS)]
    rules = [
        f"  - name: rule-{n}\n    repository: own/{n}/*\n    upstream: u{n % UPSTREAMS}.example/team-{n}/*\n"
        for n in range(count)
    ]
    return "".join(["upstreams:\n", *upstreams, "rules:\n", *rules])


def names_of(count: int) -> list[str]:
    """Names by a rule's own path and by an upstream's, spread over the rules."""
    chosen = range(0, count, max(1, count // 1000))
    own = [f"own/{n}/app" for n in chosen]
    return own + [f"u{n % UPSTREAMS}.example/team-{n}/some/app" for n in chosen]


def route_us(rules: Rules, names: list[str]) -> float:
    """Microseconds of CPU time per request."""
    started = time.process_time()
    for number in range(ROUTED):
        rules.route(names[number % len(names)])
    return (time.process_time() - started) / ROUTED * 1e6


async def _measured(count: int, home: Path) -> dict[str, float]:
    path, names = home / "cistern.yaml", names_of(count)
    path.write_text(text_of(count))
    source = Source(path, {}, {"--cache-dir": ("cache.directory", str(home / "cache"))})
    async with open_rooms(source.load(), World(environ={})) as rooms:
        reload = Reload(
            source, rooms.current, rooms.upstreams, None, rooms.events, rooms.disk.threads, asked=asyncio.Event()
        )
        path.write_text(text_of(count) + "implicit_rules: false\n")
        started, cpu = time.monotonic(), time.process_time()
        if not await reload.reload():
            raise RuntimeError("the config was refused")
        seconds, cpu_s = time.monotonic() - started, time.process_time() - cpu
        return {"route_us": route_us(rooms.rules, names), "reload_s": seconds, "reload_cpu_s": cpu_s}


def main() -> None:
    """One round, as a process of its own: `python -m benchmarks.rules COUNT`."""
    with tempfile.TemporaryDirectory() as home:
        print(json.dumps(asyncio.run(_measured(int(sys.argv[1]), Path(home)))))


if __name__ == "__main__":
    main()
