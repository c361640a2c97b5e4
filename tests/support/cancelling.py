"""Cancels one task at a suspension chosen by number, so that a sweep meets every await of a piece of work once.

`with cancelled_at(n, names("transfer ")) as aim:` watches the tasks that are made meanwhile; the first whose name or
coroutine fits is cancelled at its n-th suspension. `aim.struck` tells whether it got that far: a sweep raises n
until it did not.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

Fits = Callable[[str, str], bool]


def names(prefix: str) -> Fits:
    """Tasks whose name begins so: those that a room starts."""
    return lambda name, _work: name.startswith(prefix)


def works(name: str) -> Fits:
    """Tasks that run this coroutine function, by its qualified name: those that aiohttp starts."""
    return lambda _name, work: work == name


REQUEST = works("RequestHandler._handle_request")  # a client's request, cancelled when the client leaves


class Aim:
    """One step of a sweep: whom it is for, and whether it `struck`."""

    def __init__(self, at: int, fits: Fits, skip: bool) -> None:
        self.struck = False
        self._skipped: asyncio.Task[Any] | None = None
        self._skip = skip
        self._left = at
        self._fits = fits
        self._victim: asyncio.Task[Any] | None = None

    def suspended(self, work: str) -> None:
        """The running task is about to wait."""
        task = asyncio.current_task()
        if task is None:
            return
        if self._victim is None and task is not self._skipped and self._fits(task.get_name(), work):
            if self._skip and self._skipped is None:
                self._skipped = task
                return
            self._victim = task
        if task is self._victim:
            self._left -= 1
            if not self._left:
                self.struck = True
                task.cancel()  # before it is seen what is waited for: exactly this wait ends


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine that tells of each of its suspensions."""

    def __init__(self, inner: Coroutine[Any, Any, Any], aim: Aim) -> None:
        self._inner = inner
        self._aim = aim
        self._work = getattr(inner, "__qualname__", "")

    def send(self, value: Any) -> Any:
        found = self._inner.send(value)
        self._aim.suspended(self._work)
        return found

    def throw(self, *error: Any) -> Any:
        found = self._inner.throw(*error)
        self._aim.suspended(self._work)
        return found

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        return self._inner.__await__()


@contextmanager
def cancelled_at(at: int, fits: Fits, *, skip: bool = False) -> Iterator[Aim]:
    """Watch the tasks made inside; the first that fits, or with `skip` the second, is cancelled at its `at`-th wait."""
    aim = Aim(at, fits, skip)
    loop = asyncio.get_running_loop()

    def make(here: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(_Watched(work, aim), loop=here, **options)

    before = loop.get_task_factory()
    loop.set_task_factory(make)
    try:
        yield aim
    finally:
        loop.set_task_factory(before)
