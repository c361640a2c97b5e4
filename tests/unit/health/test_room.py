"""Health: what is the member's own decides, with hysteresis; upstream trouble degrades; a broken judge fails open."""

import asyncio

import pytest

from proxy.errors import Failure
from proxy.health import Phase
from proxy.health.judge import Looked
from proxy.health.room import JUDGEMENT_OLD_S
from proxy.upstream.state import LastFault, QuotaLeft
from tests.support.healthy import GATES, OTHER_URL, URL, Site, call, standing


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.DRAINING])
async def test_a_member_is_ready_only_while_it_serves(site: Site, phase: Phase) -> None:
    """Starting and draining are told at once: no load balancer waits for hysteresis. Liveness is not touched."""
    await site.judge()
    assert site.health.ready()
    assert site.health.rule("one.test") is True
    site.health.phase = phase
    assert not site.health.ready()
    assert site.health.rule("one.test") is False
    assert site.status("one.test") == "failing"
    assert site.health.live()


async def test_own_trouble_takes_a_member_out_after_hysteresis(site: Site) -> None:
    """A disk that cannot be read degrades at first, fails when it stays, and two good judgements bring it back."""
    site.looked = Looked(unreadable="Input/output error")
    await site.judge()
    assert site.health.ready()
    assert site.health.report()["status"] == "degraded"
    await site.judge(2)
    assert not site.health.ready()
    assert site.health.report()["status"] == "failing"
    assert site.status("pinned") == "failing"
    assert site.health.live()
    site.looked = Looked()
    await site.judge()
    assert not site.health.ready()
    await site.judge()
    assert site.health.ready()
    assert site.health.report()["status"] == "ok"


async def test_a_disk_that_cannot_be_written_only_degrades(site: Site) -> None:
    """Held content still flows from a full or read-only disk, so no load balancer is told to leave."""
    site.looked = Looked(unwritable="No space left on device")
    await site.judge(5)
    assert site.health.ready()
    assert site.status("one.test") == "degraded"
    assert site.health.report()["storage"]["why"] == "the cache directory cannot be written: No space left on device"


async def test_upstream_trouble_never_takes_a_member_out(site: Site) -> None:
    """Breakers open everywhere: every rule of it is degraded, and every probe is still answered with yes."""
    site.upstreams.fixed["one.test"] = [standing(URL, circuit="open"), standing(OTHER_URL, circuit="open")]
    await site.judge(10)
    assert site.health.ready()
    assert site.health.rule("one.test") is True
    assert {name: state.value for name, state in site.health.rule_states().items()} == {
        "pinned": "degraded",
        "one.test": "degraded",
        "denied": "ok",
        "two.test": "ok",
    }
    report = site.health.report()
    assert report["status"] == "degraded"
    assert report["upstreams"]["one.test"]["endpoints"][URL]["breaker"] == "open"


async def test_a_pinned_rule_hangs_on_its_own_endpoint(site: Site) -> None:
    """One endpoint away: the rule bound to it is degraded, the rule that may take the other is not."""
    site.upstreams.fixed["one.test"][0] = standing(URL, circuit="open")
    await site.judge()
    assert site.status("pinned") == "degraded"
    assert site.status("one.test") == "ok"


async def test_a_missing_secret_degrades_the_rules_that_use_it(site: Site) -> None:
    """Credential trouble is told on the set and on its rules, and takes nothing down."""
    site.looked = Looked(secrets={"team": "environment variable TEAM is not set or empty"})
    await site.judge()
    report = site.health.report()
    assert report["credentials"]["team"]["status"] == "degraded"
    assert "TEAM is not set" in report["rules"]["two.test"]["troubles"]["credentials team"]
    assert site.status("one.test") == "ok"
    assert site.health.rule("two.test") is True


