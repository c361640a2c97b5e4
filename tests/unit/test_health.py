"""Health: what is the member's own decides, with hysteresis; upstream trouble degrades; a broken judge fails open."""

import asyncio
import errno
import os
from dataclasses import replace
from typing import Any

import pytest

from proxy.config import CredentialConfig, parse
from proxy.errors import Failure
from proxy.events import BlobStored, Events, NotStored, StorageDegraded, StorageRecovered, TagStale
from proxy.exchange import Exchange
from proxy.health import Health, Hearing, Look, LoopLag, Phase, State, judge
from proxy.health.judge import Heard, Hysteresis, Looked, Part
from proxy.health.look import look_at_files
from proxy.health.room import JUDGEMENT_OLD_S, PING_KEPT_S
from proxy.oci import Digest
from proxy.outcome import MISS
from proxy.rules import Place, Rules
from proxy.store.opened import open_disk
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from proxy.upstream.session import UpstreamCall
from proxy.upstream.state import EndpointState, LastFault, QuotaLeft, Throttled
from tests.support.clock import Clock
from tests.support.leaks import Canaries

URL = "http://127.0.0.1:9"
OTHER_URL = "http://127.0.0.1:10"
CONFIG = f"""
upstreams:
  one.test: {{plain_http: true, endpoints: [{{url: "{URL}"}}, {{url: "{OTHER_URL}"}}]}}
  two.test: {{endpoints: [{{url: "https://two.test"}}], credentials: team}}
credentials:
  team: {{username: me, password: {{env: TEAM}}}}
rules:
  - {{name: pinned, repository: pin/*, upstream: one.test/pin/*, endpoint: "{URL}"}}
  - {{name: denied, upstream: one.test/evil/*, deny: true}}
"""
DIGEST = Digest.of(b"x")


# Judgements


GATES = (Throttled(None, "requests", 40.0),)


def standing(url: str = URL, circuit: str = "closed", **facts: Any) -> EndpointState:
    """An endpoint of which nothing is known but `facts`."""
    nothing: dict[str, Any] = {
        "open_for_s": None, "next_probe_s": None, "last_fault": None, "last_break": None, "answered_ago_s": None,
        "throttled": (), "quotas": (),
    }  # fmt: skip
    return EndpointState(url=url, circuit=circuit, **{**nothing, **facts})


@pytest.mark.parametrize(
    ("judgements", "is_up"),
    [
        pytest.param([(0, False)], True, id="one bad"),
        pytest.param([(0, False), (5, False), (10, False)], True, id="three bad in ten seconds"),
        pytest.param([(0, False), (60, False)], True, id="two bad in a minute"),
        pytest.param([(0, False), (7, False), (15, False)], False, id="three bad over fifteen seconds"),
        pytest.param([(0, False), (5, False), (10, True), (15, False), (20, False)], True, id="broken by a good one"),
        pytest.param([(0, False), (7, False), (15, False), (20, True)], False, id="one good is not back"),
        pytest.param([(0, False), (7, False), (15, False), (20, True), (25, True)], True, id="two good are back"),
        pytest.param(
            [(0, False), (7, False), (15, False), (20, True), (25, False), (30, True)], False, id="good, bad, good"
        ),
    ],
)
def test_a_member_is_down_after_three_bad_judgements_and_back_after_two_good(
    judgements: list[tuple[float, bool]], is_up: bool
) -> None:
    """Down only after 3 bad in a row over at least 15 s; back after 2 good in a row."""
    hysteresis = Hysteresis()
    for now, is_good in judgements:
        hysteresis.judge(now, is_good=is_good)
    assert hysteresis.is_up is is_up


