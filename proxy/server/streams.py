"""The blobs that are leaving now, by digest, so that those of one digest can be cut.

Invariant: a connection stands here exactly while an answer with that blob may be using it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from proxy.oci import Digest


class Streams:
    """Which connection carries which blob."""

    def __init__(self) -> None:
        self._of: defaultdict[Digest, set[asyncio.BaseTransport]] = defaultdict(set)

    @contextmanager
    def carrying(self, digest: Digest, transport: asyncio.BaseTransport | None) -> Iterator[None]:
        """While inside, `transport` may be cut for this digest. None: the client has left already."""
        if transport is None:
            yield
            return
        carriers = self._of[digest]
        carriers.add(transport)
        try:
            yield
        finally:
            carriers.discard(transport)
            if not carriers:
                self._of.pop(digest, None)

    def cut(self, digests: Iterable[Digest]) -> int:
        """Drop every connection that carries one of these digests, at once; how many."""
        found = [transport for digest in digests for transport in self._of.get(digest, ())]
        for transport in found:
            if isinstance(transport, asyncio.Transport):
                transport.abort()
        return len(found)
