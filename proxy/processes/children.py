"""One process of a server as its parent sees it: forked, ready, retired, gone; and when the next one may follow it."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0  # as long clients wait at most for a process that dies again and again
STEADY_S: Final = 10.0  # who lived so long begins with no pause again
READY_MAX: Final = 4096  # bytes of the line by which a process says that it is ready
FAILED: Final = 1
SIGNALS: Final = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD}
)  # that the parent acts upon


@dataclass(slots=True)
class Child:
    """One process. `said` is what it told when it was ready, None before; `at` is when it was forked (monotonic).
    `until`: when it is killed unless it has done by then what it is waited for, None if nothing is.
    """

    name: str
    pid: int
    at: float
    ready: int
    said: str | None = None
    until: float | None = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; the process is ours to wait for, so its number is nobody else's."""
        os.kill(self.pid, number)

    def read(self) -> None:
        """Read what it says; nothing if it ended before."""
        told = os.read(self.ready, READY_MAX)
        os.close(self.ready)
        self.ready = -1
        if told:
            self.said = told.decode().strip()


@dataclass(slots=True)
class Pauses:
    """How long to wait before a process is started again: nothing at first, more while it does not stay."""

    next_s: float = 0.0

    def after(self, lived_s: float) -> float:
        """The pause after one that lived so long."""
        if lived_s >= STEADY_S:
            self.next_s = 0.0
        pause, self.next_s = self.next_s, min(max(self.next_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        return pause


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a process has of its parent beside its sockets: where it says that it is ready, and what ends when the
    parent does. Both are descriptors.
    """

    ready: int
    life: int

    def say(self, line: str) -> None:
        """Tell the parent once that this process serves."""
        os.write(self.ready, f"{line}\n".encode())
        os.close(self.ready)


Main = Callable[[Inherited], int]


@dataclass(slots=True)
class Post:
    """A place that one process after another fills. `next_at`: when the next one is due, None while one is there.
    `successor` is being made ready to take the place of `child`.
    """

    name: str
    main: Main
    child: Child | None = None
    successor: Child | None = None
    leaving: list[Child] = field(default_factory=list)
    next_at: float | None = None
    pauses: Pauses = field(default_factory=Pauses)

    @property
    def all(self) -> list[Child]:
        """Every process that is here."""
        return [child for child in (self.child, self.successor, *self.leaving) if child is not None]


def fork(
    name: str,
    main: Main,
    life: tuple[int, int],
    close: tuple[int, ...],
    failed: Callable[[Exception], int],
    now: float,
) -> Child:
    """Start a process that runs `main` and ends with its code. `life` is the pipe whose writing end the parent alone
    keeps; `close` are descriptors that are not the process's. `failed` tells an error, and gives the exit code.

    Called with one thread and no event loop: what is forked then is whole. OSError: there is no room for it.
    """
    readable, writable = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _live(main, Inherited(writable, life[0]), (readable, life[1], *close), failed)
    except OSError:
        os.close(readable)
        os.close(writable)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(writable)
    os.set_blocking(readable, False)
    return Child(name, pid, now, readable)


def _live(main: Main, inherited: Inherited, close: tuple[int, ...], failed: Callable[[Exception], int]) -> None:
    """The whole life of a forked process; never returns to what its parent was doing."""
    code = FAILED
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, it reaches all: the parent says what follows
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        for descriptor in close:
            os.close(descriptor)
        code = main(inherited)
    except Exception as error:
        code = failed(error)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
