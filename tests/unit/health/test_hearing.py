"""What health hears of upstreams: calls, quotas, lies and refused credentials, bounded."""

import pytest

from proxy.config import parse
from proxy.events import BlobStored, Events, NotStored, TagStale
from proxy.exchange import Exchange
from proxy.health import Hearing
from proxy.outcome import MISS
from proxy.rules import Place, Rules
from tests.support.clock import Clock
from tests.support.healthy import CONFIG, DIGEST, URL, call


@pytest.fixture
def hearing(clock: Clock) -> Hearing:
    return Hearing(["one.test", "two.test"], ["team"], monotonic=clock)


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
