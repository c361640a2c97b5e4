"""The parent of a server of several processes: holds the sockets, starts the engine and the serving processes, and
starts again whatever of them dies.

One thread and no event loop, so that it can fork at any time; it touches no content, and speaks to no client. Signals:
TERM and INT drain (serving processes first, then the engine), a second one ends all at once; HUP goes to the engine;
USR2 puts new serving processes in the place of all, one after another. Its own end, by whatever, ends the others.
Who was told to leave, is to succeed another one or has just been started is waited for so long, and then killed.
"""

import os
import selectors
import signal
import time
from collections.abc import Callable
from typing import Any, Final

from proxy.collector import settle
from proxy.log import logger
from proxy.processes.children import LONGEST_PAUSE_S, SIGNALS, Child, Main, Post, fork

log = logger("parent")

ENGINE: Final = "engine"
ENDED_AT_ONCE: Final = 1
READY_WITHIN_S: Final = 60.0  # a successor; as long as it takes, its predecessor serves
# Who has none. An engine with a million blobs takes a second (docs/benchmarks.md), one that copies its records back
# from a slow disk longer.
START_WITHIN_S: Final = 600.0


class Parent:
    """Keeps the posts filled until a signal. `announce` gets the engine's word once all are ready; `let_go` closes the
    sockets that no serving process will be started for any more. Who was told to leave is killed after `leave_s`, as it
    is then.
    """

    def __init__(
        self,
        engine: Main,
        servers: list[Main],
        *,
        announce: Callable[[str], None],
        failed: Callable[[Exception], int],
        let_go: Callable[[], object],
        leave_s: Callable[[], float],
        ready_s: float = READY_WITHIN_S,
        start_s: float = START_WITHIN_S,
    ) -> None:
        self._engine = Post(ENGINE, engine)
        self._servers = [Post(f"server {number}", main) for number, main in enumerate(servers, 1)]
        self._announce = announce
        self._failed = failed
        self._let_go = let_go
        self._leave_s = leave_s
        self._ready_s = ready_s
        self._start_s = start_s
        self._life = os.pipe()
        self._selector = selectors.EpollSelector()
        self._woken = os.pipe()
        self._signals: list[signal.Signals] = []
        self._is_announced = False
        self._is_stopping = False
        self._code = 0
        self._rolling: list[Post] = []

    def run(self) -> int:
        """Serve until a signal, or until a process cannot even start; the exit code."""
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
            self._kill_overdue()
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
                # One whose successor is on its way comes first: there is one successor at a time.
                self._rolling = sorted(self._servers, key=lambda post: post.successor is None)

    def _stop(self, number: signal.Signals) -> None:
        if self._is_stopping:
            log.warning("ended at once by a second signal", signal=number.name)
            self._code = ENDED_AT_ONCE
            for post in self._posts:
                self._leave(post, signal.SIGKILL)
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

    # Processes

    def _fill(self, post: Post) -> None:
        post.next_at = None
        post.child = self._fork(post)
        post.child.until = post.child.at + self._start_s

    def _fork(self, post: Post) -> Child:
        close = (*self._woken, self._selector.fileno())
        child = fork(post.name, post.main, self._life, close, self._failed, time.monotonic())
        self._selector.register(child.ready, selectors.EVENT_READ, child)
        log.info("process started", process=child.name, pid=child.pid)
        return child

    def _leave(self, post: Post, number: signal.Signals) -> None:
        """The processes at a post are told to leave, and waited for; none follows."""
        post.next_at = None
        post.leaving = post.all
        post.child = post.successor = None
        for child in post.leaving:
            self._dismiss(child, number)

    def _dismiss(self, child: Child, number: signal.Signals) -> None:
        child.signal(number)
        child.until = time.monotonic() + self._leave_s()

    def _kill_overdue(self) -> None:
        """Who hangs, stopped or by a disk, holds up no start, no stop and no rolling restart."""
        now = time.monotonic()
        for post in self._posts:
            for child in post.all:
                if child.until is None or now < child.until:
                    continue
                child.until = None
                child.signal(signal.SIGKILL)
                log.error("a process hangs, and is killed", process=child.name, pid=child.pid)
                if self._is_stopping or not self._is_announced:
                    self._code = ENDED_AT_ONCE
                if not self._is_announced and not self._is_stopping:
                    log.error("cannot start: a process was not ready in time", process=child.name, s=self._start_s)
                    self._stop(signal.SIGTERM)

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
        if self._is_stopping and not (self._is_announced and any(server.all for server in self._servers)):
            return
        if code > 0 and not self._is_announced:  # it cannot start, and has said why
            self._code = code
            self._stop(signal.SIGTERM)
            return
        if post.successor is not None:
            log.error("a process died; its successor is there", process=child.name, pid=child.pid, code=code)
            self._succeed(post, post.successor)
            return
        pause_s = post.pauses.after(time.monotonic() - child.at)
        log.error("a process died", process=child.name, pid=child.pid, code=code, again_in_s=pause_s)
        post.next_at = time.monotonic() + pause_s

    # Waiting

    def _wait(self) -> None:
        due = [post.next_at for post in self._posts if post.next_at is not None]
        due += [child.until for post in self._posts for child in post.all if child.until is not None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        for key, _ in self._selector.select(timeout):
            if isinstance(key.data, Child):
                self._hear(key.data)
                if self._is_stopping and key.data is self._engine.child and key.data.said is not None:
                    key.data.signal(signal.SIGUSR1)  # it drains, as the one that it follows did
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
        if child.said is None:
            return
        if not any(child in post.leaving for post in self._posts):
            child.until = None
        if child is self._engine.child:  # the others waited for it
            for post in self._servers:
                if post.child is not None and post.child.said is None:
                    post.child.until = time.monotonic() + self._start_s
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
                    post.successor.until = post.successor.at + self._ready_s
                except OSError as error:
                    log.warning("no successor can be started; the old ones stay", process=post.name, error=str(error))
                    self._rolling.clear()
                return
            elif post.successor.said is None:
                return
            else:
                self._dismiss(post.child, signal.SIGUSR2)
                post.leaving.append(post.child)
                log.info("a serving process was replaced", process=post.name, pid=post.successor.pid)
                self._succeed(post, post.successor)

    def _succeed(self, post: Post, successor: Child) -> None:
        """A successor takes its place, and the next post has its turn."""
        post.child, post.successor = successor, None
        if post in self._rolling:
            self._rolling.remove(post)
