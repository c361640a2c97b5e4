"""Publish and subscribe: who hears what, and what a failing listener changes (nothing)."""

from dataclasses import FrozenInstanceError

import pytest
from structlog.testing import capture_logs

from proxy.events import Events, TagMoved, TransferResumed
from proxy.oci import Digest
from proxy.rules import Place

DIGEST = Digest.of(b"x")
RESUMED = TransferResumed("docker.io", DIGEST, 7)
MOVED = TagMoved(Place("docker.io", "library/nginx"), "latest", DIGEST, Digest.of(b"y"))


def test_listeners_hear_their_own_kind_in_order() -> None:
    """Each listener gets the events of exactly its type, in the order of listening, from then on."""
    events = Events()
    heard: list[tuple[str, object]] = []
    events.publish(RESUMED)
    events.listen(TransferResumed, lambda event: heard.append(("first", event)))
    events.listen(TransferResumed, lambda event: heard.append(("second", event)))
    events.listen(object, lambda event: heard.append(("never", event)))
    events.publish(RESUMED)
    events.publish(MOVED)
    assert heard == [("first", RESUMED), ("second", RESUMED)]


def test_a_failing_listener_changes_nothing() -> None:
    """The publisher and the other listeners go on; the failure is logged once, with its trace."""
    events = Events()
    heard: list[TransferResumed] = []

    def broken(_: TransferResumed) -> None:
        raise ValueError("broken")

    events.listen(TransferResumed, broken)
    events.listen(TransferResumed, heard.append)
    with capture_logs() as lines:
        events.publish(RESUMED)
    assert heard == [RESUMED]
    assert [(line["event"], line["fact"], line["exc_info"]) for line in lines] == [
        ("a listener failed", "TransferResumed", True)
    ]


def test_a_fact_cannot_be_changed() -> None:
    """What one listener hears, the next one hears unchanged."""
    with pytest.raises(FrozenInstanceError):
        MOVED.tag = "other"  # type: ignore[misc]  # the very assignment that must fail
