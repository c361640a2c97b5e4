"""What a pull would do, and why: told without doing it."""

from pathlib import Path

import pytest

from proxy import errors
from proxy.explain import Verdict
from tests.support import script
from tests.support.clock import Clock
from tests.support.explained import BASE, NAME, pulled, told
from tests.support.images import index, layer, manifest
from tests.support.kept import REPOSITORY, kept
from tests.support.proxy import UPSTREAM
from tests.support.registry import Registry
from tests.support.wire import refusal


async def test_a_first_pull_comes_from_the_upstream(registry: Registry, cache_dir: Path) -> None:
    """Rule, upstream, endpoint and credentials are named, and the upstream's own word."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        found = await rooms.explain.explain(f"{NAME}:1")
    assert (found.verdict, found.works, found.problem) == (Verdict.UPSTREAM, True, None)
    assert found.route is not None
    assert (found.route.rule, found.route.upstream, found.route.repository) == (UPSTREAM, UPSTREAM, REPOSITORY)
    assert [(end.url, end.circuit) for end in found.route.endpoints] == [(registry.url, "closed")]
    assert (found.route.credentials, found.route.pinned) == (None, False)
    assert (found.tag, found.held) == (None, None)
    assert found.asked is not None
    assert found.asked.digest == str(image.digest)
    assert "none: anonymous" in told(found)


async def test_explaining_changes_nothing(registry: Registry, cache_dir: Path) -> None:
    """One HEAD upstream, and no tag, link or blob by it."""
    registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        await rooms.explain.explain(f"{NAME}:1")
        assert [request.method for request in registry.requests] == ["HEAD"]
        assert await rooms.images.listing() == []
        assert (await rooms.images.usage()).blobs == 0


async def test_what_is_whole_and_fresh_comes_from_here(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """Tag, age, manifest and blobs are told."""
    image = manifest(BASE)
    async with pulled(registry, cache_dir, clock, image) as rooms:
        clock.advance(12)
        found = await rooms.explain.explain(f"{NAME}:1")
    assert found.verdict is Verdict.HERE
    assert found.tag is not None
    assert (found.tag.freshness, found.tag.checked_ago_s, found.tag.digest) == ("fresh", 12.0, str(image.digest))
    assert found.held is not None
    assert (found.held.blobs_present, found.held.blobs_total, found.held.is_whole) == (2, 2, True)
    assert "checked 12 s ago" in told(found)


async def test_a_tag_that_moved_upstream_is_told(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """What is here is fresh yet; the next check will take over another one."""
    async with pulled(registry, cache_dir, clock, manifest(BASE)) as rooms:
        moved = registry.add(REPOSITORY, "1", manifest(layer({"new": b"n"})))
        found = await rooms.explain.explain(f"{NAME}:1")
    assert found.verdict is Verdict.HERE
    assert f"{moved.digest}, another one than here" in told(found)


async def test_an_upstream_that_is_away_is_no_failure_for_what_is_here(
    registry: Registry, cache_dir: Path, clock: Clock
) -> None:
    """Fresh: from here. Past that: from here, marked stale, and what to look at is said."""
    async with pulled(registry, cache_dir, clock, manifest(BASE)) as rooms:
        await registry.stop()
        fresh = await rooms.explain.explain(f"{NAME}:1")
        clock.advance(3600)
        stale = await rooms.explain.explain(f"{NAME}:1")
    assert (fresh.verdict, fresh.problem) == (Verdict.HERE, None)
    assert (stale.verdict, stale.works) == (Verdict.STALE, True)
    assert stale.problem is not None
    assert "--egress" in stale.problem.advice


async def test_what_is_missing_cannot_be_fetched_from_an_upstream_that_is_away(
    registry: Registry, cache_dir: Path, clock: Clock
) -> None:
    """The missing blobs are named."""
    image = manifest(BASE)
    async with pulled(registry, cache_dir, clock, image) as rooms:
        rooms.proxy.rooms.disk.blobs.path_of(BASE.digest).unlink()
        await registry.stop()
        found = await rooms.explain.explain(f"{NAME}:1")
    assert (found.verdict, found.works) == (Verdict.PARTLY, False)
    assert found.held is not None
    assert found.held.missing == (str(BASE.digest),)
    assert str(BASE.digest) in told(found)


async def test_the_platforms_of_an_index_are_told(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """Which of them are here."""
    async with pulled(registry, cache_dir, clock, index()) as rooms:
        found = await rooms.explain.explain(f"{NAME}:1")
    assert found.held is not None
    assert found.held.platforms == ("linux/amd64", "linux/arm64")


async def test_part_of_an_index_is_explained_by_digest(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """A platform's manifest is here though no tag names it."""
    image = index()
    async with pulled(registry, cache_dir, clock, image) as rooms:
        found = await rooms.explain.explain(f"{NAME}@{image.children[0].digest}")
    assert found.verdict is Verdict.HERE
    assert found.tag is None
    assert "never resolved" not in told(found)


