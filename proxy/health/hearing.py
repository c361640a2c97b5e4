"""What is heard of upstreams and credential sets: from calls that ended, exchanges with clients, and events.

Asks nobody. Bounded by configuration: an upstream, endpoint or credential set that is not configured is not kept, and
no name that a client sent ever is.
"""

from collections.abc import Callable, Collection
from typing import Final

from proxy.events import (
    BlobStored,
    ConfigRefused,
    ConfigTaken,
    Events,
    NotStored,
    StorageDegraded,
    StorageRecovered,
    TagStale,
)
from proxy.exchange import Exchange
from proxy.health.judge import Heard
from proxy.outcome import HIT, Result
from proxy.rules import Place, Source
from proxy.upstream.session import UpstreamCall

# What an upstream says that cannot be true: no outage, so its breaker does not hear of it.
LIES: Final = frozenset({"upstream_lied", "wrong_digest", "dial_refused"})
CREDENTIAL_FAULTS: Final = frozenset({"credential_refused", "credential_unavailable"})
FETCHED: Final = frozenset({Result.MISS, Result.COLLAPSED})
ENDPOINTS_MAX: Final = 256


class Hearing:
    """The last word of every endpoint (by upstream and URL), upstream and credential set."""

    def __init__(
        self, upstreams: Collection[str], credentials: Collection[str], *, monotonic: Callable[[], float]
    ) -> None:
        self._monotonic = monotonic
        self._endpoints: dict[tuple[str, str], Heard] = {}
        self.upstreams = {name: Heard() for name in upstreams}
        self.credentials = {name: Heard() for name in credentials}
        self.disk: str | None = None  # what the disk said when it took no content; None while it does
        self.refused: tuple[str, ...] = ()  # why the last configuration was not taken over
        self.waiting: tuple[str, ...] = ()  # keys that need a restart

    def listen(self, events: Events) -> None:
        events.listen(UpstreamCall, self.called)
        events.listen(Exchange, self.exchanged)
        events.listen(TagStale, lambda event: self._about(source_of(event.place), event.reason))
        events.listen(NotStored, lambda event: self._about(source_of(event.place), event.reason))
        events.listen(BlobStored, lambda event: self._good(source_of(event.place)))
        events.listen(ConfigTaken, self._taken)
        events.listen(ConfigRefused, self._refused)
        events.listen(StorageDegraded, lambda event: self._disk(event.detail))
        events.listen(StorageRecovered, lambda _event: self._disk(None))

    def _disk(self, said: str | None) -> None:
        self.disk = said

    def _refused(self, event: ConfigRefused) -> None:
        self.refused = event.problems

    def _taken(self, event: ConfigTaken) -> None:
        """Hear of what this configuration names from now on; what stays keeps its last word."""
        config, self.refused, self.waiting = event.config, (), event.waiting
        self.upstreams = {name: self.upstreams.get(name, Heard()) for name in config.upstreams}
        self.credentials = {name: self.credentials.get(name, Heard()) for name in config.credentials}
        self._endpoints = {key: heard for key, heard in self._endpoints.items() if key[0] in self.upstreams}

    def endpoint(self, upstream: str, url: str) -> Heard:
        """What was heard of one endpoint; nothing yet is a word of its own."""
        key = (upstream, url)
        if key not in self._endpoints and len(self._endpoints) < ENDPOINTS_MAX:
            self._endpoints[key] = Heard()
        return self._endpoints.get(key, Heard())

    def called(self, call: UpstreamCall) -> None:
        """One exchange with an endpoint, its token realm or its storage ended."""
        heard, now = self.endpoint(call.upstream, call.endpoint), self._monotonic()
        if call.quota_remaining is not None:
            heard.quota_remaining = call.quota_remaining
        if is_fault(call.outcome):
            heard.fault(call.outcome, now)
        else:
            heard.answer(now, call.seconds)

    def exchanged(self, exchange: Exchange) -> None:
        """One request of a client ended."""
        outcome = exchange.outcome
        if exchange.route is None or (outcome is HIT and exchange.error is None):  # a plain hit says nothing new
            return
        if exchange.error is not None:
            self._about(exchange.route.source, exchange.error.partition(":")[0])
        elif outcome is not None and (outcome.checked_status is not None or outcome.result in FETCHED):
            self._good(exchange.route.source)

    def _about(self, source: Source, reason: str) -> None:
        if reason in LIES and source.upstream in self.upstreams:
            self.upstreams[source.upstream].fault(reason, self._monotonic())
        if reason in CREDENTIAL_FAULTS and source.credentials in self.credentials:
            self.credentials[source.credentials].fault(reason, self._monotonic())

    def _good(self, source: Source) -> None:
        for heard in (self.upstreams.get(source.upstream), self.credentials.get(source.credentials or "")):
            if heard is not None:
                heard.answer(self._monotonic())


def is_fault(outcome: str) -> bool:
    """Whether a call's outcome (a status, or a bounded word) is a fault: 5xx, 429, or no answer at all."""
    return outcome.startswith("5") or outcome == "429" or not outcome.isdigit()


def source_of(place: Place) -> Source:
    """The upstream and the credential set of a place's scope (`UPSTREAM` or `UPSTREAM|CREDENTIALS`)."""
    upstream, _, credentials = place.scope.partition("|")
    return Source(upstream, place.repository, credentials or None)
