"""What a pull would do, and why: told without doing it."""

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from proxy import errors
from proxy.errors import CisternError, Failure
from proxy.explain import Explanation, Verdict
from proxy.explain.diagnosis import diagnose
from proxy.explain.facts import HeldFacts, judge_pull
from proxy.explain.words import ago
from proxy.failures import may_serve_stale
from proxy.freshness import Freshness, TagPolicy
from proxy.freshness import Verdict as Policy
from proxy.oci import Digest
from proxy.rules import Route, Source
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Image, index, layer, manifest
from tests.support.kept import REPOSITORY, Kept, kept
from tests.support.leaks import Canaries
from tests.support.proxy import UPSTREAM, config_text, running
from tests.support.registry import Registry
from tests.support.wire import refusal

NAME = f"{UPSTREAM}/{REPOSITORY}"
BASE = layer({"base": b"b" * 5000})


@asynccontextmanager
async def pulled(
    registry: Registry, cache: Path, clock: Clock, image: Image, extra: str = "hydrate: {image: none}\n"
) -> AsyncIterator[Kept]:
    """The rooms after `image` was pulled whole as tag 1."""
    registry.add(REPOSITORY, "1", image)
    async with kept(cache, registry, clock, extra) as rooms:
        await rooms.pull(image)
        yield rooms


def told(explanation: Explanation) -> str:
    return "\n".join(explanation.as_text())


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


