"""Metrics: what happened is counted once, what is now is read at the scrape, and labels are bounded."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy import __version__
from proxy.config import parse
from proxy.events import Events, Evicted, HydrationEnded, IntegrityFailed, NotStored, TagStale, TransferResumed
from proxy.exchange import Exchange
from proxy.metrics import WORDS_MAX, Gauges, Metrics, Sample
from proxy.oci import Digest
from proxy.outcome import HIT, MISS, Outcome, Result
from proxy.rules import Place, Route, Rules
from proxy.upstream.session import UpstreamCall
from tests.support.clock import Clock

CONFIG = """
upstreams:
  one.test: {endpoints: [{url: "https://one.test"}]}
rules:
  - {name: team, repository: team/*, upstream: one.test/team/*}
"""
PLACE = Place("one.test", "team/a")
DIGEST = Digest.of(b"x")
SAMPLE = Sample(1000, 5000, 2, 7.5)


class Counted:
    """Metrics over events of the test's own, read back by Prometheus's parser."""

    def __init__(self, clock: Clock, **gauges: Any) -> None:
        self.rules = Rules(parse(CONFIG, "test.yaml", {}))
        self.events = Events()
        self.samples = 0
        fixed = Gauges(
            downloads=lambda: 3,
            readers=lambda: 7,
            breakers=lambda: [("one.test", "https://one.test", True)],
            rule_levels=lambda: {"team": 1, "one.test": 2},
            loop_lag_s=lambda: 0.125,
            sample=self._sample,
        )
        self.metrics = Metrics(lambda: self.rules, replace(fixed, **gauges), monotonic=clock)
        self.metrics.listen(self.events)

    async def _sample(self) -> Sample:
        self.samples += 1
        return SAMPLE

    def publish(self, *events: object) -> None:
        for event in events:
            self.events.publish(event)

    async def read(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of one metric by its labels' values, in the order of the labels' names."""
        text = (await self.metrics.render()).decode()
        return {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }


@pytest.fixture
def counted(clock: Clock) -> Counted:
    return Counted(clock)


def route(counted: Counted) -> Route:
    return counted.rules.route("team/a")


def exchange(counted: Counted, outcome: Outcome | None = HIT, **fields: Any) -> Exchange:
    """A finished GET of a manifest by rule `team`."""
    made = Exchange("1", "10.0.0.1", fields.pop("method", "GET"), kind=fields.pop("kind", "manifest"))
    made.route, made.outcome, made.reference = route(counted), outcome, "team/a:1"
    result = fields.pop("result", None)
    made.begin(fields.pop("status", 200))
    made.sent = fields.pop("sent", 10)
    for name, value in fields.items():
        setattr(made, name, value)
    made.end(result)
    return made


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        # In the order of the names: kind, method, outcome, rule, status.
        pytest.param({}, ("manifest", "GET", "hit", "team", "200"), id="hit"),
        pytest.param({"outcome": MISS, "kind": "blob"}, ("blob", "GET", "miss", "team", "200"), id="miss"),
        pytest.param({"method": "HEAD"}, ("manifest", "HEAD", "hit", "team", "200"), id="HEAD"),
        pytest.param({"method": "PROPFIND"}, ("manifest", "other", "hit", "team", "200"), id="odd method"),
        pytest.param({"result": Result.LEFT}, ("manifest", "GET", "left", "team", "200"), id="left"),
        pytest.param({"route": None}, ("manifest", "GET", "hit", "", "200"), id="no rule"),
        pytest.param({"result": Result.ERROR, "status": 503}, ("manifest", "GET", "error", "team", "503"), id="error"),
    ],
)
async def test_a_request_is_counted_once(counted: Counted, fields: dict[str, Any], labels: tuple[str, ...]) -> None:
    """Its rule, kind, method, outcome and status are the labels."""
    counted.publish(exchange(counted, **fields))
    assert await counted.read("cistern_requests_total") == {labels: 1.0}


async def test_bytes_and_first_byte_are_counted(counted: Counted) -> None:
    """Body bytes by rule and outcome; the time to the first byte by kind and outcome."""
    counted.publish(exchange(counted, sent=10), exchange(counted, sent=32, first_byte_s=0.03))
    assert await counted.read("cistern_sent_bytes_total") == {("hit", "team"): 42.0}
    assert await counted.read("cistern_first_byte_seconds_count") == {("manifest", "hit"): 2.0}
    assert (await counted.read("cistern_first_byte_seconds_bucket"))["manifest", "0.05", "hit"] == 2.0
    assert (await counted.read("cistern_first_byte_seconds_bucket"))["manifest", "0.025", "hit"] == 1.0


async def test_an_answer_that_never_began_has_no_first_byte(counted: Counted) -> None:
    """A client that left before the headers is counted, and is no measurement."""
    counted.publish(exchange(counted, None, result=Result.LEFT, first_byte_s=None, status=0))
    assert await counted.read("cistern_first_byte_seconds_count") == {}
    assert await counted.read("cistern_requests_total") == {("manifest", "GET", "left", "team", "0"): 1.0}


async def test_a_rule_that_is_not_configured_is_no_label(counted: Counted) -> None:
    """A route of an earlier configuration does not bring its rule's name back."""
    counted.publish(exchange(counted, route=replace(route(counted), rule="long gone")))
    assert ("manifest", "GET", "hit", "", "200") in await counted.read("cistern_requests_total")


async def test_rules_may_change_while_it_runs(counted: Counted) -> None:
    """The names of the configuration of the moment are the labels."""
    counted.publish(exchange(counted))
    counted.rules = Rules(parse(CONFIG.replace("name: team", "name: crew"), "test.yaml", {}))
    counted.publish(exchange(counted))
    assert [labels[3] for labels in await counted.read("cistern_requests_total")] == ["team", "crew"]


@pytest.mark.parametrize(
    ("outcome", "label"),
    [("200", "200"), ("418", "418"), ("599", "5xx"), ("299", "2xx"), ("999", "other"), ("upstream_timeout",) * 2],
)
async def test_an_upstreams_status_is_bounded(counted: Counted, outcome: str, label: str) -> None:
    """A status that HTTP does not know is told as its class: an upstream makes up no series."""
    counted.publish(UpstreamCall("one.test", "https://one.test", "blob", outcome, 0.02, 500, 7))
    assert await counted.read("cistern_upstream_requests_total") == {("blob", label, "one.test"): 1.0}
    assert await counted.read("cistern_upstream_received_bytes_total") == {("one.test",): 500.0}
    assert await counted.read("cistern_upstream_seconds_sum") == {("blob", "one.test"): 0.02}
    assert await counted.read("cistern_upstream_quota_remaining") == {("one.test",): 7.0}


async def test_what_happened_is_counted(counted: Counted) -> None:
    """Bodies not kept by reason, resumes, wrong content by where, hydrations by result, bytes evicted."""
    counted.publish(
        NotStored(PLACE, DIGEST, "wrong_digest", "…"),
        NotStored(PLACE, None, "disk", "…"),
        NotStored(PLACE, None, "disk", "…"),
        TransferResumed("one.test", DIGEST, 5),
        IntegrityFailed("store", DIGEST, PLACE),
        IntegrityFailed("somewhere else", DIGEST, PLACE),
        HydrationEnded(PLACE, DIGEST, "failed", "…"),
        Evicted(PLACE, DIGEST, frozenset((DIGEST,)), 12),
    )
    assert await counted.read("cistern_not_stored_total") == {("wrong_digest",): 1.0, ("disk",): 2.0}
    assert await counted.read("cistern_downloads_resumed_total") == {(): 1.0}
    assert await counted.read("cistern_integrity_failures_total") == {("store",): 1.0, ("other",): 1.0}
    assert await counted.read("cistern_hydrations_total") == {("failed",): 1.0}
    assert await counted.read("cistern_evicted_bytes_total") == {(): 12.0}


async def test_reasons_are_bounded(counted: Counted) -> None:
    """Whatever a bug put into a reason, series do not grow without end, and odd words are no label."""
    counted.publish(*(NotStored(PLACE, None, word, "") for word in words()))
    found = await counted.read("cistern_not_stored_total")
    assert len(found) == WORDS_MAX + 1
    assert found["other",] == 1000 - WORDS_MAX + 2


def words() -> Iterator[str]:
    yield 'x"} 1\nevil{a="'
    yield "x" * 1000
    for number in range(1000):
        yield "reason_" + "".join("abcdefghij"[int(digit)] for digit in str(number))


async def test_gauges_are_read_at_the_scrape(counted: Counted) -> None:
    """Transfers, readers, breakers, rules, lag, and what a look at the disk gave."""
    assert await counted.read("cistern_downloads_running") == {(): 3.0}
    assert await counted.read("cistern_download_readers") == {(): 7.0}
    assert await counted.read("cistern_breaker_open") == {("https://one.test", "one.test"): 1.0}
    assert await counted.read("cistern_rule_state") == {("team",): 1.0, ("one.test",): 2.0}
    assert await counted.read("cistern_loop_lag_seconds") == {(): 0.125}
    assert await counted.read("cistern_cache_bytes") == {(): 1000.0}
    assert await counted.read("cistern_cache_max_bytes") == {(): 5000.0}
    assert await counted.read("cistern_hydrations_queued") == {(): 2.0}
    assert await counted.read("cistern_hydration_oldest_seconds") == {(): 7.5}
    assert await counted.read("cistern_config_reload_ok") == {(): 1.0}
    assert await counted.read("cistern_build_info") == {(__version__,): 1.0}


async def test_a_gauge_that_fails_breaks_no_scrape(clock: Clock) -> None:
    """It is left out; all others are there."""

    def broken() -> int:
        raise RuntimeError("a fault in a gauge")

    counted = Counted(clock, downloads=broken)
    assert await counted.read("cistern_downloads_running") == {}
    assert await counted.read("cistern_loop_lag_seconds") == {(): 0.125}


async def test_many_scrapes_cost_few_looks_at_the_disk(counted: Counted, clock: Clock) -> None:
    """A sample is kept for a moment, so that nobody wears the disk out by scraping."""
    for _ in range(10):
        await counted.metrics.render()
    assert counted.samples == 1
    clock.advance(1.0)
    await counted.metrics.render()
    assert counted.samples == 2


async def test_a_slow_look_is_repeated_seldom(clock: Clock) -> None:
    """What took a second is asked again after twenty: sampling takes a bounded share of the time."""
    taken: list[float] = []

    async def slow() -> Sample:
        taken.append(clock())
        clock.advance(1.0)
        return SAMPLE

    counted = Counted(clock, sample=slow)
    await counted.metrics.render()
    clock.advance(19.9)
    await counted.metrics.render()
    assert len(taken) == 1
    clock.advance(0.2)
    await counted.metrics.render()
    assert len(taken) == 2


@pytest.mark.parametrize("error", [OSError("the disk"), TimeoutError()])
async def test_a_scrape_without_a_sample_still_answers(clock: Clock, error: Exception) -> None:
    """A disk that fails takes the sampled gauges with it, and nothing else."""

    async def failing() -> Sample:
        raise error

    counted = Counted(clock, sample=failing)
    assert await counted.read("cistern_cache_bytes") == {}
    assert await counted.read("cistern_loop_lag_seconds") == {(): 0.125}


async def test_a_disk_that_hangs_does_not_hang_the_scrape(clock: Clock) -> None:
    """The sample is waited for a bounded time."""

    async def hung() -> Sample:
        await asyncio.Event().wait()
        return SAMPLE

    counted = Counted(clock, sample=hung, sample_within_s=0.01)
    assert await counted.read("cistern_cache_bytes") == {}


async def test_the_oldest_stale_tag_is_told(counted: Counted, clock: Clock) -> None:
    """It ages while it is served, and a good check of that tag ends it."""
    assert await counted.read("cistern_stale_oldest_seconds") == {(): 0.0}
    counted.publish(TagStale(PLACE, "1", 50.0, "upstream_timeout"), TagStale(PLACE, "2", 20.0, "upstream_timeout"))
    clock.advance(10)
    assert await counted.read("cistern_stale_oldest_seconds") == {(): 60.0}
    counted.publish(exchange(counted, Outcome(result=Result.STALE)), exchange(counted, None, result=Result.ERROR))
    assert await counted.read("cistern_stale_oldest_seconds") == {(): 60.0}
    counted.publish(exchange(counted))
    assert await counted.read("cistern_stale_oldest_seconds") == {(): 30.0}


async def test_nothing_is_counted_twice_or_beside(counted: Counted) -> None:
    """Two servers in one process keep their own counts, and no series of another library is told."""
    counted.publish(exchange(counted))
    other = Counted(Clock())
    assert await other.read("cistern_requests_total") == {}
    names = {family.name for family in text_string_to_metric_families((await counted.metrics.render()).decode())}
    assert {name for name in names if not name.startswith(("cistern_", "process_"))} == set()
    assert not any(name.endswith("_created") for name in names)
