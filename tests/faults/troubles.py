"""The troubles of the matrix: how each is made in the field of two Cisterns, and which images must pull through it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support import script
from tests.support.cistern import CisternProcess
from tests.support.clients import Containerd
from tests.support.faults import FaultProxy
from tests.support.haproxy import HAProxy
from tests.support.images import Image
from tests.support.realm import Realm
from tests.support.registry import Registry
from tests.support.wire import Fault

STATES: Final = ("held", "half", "cold")
BOTH: Final = ("GET", "HEAD")
USER: Final = "robot"


@dataclass(slots=True)
class Field:
    """Two Cisterns behind HAProxy, and their one upstream."""

    registry: Registry
    realm: Realm
    road: FaultProxy
    members: list[CisternProcess]
    balancer: HAProxy
    node: Containerd | None
    home: Path
    images: dict[str, Image] = field(default_factory=dict)


Spoil = Callable[[Field], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Trouble:
    """One line of the matrix. `pulls` names the states whose images must pull; `keys` are configuration for it."""

    name: str
    spoil: Spoil
    pulls: frozenset[str] = frozenset({"held"})
    keys: Mapping[str, Any] = field(default_factory=dict)
    has_credentials: bool = False
    is_on_small_disk: bool = False


def answers(*faults: Fault) -> Spoil:
    async def spoil(area: Field) -> None:
        area.registry.script("*", *faults, methods=BOTH)

    return spoil


async def nothing(_area: Field) -> None:
    """All is well."""


async def down(area: Field) -> None:
    area.road.refusing = True
    area.road.reset()


async def silent(area: Field) -> None:
    """Sixty seconds to each first byte are for ever to whoever waits ten."""
    area.registry.hold_headers("*")


async def realm_refuses(area: Field) -> None:
    area.realm.expire_all()
    area.realm.script("*", script.error(401, "UNAUTHORIZED"), methods=("GET", "POST"))


async def credential_expires(area: Field) -> None:
    """The account's password is another one now, and its tokens are taken no more."""
    area.realm.users[USER] = "changed"
    area.realm.expire_all()


async def disk_fills(area: Field) -> None:
    """Not a block is left on the file system of either cache directory."""
    for member in area.members:
        await asyncio.to_thread(_fill, member.cache_dir / "filler")


async def index_goes(area: Field) -> None:
    """Both are killed, and start without their index."""
    for member in area.members:
        await member.kill()
        for path in sorted(member.cache_dir.glob("index.sqlite*")):
            path.unlink()
        await member.start()


async def index_goes_and_upstream_too(area: Field) -> None:
    await down(area)
    await index_goes(area)


ALL_STATES: Final = frozenset(STATES)
TROUBLES: Final = (
    Trouble("upstream down", down),
    Trouble("60 s to every first byte", silent),
    Trouble("401 at the realm", realm_refuses, has_credentials=True),
    Trouble(
        "401 at the realm for anybody (on_denied: serve_stale)",
        realm_refuses,
        keys={"tags": {"on_denied": "serve_stale"}},
    ),
    Trouble("401 at the realm for anybody (on_denied: deny, the default)", realm_refuses, pulls=frozenset()),
    Trouble(
        "403 (on_denied: serve_stale)",
        answers(script.error(403, "DENIED")),
        keys={"tags": {"on_denied": "serve_stale"}},
    ),
    Trouble("403 (on_denied: deny, the default)", answers(script.error(403, "DENIED")), pulls=frozenset()),
    Trouble("404", answers(script.error(404, "MANIFEST_UNKNOWN"))),
    Trouble("429", answers(script.throttle("60"))),
    Trouble("503", answers(script.error(503))),
    Trouble("expired credential", credential_expires, has_credentials=True),
    Trouble("disk full", disk_fills, pulls=ALL_STATES, is_on_small_disk=True),
    Trouble("index deleted", index_goes, pulls=ALL_STATES),
    Trouble("index deleted, upstream down", index_goes_and_upstream_too),
)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
