"""What every engine room stands on: the two ports, the clock, and where tasks and events go. Frozen; owns nothing."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from proxy.capacity import Admission, Unbounded
from proxy.events import Events
from proxy.store.base import BlobStore, Index, Records
from proxy.store.filesystem import Filesystem
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from proxy.upstream.base import Upstreams


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """`clock` tells Unix seconds, `monotonic` durations; time and chance are given: a test turns them by hand."""

    blobs: BlobStore
    records: Records
    index: Index
    parts: Path
    threads: Threads
    upstreams: Upstreams
    tasks: Tasks
    events: Events
    files: Filesystem = field(default_factory=Filesystem)
    capacity: Admission = field(default_factory=Unbounded)
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    rng: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