async def test_a_registry_that_no_rule_knows(registry: Registry, cache_dir: Path) -> None:
    """Nothing is dialled, and what to add is said."""
    async with kept(cache_dir, registry) as rooms:
        found = await rooms.explain.explain("elsewhere.test/app:1")
    assert (found.verdict, found.route, registry.requests) == (Verdict.FAILS, None, [])
    assert found.problem is not None
    assert "add the registry to `upstreams`" in found.problem.advice


async def test_a_rule_that_denies(registry: Registry, cache_dir: Path) -> None:
    """The rule is named, and nothing is dialled."""
    extra = f"rules: [{{name: no-team, upstream: {UPSTREAM}/team/*, deny: true}}]\n"
    async with kept(cache_dir, registry, extra=extra) as rooms:
        found = await rooms.explain.explain(f"{NAME}:1")
    assert (found.verdict, registry.requests) == (Verdict.FAILS, [])
    assert found.problem is not None
    assert "no-team" in found.problem.why
    assert "`deny`" in found.problem.advice


async def test_a_blocked_digest(registry: Registry, cache_dir: Path) -> None:
    """Also behind a tag: it would be refused, whatever is here."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry, extra=f"block: ['{image.digest}']\n") as rooms:
        by_tag = await rooms.explain.explain(f"{NAME}:1")
        by_digest = await rooms.explain.explain(f"{NAME}@{image.digest}")
    assert [found.verdict for found in (by_tag, by_digest)] == [Verdict.FAILS, Verdict.FAILS]
    assert by_tag.problem is not None
    assert "`block`" in by_tag.problem.advice


async def test_a_tag_that_the_upstream_lacks(registry: Registry, cache_dir: Path) -> None:
    """404 is told as such."""
    async with kept(cache_dir, registry) as rooms:
        found = await rooms.explain.explain(f"{NAME}:9")
    assert found.verdict is Verdict.FAILS
    assert found.problem is not None
    assert "has none such" in found.problem.advice


async def test_an_upstream_that_wants_credentials(registry: Registry, cache_dir: Path) -> None:
    """Anonymous and denied: the key to set is named."""
    registry.script("1", script.become(refusal(403, "DENIED")), methods=("HEAD", "GET"))
    async with kept(cache_dir, registry) as rooms:
        found = await rooms.explain.explain(f"{NAME}:1")
    assert found.verdict is Verdict.FAILS
    assert found.problem is not None
    assert f"upstreams.{UPSTREAM}.credentials" in found.problem.advice


@pytest.mark.parametrize("text", ["", "NOT A NAME", "x@sha256:1", "x:"])
async def test_what_is_no_reference_is_refused(registry: Registry, cache_dir: Path, text: str) -> None:
    """Wrong use, not an explanation."""
    async with kept(cache_dir, registry) as rooms:
        with pytest.raises(errors.ClientFault):
            await rooms.explain.explain(text)


async def test_json_says_the_same(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """Facts for scripts, and the lines for people among them."""
    async with pulled(registry, cache_dir, clock, manifest(BASE)) as rooms:
        found = await rooms.explain.explain(f"{NAME}:1")
    document = found.as_json()
    assert (document["verdict"], document["works"], document["problem"]) == ("here", True, None)
    assert document["route"]["rule"] == UPSTREAM
    assert document["text"] == found.as_text()
