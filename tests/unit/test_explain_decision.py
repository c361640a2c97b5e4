"""What explain foretells is what the policy decides and what happens, in words for every error."""

from dataclasses import replace
from pathlib import Path

import pytest

from proxy import errors
from proxy.errors import CisternError, Failure
from proxy.explain import Verdict
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
from tests.support.explained import BASE, NAME, pulled
from tests.support.images import manifest
from tests.support.kept import REPOSITORY
from tests.support.registry import Registry
from tests.support.wire import refusal

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
