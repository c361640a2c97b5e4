"""A part's content, and ways to write it, fill it and leave it."""

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Sequence

import pytest

from proxy.downloads.part import Part
from proxy.oci import Digest
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from tests.support.waiting import turns

DATA = hashlib.sha512(b"layer").digest() * 5000
DIGEST = Digest.of(DATA)


async def append(part: Part, chunks: Sequence[bytes]) -> None:
    """Write `chunks` at the frontier, as one answer without gaps does."""
    for chunk in chunks:
        part.window.hold(chunk)
    await part.write(part.frontier, chunks)


async def leave(threads: Threads, work: Awaitable[object], tasks: Tasks) -> threading.Event:
    """Ask for `work` while the one disk thread is held, and leave before it begins; set what is returned to let it."""
    gate = threading.Event()
    held = tasks.start(threads.disk(gate.wait), name="held")

    async def asking() -> None:
        await work

    caller = tasks.start(asking(), name="caller")
    await turns(2)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not held.done()
    return gate


async def put(part: Part, start: int, stop: int) -> None:
    """Write a run of the data wherever it belongs."""
    part.window.hold(DATA[start:stop])
    await part.write(start, [DATA[start:stop]])