@pytest.mark.parametrize(
    ("part", "state"),
    [
        pytest.param(judge.storage(Looked()), State.OK, id="storage well"),
        pytest.param(judge.storage(Looked(unwritable="Read-only file system")), State.DEGRADED, id="read-only"),
        pytest.param(judge.storage(Looked(unreadable="Input/output error")), State.FAILING, id="unreadable"),
        pytest.param(judge.index(Looked()), State.OK, id="index well"),
        pytest.param(judge.index(Looked(index="malformed")), State.DEGRADED, id="derived index"),
        pytest.param(judge.index(Looked(records="disk I/O error")), State.FAILING, id="records"),
        pytest.param(judge.queue(Looked(queued=3, oldest_s=60)), State.OK, id="queue busy"),
        pytest.param(judge.queue(Looked(queued=3, oldest_s=4000)), State.DEGRADED, id="queue late"),
        pytest.param(judge.endpoint(Heard(), standing(), 0), State.OK, id="endpoint unheard of"),
        pytest.param(judge.endpoint(Heard(), standing(circuit="open"), 0), State.DEGRADED, id="breaker open"),
        pytest.param(judge.endpoint(Heard(), standing(circuit="half-open"), 0), State.DEGRADED, id="breaker half open"),
        pytest.param(judge.endpoint(Heard(2, "503", 0.0), standing(), 1), State.OK, id="two faults"),
        pytest.param(judge.endpoint(Heard(3, "503", 0.0), standing(), 1), State.DEGRADED, id="three faults"),
        pytest.param(judge.endpoint(Heard(3, "503", 0.0), standing(), 1000), State.OK, id="three faults long ago"),
        pytest.param(judge.endpoint(Heard(), standing(throttled=GATES), 0), State.DEGRADED, id="throttled"),
        pytest.param(judge.trouble(Heard(), 0, "x"), State.OK, id="no trouble"),
        pytest.param(judge.trouble(Heard(1, "wrong_digest", 0.0), 1, "x"), State.DEGRADED, id="a lie"),
        pytest.param(judge.trouble(Heard(), 0, "x", "not set"), State.DEGRADED, id="no secret"),
    ],
)
def test_a_part_is_judged(part: Part, state: State) -> None:
    """Only what makes serving held content impossible fails; anything else degrades."""
    assert part.state is state
    assert (part.why is None) is (state is State.OK)


def test_an_upstream_with_one_good_endpoint_is_well() -> None:
    """Failover within an upstream is no trouble; all of its endpoints in trouble is."""
    bad = Part(State.DEGRADED, "it is away")
    assert judge.upstream([bad, judge.OK], judge.OK).state is State.OK
    assert judge.upstream([bad, bad], judge.OK) == bad
    assert judge.upstream([], judge.OK).state is State.OK


def test_latency_is_smoothed() -> None:
    """One slow answer does not hide a minute of quick ones."""
    heard = Heard()
    heard.answer(0, 0.1)
    heard.answer(1, 1.1)
    assert heard.latency_s == pytest.approx(0.3)


# Hearing


@pytest.fixture
def hearing(clock: Clock) -> Hearing:
    return Hearing(["one.test", "two.test"], ["team"], monotonic=clock)


def call(outcome: str, quota: int | None = None) -> UpstreamCall:
    return UpstreamCall("one.test", URL, "manifest", outcome, 0.01, 0, quota)


@pytest.mark.parametrize("outcome", ["500", "503", "429", "upstream_timeout", "upstream_unavailable"])
def test_an_outage_is_a_fault_of_the_endpoint(hearing: Hearing, outcome: str) -> None:
    """5xx, 429 and silence count against an endpoint; the next answer clears them."""
    hearing.called(call(outcome))
    heard = hearing.endpoint("one.test", URL)
    assert (heard.faults_in_a_row, heard.last_fault) == (1, outcome)
    hearing.called(call("401"))
    assert heard.faults_in_a_row == 0
    assert heard.last_fault == outcome  # still told, as history


def test_the_quota_is_remembered(hearing: Hearing) -> None:
    """What an upstream says of the pulls left stands until it says something else."""
    hearing.called(call("200", 73))
    hearing.called(call("200"))
    assert hearing.endpoint("one.test", URL).quota_remaining == 73


def test_endpoints_are_bounded(hearing: Hearing) -> None:
    """However many URLs are named, so many are kept; the rest is not heard of."""
    for number in range(1000):
        hearing.endpoint("one.test", f"http://{number}.test").fault("503", 0)
    assert hearing.endpoint("one.test", "http://0.test").faults_in_a_row == 1
    assert hearing.endpoint("one.test", "http://999.test").faults_in_a_row == 0


def test_events_tell_of_lies_and_credentials(hearing: Hearing) -> None:
    """A lie troubles the upstream, a refused credential its set; what is stored later clears both."""
    events, place = Events(), Place("two.test|team", "a/b")
    hearing.listen(events)
    events.publish(NotStored(place, DIGEST, "wrong_digest", ""))
    events.publish(TagStale(place, "1", 5.0, "credential_refused"))
    upstream, credentials = hearing.upstreams["two.test"], hearing.credentials["team"]
    assert (upstream.last_fault, credentials.last_fault) == ("wrong_digest", "credential_refused")
    events.publish(BlobStored(place, DIGEST, 1, 0.1))
    assert (upstream.faults_in_a_row, credentials.faults_in_a_row) == (0, 0)


def test_an_outage_is_not_a_lie(hearing: Hearing) -> None:
    """Events of places that are not configured, and of plain outages, change nothing."""
    events = Events()
    hearing.listen(events)
    events.publish(NotStored(Place("two.test", "a"), DIGEST, "upstream_unavailable", ""))
    events.publish(NotStored(Place("gone.test|nobody", "a"), DIGEST, "wrong_digest", ""))
    assert [heard.faults_in_a_row for heard in hearing.upstreams.values()] == [0, 0]
    assert set(hearing.upstreams) == {"one.test", "two.test"}


