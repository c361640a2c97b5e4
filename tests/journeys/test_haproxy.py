"""Two Cisterns behind a real HAProxy that asks the registry port's own probe: what a member's end costs the clients.

Real parts throughout: docker-registry as upstream, skopeo and containerd as clients, HAProxy by config/haproxy.cfg. The
road from the upstream is slowed, so that a member goes in the middle of pulls.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cistern import CisternProcess, assert_store_true
from tests.support.clients import Containerd, Mirror, skopeo, skopeo_holds, write_hosts
from tests.support.faults import FaultProxy
from tests.support.haproxy import HAProxy
from tests.support.origin import View
from tests.support.process import Outcome
from tests.support.pulling import Pulling
from tests.support.real import RealImages

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]
UPSTREAM = "real.example"
MEMBERS = ("one", "two")
MB = 1_000_000
COLD = 24  # names nobody has: enough that each member is asked for some


@dataclass(slots=True)
class Pair:
    """Two members with caches of their own behind one address; `road` leads both to the upstream."""

    members: dict[str, CisternProcess]
    balancer: HAProxy
    road: FaultProxy
    node: Containerd
    home: Path

    async def ctr(self, name: str = "docker") -> Outcome:
        """containerd pulls an image through the balancer, as a node that has pulled nothing yet."""
        await self.node.fresh()
        hosts = write_hosts(self.home / "hosts", "_default", [Mirror(self.balancer.url)])
        return await self.node.pull(f"{UPSTREAM}/real/{name}:1", hosts_dir=hosts, timeout_s=100.0)

    async def skopeo(self, target: str, *options: str, name: str = "layered") -> Outcome:
        """skopeo copies an image through the balancer."""
        source = f"docker://{self.balancer.netloc}/{UPSTREAM}/real/{name}:1"
        return await skopeo(
            "copy", *options, "--src-tls-verify=false", source, f"dir:{self.home / target}", timeout_s=100.0
        )  # fmt: skip

    async def in_the_middle(self) -> str:
        """Wait until pulls are well under way; the member that answers most of them."""
        await self.road.carried(self.road.down, self.road.down.carried_bytes + 12 * MB)
        return await self.balancer.busiest()

    def other(self, name: str) -> CisternProcess:
        return self.members[MEMBERS[1 - MEMBERS.index(name)]]

    async def probed(self, name: str, times: int) -> None:
        """Wait until the balancer has asked a member so often more."""
        seen = 0

        def is_probe(line: dict[str, Any]) -> bool:
            nonlocal seen
            seen += line["event"] == "request" and line["kind"] == "other" and "reference" not in line
            return seen >= times

        await self.members[name].logged(is_probe)


@pytest.fixture
async def pair(short_tmp: Path, origin: View, containerd: Containerd) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        host, _, port = origin.address.rpartition(":")
        road = await stack.enter_async_context(FaultProxy(host, int(port)))
        upstream = {"endpoints": [{"url": road.url}], "plain_http": True, "proxy": "none"}
        members = {}
        for name in MEMBERS:
            member = CisternProcess(short_tmp / name, {"upstreams": {UPSTREAM: upstream}, "registry": {"name": name}})
            members[name] = await stack.enter_async_context(member)
        named = {name: member.netloc for name, member in members.items()}
        balancer = await stack.enter_async_context(HAProxy(short_tmp / "haproxy", named, UPSTREAM))
        await balancer.until(one="UP", two="UP")
        yield Pair(members, balancer, road, containerd, short_tmp)


async def test_a_killed_member_fails_no_pull_that_need_not_fail(pair: Pair, real: RealImages) -> None:
    """SIGKILL in the middle: containerd goes on by Range at the other member and has every byte; a pull that begins
    before the balancer has noticed is sent on to the other one. (Debian's skopeo gives up when a body is cut, and
    neither resumes nor tries again: whoever uses it in a script repeats it, and that works at once.)
    """
    pair.road.down.bytes_per_s = 30 * MB
    streaming = asyncio.create_task(pair.ctr("layered"))
    name = await pair.in_the_middle()
    await pair.members[name].kill()
    (await pair.skopeo("copied", "--retry-times", "0")).check()
    (await streaming).check()
    await pair.node.holds(real.layered)
    skopeo_holds(pair.home / "copied", real.layered)
    await pair.balancer.until(**{name: "DOWN"})
    (await pair.skopeo("docker", "--retry-times", "0", name="docker")).check()
    await pair.members[name].start()
    await pair.balancer.until(one="UP", two="UP")
    for member in pair.members.values():
        assert_store_true(member.cache_dir)


async def test_a_drained_member_costs_nobody_anything(pair: Pair, real: RealImages) -> None:
    """SIGTERM in the middle: what streams from it ends whole, everything new goes to the other one, and no client has
    to try twice.
    """
    pair.road.down.bytes_per_s = 30 * MB
    pulls = [asyncio.create_task(pull) for pull in (pair.ctr(), pair.skopeo("copied", "--retry-times", "0"))]
    name = await pair.in_the_middle()
    assert await pair.members[name].terminate() == 0
    assert await pair.balancer.states() != {"one": "UP", "two": "UP"}
    for outcome in await asyncio.gather(*pulls):
        outcome.check()
    await pair.node.holds(real.docker)
    skopeo_holds(pair.home / "copied", real.layered)
    drained = [line for line in pair.members[name].log_lines() if line["event"] == "request"]
    assert [line for line in drained if line["outcome"] in ("error", "left") and line["kind"] != "other"] == []
    (await pair.skopeo("again", "--retry-times", "0")).check()


async def test_an_upstream_that_is_down_costs_no_member_and_no_held_pull(
    pair: Pair, real: RealImages, origin: View
) -> None:
    """Both stay in, every held image pulls, and what is not held is refused at once."""
    for outcome in (await pair.ctr(), await pair.skopeo("first")):
        outcome.check()
    origin.stop()
    for _ in range(3):  # past every count of every check
        for name in MEMBERS:
            await pair.probed(name, 3)
    (await pair.skopeo("second", "--retry-times", "0")).check()
    skopeo_holds(pair.home / "second", real.layered)
    (await pair.ctr()).check()
    await pair.node.holds(real.docker)
    for number in range(COLD):
        cold = await Pulling.start(pair.balancer.netloc, f"/v2/{UPSTREAM}/real/none-{number}/manifests/1")
        assert (await cold.head(), int(cold.headers["Retry-After"]) > 0) == (503, True)
        await cold.rest()
    assert await pair.balancer.states() == {"one": "UP", "two": "UP"}
    for member in pair.members.values():
        told = await Pulling.start(member.admin_url.removeprefix("http://"), f"/health/rules/{UPSTREAM}")
        assert (await told.head(), json.loads(await told.rest())["status"]) == (200, "degraded")
