"""The answers that carry a blob now, by digest, so that those of one digest can be cut.

A connection must not be closed under a running `sendfile` (asyncio lets it write on into a descriptor that may be
another client's by then: seen with 3.11), so the handler's task is cancelled, and drops its connection itself.
Invariant: a task stands here exactly while it works for an answer with that blob.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from proxy.errors import Denied
from proxy.oci import Digest
from proxy.server.send import BodyDropped


class Carrying:
    """One answer on its way."""

    __slots__ = ("is_cut", "task")

    def __init__(self, task: "asyncio.Task[object] | None") -> None:
        self.task = task
        self.is_cut = False


class Streams:
    """Which handlers carry which blob."""

    def __init__(self) -> None:
        self._of: defaultdict[Digest, set[Carrying]] = defaultdict(set)

    @contextmanager
    def carrying(self, digest: Digest, has_begun: Callable[[], bool]) -> Iterator[None]:
        """While inside, this task may be cut for this digest: it ends with Denied, or once its headers are out
        (`has_begun`) with BodyDropped.
        """
        one = Carrying(asyncio.current_task())
        carriers = self._of[digest]
        carriers.add(one)
        try:
            yield
        except asyncio.CancelledError:
            if not one.is_cut or one.task is None or one.task.uncancel() > 0:  # or the client has left as well
                raise
            why = f"{digest} was put on the block list of this cache"
            raise (BodyDropped(why) if has_begun() else Denied(why)) from None
        finally:
            carriers.discard(one)
            if not carriers:
                self._of.pop(digest, None)

    def cut(self, digests: Iterable[Digest]) -> int:
        """End every answer that carries one of these digests, at once; how many."""
        found = [one for digest in digests for one in self._of.get(digest, ()) if not one.is_cut]
        for one in found:
            if one.task is not None:
                one.is_cut = True
                one.task.cancel()
        return len(found)
