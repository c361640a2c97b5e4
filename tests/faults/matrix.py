"""The matrix: every trouble, times held, half-held and cold images, times real clients behind HAProxy and two Cisterns.

A cell is one real pull with its time, beside the same client's time while all was well. Every cell has a repository and
an image of its own, so that no cell prepares another. How trouble is made is told in
`troubles`; what must hold, in `Cell.faults`.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.faults.troubles import STATES, USER, Field, Trouble
from tests.support.cistern import CisternProcess
from tests.support.clients import Containerd, Mirror, Podman, contents, skopeo_copy, write_hosts
from tests.support.faults import FaultProxy
from tests.support.haproxy import HAProxy
from tests.support.images import Image, blob, layer, manifest
from tests.support.process import Outcome, run
from tests.support.proxy import UPSTREAM
from tests.support.raw import RawClient
from tests.support.realm import Bearer, Realm
from tests.support.registry import Registry

CLIENTS: Final = ("skopeo", "ctr", "podman")
WITHIN_S: Final = 2.0  # of its healthy time every held image pulls
PATIENCE_S: Final = 60.0
DISK_BYTES: Final = 64 << 20
PASSWORD: Final = "the-robots-password"
MEMBERS: Final = ("one", "two")


@dataclass(frozen=True, slots=True)
class Cell:
    """What one client got of one image."""

    trouble: str
    state: str
    client: str
    outcome: Outcome
    healthy_s: float
    must_pull: bool

    @property
    def word(self) -> str:
        return f"{'pulls' if self.outcome.succeeded else 'refused'} {self.outcome.seconds:.1f} s"

    @property
    def faults(self) -> list[str]:
        """What is not as it must be: an image that must pull and does not, or a held one that takes too long."""
        if not self.must_pull:
            return []
        if not self.outcome.succeeded:
            return [f"{self.trouble}, {self.state}, {self.client}: {self.outcome.output[-400:]}"]
        late_s = self.outcome.seconds - self.healthy_s
        if self.state == "held" and late_s > WITHIN_S:
            return [f"{self.trouble}, {self.state}, {self.client}: {late_s:.1f} s more than when all is well"]
        return []


def config(url: str, trouble: Trouble, home: Path) -> dict[str, Any]:
    """Cistern's configuration: every default, but that a tag is checked at each pull."""
    upstream: dict[str, Any] = {"endpoints": [{"url": url}], "plain_http": True, "proxy": "none"}
    found: dict[str, Any] = {
        "tags": {"fresh_for": "0s", **trouble.keys.get("tags", {})},
        "hydrate": {"image": "none"},
        "upstreams": {UPSTREAM: upstream},
    }
    if trouble.has_credentials:
        (home / "password").write_text(PASSWORD)
        upstream |= {"credentials": "own", "allow_insecure_credentials": True}
        found["credentials"] = {"own": {"username": USER, "password": {"file": str(home / "password")}}}
        found["rules"] = [
            {"name": UPSTREAM, "repository": f"{UPSTREAM}/*", "upstream": f"{UPSTREAM}/*", "public": True}
        ]
    return found


@asynccontextmanager
async def field_of(home: Path, trouble: Trouble, clients: Sequence[str]) -> AsyncIterator[Field]:
    """The field for one trouble, all of it well."""
    await asyncio.to_thread(home.mkdir, parents=True)
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(Registry())
        realm = await stack.enter_async_context(Realm())
        realm.users[USER] = PASSWORD
        registry.authority = Bearer(realm)
        road = await stack.enter_async_context(FaultProxy("127.0.0.1", registry.port))
        members = []
        for name in MEMBERS:
            member = CisternProcess(home / name, config(road.url, trouble, home))
            if trouble.is_on_small_disk:
                await stack.enter_async_context(small_disk(member.cache_dir))
            members.append(await stack.enter_async_context(member))
        named = {name: member.netloc for name, member in zip(MEMBERS, members, strict=True)}
        balancer = await stack.enter_async_context(HAProxy(home / "haproxy", named, UPSTREAM))
        node = None
        if "ctr" in clients:
            node = Containerd(home / "c")
            await node.start()
            stack.push_async_callback(node.stop)
        yield Field(registry, realm, road, members, balancer, node, home)


@asynccontextmanager
async def small_disk(folder: Path) -> AsyncIterator[None]:
    """A file system of its own, of 64 MiB, at `folder`; needs root."""
    await asyncio.to_thread(folder.mkdir, parents=True)
    (await run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder)).check()
    try:
        yield
    finally:
        (await run("umount", folder)).check()


