"""Everything that is counted, as Prometheus text: listens to events and exchanges, reads gauges when it is scraped.

Labels are bounded by the configuration and by sets that stand here: no name, status or word that a client or an
upstream made up becomes one. A gauge that cannot be read is left out and breaks no scrape.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import prometheus_client as prometheus
from cachetools import TTLCache
from prometheus_client.core import GaugeMetricFamily, Metric

from proxy import __version__
from proxy.cells import BUCKETS, Cell, Labels
from proxy.errors import CisternError
from proxy.events import (
    ConfigRefused,
    ConfigTaken,
    Events,
    Evicted,
    HydrationEnded,
    IntegrityFailed,
    NotStored,
    TagStale,
    TransferResumed,
)
from proxy.exchange import Exchange
from proxy.log import logger
from proxy.metrics.requests import Requests
from proxy.metrics.words import PLACES_OF_FAULT, RESULTS_OF_HYDRATION, Words, among, status_label
from proxy.outcome import Result
from proxy.rules import Place, Rules
from proxy.upstream.session import UpstreamCall

log = logger("metrics")
# Twice as many series otherwise, for a time that nobody asks for.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves this one untyped

CONTENT_TYPE: Final = prometheus.CONTENT_TYPE_LATEST
SAMPLE_WITHIN_S: Final = 2.0
SAMPLE_SHARE: Final = 20.0  # sampling takes at most one part in so many of the time
SAMPLE_KEPT_S: Final = 1.0
STALE_KEPT_S: Final = 900.0  # a tag that nobody asked for since then is not served stale any more
STALE_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Sample:
    """Gauges that cost a question to the index: bytes of disk in use and allowed (None: not known yet), jobs waiting
    and the oldest one's age.
    """

    cache_bytes: int | None
    cache_max_bytes: int | None
    hydrations_queued: int
    hydration_oldest_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """Where gauges are read at a scrape. `breakers` yields (upstream, endpoint, is open); `sample` is waited for at
    most `sample_within_s`; `gather` has other processes tell first what they counted.
    """

    downloads: Callable[[], int]
    readers: Callable[[], int]
    breakers: Callable[[], Iterable[tuple[str, str, bool]]]
    rule_levels: Callable[[], Mapping[str, int]]
    loop_lag_s: Callable[[], float]
    sample: Callable[[], Awaitable[Sample]]
    sample_within_s: float = SAMPLE_WITHIN_S
    gather: Callable[[], Awaitable[None]] | None = None


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(
        self,
        rules: Callable[[], Rules],
        gauges: Gauges,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gauges = gauges
        self._monotonic = monotonic
        self._sample: Sample | None = None
        self._sample_again_at = 0.0
        self._reasons, self._faults = Words(), Words()
        # When each tag that is served stale was last checked.
        self._stale: TTLCache[tuple[Place, str], float] = TTLCache(STALE_MAX, STALE_KEPT_S, timer=monotonic)
        self._is_stale = False  # nothing was lately: no need to look up every request
        self.registry = prometheus.CollectorRegistry()
        self._count()
        self._requests = Requests(rules)
        self.registry.register(self._requests)
        self.registry.register(self)
        prometheus.ProcessCollector(registry=self.registry)

    def _count(self) -> None:
        counter, histogram = prometheus.Counter, prometheus.Histogram
        own = self.registry
        labels = ["upstream", "kind", "status"]
        self._asked = counter("cistern_upstream_requests_total", "Requests sent upstream", labels, registry=own)
        self._received = counter(
            "cistern_upstream_received_bytes_total", "Body bytes received", ["upstream"], registry=own
        )
        self._answered = histogram(
            "cistern_upstream_seconds",
            "Time to the head of an upstream's answer",
            ["upstream", "kind"],
            buckets=BUCKETS,
            registry=own,
        )
        self._quota = prometheus.Gauge(
            "cistern_upstream_quota_remaining", "Pulls left, as the upstream says", ["upstream"], registry=own
        )
        self._resumed = counter("cistern_downloads_resumed_total", "Transfers that went on after a cut", registry=own)
        self._unkept = counter("cistern_not_stored_total", "Bodies that were not kept", ["reason"], registry=own)
        self._hydrated = counter("cistern_hydrations_total", "Hydrations that ended", ["result"], registry=own)
        self._evicted = counter("cistern_evicted_bytes_total", "Bytes deleted to make room or on demand", registry=own)
        self._wrong = counter(
            "cistern_integrity_failures_total", "Content that did not have its digest", ["where"], registry=own
        )
        self._reload_ok = prometheus.Gauge(
            "cistern_config_reload_ok", "Whether the last config was taken over", registry=own
        )
        self._reload_ok.set(1)  # the config that runs was good, or nothing would run
        build = prometheus.Gauge("cistern_build_info", "This build", ["version"], registry=own)
        build.labels(__version__).set(1)

    def listen(self, events: Events) -> None:
        events.listen(Exchange, self.observe)
        events.listen(UpstreamCall, self._called)
        events.listen(NotStored, lambda event: self._unkept.labels(self._reasons(event.reason)).inc())
        events.listen(IntegrityFailed, lambda event: self._wrong.labels(among(event.where, PLACES_OF_FAULT)).inc())
        events.listen(TransferResumed, lambda _event: self._resumed.inc())
        events.listen(HydrationEnded, self._ended)
        events.listen(Evicted, lambda event: self._evicted.inc(event.bytes))
        events.listen(TagStale, self._served_stale)
        events.listen(ConfigTaken, lambda _event: self._reload_ok.set(1))
        events.listen(ConfigRefused, lambda _event: self._reload_ok.set(0))

    # What happened

    def observe(self, exchange: Exchange) -> None:
        """One request of a client ended."""
        self._requests.count(exchange)
        if not self._is_stale or exchange.kind != "manifest" or exchange.route is None:
            return
        if exchange.result not in (Result.STALE, Result.ERROR):
            self._stale.pop((exchange.route.place, exchange.reference.rpartition(":")[2]), None)

    def merge(self, cells: Iterable[tuple[Labels, Cell]]) -> None:
        """Requests that another process of this server answered and counted."""
        for labels, cell in cells:
            self._requests.add(labels, cell)

    def _called(self, call: UpstreamCall) -> None:
        self._asked.labels(call.upstream, call.kind, status_label(call.outcome, self._faults)).inc()
        self._received.labels(call.upstream).inc(call.received_bytes)
        self._answered.labels(call.upstream, call.kind).observe(call.seconds)
        if call.quota_remaining is not None:
            self._quota.labels(call.upstream).set(call.quota_remaining)

    def _ended(self, event: HydrationEnded) -> None:
        self._hydrated.labels(among(event.result, RESULTS_OF_HYDRATION)).inc()

    def _served_stale(self, event: TagStale) -> None:
        self._stale[event.place, event.tag] = self._monotonic() - event.age_s
        self._is_stale = True

    # What is now

    async def render(self) -> bytes:
        """The text of one scrape."""
        if self._gauges.gather is not None:
            await self._gauges.gather()
        now = self._monotonic()
        if now >= self._sample_again_at:
            try:
                async with asyncio.timeout(self._gauges.sample_within_s):
                    self._sample = await self._gauges.sample()
            except (TimeoutError, OSError, CisternError) as error:
                log.warning("a scrape lacks its newest sample", error=repr(error))
            after = self._monotonic()
            self._sample_again_at = after + max(SAMPLE_KEPT_S, (after - now) * SAMPLE_SHARE)
        return prometheus.generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """The gauges, for the Prometheus library."""
        for read in (self._transfers, self._breakers, self._rule_states, self._loop, self._sampled, self._stale_tags):
            try:
                yield from list(read())
            except Exception as error:
                log.exception("a gauge cannot be read", gauge=read.__name__, error=repr(error))

    def describe(self) -> list[Metric]:
        """Nothing is asked before the first scrape."""
        return []

    def _transfers(self) -> Iterator[Metric]:
        yield gauge("cistern_downloads_running", "Transfers from upstreams", self._gauges.downloads())
        yield gauge("cistern_download_readers", "Clients reading from them", self._gauges.readers())

    def _breakers(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "cistern_breaker_open", "1 while the endpoint is left alone", labels=["upstream", "endpoint"]
        )
        for upstream, endpoint, is_open in self._gauges.breakers():
            family.add_metric([upstream, endpoint], float(is_open))
        yield family

    def _rule_states(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("cistern_rule_state", "0 failing, 1 degraded, 2 ok", labels=["rule"])
        for rule, level in self._gauges.rule_levels().items():
            family.add_metric([rule], level)
        yield family

    def _loop(self) -> Iterator[Metric]:
        yield gauge("cistern_loop_lag_seconds", "How late the event loop runs", self._gauges.loop_lag_s())

    def _sampled(self) -> Iterator[Metric]:
        sample = self._sample
        if sample is None:
            return
        if sample.cache_bytes is not None:
            yield gauge("cistern_cache_bytes", "Bytes of disk in use", sample.cache_bytes)
        if sample.cache_max_bytes is not None:
            yield gauge("cistern_cache_max_bytes", "Bytes of disk that may be in use", sample.cache_max_bytes)
        yield gauge("cistern_hydrations_queued", "Images waiting to be filled", sample.hydrations_queued)
        yield gauge("cistern_hydration_oldest_seconds", "Age of the oldest of them", sample.hydration_oldest_s)

    def _stale_tags(self) -> Iterator[Metric]:
        self._is_stale = bool(self._stale)
        oldest_s = max((self._monotonic() - checked for checked in list(self._stale.values())), default=0.0)
        yield gauge("cistern_stale_oldest_seconds", "Since the oldest tag served stale was checked", oldest_s)


def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