async def test_the_report_has_a_part_for_everything(site: Site) -> None:
    """Storage, index, queue, every endpoint, every credential set and every rule have a status."""
    await site.judge()
    report = site.health.report()
    assert (report["status"], report["phase"]) == ("ok", "serving")
    for part in ("storage", "index", "queue"):
        assert report[part]["status"] == "ok"
    assert set(report["upstreams"]) == {"one.test", "two.test"}
    assert set(report["upstreams"]["one.test"]["endpoints"]) == {URL, OTHER_URL}
    assert set(report["credentials"]) == {"team"}
    assert set(report["rules"]) == {"pinned", "denied", "one.test", "two.test"}


async def test_an_endpoint_tells_what_was_last_heard_of_it(site: Site) -> None:
    """Last error class, its age, latency and quota stand beside the breaker."""
    site.hearing.called(call("200", 42))
    site.hearing.called(call("upstream_timeout"))
    site.clock.advance(3)
    told = site.health.report()["upstreams"]["one.test"]["endpoints"][URL]
    assert told == {
        "status": "ok",
        "breaker": "closed",
        "last_error": "upstream_timeout",
        "last_error_seconds_ago": 3.0,
        "latency_seconds": 0.01,
        "quota_remaining": 42,
    }


async def test_an_endpoint_tells_how_it_stands(site: Site) -> None:
    """The class of its last failure, when it is tried again, whom it throttles, and the pulls it says are left."""
    site.upstreams.fixed["one.test"][0] = standing(
        URL,
        circuit="open",
        next_probe_s=12.34,
        last_fault=LastFault(Failure.TLS, "a certificate of last year", 3.21),
        throttled=GATES,
        quotas=(QuotaLeft("team", 7, 100, None, 1.0), QuotaLeft(None, 9, None, None, 2.0)),
    )
    told = site.health.report()["upstreams"]["one.test"]["endpoints"][URL]
    assert told == {
        "status": "degraded",
        "why": "it failed too often, and is left alone for a while",
        "breaker": "open",
        "next_try_seconds": 12.3,
        "last_error": "tls",
        "last_error_seconds_ago": 3.2,
        "quota_remaining": 7,
        "throttled_seconds": {"anonymous": 40.0},
    }


async def test_a_broken_judge_fails_open(site: Site) -> None:
    """A judge that raises takes nobody down, says that it is broken, and its next good word counts again."""
    await site.judge()
    site.error = RuntimeError("a fault in the judge")
    await site.judge(10)
    assert site.health.ready()
    assert "the judge is broken (RuntimeError)" in site.health.report()["judge"]
    site.error = None
    await site.judge()
    assert "judge" not in site.health.report()


async def test_a_judge_that_breaks_while_the_member_is_down_fails_open(site: Site) -> None:
    """What nobody can judge is not held against the member."""
    site.looked = Looked(records="disk I/O error")
    await site.judge(3)
    assert not site.health.ready()
    site.error = RuntimeError("a fault in the judge")
    await site.judge()
    assert site.health.ready()


async def test_a_judge_that_is_silent_fails_open(site: Site) -> None:
    """A judgement that is older than a minute is none."""
    site.looked = Looked(records="disk I/O error")
    await site.judge(3)
    assert not site.health.ready()
    site.clock.advance(JUDGEMENT_OLD_S)
    assert site.health.ready()
    told = site.health.rule_report("one.test")
    assert told is not None
    assert "failing open" in told["judge"]


async def test_an_unknown_rule_is_unknown(site: Site) -> None:
    """A name that is no rule has no health of any kind."""
    assert site.health.rule("nope") is None
    assert site.health.rule_report("nope") is None
    assert await site.health.cold("nope") is None


async def test_the_judge_runs_by_itself(site: Site) -> None:
    """It judges after each pause, until it is cancelled."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            raise asyncio.CancelledError
        site.clock.advance(10)

    site.looked = Looked(records="disk I/O error")
    with pytest.raises(asyncio.CancelledError):
        await site.health.run(pause)
    assert len(set(pauses)) == 1
    assert not site.health.ready()