async def test_credentials_that_cannot_be_read(
    registry: Registry, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable that is missing is named, and so is the set."""
    monkeypatch.delenv("CORP_PASSWORD", raising=False)
    extra = "credentials: {corp: {username: me, password: {env: CORP_PASSWORD}}}\n"
    text = config_text(cache_dir, registry, extra, credentials="corp", allow_insecure_credentials=True)
    async with running(text) as proxy:
        found = await Kept.over(proxy).explain.explain(f"{NAME}:1")
    assert found.route is not None
    assert found.route.credentials == "corp"
    assert "CORP_PASSWORD" in str(found.route.credentials_trouble)
    assert "corp, but environment variable CORP_PASSWORD" in told(found)


async def test_no_secret_is_told(
    registry: Registry, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, canaries: Canaries
) -> None:
    """Credentials are named, never shown, in text and in JSON."""
    monkeypatch.setenv("CORP_PASSWORD", canaries.secret("password"))
    registry.add(REPOSITORY, "1", manifest(BASE))
    extra = "credentials: {corp: {username: me, password: {env: CORP_PASSWORD}}}\n"
    text = config_text(cache_dir, registry, extra, credentials="corp", allow_insecure_credentials=True)
    async with running(text) as proxy:
        found = await Kept.over(proxy).explain.explain(f"{NAME}:1")
    assert "corp" in told(found)
    canaries.assert_absent(told(found), repr(found.as_json()))


async def test_an_upstream_that_says_nothing_is_not_waited_for(registry: Registry, cache_dir: Path) -> None:
    """The answer comes within the bound, and says so."""
    registry.add(REPOSITORY, "1", manifest(BASE))
    gate = registry.hold_headers("1")
    async with kept(cache_dir, registry, ask_within_s=0.05) as rooms:
        found = await rooms.explain.explain(f"{NAME}:1")
        gate.open()
    assert found.verdict is Verdict.FAILS
    assert found.asked is not None
    assert "no answer within 0.05 s" in str(found.asked.error)


async def test_an_open_circuit_is_told(registry: Registry, cache_dir: Path) -> None:
    """The endpoint that is left alone is named with its state, and when to try again."""
    await registry.stop()
    async with kept(cache_dir, registry, breaker={"failures": 1}) as rooms:
        await rooms.explain.explain(f"{NAME}:1")
        found = await rooms.explain.explain(f"{NAME}:1")
    assert found.route is not None
    assert found.route.endpoints[0].circuit == "open"
    assert "its circuit is open" in told(found)
    assert found.problem is not None
    assert (found.problem.failure, "tried again by itself in" in found.problem.advice) == ("left_alone", True)


async def test_since_when_and_until_when_is_told(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """How long an endpoint is left alone and what it did last; how long it asks these credentials for nothing."""
    registry.script("1", script.throttle("90"), methods=("HEAD", "GET"))
    async with kept(cache_dir, registry) as rooms:
        await rooms.explain.explain(f"{NAME}:1")
        throttled = await rooms.explain.explain(f"{NAME}:1")
    assert throttled.route is not None
    assert 60 < (throttled.route.endpoints[0].throttled_for_s or 0) < 120
    assert "asks for no requests for 1 minute more" in told(throttled)
    await registry.stop()
    async with kept(cache_dir, registry, breaker={"failures": 1}) as rooms:
        await rooms.explain.explain(f"{NAME}:1")
        away = await rooms.explain.explain(f"{NAME}:1")
    assert away.route is not None
    [endpoint] = away.route.endpoints
    assert (endpoint.circuit, endpoint.last_error) == ("open", "connect")
    assert endpoint.open_for_s is not None
    assert "left alone for 0 s; tried again in" in told(away)
    assert "0 s ago: upstream" in told(away)


async def test_a_disk_that_takes_nothing_is_told(registry: Registry, cache_dir: Path) -> None:
    """The pull works and is not kept: why, as the disk said it."""
    registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        rooms.proxy.rooms.capacity.refused(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        found = await rooms.explain.explain(f"{NAME}:1")
    assert (found.verdict, found.works) == (Verdict.UPSTREAM, True)
    assert found.not_kept == "the disk refuses: No space left on device"
    assert "only passed on: the disk refuses: No space" in told(found)


async def test_a_rules_one_endpoint_is_the_only_one_told(registry: Registry, cache_dir: Path) -> None:
    """`endpoint:` pins: others of the upstream are not asked, and not shown."""
    endpoints = [{"url": "http://127.0.0.1:9"}, {"url": registry.url}]
    extra = f"rules: [{{name: pinned, upstream: {UPSTREAM}/team/*, endpoint: '{registry.url}'}}]\n"
    async with kept(cache_dir, registry, extra=extra, endpoints=endpoints, plain_http=True) as rooms:
        found = await rooms.explain.explain(f"{NAME}:1")
    assert found.route is not None
    assert [endpoint.url for endpoint in found.route.endpoints] == [registry.url]
    assert "the only one this rule takes" in told(found)


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


# The decision, against the rooms that make it


HELD = HeldFacts(
    digest=str(Digest.of(b"x")),
    media_type=None,
    manifest_here=True,
    blobs_present=1,
    blobs_total=1,
    missing=(),
    platforms=(),
    is_whole=True,
)
AWAY = errors.UpstreamUnavailable("u", "away")
NOT_FOUND = errors.UpstreamNotFound("u", "none")
DENIED = errors.UpstreamDenied("u", "no", credentials=None)
STRICT = TagPolicy(on_not_found=Policy.DENY, on_denied=Policy.DENY)
KIND = TagPolicy(on_not_found=Policy.SERVE_STALE, on_denied=Policy.SERVE_STALE)


@pytest.mark.parametrize(
    ("policy", "freshness", "held", "error", "verdict"),
    [
        (KIND, None, None, None, Verdict.UPSTREAM),
        (KIND, None, None, AWAY, Verdict.FAILS),
        (KIND, Freshness.FRESH, HELD, None, Verdict.HERE),
        (KIND, Freshness.FRESH, HELD, AWAY, Verdict.HERE),
        (STRICT, Freshness.FRESH, HELD, NOT_FOUND, Verdict.HERE),
        (KIND, Freshness.FRESH, None, AWAY, Verdict.FAILS),
        (KIND, Freshness.CHECK_BEHIND, HELD, DENIED, Verdict.HERE),
        (KIND, Freshness.EXPIRED, HELD, None, Verdict.HERE),
        (KIND, Freshness.EXPIRED, HELD, AWAY, Verdict.STALE),
        (STRICT, Freshness.EXPIRED, HELD, AWAY, Verdict.STALE),
        (KIND, Freshness.EXPIRED, HELD, NOT_FOUND, Verdict.STALE),
        (STRICT, Freshness.EXPIRED, HELD, NOT_FOUND, Verdict.FAILS),
        (KIND, Freshness.EXPIRED, HELD, DENIED, Verdict.STALE),
        (STRICT, Freshness.EXPIRED, HELD, DENIED, Verdict.FAILS),
        (KIND, Freshness.TOO_OLD, HELD, AWAY, Verdict.FAILS),
    ],
)
def test_the_policy_decides(
    policy: TagPolicy, freshness: Freshness | None, held: HeldFacts | None, error: CisternError | None, verdict: Verdict
) -> None:
    """By tag: fresh from here, past that the upstream's word, and the rule's policy where it fails."""
    may_be_stale = error is None or may_serve_stale(error, policy, in_grace=False)
    assert judge_pull(freshness, held, error, by_tag=True, may_be_stale=may_be_stale) is verdict


def test_a_refused_credential_past_its_grace_opens_nothing() -> None:
    """Not even a digest that is here: `credential_grace` is over."""
    refused = errors.CredentialRefused("u", "no", credentials="set")
    assert judge_pull(None, HELD, refused, by_tag=False) is Verdict.HERE
    assert judge_pull(None, HELD, refused, by_tag=False, is_refused=True) is Verdict.FAILS


@pytest.mark.parametrize("mode", ["away", "not found", "denied"])
@pytest.mark.parametrize("policy", ["serve_stale", "deny"])
async def test_what_is_foretold_is_what_happens(
    registry: Registry, cache_dir: Path, clock: Clock, mode: str, policy: str
) -> None:
    """A real pull of an expired tag ends as its explanation says."""
    extra = f"hydrate: {{image: none}}\ntags: {{on_not_found: {policy}, on_denied: {policy}}}\n"
    async with pulled(registry, cache_dir, clock, manifest(BASE), extra=extra) as rooms:
        clock.advance(3600)
        code = {"away": 503, "not found": 404, "denied": 403}[mode]
        registry.script("1", script.become(refusal(code, "UNKNOWN")), methods=("HEAD", "GET"))
        foretold = await rooms.explain.explain(f"{NAME}:1")
        reply = await rooms.proxy.ask(f"{REPOSITORY}/manifests/1")
    assert foretold.works == (reply.status == 200)
    assert (foretold.verdict is Verdict.STALE) == ("Warning" in reply.headers)


# Words


ROUTE = Route(
    rule="r",
    source=Source("u.test", "team/app", "set"),
    client_repository="x",
    tags=TagPolicy(),
    hydrate=False,
    public=False,
    is_mirror=True,
)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (errors.CredentialUnavailable("u.test", "no token"), "credentials.set.password"),
        (errors.CredentialRefused("u.test", "refused", credentials="set"), "whether they have expired"),
        (errors.UpstreamDenied("u.test", "no", credentials="set"), "let the credentials set read team/app"),
        (errors.UpstreamDenied("u.test", "no", credentials=None), "upstreams.u.test.credentials"),
        (errors.UpstreamThrottled("u.test", "slow", 30.0), "asked again in 30 s"),
        (errors.UpstreamTimeout("u.test", "slow"), "firewall"),
        (errors.UpstreamUnavailable("u.test", "down", 7.0), "try again in 7 s"),
        (errors.UpstreamThrottled("u.test", "pulls", 7200.0, is_pull_limit=True), "in 2 hours; tags are still checked"),
        (errors.UpstreamLied("u.test", "html"), "login page"),
        (errors.DialRefused("u.test", "private"), "trusted_redirects"),
        (errors.UpstreamNotFound("u.test", "none"), "check the name and the tag"),
        (errors.ManifestUnknown("none"), "check the name and the tag"),
        (errors.Denied("blocked"), "`block`"),
        (errors.CisternError("odd"), "cistern check"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_error_has_its_advice(error: CisternError, word: str) -> None:
    """What to do is said in words that name a key or a place to look."""
    problem = diagnose(error, ROUTE)
    assert problem.why == str(error)
    assert word in problem.advice


@pytest.mark.parametrize("failure", Failure)
def test_every_class_of_failure_has_its_advice(failure: Failure) -> None:
    """Named in the facts, for scripts; each says something of its own, with credentials and without."""
    error = errors.UpstreamUnavailable("u.test", "x", failure=failure)
    problem = diagnose(error, ROUTE)
    assert (problem.failure, len(problem.advice) > 20) == (failure.value, True)
    assert diagnose(error, replace(ROUTE, source=replace(ROUTE.source, credentials=None))).advice


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s ago"), (59, "59 s ago"), (60, "1 minute ago"), (7300, "2 hours ago"), (90_000, "1 day ago")],
)
def test_an_age_is_told_in_its_largest_unit(seconds: float, text: str) -> None:
    """Short, and never negative."""
    assert ago(seconds) == text
