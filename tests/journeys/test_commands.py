"""The commands against a running server, word by word as a user types them."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import script
from tests.support.cistern import CisternProcess, assert_image_whole, cistern, image_kept, stored
from tests.support.images import Image, index, layer, manifest
from tests.support.leaks import Canaries
from tests.support.process import Outcome
from tests.support.pulling import Pulling
from tests.support.registry import Registry

UPSTREAM: Final = "hub.example"
NAME: Final = f"{UPSTREAM}/team/app"
BASE: Final = layer({"base": b"b" * 5000})


def config_for(registry: Registry) -> dict[str, Any]:
    upstream = {"endpoints": [{"url": registry.url}], "plain_http": True, "proxy": "none"}
    return {"upstreams": {UPSTREAM: upstream}, "hydrate": {"image": "none"}}


@pytest.fixture
async def served(short_tmp: Path, registry: Registry, canaries: Canaries) -> AsyncIterator[CisternProcess]:
    """A running server whose one upstream is the scripted registry, with an admin token."""
    env = {"CISTERN_ADMIN_TOKEN": canaries.secret("token")}
    async with CisternProcess(short_tmp / "cistern", config_for(registry), env=env) as process:
        yield process


async def pull(server: CisternProcess, image: Image, tag: str = "1") -> None:
    """Ask for every manifest and blob of an image, and wait until all of it is kept."""
    targets = [f"manifests/{tag}", *(f"manifests/{found.digest}" for found in image.all_manifests()[1:])]
    for target in [*targets, *(f"blobs/{blob.digest}" for blob in image.all_blobs())]:
        pulling = await Pulling.start(server.netloc, f"/v2/{NAME}/{target}")
        assert await pulling.head() == 200
        await pulling.rest()
    await image_kept(server.cache_dir, image)


def json_of(outcome: Outcome) -> Any:
    return json.loads(outcome.check().output)


async def test_what_is_here_is_shown(served: CisternProcess, registry: Registry) -> None:
    """images, usage, status and explain tell of a pulled image, as text and as JSON."""
    image = registry.add("team/app", "1", index())
    await pull(served, image)
    [view] = json_of(await served.command("images", "--json"))
    assert (view["reference"], view["digest"], view["complete"]) == (f"{NAME}:1", str(image.digest), True)
    assert (await served.command("images", NAME)).check().output.count("whole") == 1
    assert json_of(await served.command("images", f"{UPSTREAM}/other", "--json")) == []
    usage = json_of(await served.command("usage", "--json"))
    assert usage["bytes"] == view["own_bytes"] + view["shared_bytes"]
    assert UPSTREAM in (await served.command("usage")).check().output
    assert json_of(await served.command("status", "--json"))["status"] == "ok"
    assert "storage" in (await served.command("status")).check().output
    explained = json_of(await served.command("explain", f"{NAME}:1", "--json"))
    assert (explained["verdict"], explained["works"]) == ("here", True)
    assert registry.url in (await served.command("explain", f"{NAME}:1")).check().output


async def test_a_pull_that_would_fail_is_explained(served: CisternProcess, registry: Registry) -> None:
    """Why, and what to do, for a name that no rule has and for an upstream that is away."""
    unknown = await served.command("explain", "elsewhere.test/app")
    assert unknown.code == 1
    assert "what to do" in unknown.output
    assert "add the registry to `upstreams`" in unknown.output
    await registry.stop()
    away = await served.command("explain", NAME)
    assert away.code == 1
    assert "refused or failed" in away.output
    assert "firewall" in away.output


async def test_answers_that_break_off_or_come_late_are_explained(served: CisternProcess, registry: Registry) -> None:
    """A cold manifest whose body is cut fails, and says so; a held one is served though no answer comes in time."""
    await pull(served, registry.add("team/app", "1", manifest(BASE)))
    since = served.said
    served.configure({**config_for(registry), "tags": {"fresh_for": "0s", "check_within": "100ms"}})
    served.reload()
    await served.logged(lambda line: line["event"] == "config taken over", since=since)
    registry.add("team/app", "cut", manifest(BASE, layer({"cut": b"c"})))
    registry.script("cut", script.error(405), methods=("HEAD",))
    registry.script("cut", script.cut(10))
    registry.hold_headers("1")
    cut = await served.command("explain", f"{NAME}:cut")
    slow = await served.command("explain", f"{NAME}:1")
    assert (cut.code, slow.code) == (1, 0)
    assert cut.output.count("its answer was cut short") == 1
    assert "something on the way ends its answers early" in cut.output
    assert "served from here, marked stale" in slow.output
    assert slow.output.count("no answer within 0.1 s") == 1


async def test_refresh_takes_over_a_moved_tag(served: CisternProcess, registry: Registry) -> None:
    """Fresh or not, the upstream is asked now, and the next pull gets what it said."""
    first = registry.add("team/app", "1", manifest(BASE))
    await pull(served, first)
    unchanged = (await served.command("refresh", f"{NAME}:1")).check().output
    assert unchanged == f"{NAME}:1 is {first.digest}: unchanged\n"
    second = registry.add("team/app", "1", manifest(layer({"new": b"n"})))
    moved = (await served.command("refresh", f"{NAME}:1")).check().output
    assert moved == f"{NAME}:1 is {second.digest}: moved\n"
    pulling = await Pulling.start(served.netloc, f"/v2/{NAME}/manifests/1")
    assert await pulling.rest() == second.manifest.data


async def test_refresh_says_why_it_failed(served: CisternProcess, registry: Registry) -> None:
    """The upstream's trouble, in one line, exit code 1."""
    registry.add("team/app", "1", manifest(BASE))
    missing = await served.command("refresh", f"{NAME}:9")
    await registry.stop()
    away = await served.command("refresh", f"{NAME}:1")
    assert (missing.code, away.code) == (1, 1)
    assert "has no tag 9" in missing.output
    assert f"upstream {UPSTREAM}" in away.output
    assert [outcome.output.count("\n") for outcome in (missing, away)] == [1, 1]


