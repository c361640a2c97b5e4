"""F27: SIGTERM while clients stream. They stand at a gate of the upstream, which opens once the signal is out."""

import asyncio
from collections import Counter
from typing import Protocol

from tests.faults import stage as parts
from tests.faults.playing import Seen, committed
from tests.faults.stage import MIB, Stage, Subject, Visit

LEAD_S = 0.5  # the signal is heard before the upstream goes on
ID, FAULT = "F27", "SIGTERM while clients stream"


class Ending(Subject, Protocol):
    async def terminate(self) -> int:
        """SIGTERM, and the exit code."""


async def play(stage: Stage, subject: Ending, clients: int, *, patience_s: float) -> Seen:
    """Every stream ends whole, the process then ends by itself with 0, and what streamed is kept."""
    gate = stage.registry.hold(stage.layer.digest, MIB)
    visit = Visit(stage, subject, clients, patience_s)

    async def end() -> int:
        await gate.reached()
        code = subject.terminate()
        asyncio.get_running_loop().call_later(LEAD_S, gate.open)
        return await code

    words, code = await asyncio.gather(visit.crowd(parts.layer), end())
    seen = Seen(
        Counter(words), stage.asked(stage.layer.digest), stage.copies(), max(visit.seconds), committed(stage, subject)
        , None, recovered=True,
    )  # fmt: skip
    seen.faults += [f"a client ended with: {word}" for word in seen.clients if word != "exact"]
    seen.faults += [] if code == 0 else [f"exit code {code}"]
    seen.faults += [] if seen.committed == "kept" else [f"committed: {seen.committed}"]
    return seen