def test_a_clients_failed_request_tells_too(hearing: Hearing) -> None:
    """A manifest that lies reaches health through the exchange alone; the next good one clears it."""
    route = Rules(parse(CONFIG, "test.yaml", {})).route("one.test/a/b")
    exchange = Exchange("1", "", "GET", route=route, error="upstream_lied: upstream one.test: HTML")
    hearing.exchanged(exchange)
    assert hearing.upstreams["one.test"].last_fault == "upstream_lied"
    hearing.exchanged(Exchange("2", "", "GET", route=route, outcome=MISS))
    assert hearing.upstreams["one.test"].faults_in_a_row == 0
    hearing.exchanged(Exchange("3", "", "GET", error="upstream_lied: x"))  # without a route: nobody's
    assert hearing.upstreams["one.test"].faults_in_a_row == 0


# The room


class Upstreams:
    """Upstreams whose answers to a ping the test sets; it counts the pings."""

    def __init__(self) -> None:
        self.fixed = {"one.test": [standing(URL), standing(OTHER_URL)], "two.test": [standing("https://two.test")]}
        self.answers: dict[str, int | str] = {}
        self.pings = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    def states(self, upstream: str) -> list[EndpointState]:
        return self.fixed[upstream]

    async def ping(self, upstream: str) -> dict[str, int | str]:
        self.pings += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return {state.url: self.answers.get(state.url, 401) for state in self.fixed[upstream]}


class Site:
    """A Health over what the test says was found."""

    def __init__(self, clock: Clock, tasks: Tasks) -> None:
        self.clock = clock
        self.looked = Looked()
        self.error: Exception | None = None
        self.upstreams = Upstreams()
        config = parse(CONFIG, "test.yaml", {})
        self.rules = Rules(config)
        self.hearing = Hearing(config.upstreams, config.credentials, monotonic=clock)
        self.health = Health(lambda: self.rules, self._look, self.hearing, self.upstreams, tasks, monotonic=clock)
        self.health.phase = Phase.SERVING

    async def _look(self) -> Looked:
        if self.error is not None:
            raise self.error
        return self.looked

    async def judge(self, times: int = 1) -> None:
        for _ in range(times):
            await self.health.judge()
            self.clock.advance(8)

    def status(self, rule: str) -> str:
        told = self.health.rule_report(rule)
        assert told is not None
        return str(told["status"])

    async def cold(self, rule: str) -> dict[str, Any]:
        told = await self.health.cold(rule)
        assert told is not None
        return told


@pytest.fixture
async def site(clock: Clock) -> Any:
    async with Tasks() as tasks:
        yield Site(clock, tasks)


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


# Would a cold pull work?


async def test_a_cold_pull_would_work(site: Site) -> None:
    """Everything own is well and one endpoint answers as a registry, a 401 included."""
    await site.judge()
    site.upstreams.answers = {URL: "upstream_unavailable", OTHER_URL: 401}
    assert await site.cold("one.test") == {"rule": "one.test", "status": "ok"}


@pytest.mark.parametrize(
    ("answers", "rule"),
    [
        pytest.param({URL: 503, OTHER_URL: "upstream_timeout"}, "one.test", id="no endpoint answers"),
        pytest.param({URL: "not_a_registry", OTHER_URL: 404}, "one.test", id="no registry"),
        pytest.param({URL: 500}, "pinned", id="the pinned one does not"),
    ],
)
async def test_a_cold_pull_needs_its_upstream(site: Site, answers: dict[str, int | str], rule: str) -> None:
    """The strict form fails at once where the lenient one only degrades."""
    await site.judge()
    site.upstreams.answers = answers
    told = await site.cold(rule)
    assert told["status"] == "failing"
    assert URL in told["troubles"]["upstream one.test"]
    assert site.health.rule(rule) is True


@pytest.mark.parametrize(
    ("looked", "trouble"),
    [
        pytest.param(Looked(unwritable="Read-only file system"), "storage", id="read-only disk"),
        pytest.param(Looked(records="disk I/O error"), "index", id="records"),
        pytest.param(Looked(secrets={"team": "not set"}), "credentials team", id="secret"),
    ],
)
async def test_a_cold_pull_forgives_nothing(site: Site, looked: Looked, trouble: str) -> None:
    """One bad judgement is enough."""
    site.looked = looked
    await site.judge()
    told = await site.cold("two.test")
    assert (told["status"], list(told["troubles"])) == ("failing", [trouble])


