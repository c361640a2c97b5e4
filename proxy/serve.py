"""The server process: rooms opened, addresses bound, one ready line, served until a signal, drained, closed.

Order of stopping: readiness fails first, then no new connections, then running answers end (within `drain`), then the
rooms close. A second signal ends the process at once: what is on disk is made for that.
"""

import asyncio
import os
import resource
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy import __version__
from proxy.app import Rooms, World, open_rooms, registry_of
from proxy.config import Address, Config, warnings
from proxy.errors import CisternError
from proxy.evict import Evict
from proxy.explain import Explain
from proxy.health import Health, Hearing, Look, LoopLag, Phase, oldest_s
from proxy.holdings import Holdings
from proxy.images import Images
from proxy.journal import Journal
from proxy.log import Format, last_words, logger, public_url, server_log
from proxy.metrics import Gauges, Metrics, Sample
from proxy.server.admin import Admin
from proxy.server.connection import Handler
from proxy.server.desk import Desk
from proxy.server.gate import Gate
from proxy.server.listen import CONNECTIONS_MAX, Listener, listen, tls_context
from proxy.server.registry import Registry

log = logger("serve")

CONTROL: Final = "control.sock"
TOKEN: Final = "CISTERN_ADMIN_TOKEN"  # noqa: S105 - the variable's name
LINGER_S: Final = 0.3  # for requests on their way over kept connections: measured, dependencies.md section 12
ENDED_AT_ONCE: Final = 1
FILES_PER_CONNECTION: Final = 3  # the client's socket, the blob's file, a share of the upstream's socket
FILES_BESIDE: Final = 1024


class CannotListen(CisternError):
    """An address cannot be bound."""


@dataclass(slots=True)
class Edge:
    """Everything clients, probes and operators talk to."""

    health: Health
    registry: Registry
    clients: Listener
    admin: Listener
    control: Listener


def run(config: Config, *, log_format: Format) -> int:
    """Serve until a signal; the exit code. Raises CisternError or OSError when it cannot start."""
    with server_log(log_format):
        return asyncio.run(serve(config, announce=_print_line))


async def serve(config: Config, *, announce: Callable[[str], None], environ: Mapping[str, str] = os.environ) -> int:
    """The process's one coroutine: `announce` gets the ready line."""
    stop = _signals()
    for caution in warnings(config, environ):
        log.warning("caution", about=caution)
    _allow_files(config.limits.max_connections)
    async with open_rooms(config, World(environ=environ)) as rooms, open_edge(rooms) as edge:
        edge.health.phase = Phase.SERVING
        announce(f"cistern ready registry={edge.clients.url} admin={edge.admin.url} control={edge.control.url}")
        log.info("ready", version=__version__, pid=os.getpid(), registry=edge.clients.url, admin=edge.admin.url)
        await stop.wait()
        await drain(edge, config.registry.drain_s)
    log.info("stopped")
    return 0


@asynccontextmanager
async def open_edge(rooms: Rooms) -> AsyncIterator[Edge]:
    """Bind every address over the rooms. Raises CannotListen."""
    config = rooms.config
    Journal(monotonic=rooms.world.monotonic).listen(rooms.events)
    health = await _open_health(rooms)
    admin = Admin(_desk(rooms, health), token=rooms.world.environ.get(TOKEN) or None)
    registry = registry_of(rooms, health, rooms.events.publish)
    gate = Gate(registry, lambda: rooms.config.limits.max_connections, observe=rooms.events.publish)
    control = Address(path=rooms.disk.directory.root / CONTROL)
    async with AsyncExitStack() as stack:
        # The last one bound is the first one closed: clients go before those who watch.
        yield Edge(
            health=health,
            registry=registry,
            control=await _bound(stack, "the control socket", control, admin.over_control),
            admin=await _bound(stack, "admin.listen", config.admin.listen, admin.over_tcp),
            clients=await _bound(
                stack,
                "registry.listen",
                config.registry.listen,
                gate,
                _tls(config),
                max_connections=config.limits.max_connections,
            ),
        )


async def _open_health(rooms: Rooms) -> Health:
    """The judge, after its first judgement."""
    config, world, current = rooms.config, rooms.world, rooms.current
    hearing = Hearing(config.upstreams, config.credentials, monotonic=world.monotonic)
    hearing.listen(rooms.events)
    look = Look(rooms.disk, lambda: current.config.credentials, world.environ, rooms.tasks, clock=world.clock)
    health = Health(lambda: rooms.rules, look, hearing, rooms.upstreams, rooms.tasks, monotonic=world.monotonic)
    await health.judge()
    rooms.tasks.start(health.run(), name="health: judge")
    return health


