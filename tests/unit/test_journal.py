"""The journal: one line per request, one per thing that happened; leaving clients are normal, repeats are few."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.events import Events, HydrationEnded, IntegrityFailed, NotStored, TagMoved, TagStale, TransferResumed
from proxy.exchange import Exchange
from proxy.journal import TOLD_AGAIN_AFTER_S, Journal
from proxy.oci import Digest
from proxy.outcome import HIT, Result, unkept
from proxy.rules import Place
from tests.support.clock import Clock

PLACE = Place("hub.test", "team/app")
DIGEST, OTHER = Digest.of(b"x"), Digest.of(b"y")


@dataclass
class Board:
    """Events that a journal listens to; `tell` publishes some and returns the lines they made."""

    events: Events = field(default_factory=Events)

    def tell(self, *events: object) -> list[Any]:
        with capture_logs() as lines:
            for event in events:
                self.events.publish(event)
        return lines


@pytest.fixture
def board(clock: Clock) -> Board:
    made = Board()
    Journal(monotonic=clock).listen(made.events)
    return made


def exchange(status: int, result: Result | None = None, **fields: Any) -> Exchange:
    made = Exchange("2a", "10.0.0.1", "GET", kind="blob", **fields)
    made.begin(status)
    made.sent = 7
    made.end(result)
    return made


@pytest.mark.parametrize(
    ("made", "level"),
    [
        pytest.param(exchange(200, outcome=HIT), "info", id="hit"),
        pytest.param(exchange(206, Result.LEFT), "info", id="the client left early"),
        pytest.param(exchange(404, Result.ERROR), "info", id="asked for what is not there"),
        pytest.param(exchange(503, Result.ERROR), "warning", id="upstream away"),
        pytest.param(exchange(200, Result.ERROR, error="upstream cut"), "warning", id="dropped after the headers"),
    ],
)
def test_a_request_is_one_line(board: Board, made: Exchange, level: str) -> None:
    """Every request has one line with its fields; only what is ours or an upstream's fault is a warning."""
    [line] = board.tell(made)
    assert line["log_level"] == level
    assert line["event"] == "request"
    assert {key: line[key] for key in ("id", "client", "kind", "bytes")} == {
        "id": "2a",
        "client": "10.0.0.1",
        "kind": "blob",
        "bytes": 7,
    }
    assert line["outcome"] == (made.result.value if made.result else None)


def test_why_a_body_was_not_kept_stands_in_its_line(board: Board) -> None:
    """The reason of the header is the reason of the log."""
    [line] = board.tell(exchange(200, outcome=unkept("disk")))
    assert (line["outcome"], line["not_kept"]) == ("unkept", "disk")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        pytest.param(
            NotStored(PLACE, DIGEST, "wrong_digest", "it has another"),
            {"log_level": "warning", "event": "not stored", "reason": "wrong_digest", "digest": str(DIGEST)},
            id="NotStored",
        ),
        pytest.param(
            NotStored(PLACE, None, "disk", "full"),
            {"log_level": "warning", "event": "not stored", "digest": None, "detail": "full"},
            id="NotStored without a digest",
        ),
        pytest.param(
            IntegrityFailed("store", DIGEST, PLACE),
            {"log_level": "error", "event": "wrong content", "where": "store", "place": str(PLACE)},
            id="IntegrityFailed",
        ),
        pytest.param(
            IntegrityFailed("store", DIGEST, None),
            {"log_level": "error", "event": "wrong content", "place": None},
            id="IntegrityFailed without a place",
        ),
        pytest.param(
            TagMoved(PLACE, "1", DIGEST, OTHER),
            {"log_level": "info", "event": "tag moved", "before": str(DIGEST), "after": str(OTHER)},
            id="TagMoved",
        ),
        pytest.param(
            TransferResumed("hub.test", DIGEST, 77),
            {"log_level": "info", "event": "transfer resumed", "upstream": "hub.test", "offset": 77},
            id="TransferResumed",
        ),
        pytest.param(
            HydrationEnded(PLACE, DIGEST, "done", None),
            {"log_level": "info", "event": "hydration ended", "result": "done"},
            id="HydrationEnded well",
        ),
        pytest.param(
            HydrationEnded(PLACE, DIGEST, "failed", "denied"),
            {"log_level": "warning", "event": "hydration ended", "result": "failed", "detail": "denied"},
            id="HydrationEnded badly",
        ),
    ],
)
def test_what_happened_is_one_line(board: Board, event: object, expected: dict[str, Any]) -> None:
    """Each event has a line of its own with its facts."""
    [line] = board.tell(event)
    assert {key: line[key] for key in expected} == expected


def test_a_hydration_that_ended_well_has_nothing_to_add(board: Board) -> None:
    """No field that says that there is none."""
    [line] = board.tell(HydrationEnded(PLACE, DIGEST, "done", None))
    assert "detail" not in line


def test_stale_tags_are_told_once_a_minute_per_place(board: Board, clock: Clock) -> None:
    """A thousand stale answers of an outage are one line a minute, and another place has its own."""
    stale = [TagStale(PLACE, str(number), 5.04, "upstream_timeout") for number in range(1000)]
    [line] = board.tell(*stale)
    assert (line["log_level"], line["tag"], line["age_s"], line["reason"]) == ("warning", "0", 5.0, "upstream_timeout")
    assert len(board.tell(TagStale(Place("other.test", "a"), "1", 5.0, "upstream_timeout"))) == 1
    assert board.tell(*stale) == []
    clock.advance(TOLD_AGAIN_AFTER_S)
    assert len(board.tell(*stale)) == 1
