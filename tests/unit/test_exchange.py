"""One request as its log line tells it."""

from proxy.exchange import Exchange
from proxy.freshness import TagPolicy
from proxy.oci import Digest
from proxy.outcome import HIT, MISS, Outcome, Result, unkept
from proxy.rules import Route, Source
from tests.support.clock import Clock

DIGEST = Digest.of(b"x")
ROUTE = Route(
    rule="hub",
    source=Source("docker.io", "library/nginx"),
    client_repository="nginx",
    tags=TagPolicy(),
    hydrate=True,
    public=True,
    is_mirror=True,
)


def asked(clock: Clock) -> Exchange:
    return Exchange(id="1f", client="10.0.0.1", method="GET", clock=clock)


def test_a_finished_exchange_tells_everything(clock: Clock) -> None:
    """The line holds every field that contract.md section 5 lists."""
    exchange = asked(clock)
    exchange.kind, exchange.route, exchange.range = "blob", ROUTE, "bytes=0-"
    exchange.outcome = Outcome(result=Result.UNKEPT, not_kept="disk", checked_status=200)
    exchange.name("library/nginx", DIGEST)
    clock.advance(0.25)
    exchange.begin(206)
    exchange.sent = 7
    clock.advance(0.5)
    exchange.end()
    assert exchange.line() == {
        "id": "1f",
        "client": "10.0.0.1",
        "method": "GET",
        "kind": "blob",
        "rule": "hub",
        "reference": f"library/nginx@{DIGEST}",
        "range": "bytes=0-",
        "status": 206,
        "outcome": "unkept",
        "not_kept": "disk",
        "upstream_status": 200,
        "bytes": 7,
        "first_byte_s": 0.25,
        "seconds": 0.75,
    }


def test_what_does_not_apply_is_left_out(clock: Clock) -> None:
    """A request that came to nothing has a short line."""
    exchange = asked(clock)
    exchange.error = "name_invalid: not a name"
    exchange.end(Result.ERROR)
    line = exchange.line()
    assert set(line) == {"id", "client", "method", "kind", "status", "outcome", "bytes", "seconds", "error"}
    assert (line["outcome"], line["kind"], exchange.rule) == ("error", "other", "")


def test_the_edge_may_overrule_the_outcome(clock: Clock) -> None:
    """A client that left, and an error, stand above what pull had decided; else pull's word stands, else a hit."""
    for outcome, given, expected in (
        (MISS, Result.LEFT, Result.LEFT),
        (HIT, Result.ERROR, Result.ERROR),
        (MISS, None, Result.MISS),
        (unkept("disk"), None, Result.UNKEPT),
        (None, None, Result.HIT),
    ):
        exchange = asked(clock)
        exchange.outcome = outcome
        exchange.end(given)
        assert exchange.result is expected


def test_a_result_once_set_stays(clock: Clock) -> None:
    """Ending without a word keeps the result that was set on the way."""
    exchange = asked(clock)
    exchange.result = Result.LEFT
    exchange.end()
    assert exchange.result is Result.LEFT


def test_a_reference_is_written_as_people_write_it(clock: Clock) -> None:
    """`name:tag`, `name@digest`, or the name alone."""
    exchange = asked(clock)
    for target, shown in (("latest", "a/b:latest"), (DIGEST, f"a/b@{DIGEST}"), (None, "a/b")):
        exchange.name("a/b", target)
        assert exchange.reference == shown