async def test_evict_drops_what_is_not_shared(served: CisternProcess, registry: Registry) -> None:
    """One of two images goes; the other is whole, and is served with the upstream away."""
    one = registry.add("team/app", "1", manifest(BASE, layer({"one": b"1"})))
    two = registry.add("team/app", "2", manifest(BASE, layer({"two": b"2"})))
    await pull(served, one)
    await pull(served, two, "2")
    told = (await served.command("evict", f"{NAME}:1")).check().output
    assert told.startswith(f"evicted {NAME}:1: 1 manifests and 2 blobs, ")
    assert stored(served.cache_dir) == {two.digest, *(blob.digest for blob in two.blobs)}
    assert_image_whole(served.cache_dir, two)
    await registry.stop()
    await pull(served, two, "2")
    again = await served.command("evict", f"{NAME}:1")
    assert (again.code, again.output) == (1, f"cistern: {NAME}:1 is not here\n")


async def test_an_evicted_image_comes_again(served: CisternProcess, registry: Registry) -> None:
    """The next pull fetches it anew, and it is whole."""
    image = registry.add("team/app", "1", manifest(BASE))
    await pull(served, image)
    (await served.command("evict", f"{NAME}@{image.digest}")).check()
    assert stored(served.cache_dir) == set()
    await pull(served, image)
    [view] = json_of(await served.command("images", "--json"))
    assert view["complete"]


async def test_the_admin_address_changes_nothing_without_its_token(
    served: CisternProcess, registry: Registry, canaries: Canaries
) -> None:
    """Reading is free; evict and refresh want the token, and a wrong one is none."""
    image = registry.add("team/app", "1", manifest(BASE))
    await pull(served, image)
    url = {"CISTERN_ADMIN": served.admin_url}
    assert len(json_of(await cistern("images", "--json", env=url))) == 1
    for token in ({}, {"CISTERN_ADMIN_TOKEN": "guessed"}):
        for command in ("evict", "refresh"):
            refused = await cistern(command, f"{NAME}:1", env={**url, **token})
            assert refused.code == 1
            assert "use the control socket, or CISTERN_ADMIN_TOKEN" in refused.output
    assert_image_whole(served.cache_dir, image)
    allowed = await cistern("evict", f"{NAME}:1", env={**url, "CISTERN_ADMIN_TOKEN": canaries.secret("token")})
    assert "evicted" in allowed.check().output
    assert stored(served.cache_dir) == set()
    canaries.assert_absent(served.output(), allowed.output)


async def test_the_control_socket_is_the_owners_alone(served: CisternProcess) -> None:
    """Mode 0600 in the cache directory, found there by the config alone, gone after the stop."""
    assert served.control == served.cache_dir / "control.sock"
    assert mode_of(served.control) == 0o600
    found = await cistern(
        "status", "--config", served.config_path, env={"CISTERN_CACHE__DIRECTORY": str(served.cache_dir)}
    )
    assert "ok" in found.check().output
    control = served.control
    await served.terminate()
    stopped = await cistern("status", "--admin", f"unix:{control}")
    assert (stopped.code, stopped.output.count("\n")) == (1, 1)
    assert "start it with `cistern serve`" in stopped.output


def mode_of(path: Path) -> int:
    return os.stat(path).st_mode & 0o777


async def test_a_second_server_on_the_same_directory_is_refused(served: CisternProcess) -> None:
    """It names the pid of the first, and ends with 1; the first goes on."""
    second = await cistern(
        "serve", "--config", served.config_path, "--cache-dir", served.cache_dir, "--listen", "127.0.0.1:0",
        "--admin", "127.0.0.1:0",
    )  # fmt: skip
    assert second.code == 1
    assert f"in use by another server, pid {served.pid}" in second.output
    assert "Traceback" not in second.output
    (await served.command("status")).check()


async def test_an_address_in_use_is_told(served: CisternProcess, short_tmp: Path) -> None:
    """Which key, which address, and why: one line, no traceback."""
    taken = await cistern(
        "serve", "--config", served.config_path, "--cache-dir", short_tmp / "other", "--listen", served.netloc,
        "--admin", "127.0.0.1:0",
    )  # fmt: skip
    assert taken.code == 1
    assert f"registry.listen: cannot listen on {served.netloc}: Address already in use" in taken.output
    assert "Traceback" not in taken.output
