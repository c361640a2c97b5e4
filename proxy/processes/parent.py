"""The parent of a server of several processes: holds the sockets, starts the engine and the serving processes, and
starts again whatever of them dies.

One thread and no event loop, so that it can fork at any time; it touches no content, and speaks to no client. Signals:
TERM and INT drain (serving processes first, then the engine), a second one ends all at once; HUP goes to the engine;
USR2 puts new serving processes in the place of all, one after another. Its own end, by whatever, ends the others.
"""

import os
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.collector import settle
from proxy.log import logger
from proxy.processes.children import LONGEST_PAUSE_S, SIGNALS, Child, Inherited, Pauses, fork

log = logger("parent")

ENGINE: Final = "engine"
ENDED_AT_ONCE: Final = 1
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


class Parent:
    """Keeps the posts filled until a signal. `announce` gets the engine's word once all are ready; `let_go` closes the
    sockets that no process will be started for any more.
    """

    def __init__(
        self,
        engine: Main,
        servers: list[Main],
        *,
        announce: Callable[[str], None],
        failed: Callable[[Exception], int],
        let_go: Callable[[], object],
    ) -> None:
        self._engine = Post(ENGINE, engine)
        self._servers = [Post(f"server {number}", main) for number, main in enumerate(servers, 1)]
        self._announce = announce
        self._failed = failed
        self._let_go = let_go
        self._life = os.pipe()
        self._selector = selectors.EpollSelector()
        self._woken = os.pipe()
        self._signals: list[signal.Signals] = []
        self._is_announced = False
        self._is_stopping = False
        self._code = 0
        self._rolling: list[Post] = []

    def run(self) -> int:
        """Serve until a signal, or until the engine cannot even start; the exit code."""
        self._catch()
        settle()  # what is here now is the same in every process: no collection writes to pages that they share
        for post in self._posts:
            self._fill(post)
        while not self._is_stopping or any(post.all for post in self._posts):
            self._wait()
            self._heed()
            self._reap()
            self._fill_what_is_due()
            self._roll_on()
        return self._code

    @property
    def _posts(self) -> list[Post]:
        return [self._engine, *self._servers]

    # Signals

    def _catch(self) -> None:
        for descriptor in self._woken:
            os.set_blocking(descriptor, False)
        self._selector.register(self._woken[0], selectors.EVENT_READ)
        signal.set_wakeup_fd(self._woken[1], warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._caught)

    def _caught(self, number: int, _frame: Any) -> None:
        self._signals.append(signal.Signals(number))

    def _heed(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop(number)
            elif number is signal.SIGHUP and self._engine.child is not None:
                self._engine.child.signal(number)
            elif number is signal.SIGUSR2 and not self._is_stopping:
                log.info("serving processes are replaced", signal=number.name)
                self._rolling = list(self._servers)

    def _stop(self, number: signal.Signals) -> None:
        if self._is_stopping:
            log.warning("ended at once by a second signal", signal=number.name)
            self._code = ENDED_AT_ONCE
            self._signal_all(signal.SIGKILL)
            return
        log.info("stopping", signal=number.name)
        self._is_stopping = True
        self._rolling.clear()
        self._let_go()
        if self._engine.child is not None:
            self._engine.child.signal(signal.SIGUSR1)  # not ready any more, before anybody is turned away
        for post in self._servers:
            self._leave(post, signal.SIGTERM)
        self._stop_engine_last()

    def _stop_engine_last(self) -> None:
        """Once no serving process is left, nobody needs the engine any more."""
        if self._is_stopping and not any(post.all for post in self._servers):
            self._leave(self._engine, signal.SIGTERM)

    def _signal_all(self, number: signal.Signals) -> None:
        for post in self._posts:
            for child in post.all:
                child.signal(number)

    # Processes

    def _fill(self, post: Post) -> None:
        post.next_at = None
        post.child = self._fork(post)

    def _fork(self, post: Post) -> Child:
        close = (*self._woken, self._selector.fileno())
        child = fork(post.name, post.main, self._life, close, self._failed, time.monotonic())
        self._selector.register(child.ready, selectors.EVENT_READ, child)
        log.info("process started", process=child.name, pid=child.pid)
        return child

    def _leave(self, post: Post, number: signal.Signals) -> None:
        """The processes at a post are told to leave, and waited for; none follows."""
        post.next_at = None
        for child in (post.child, post.successor):
            if child is not None:
                child.signal(number)
                post.leaving.append(child)
        post.child = post.successor = None

    def _fill_what_is_due(self) -> None:
        now = time.monotonic()
        for post in self._posts:
            if post.next_at is None or now < post.next_at:
                continue
            try:
                self._fill(post)
            except OSError as error:  # no memory, or too many processes: that may pass
                log.warning("a process cannot be started", process=post.name, error=str(error))
                post.next_at = now + LONGEST_PAUSE_S

    def _reap(self) -> None:
        """Take note of every process that has ended: ours, and as process 1 of a container any other."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for post in self._posts:
                for child in post.all:
                    if child.pid == pid:
                        self._ended(post, child, os.waitstatus_to_exitcode(status))

    def _ended(self, post: Post, child: Child, code: int) -> None:
        if child.ready >= 0:
            self._hear(child)
        if child in post.leaving:
            post.leaving.remove(child)
            self._stop_engine_last()
            return
        if child is post.successor:
            log.error("a process died before it could take over; the old one stays", process=child.name, code=code)
            post.successor = None
            self._rolling.clear()
            return
        post.child = None
        if self._is_stopping:
            return
        if code > 0 and not self._is_announced:  # it cannot start, and has said why
            self._code = code
            self._stop(signal.SIGTERM)
            return
        pause_s = post.pauses.after(time.monotonic() - child.at)
        log.error("a process died", process=child.name, pid=child.pid, code=code, again_in_s=pause_s)
        post.next_at = time.monotonic() + pause_s

    # Waiting

    def _wait(self) -> None:
        due = [post.next_at for post in self._posts if post.next_at is not None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        for key, _ in self._selector.select(timeout):
            if isinstance(key.data, Child):
                self._hear(key.data)
            else:
                self._empty(self._woken[0])

    @staticmethod
    def _empty(descriptor: int) -> None:
        try:
            while os.read(descriptor, 4096):
                pass
        except BlockingIOError:
            pass

    def _hear(self, child: Child) -> None:
        """A process says that it is ready, or its end of the pipe is closed."""
        self._selector.unregister(child.ready)
        child.read()
        if not self._is_announced and all(
            post.child is not None and post.child.said is not None for post in self._posts
        ):
            self._is_announced = True
            self._announce(self._engine.child.said if self._engine.child and self._engine.child.said else "")

    # One after another

    def _roll_on(self) -> None:
        """Make a successor ready beside each serving process, which then retires: both have the same socket, so that
        nothing that waits in it is lost.
        """
        while self._rolling:
            post = self._rolling[0]
            if post.child is None or post.child.said is None:  # died meanwhile: what comes there is new anyway
                self._rolling.pop(0)
            elif post.successor is None:
                try:
                    post.successor = self._fork(post)
                except OSError as error:
                    log.warning("no successor can be started; the old ones stay", process=post.name, error=str(error))
                    self._rolling.clear()
                return
            elif post.successor.said is None:
                return
            else:
                post.child.signal(signal.SIGUSR2)
                post.leaving.append(post.child)
                post.child, post.successor = post.successor, None
                self._rolling.pop(0)
                log.info("a serving process was replaced", process=post.name, pid=post.child.pid)
