"""Would a cold pull work? Asked of upstream and disk, once for a thousand probes."""

import asyncio

import pytest

from proxy.events import Events, StorageDegraded, StorageRecovered
from proxy.health import Phase
from proxy.health.judge import Looked
from proxy.health.room import PING_KEPT_S
from tests.support.healthy import OTHER_URL, URL, Site
from tests.support.waiting import turns


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
    await turns()
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
