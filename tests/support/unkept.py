"""Downloads whose source, room, hash and disk each stand still where a test wants it."""

import asyncio
import errno
import io
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from proxy.capacity.base import Unbounded
from proxy.downloads.room import Downloads
from proxy.downloads.transfer import Reader
from proxy.errors import Failure, NotKept, UpstreamNotFound, UpstreamUnavailable
from proxy.events import NotStored
from proxy.ground import Ground
from proxy.ledger import Claim, Ledger
from proxy.rules import Source
from proxy.store.filesystem import Filesystem
from proxy.store.memory import MemoryStore
from proxy.store.threads import Args, Threads, Value
from proxy.upstream.base import BlobBody, Priority
from tests.support.downloading import ORIGIN
from tests.support.oneblob import Asked, OneBlob

CHUNK = 65536


class Gate:
    """Stands where told; open from the start unless closed."""

    def __init__(self) -> None:
        self.reached, self.free = asyncio.Event(), asyncio.Event()

    async def stand(self) -> None:
        self.reached.set()
        await self.free.wait()


@dataclass
class Scripted(OneBlob):
    """An upstream whose answers stop at gates, by number of the request and offset, and may then tell lies."""

    gates: dict[tuple[int, int], Gate] = field(default_factory=dict)
    lies_in: int = 0  # the number of the request whose bytes are wrong behind its gate
    tells_size: bool = True
    fails_in: int = 0  # the number of the request that finds nothing
    cuts: set[tuple[int, int]] = field(default_factory=set)  # requests, and the offsets at which they break off
    priorities: list[Priority] = field(default_factory=list)

    @asynccontextmanager
    async def answer(self, source: Source, asked: Asked) -> AsyncIterator[BlobBody]:
        self.asked.append(asked.start)
        self.priorities.append(asked.priority)
        if len(self.asked) == self.fails_in:
            raise UpstreamNotFound(source.upstream, "it does not have this")
        size = self.wanted.size if self.tells_size else None
        yield BlobBody(asked.start, size, self._body(len(self.asked), asked.start), "memory")

    async def _body(self, number: int, offset: int) -> AsyncIterator[bytes]:
        lies = False
        for start in range(offset, self.wanted.size, CHUNK):
            if (gate := self.gates.get((number, start))) is not None:
                await gate.stand()
                lies = number == self.lies_in
            if (number, start) in self.cuts:
                raise UpstreamUnavailable("up.example", "its answer was cut short", failure=Failure.CUT)
            chunk = self.wanted.data[start : start + CHUNK]
            yield bytes(len(chunk)) if lies else chunk


class Room(Unbounded):
    """Refuses the first claim; `wait` is answered at a gate, and then extended no further than `most`."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.granted = Gate()
        self.is_full = True
        self.most = 1 << 40
        self.filled: list[str] = []
        self.taking: Gate | None = None

    def claim(self, size: int, *, small: bool = False) -> Claim:
        if self.is_full:
            raise NotKept("no_room", "there is none now")
        return self.ledger.claim(size)

    def extend(self, claim: Claim, size: int) -> None:
        if size > self.most:
            raise NotKept("no_room", "there is no more")
        claim.promised = size

    async def wait(self, size: int) -> Claim:
        await self.granted.stand()
        return self.ledger.claim(size)

    async def took_part(self, name: str) -> None:
        if name not in self.filled:
            self.filled.append(name)
        if self.taking is not None:
            await self.taking.stand()

    def left_part(self, name: str) -> None:
        self.filled.remove(name)


class LateHash(Threads):
    """Gives the result of the hash job that a gate is set for only once that opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: Gate | None = None

    async def hash(self, work: Callable[[*Args], Value], *args: *Args) -> Value:
        done = await super().hash(work, *args)
        if (gate := self.gate) is not None:
            await gate.stand()
        return done


class Full(Filesystem):
    """A disk without room for parts, while `is_full`."""

    is_full = False

    def pwritev(self, descriptor: int, chunks: Sequence[bytes | memoryview], offset: int) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().pwritev(descriptor, chunks, offset)


@dataclass
class World:
    downloads: Downloads
    ground: Ground
    store: MemoryStore
    upstream: Scripted
    room: Room
    disk: Full
    threads: LateHash
    told: list[NotStored] = field(default_factory=list)

    def join(self) -> Reader:
        return self.downloads.join(self.upstream.wanted.digest, ORIGIN)

    async def read(self, reader: Reader, stop: int | None = None) -> bytes:
        """A reader's bytes from the start up to `stop`, as a handler sends them."""
        got, offset = io.BytesIO(), 0
        await reader.opened()
        while stop is None or offset < stop:
            end = await reader.ready(offset)
            if end <= offset:
                break
            end = end if stop is None else min(end, stop)
            data = reader.memory(offset, end) or os.pread(reader.file.fileno(), end - offset, offset)
            got.write(data)
            offset += len(data)
        return got.getvalue()

    async def read_whole(self) -> bytes:
        reader = self.join()
        try:
            return await self.read(reader)
        finally:
            reader.close()