def _desk(rooms: Rooms, health: Health) -> Desk:
    """What the admin address asks: rooms that only it needs are built here."""
    ground = rooms.ground
    lag = LoopLag(monotonic=rooms.world.monotonic)
    rooms.tasks.start(lag.run(), name="loop lag")
    gauges = Gauges(
        downloads=lambda: len(rooms.downloads),
        readers=lambda: rooms.downloads.readers,
        breakers=lambda: _breakers(rooms),
        rule_levels=lambda: {name: state.level for name, state in health.rule_states().items()},
        loop_lag_s=lambda: lag.worst_s,
        sample=lambda: _sample(rooms),
    )
    metrics = Metrics(lambda: rooms.rules, gauges, monotonic=rooms.world.monotonic)
    metrics.listen(rooms.events)
    holdings = Holdings(ground)
    return Desk(
        rooms.current,
        health,
        metrics,
        lag,
        index=ground.index,
        tags=rooms.tags,
        images=Images(ground, holdings, lambda: rooms.rules, rooms.capacity),
        evict=Evict(ground, holdings, rooms.manifests, lambda: rooms.rules),
        explain=Explain(
            ground,
            holdings,
            rooms.current,
            rooms.upstreams.endpoints,
        ),
    )


def _breakers(rooms: Rooms) -> Iterator[tuple[str, str, bool]]:
    for upstream in rooms.config.upstreams:
        for endpoint in rooms.upstreams.endpoints(upstream):
            yield upstream, public_url(endpoint.origin), endpoint.breaker.is_open


async def _sample(rooms: Rooms) -> Sample:
    jobs = await rooms.ground.index.jobs("queued")
    ledger = rooms.capacity.ledger
    taken = ledger.taken if ledger.known else None
    return Sample(taken, rooms.capacity.cap, len(jobs), oldest_s(jobs, rooms.world.clock()))


async def _bound(
    stack: AsyncExitStack,
    key: str,
    address: Address,
    handler: Handler,
    tls: ssl.SSLContext | None = None,
    *,
    max_connections: int = CONNECTIONS_MAX,
) -> Listener:
    try:
        listener = await listen(address, handler, tls, max_connections=max_connections)
    except OSError as cause:
        raise CannotListen(f"{key}: cannot listen on {address}: {cause.strerror or cause}") from cause
    if address.path is not None:
        stack.callback(_forget, address.path)
    stack.push_async_callback(listener.close)
    return listener


def _forget(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _tls(config: Config) -> ssl.SSLContext | None:
    files = config.registry.tls
    if files is None:
        return None
    try:
        return tls_context(files.certificate, files.key)
    except OSError as cause:  # ssl.SSLError is one
        why = cause.strerror or type(cause).__name__
        raise CannotListen(f"registry.tls: {files.certificate} and {files.key} do not serve: {why}") from cause


async def drain(edge: Edge, within_s: float) -> None:
    """Stop accepting and let running answers end, at most `within_s`."""
    log.info("draining", connections=edge.clients.connections, within_s=within_s)
    edge.health.phase = Phase.DRAINING
    await edge.clients.stop_accepting()
    try:
        async with asyncio.timeout(within_s):
            await edge.registry.drained()
            await asyncio.sleep(LINGER_S)
            await edge.registry.drained()
    except TimeoutError:
        log.warning("drain ran out: running answers are cut", connections=edge.clients.connections)


def _signals() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second ends the process."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def heard(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("ended at once by a second signal", signal=number.name)
            last_words()
            os._exit(ENDED_AT_ONCE)
        log.info("stopping", signal=number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard, number)
    return stop


def _allow_files(connections: int) -> None:
    """Raise the limit of open files as far as these connections need it and we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections * FILES_PER_CONNECTION + FILES_BESIDE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < connections + FILES_BESIDE:
        log.warning("few open files are allowed", allowed=allowed, wanted=wanted, connections=connections)


def _print_line(line: str) -> None:
    """The ready line on standard output; nobody reading it is no reason not to serve."""
    try:
        print(line, flush=True)  # noqa: T201 - the one line that the contract puts there
    except OSError as error:
        log.warning("the ready line found no reader", error=str(error))
        # What is left in its buffer would be an error again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
