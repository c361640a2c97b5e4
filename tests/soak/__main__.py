"""`python -m tests.soak`: one hour of soak, or as long as one likes. Exit code 0 when all was well, 1 when not."""

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.soak.run import soak


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, tell how it goes, and what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Cistern under everything at once.")
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long (default: an hour)")
    parser.add_argument("--seed", type=int, default=None, help="replays the decisions of an earlier run")
    parser.add_argument("--max-size", type=int, metavar="MIB", help="a cache too small for the content, in MiB")
    chosen = parser.parse_args(arguments)
    seed = secrets.randbelow(1 << 31) if chosen.seed is None else chosen.seed
    started = time.monotonic()

    def say(words: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {words}", flush=True)

    say(f"seed {seed}, {chosen.seconds:g} s")
    max_size = None if chosen.max_size is None else chosen.max_size << 20
    return asyncio.run(_run(seed, chosen.seconds, say, max_size))


async def _run(seed: int, seconds: float, say: Callable[[str], None], max_size: int | None) -> int:
    with tempfile.TemporaryDirectory(prefix="csoak") as folder:
        async with soak(Path(folder), seed, say, max_size) as running:
            report = await running.run(seconds)
    print(report)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
