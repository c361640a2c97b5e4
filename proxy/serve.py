"""The server process: rooms opened, addresses bound, one ready line, served until a signal, drained, closed.

Order of stopping: readiness fails first, then no new connections, then running answers end (within `drain`), then the
rooms close. A second signal ends the process at once: what is on disk is made for that.
"""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Final

from proxy import __version__
from proxy.app import Rooms, World, open_rooms
from proxy.collector import settle
from proxy.config import Config
from proxy.edge import Edge, open_edge
from proxy.events import ConfigTaken
from proxy.health import Phase
from proxy.log import Format, last_words, logger, server_log
from proxy.reload import Reload, Source
from proxy.store.filesystem import Filesystem
from proxy.workers.apart import Apart

log = logger("serve")

LINGER_S: Final = 0.3  # for requests on their way over kept connections: measured, dependencies.md section 12
ENDED_AT_ONCE: Final = 1
# The client's socket, a copy of it for sendfile, the blob's file; a share of the upstream's, or the engine's channel.
FILES_PER_CONNECTION: Final = 4
FILES_BESIDE: Final = 1024


def run(source: Source, config: Config, *, log_format: Format) -> int:
    """Serve `config` until a signal; the exit code. Raises CisternError or OSError when it cannot start."""
    with server_log(log_format):
        return asyncio.run(serve(source, config, announce=print_line))


async def serve(
    source: Source,
    config: Config,
    *,
    announce: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
    apart: Apart | None = None,
    life: int | None = None,
) -> int:
    """The process's one coroutine: `announce` gets the ready line. `source` gave `config`, and is asked again. `apart`:
    clients are served by other processes; the end of the pipe `life` is then the end of this one.
    """
    signals = Signals(life)
    for caution in source.cautions(config):
        log.warning("caution", about=caution)
    allow_files(connections_of(config))
    async with open_rooms(config, _world(environ, apart)) as rooms, open_edge(rooms, apart) as edge:
        reload = Reload(
            source,
            rooms.current,
            rooms.upstreams,
            edge.certificate,
            rooms.events,
            rooms.disk.threads,
            asked=signals.reload,
        )
        rooms.events.listen(ConfigTaken, lambda taken: allow_files(connections_of(taken.config)))
        rooms.tasks.start(reload.run(), name="reload")
        rooms.tasks.start(reload.watch(), name="reload: watch")
        settle()
        edge.health.phase = Phase.SERVING
        signals.on_draining(lambda: begin_drain(rooms, edge))
        signals.serves = True
        announce(edge.ready_line)
        log.info("ready", version=__version__, pid=os.getpid(), registry=edge.clients.url, admin=edge.admin.url)
        await signals.stop.wait()
        begin_drain(rooms, edge)
        await drain(edge, rooms.config.registry.drain_s)
    log.info("stopped")
    return 0


def _world(environ: Mapping[str, str], apart: Apart | None) -> World:
    files = Filesystem()
    if apart is not None:
        files.pid = os.getppid()
    return World(environ=environ, files=files)


def orphaned() -> None:
    """The parent of several processes is gone: they end at once, as one would have, for the next server's sake."""
    log.warning("ended at once: the parent is gone")
    last_words()
    os._exit(ENDED_AT_ONCE)


def begin_drain(rooms: Rooms, edge: Edge) -> None:
    """Fail readiness first, once; hydration goes behind clients in the end as well: they do not wait for it."""
    if edge.health.phase is not Phase.DRAINING:
        log.info("draining", connections=edge.connections, within_s=rooms.config.registry.drain_s)
        edge.health.phase = Phase.DRAINING
        rooms.hydrate.park()


async def drain(edge: Edge, within_s: float) -> None:
    """Stop accepting and let running answers end, at most `within_s`. The data address goes last: who was sent there is
    on the way.
    """
    try:
        async with asyncio.timeout(within_s):
            for door, listener in zip(edge.doors, edge.listeners, strict=True):
                await listener.stop_accepting()
                await door.drained()
                await asyncio.sleep(LINGER_S)  # a request that was on its way has begun by then
                await door.drained()
            for listener in edge.listeners:  # not before both stopped: who takes nothing keeps no other address open
                await listener.flushed()
    except TimeoutError:
        log.warning("drain ran out: running answers are cut", connections=edge.connections)


class Signals:
    """SIGTERM and SIGINT set `stop`, and a second one ends the process, as the first does before anybody `serves`: a
    start may wait for a mount that hangs. SIGHUP sets `reload`.
    """

    def __init__(self, life: int | None) -> None:
        self.stop, self.reload = asyncio.Event(), asyncio.Event()
        self.serves = False
        loop, self._life = asyncio.get_running_loop(), life
        if life is not None:
            loop.add_reader(life, orphaned)
        # Ctrl-C reaches every process of a terminal: the parent of several says what follows.
        for number in (signal.SIGTERM, signal.SIGINT) if life is None else (signal.SIGTERM,):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def on_draining(self, told: Callable[[], object]) -> None:
        """Call `told` when the parent of several processes stops: the clients' processes end before this one."""
        if self._life is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told)

    def _stop(self, number: signal.Signals) -> None:
        if self.stop.is_set():
            log.warning("ended at once by a second signal", signal=number.name)
            last_words()
            os._exit(ENDED_AT_ONCE)
        if not self.serves:
            log.info("stopped before it was ready", signal=number.name)
            last_words()
            os._exit(0)  # nobody was served, and what is on the disk is whole at any instruction
        log.info("stopping", signal=number.name)
        self.stop.set()

    def _reload(self) -> None:
        log.info("reloading", signal=signal.SIGHUP.name)
        self.reload.set()


def connections_of(config: Config) -> int:
    """How many clients may be connected at all of the clients' addresses together: the limit counts for each."""
    return config.limits.max_connections * (1 if config.blobs.listen is None else 2)


def allow_files(connections: int, beside: int = FILES_BESIDE) -> None:
    """Raise the limit of open files as far as these connections need it and we may. `beside`: what is open beside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections * FILES_PER_CONNECTION + beside
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < connections + beside:
        log.warning("few open files are allowed", allowed=allowed, wanted=wanted, connections=connections)


def print_line(line: str) -> None:
    """The ready line on standard output; nobody reading it is no reason not to serve."""
    try:
        print(line, flush=True)  # noqa: T201 - the one line that the contract puts there
    except OSError as error:
        log.warning("the ready line found no reader", error=str(error))
        # What is left in its buffer would be an error again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
