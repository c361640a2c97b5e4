"""What the log tells: one line per request, and one per thing that happened and that somebody may look for.

A client that leaves early is normal and no error. Lines that one fault could repeat without end (a tag served stale)
are told once a minute per place. No secret is in any field that comes here.
"""

from collections.abc import Callable
from typing import Final

from cachetools import TTLCache

from proxy.events import (
    ConfigRefused,
    ConfigTaken,
    Events,
    HydrationEnded,
    IntegrityFailed,
    NotStored,
    StorageDegraded,
    StorageRecovered,
    TagMoved,
    TagStale,
    TransferResumed,
)
from proxy.exchange import Exchange, tell_request
from proxy.log import logger

log = logger("journal")

TOLD_AGAIN_AFTER_S: Final = 60.0
TOLD_MAX: Final = 10_000


class Journal:
    """Writes lines for the events it listens to. `monotonic` tells when a line may be repeated."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._told: TTLCache[object, bool] = TTLCache(TOLD_MAX, TOLD_AGAIN_AFTER_S, timer=monotonic)

    def listen(self, events: Events) -> None:
        events.listen(Exchange, tell_request)
        events.listen(NotStored, self._not_stored)
        events.listen(IntegrityFailed, self._integrity_failed)
        events.listen(TagMoved, self._tag_moved)
        events.listen(TagStale, self._tag_stale)
        events.listen(TransferResumed, self._resumed)
        events.listen(HydrationEnded, self._hydrated)
        events.listen(StorageDegraded, self._degraded)
        events.listen(StorageRecovered, lambda _event: log.warning("the disk takes bodies again"))
        events.listen(ConfigTaken, tell_taken)
        events.listen(ConfigRefused, tell_refused)

    def _is_new(self, key: object) -> bool:
        """Whether this was not told lately; it counts as told from now on."""
        if key in self._told:
            return False
        self._told[key] = True
        return True

    def _not_stored(self, event: NotStored) -> None:
        digest = None if event.digest is None else str(event.digest)
        log.warning("not stored", place=str(event.place), digest=digest, reason=event.reason, detail=event.detail)

    def _integrity_failed(self, event: IntegrityFailed) -> None:
        place = None if event.place is None else str(event.place)
        log.error("wrong content", where=event.where, digest=str(event.digest), place=place, detail=event.detail)

    def _tag_moved(self, event: TagMoved) -> None:
        log.info("tag moved", place=str(event.place), tag=event.tag, before=str(event.before), after=str(event.after))

    def _tag_stale(self, event: TagStale) -> None:
        if self._is_new((TagStale, event.place)):
            log.warning(
                "tags are served stale",
                place=str(event.place),
                tag=event.tag,
                age_s=round(event.age_s, 1),
                reason=event.reason,
            )

    def _resumed(self, event: TransferResumed) -> None:
        log.info("transfer resumed", upstream=event.upstream, digest=str(event.digest), offset=event.offset)

    def _degraded(self, event: StorageDegraded) -> None:
        log.error(
            "the disk refuses; bodies stream past it until it takes them", reason=event.reason, error=event.detail
        )

    def _hydrated(self, event: HydrationEnded) -> None:
        write = log.info if event.result == "done" else log.warning
        write(
            "hydration ended",
            place=str(event.place),
            manifest=str(event.manifest),
            result=event.result,
            **({} if event.detail is None else {"detail": event.detail}),
        )


def tell_taken(event: ConfigTaken) -> None:
    log.info("config taken over", upstreams=len(event.config.upstreams), rules=len(event.config.rules))
    for caution in event.cautions:
        log.warning("caution", about=caution)
    for key in event.waiting:
        log.warning("config: a key keeps its value until a restart", key=key)


def tell_refused(event: ConfigRefused) -> None:
    """Every problem on a line of its own, as `cistern check` tells them."""
    for problem in event.problems:
        log.error("config refused, the old one stays", problem=problem)
