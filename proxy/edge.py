"""Everything that clients, probes and operators talk to, built over the rooms and bound to its addresses."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.app import Rooms, data_of, registry_as, registry_of
from proxy.config import Address, Config
from proxy.errors import CisternError, Denied
from proxy.events import ConfigTaken, Evicted, IntegrityFailed, StoreReplaced
from proxy.explain import ASK_WITHIN_S, Explain
from proxy.health import Health, Hearing, Look, LoopLag, oldest_s
from proxy.images import Images
from proxy.journal import Journal
from proxy.log import logger, public_url
from proxy.metrics import Gauges, Metrics, Sample
from proxy.oci import Digest
from proxy.server.admin import Admin
from proxy.server.certificate import Certificate, context_of
from proxy.server.connection import Handler
from proxy.server.desk import Desk
from proxy.server.door import Door
from proxy.server.gate import Gate
from proxy.server.listen import Listener, listen
from proxy.workers.apart import DATA, REGISTRY, Apart
from proxy.workers.counter import Counter
from proxy.workers.counts import cells_of
from proxy.workers.handing import AskedRegistry, HandedCarrier
from proxy.workers.words import Counts, Settings

log = logger("edge")

CONTROL: Final = "control.sock"
TOKEN: Final = "CISTERN_ADMIN_TOKEN"  # noqa: S105 - the variable's name


class CannotListen(CisternError):
    """An address cannot be bound."""


@dataclass(slots=True)
class Edge:
    """The open addresses, and the rooms that only they need. `certificate` is None where no TLS is spoken; `data` are
    the data address's door and listener, where it is here.
    """

    health: Health
    registry: Door
    clients: Listener | Counter
    data: tuple[Door, Listener | Counter] | None
    admin: Listener
    control: Listener
    certificate: Certificate | None

    @property
    def doors(self) -> list[Door]:
        """What clients of content are answered by."""
        return [self.registry] if self.data is None else [self.registry, self.data[0]]

    @property
    def listeners(self) -> list[Listener | Counter]:
        """Where they are heard, in the same order."""
        return [self.clients] if self.data is None else [self.clients, self.data[1]]

    @property
    def connections(self) -> int:
        return sum(listener.connections for listener in set(self.listeners))

    @property
    def ready_line(self) -> str:
        """What `serve` prints: where everything is."""
        at = None if self.data is None else self.data[1]
        data = "" if at is None else f" data={at.data_url if isinstance(at, Counter) else at.url}"
        return f"cistern ready registry={self.clients.url} admin={self.admin.url} control={self.control.url}{data}"


@asynccontextmanager
async def open_edge(rooms: Rooms, apart: Apart | None = None) -> AsyncIterator[Edge]:
    """Bind every address over the rooms. `apart`: the clients' are other processes', which ask. Raises CannotListen."""
    config = rooms.config
    Journal(monotonic=rooms.world.monotonic).listen(rooms.events)
    health = await _open_health(rooms)
    counter = None if apart is None else Counter(apart, lambda: _settings(rooms, apart), rooms.tasks)
    desk = _desk(rooms, health, None if counter is None else counter.flush)
    admin = Admin(desk, token=rooms.world.environ.get(TOKEN) or None)
    control = Address(path=rooms.disk.directory.root / CONTROL)
    certificate = _certificate(config)
    async with AsyncExitStack() as stack:
        # The last one bound is the first one closed: clients go before those who watch.
        at_control = await _bound(stack, "the control socket", control, admin.over_control)
        at_admin = await _bound(stack, "admin.listen", config.admin.listen, admin.over_tcp)
        if counter is None:
            registry, clients, data = await _clients(stack, rooms, health, certificate)
        else:
            registry, clients, data = _asked(rooms, health, counter, desk.metrics)
            stack.push_async_callback(counter.close)
        edge = Edge(health, registry, clients, data, at_admin, at_control, certificate)
        _take(rooms, edge, config)
        rooms.events.listen(ConfigTaken, lambda event: _take(rooms, edge, event.config, event.blocked))
        if counter is not None:
            counter.open()
        yield edge


def _gate(rooms: Rooms, door: Door) -> Gate:
    return Gate(door, lambda: rooms.config.limits.max_connections, observe=rooms.events.publish)


Doors = tuple[Door, Listener | Counter, tuple[Door, Listener | Counter] | None]


async def _clients(stack: AsyncExitStack, rooms: Rooms, health: Health, certificate: Certificate | None) -> Doors:
    """The addresses of clients, bound. TLS at the data address too, but for a web server that asks by a Unix socket."""
    config, data = rooms.config, None
    address = config.blobs.listen
    if address is not None:
        door = data_of(rooms, health, rooms.events.publish)
        shown = certificate if address.path is None else None
        data = door, await _bound(stack, "blobs.listen", address, _gate(rooms, door), shown)
    registry = registry_of(rooms, health, rooms.events.publish)
    bound = await _bound(stack, "registry.listen", config.registry.listen, _gate(rooms, registry), certificate)
    return registry, bound, data


def _asked(rooms: Rooms, health: Health, counter: Counter, metrics: Metrics) -> Doors:
    """What serving processes ask instead; they are told of all that undoes an answer."""
    rooms.carrier = HandedCarrier(rooms.carrier.member, rooms.pull, rooms.disk.threads, rooms.downloads.finds)
    registry = registry_as(AskedRegistry, rooms, health, rooms.events.publish)
    data = None
    counter.doors[REGISTRY] = registry
    if rooms.config.blobs.listen is not None:
        door = counter.doors[DATA] = data_of(rooms, health, rooms.events.publish)
        data = door, counter

    def counted(counts: Counts) -> None:
        metrics.merge(cells_of(counts))
        for heard in counts.heard:
            if (event := registry.heard(heard.target, Digest.parse(heard.digest))) is not None:
                rooms.events.publish(event)

    def failed(event: IntegrityFailed) -> None:
        if event.where == "store":
            counter.forget([event.digest])

    counter.counted, counter.blocked = counted, lambda: rooms.current.blocked
    rooms.disk.records.watch(counter.changed)
    rooms.manifests.on_forgotten = rooms.grace.on_change = counter.changed
    rooms.events.listen(Evicted, lambda event: counter.forget(event.reach))
    rooms.events.listen(IntegrityFailed, failed)
    rooms.events.listen(StoreReplaced, lambda _event: counter.forget(()))
    return registry, counter, data


def _settings(rooms: Rooms, apart: Apart) -> Settings:
    """What a serving process has to know: its share of the connections among other things."""
    config = rooms.config
    files = config.registry.tls
    return Settings(
        max_connections=-(-config.limits.max_connections // apart.processes),
        certificate=None if files is None else str(files.certificate),
        key=None if files is None else str(files.key),
        drain_s=config.registry.drain_s,
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


def _desk(rooms: Rooms, health: Health, gather: Callable[[], Awaitable[None]] | None) -> Desk:
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
        gather=gather,
    )
    metrics = Metrics(lambda: rooms.rules, gauges, monotonic=rooms.world.monotonic)
    metrics.listen(rooms.events)
    return Desk(
        rooms.current,
        health,
        metrics,
        lag,
        index=ground.index,
        tags=rooms.tags,
        images=Images(ground, rooms.holdings, lambda: rooms.rules, rooms.capacity),
        evict=rooms.evict,
        explain=explain_of(rooms),
        verify=rooms.verify,
        scrub=rooms.scrub,
    )


def explain_of(rooms: Rooms, *, ask_within_s: float = ASK_WITHIN_S) -> Explain:
    """What explains pulls through these rooms."""
    return Explain(
        rooms.ground,
        rooms.holdings,
        rooms.current,
        rooms.upstreams.states,
        rooms.grace,
        not_kept=rooms.capacity.why_nothing,
        ask_within_s=ask_within_s,
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
    stack: AsyncExitStack, key: str, address: Address, handler: Handler, certificate: Certificate | None = None
) -> Listener:
    try:
        listener = await listen(address, handler, None if certificate is None else certificate.front)
    except OSError as cause:
        raise CannotListen(f"{key}: cannot listen on {address}: {cause.strerror or cause}") from cause
    if address.path is not None:
        stack.callback(_forget, address.path)
    stack.push_async_callback(listener.close)
    return listener


def _forget(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _certificate(config: Config) -> Certificate | None:
    files = config.registry.tls
    return None if files is None else Certificate(context_of(files.certificate, files.key))


def _take(rooms: Rooms, edge: Edge, config: Config, blocked: frozenset[Digest] = frozenset()) -> None:
    """What another configuration changes at the addresses. A digest that must not be served or fetched any more ends
    also where that is going on.
    """
    for listener in edge.listeners:
        listener.limit(config.limits.max_connections)
    for digest in blocked:
        rooms.downloads.forbid(digest, Denied(f"{digest} is on the block list of this cache"))
    if isinstance(edge.clients, Counter):
        edge.clients.cut(blocked)
    count = rooms.carrier.streams.cut(blocked)
    if count:
        log.warning("streams of blocked digests were cut", streams=count)