async def test_a_disk_that_takes_no_content_is_told(site: Site) -> None:
    """In its own words, until it takes content again. The member stays; the strict form prefers one that can keep."""
    events = Events()
    site.hearing.listen(events)
    events.publish(StorageDegraded("disk_full", "No space left on device"))
    assert site.health.report()["storage"]["why"] == "the disk takes no content: No space left on device"
    assert site.status("one.test") == "degraded"
    assert site.health.rule("one.test") is True
    assert list((await site.cold("two.test"))["troubles"]) == ["storage"]
    events.publish(StorageRecovered())
    assert site.health.report()["status"] == "ok"


async def test_a_draining_member_takes_no_cold_pull(site: Site) -> None:
    """Neither does one that has not started."""
    site.health.phase = Phase.DRAINING
    assert (await site.cold("denied"))["troubles"] == {"phase": "draining"}


async def test_a_thousand_cold_probes_cost_one_ping(site: Site) -> None:
    """One probe at a time, and its answer is kept for a moment."""
    await site.judge()
    site.upstreams.gate.clear()
    waiting = [asyncio.ensure_future(site.cold("one.test")) for _ in range(1000)]
    await asyncio.sleep(0)
    site.upstreams.gate.set()
    assert {told["status"] for told in await asyncio.gather(*waiting)} == {"ok"}
    await site.cold("pinned")
    assert site.upstreams.pings == 1
    site.clock.advance(PING_KEPT_S)
    await site.cold("one.test")
    assert site.upstreams.pings == 2


async def test_a_probe_that_breaks_fails_open(site: Site) -> None:
    """A fault of the probe itself is not the upstream's."""
    await site.judge()
    site.upstreams.error = RuntimeError("a fault in the probe")
    assert (await site.cold("one.test"))["status"] == "ok"


# Looking


def credentials() -> dict[str, CredentialConfig]:
    return dict(parse(CONFIG, "test.yaml", {}).credentials)


async def test_a_look_at_a_good_directory_finds_no_trouble(cache_dir: Any, clock: Clock, canaries: Canaries) -> None:
    """It tells the room there is, names no trouble and no secret, and leaves no file behind."""
    async with open_disk(cache_dir) as disk, Tasks() as tasks:
        look = Look(disk, credentials, {"TEAM": canaries.secret("team")}, tasks, clock=clock)
        found = await look()
        assert replace(found, free_bytes=None, total_bytes=None) == Looked()
        assert 0 < (found.free_bytes or 0) < (found.total_bytes or 0)
        assert os.listdir(disk.parts) == []
        canaries.assert_absent(repr(found))
        assert (await Look(disk, credentials, {}, tasks, clock=clock)()).secrets == {
            "team": "environment variable TEAM is not set or empty"
        }


async def test_a_look_finds_a_directory_that_is_gone(cache_dir: Any, clock: Clock) -> None:
    """Parts that cannot be written degrade; blobs that cannot be listed fail."""
    async with open_disk(cache_dir) as disk, Tasks() as tasks:
        look = Look(disk, dict, {}, tasks, clock=clock)
        disk.parts.rename(cache_dir / "gone")
        assert (await look()).unwritable == os.strerror(errno.ENOENT)
        (cache_dir / "blobs").rename(cache_dir / "gone too")
        assert (await look()).unreadable == os.strerror(errno.ENOENT)


async def test_a_planted_link_is_not_written_through(cache_dir: Any) -> None:
    """The probe's name is a file's, or it is trouble."""
    async with open_disk(cache_dir) as disk:
        (disk.parts / "health.probe").symlink_to(cache_dir / "victim")
        assert look_at_files(cache_dir).unwritable == os.strerror(errno.ELOOP)
        assert not (cache_dir / "victim").exists()
        (disk.parts / "health.probe").unlink()


class Hung(Threads):
    """Threads whose disk work never ends."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def disk(self, *_work: object, **_unclaimed: object) -> Any:
        self.asked += 1
        await asyncio.Event().wait()


async def test_a_disk_that_hangs_is_found_and_asked_once(cache_dir: Any, clock: Clock) -> None:
    """No thread is given to a second look while the first one hangs."""
    hung = Hung()
    async with open_disk(cache_dir) as disk, hung, Tasks() as tasks:
        look = Look(replace(disk, threads=hung), dict, {}, tasks, clock=clock, within_s=0.01)
        for _ in range(3):
            assert (await look()).unreadable == "no answer within 0.01 s"
        assert hung.asked == 2  # the files once, the secrets once


async def test_loop_lag_is_the_worst_of_late(clock: Clock) -> None:
    """How much later than asked the loop woke, the worst of the last naps."""
    lag = LoopLag(monotonic=clock)
    late = iter([0.0, 0.25, 0.0])

    async def pause(seconds: float) -> None:
        clock.advance(seconds + next(late))

    with pytest.raises(RuntimeError):  # the naps ran out
        await lag.run(pause)
    assert lag.worst_s == pytest.approx(0.25)