async def prepare(area: Field, repository: str, state: str, seed: int) -> None:
    """An image under `repository`, of which both members hold all, half or nothing."""
    layers = [layer({f"opt/{seed}/{part}": blob(300_000, seed=seed * 2 + part).data}) for part in range(2)]
    image = area.images[repository] = area.registry.add(repository, "1", manifest(*layers))
    if state == "cold":
        return
    parts = contents(image) if state == "held" else contents(image)[:-1]
    for member in area.members:
        client = RawClient(member.netloc)
        for path in ("manifests/1", *(f"{_kind(image, part.digest)}/{part.digest}" for part in parts)):
            got = await client.ask("GET", f"/v2/{UPSTREAM}/{repository}/{path}", Accept=image.manifest.media_type)
            assert (got.status, got.whole) == (200, True), f"{repository}/{path}: {got.status} {got.body[:300]!r}"


def _kind(image: Image, digest: object) -> str:
    return "manifests" if digest == image.digest else "blobs"


async def pull(area: Field, client: str, repository: str) -> Outcome:
    """One real client that has pulled nothing yet, through HAProxy; what it says it has pulled is looked at."""
    image, netloc = area.images[repository], area.balancer.netloc
    home = area.home / f"client-{repository.replace('/', '-')}"
    if client == "ctr":
        assert area.node is not None
        hosts = write_hosts(area.home / "hosts", "_default", [Mirror(area.balancer.url)])
        outcome = await area.node.pull(f"{UPSTREAM}/{repository}:1", hosts_dir=hosts, timeout_s=PATIENCE_S)
        if outcome.succeeded:
            await area.node.holds(image)
        return outcome
    if client == "skopeo":
        outcome = await skopeo_copy(f"{netloc}/{UPSTREAM}/{repository}:1", home, timeout_s=PATIENCE_S)
        if outcome.succeeded:
            assert json.loads((home / "manifest.json").read_bytes()) == json.loads(image.manifest.data)
        return outcome
    podman = Podman(home)
    podman.mirrors({UPSTREAM: [f"{netloc}/{UPSTREAM}"]})
    try:
        outcome = await podman.pull(f"{UPSTREAM}/{repository}:1", timeout_s=PATIENCE_S)
        if outcome.succeeded:
            assert await podman.images() == {f"{UPSTREAM}/{repository}:1": str(image.digest)}
        return outcome
    finally:
        await podman.remove()


async def play(
    home: Path, trouble: Trouble, states: Sequence[str] = STATES, clients: Sequence[str] = CLIENTS
) -> tuple[list[Cell], list[str]]:
    """One line of the matrix: its cells, and what is wrong with them or with the balancer's view of its members."""
    async with field_of(home, trouble, clients) as area:
        names = [(state, client) for client in clients for state in (*states, "healthy")]
        for number, (state, client) in enumerate(names):
            await prepare(area, f"team/{state}-{client}", "held" if state == "healthy" else state, number)
        await area.balancer.until(**dict.fromkeys(MEMBERS, "UP"))
        healthy = {client: (await pull(area, client, f"team/healthy-{client}")).check() for client in clients}
        await trouble.spoil(area)
        await area.balancer.until(**dict.fromkeys(MEMBERS, "UP"))
        cells = []
        for client in clients:
            for state in states:
                outcome = await pull(area, client, f"team/{state}-{client}")
                must = state in trouble.pulls
                cells.append(Cell(trouble.name, state, client, outcome, healthy[client].seconds, must))
        wrong = [words for cell in cells for words in cell.faults]
        view = await area.balancer.states()
        wrong += [] if view == dict.fromkeys(MEMBERS, "UP") else [f"{trouble.name}: HAProxy sees {view}"]
        area.registry.heal()
        area.road.heal()
        for member in area.members:
            (member.cache_dir / "filler").unlink(missing_ok=True)
    await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
    return cells, wrong


def table(cells: Sequence[Cell]) -> str:
    """The matrix as Markdown: a line per trouble and state, a column per client."""
    clients = list(dict.fromkeys(cell.client for cell in cells))
    found = {(cell.trouble, cell.state, cell.client): cell for cell in cells}
    lines = [f"| trouble | image | {' | '.join(clients)} |", f"| --- | --- |{' --- |' * len(clients)}"]
    for trouble, state in dict.fromkeys((cell.trouble, cell.state) for cell in cells):
        words = [found[trouble, state, client].word for client in clients]
        lines.append(f"| {trouble} | {state} | {' | '.join(words)} |")
    healthy = {cell.client: cell.healthy_s for cell in cells}
    lines.append(f"| none | held | {' | '.join(f'pulls {healthy[client]:.1f} s' for client in clients)} |")
    return "\n".join(lines) + "\n"
