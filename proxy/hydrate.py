"""Hydration: what an image still lacks here is fetched in the background, by the same transfers a client would join.

A job is made when a client has fetched a platform manifest by GET and then asked for one of its blobs: never for a HEAD
or an index alone, so that a crawler of tags fills no disk. Jobs are durable, go behind clients, and end visibly: done,
or failed when they are hopeless (denied, missing, lying) or after ATTEMPTS_MAX outages.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from cachetools import Cache, LRUCache, TTLCache

from proxy.downloads.bell import Bell
from proxy.errors import CisternError, Overloaded, UpstreamThrottled, UpstreamTimeout, UpstreamUnavailable, refused
from proxy.events import BlobAsked, ConfigTaken, Evicted, HydrationEnded, ManifestFetched
from proxy.ground import Ground
from proxy.log import logger
from proxy.manifests import Manifests
from proxy.oci import IMAGE_TYPES, Digest, ManifestAmbiguous, parse_manifest
from proxy.pull import Pull
from proxy.rules import Place, Route
from proxy.store.base import Job, Parent

log = logger("hydrate")
ATTEMPTS_MAX: Final = 8
BACKOFF_S: Final = 5.0  # doubled per attempt, with full jitter, up to BACKOFF_MAX_S
BACKOFF_MAX_S: Final = 600.0
PAUSE_MAX_S: Final = BACKOFF_MAX_S + 3600.0 + 60.0  # with the longest Retry-After that is believed
IDLE_S: Final = 30.0  # the queue is looked at this often without being told
OUTAGES: Final = (UpstreamUnavailable, UpstreamTimeout, UpstreamThrottled, Overloaded)
SEEN_MAX: Final = 10_000  # manifests and blobs heard of, in memory
SEEN_S: Final = 600.0  # a blob asked for again after this looks for its image again: it may have been evicted
HEARD_MAX: Final = 10_000
RESTING_MAX: Final = 10_000


class Wait(Protocol):
    """Waits for a signal, or at most `seconds`: given, so that a test decides when time has passed."""

    async def __call__(self, signal: Awaitable[object], seconds: float) -> None: ...


async def wait_at_most(signal: Awaitable[object], seconds: float) -> None:
    """The Wait of a running server."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await signal


class Permits:
    """So many at once as `most` says at that moment; when it says fewer, those inside go on."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._held = 0
        self._bell = Bell()

    async def acquire(self) -> None:
        while self._held >= self._most():
            await self._bell.wait()
        self._held += 1

    def release(self) -> None:
        self._held -= 1
        self._bell.ring()

    def look_again(self) -> None:
        """`most` may say something else now."""
        self._bell.ring()


class Hydrate:
    """The durable queue and its workers. `route_of` turns a job's rule and place into a route, None if it is gone."""

    def __init__(
        self,
        ground: Ground,
        pull: Pull,
        manifests: Manifests,
        route_of: Callable[[str, Place], Route | None],
        *,
        concurrency: Callable[[], int],
        wait: Wait = wait_at_most,
    ) -> None:
        self._pull = pull
        self._manifests = manifests
        self._index = ground.index
        self._tasks = ground.tasks
        self._events = ground.events
        self._route_of = route_of
        self._images = Permits(concurrency)
        self._blobs = Permits(concurrency)
        self._clock = ground.clock
        self._rng = ground.rng
        self._wait = wait
        self._wake = asyncio.Event()
        self._rested = asyncio.Event()  # set when a job has been tried
        self._heard: asyncio.Queue[ManifestFetched | BlobAsked] = asyncio.Queue(HEARD_MAX)
        self._working: dict[tuple[Place, Digest], asyncio.Task[None]] = {}
        # Tried, and the index could not be told: on disk such a job is due as before.
        self._resting: TTLCache[tuple[Place, Digest], bool] = TTLCache(RESTING_MAX, BACKOFF_S, timer=ground.monotonic)
        self._parked = asyncio.Event()
        self._noted: LRUCache[tuple[Place, Digest], bool] = LRUCache(SEEN_MAX)
        self._seen: TTLCache[tuple[Place, Digest], bool] = TTLCache(SEEN_MAX, SEEN_S, timer=ground.monotonic)
        ground.events.listen(ManifestFetched, lambda event: self._hear(event, self._noted))
        ground.events.listen(BlobAsked, lambda event: self._hear(event, self._seen))
        ground.events.listen(Evicted, self._forget)
        ground.events.listen(ConfigTaken, self._look_again)

    def _hear(self, event: ManifestFetched | BlobAsked, known: Cache[tuple[Place, Digest], bool]) -> None:
        """Take an event once per place and digest. A full queue drops it: the next client's request tells again."""
        key = (event.route.place, event.digest)
        if event.route.hydrate and key not in known and not self._heard.full():
            known[key] = True
            self._heard.put_nowait(event)

    def _look_again(self, _event: ConfigTaken) -> None:
        """Another `concurrency` counts from the next image and blob on."""
        self._images.look_again()
        self._blobs.look_again()

    def _forget(self, event: Evicted) -> None:
        """What was dropped and is pulled again is an image like any other."""
        if event.place is not None:
            for digest in event.reach:
                self._noted.pop((event.place, digest), None)
                self._seen.pop((event.place, digest), None)

    async def listen(self) -> None:
        """Turn what was heard into jobs, in order, until cancelled: a manifest is noted before its blobs are."""
        while True:
            event = await self._heard.get()
            try:
                if isinstance(event, BlobAsked):
                    await self._queue_images_of(event.route, event.digest)
                elif not await self._note_fetched(event.route, event.digest):
                    # What could not be kept now may be when it is fetched again.
                    self._noted.pop((event.route.place, event.digest), None)
            except (OSError, ManifestAmbiguous) as error:
                log.warning("an image could not be queued", digest=str(event.digest), error=str(error))
            finally:
                self._heard.task_done()

    async def heard(self) -> None:
        """Wait until all that was heard has been turned into jobs."""
        await self._heard.join()

    def wake(self) -> None:
        """Look at the queue now."""
        self._wake.set()

    async def _note_fetched(self, route: Route, digest: Digest) -> bool:
        """Note what an image consists of; False for a manifest that is not here."""
        held = await self._manifests.held(route.place, digest)
        if held is None:
            return False
        manifest = parse_manifest(held.body, held.descriptor.media_type)
        if manifest.is_image:
            parent = Parent(route.place, digest, manifest.media_type, self._clock())
            own = [child for child in manifest.children if not child.is_foreign]  # foreign layers have no blob upstream
            await self._index.save_manifest(
                parent, [(child.descriptor.digest, child.descriptor.size, child.is_manifest) for child in own]
            )
        return True

    async def _queue_images_of(self, route: Route, blob: Digest) -> None:
        """Queue every image that names the blob and was fetched by GET in this place."""
        for parent in await self._index.parents_of(route.place, blob):
            if parent.fetched_at is None or parent.media_type not in IMAGE_TYPES:
                continue
            now = self._clock()
            job = Job(place=route.place, rule=route.rule, manifest=parent.digest, queued_at=now, due_at=now)
            if not await self._is_whole(parent) and await self._index.enqueue(job):
                self._wake.set()

    async def _is_whole(self, image: Parent) -> bool:
        children = await self._index.children_of(image.place, image.digest)
        if children is None:
            return False
        return all([await self._pull.holds(image.place, digest) for digest, _size, _is_manifest in children])

    async def run(self) -> None:
        """Work the queue until cancelled or parked: jobs that are due, the oldest first."""
        while not self._parked.is_set():
            self._wake.clear()  # before looking: what comes meanwhile is looked at next
            for job in await self.queued():
                key = (job.place, job.manifest)
                if self._is_due(job) and key not in self._working and key not in self._resting:
                    await self._images.acquire()
                    if self._parked.is_set():
                        return
                    self._working[key] = self._tasks.start(self._work(job), name=f"hydrate {job.manifest}")
            await self._wait(self._wake.wait(), IDLE_S)

    def park(self) -> None:
        """Begin nothing more and let go of what is at work: its job stays queued, for the next start."""
        self._parked.set()
        for task in self._working.values():
            task.cancel()
        self._wake.set()

    async def queued(self) -> Sequence[Job]:
        """Jobs that have not ended, by when they are due."""
        return await self._index.jobs("queued")

    async def postponed(self) -> Sequence[Job]:
        """Wait until a job has been put off, and no other is at work; the queue then."""
        while True:
            self._rested.clear()  # before looking: a job that rests meanwhile is looked at next
            jobs = await self.queued()
            if not self._working and any(job.error for job in jobs):
                return jobs
            await self._rested.wait()

    async def finished(self) -> None:
        """Wait until all that was heard has been turned into jobs, and every job has ended."""
        await self.heard()
        while True:
            self._rested.clear()
            if not await self.queued() and not self._working:
                return
            await self._rested.wait()

    async def _work(self, job: Job) -> None:
        key, is_saved = (job.place, job.manifest), False
        try:
            ended = await self._attempt(job)
            is_saved = await self._index.save_job(ended)
        finally:
            if not is_saved:
                self._resting[key] = True  # before the wake: the queue shows it as due at once
            self._images.release()
            del self._working[key]
            self._wake.set()
            self._rested.set()
        if is_saved and ended.state != "queued":
            self._events.publish(HydrationEnded(ended.place, ended.manifest, ended.state, ended.error))

    async def _attempt(self, job: Job) -> Job:
        """Fetch what the image lacks, a few blobs at a time; the job as it stands after."""
        route = self._route_of(job.rule, job.place)
        if route is None:
            return replace(job, state="failed", error="its rule is gone")
        children = await self._index.children_of(job.place, job.manifest)
        if children is None:  # unreadable, or lost and not rebuilt yet
            return self._postponed(job, Overloaded("the index does not know now what the image holds"))
        wanted = [(digest, size) for digest, size, is_manifest in children if not is_manifest]
        failures = await self._fill_all(route, wanted)
        if not failures:
            return replace(job, state="done", error=None)
        definite = [error for error in failures if not _may_end(error)]
        return self._postponed(job, (definite or failures)[0])

    async def _fill_all(self, route: Route, wanted: Sequence[tuple[Digest, int]]) -> list[CisternError]:
        """Fetch the blobs; what failed. A task begins with its permit: a manifest may name tens of thousands."""
        failures: list[CisternError] = []
        async with asyncio.TaskGroup() as group:
            for digest, size in wanted:
                await self._blobs.acquire()
                filling = group.create_task(self._fill(route, digest, size, failures), name=f"hydrate {digest}")
                filling.add_done_callback(lambda _: self._blobs.release())  # also of one cancelled before it began
        return failures

    async def _fill(self, route: Route, digest: Digest, size: int, failures: list[CisternError]) -> None:
        try:
            await self._pull.fill(route, digest, size)
        except CisternError as error:
            failures.append(error)
        except OSError as error:
            failures.append(refused(error))

    def _is_due(self, job: Job) -> bool:
        """A job that is due later than any pause lasts was put off by a clock that has jumped since."""
        left_s = job.due_at - self._clock()
        return left_s <= 0 or left_s > PAUSE_MAX_S

    def _postponed(self, job: Job, error: CisternError) -> Job:
        """Try again later after an outage; give up after a definite answer, or after ATTEMPTS_MAX. A limit that is
        reached is no attempt: the upstream said when to come back.
        """
        attempts = job.attempts + (not isinstance(error, UpstreamThrottled))
        log.warning("hydration failed", place=str(job.place), manifest=str(job.manifest), error=str(error))
        if not _may_end(error) or attempts >= ATTEMPTS_MAX:
            return replace(job, state="failed", attempts=attempts, error=str(error))
        pause_s = min(BACKOFF_MAX_S, BACKOFF_S * 2**attempts) * self._rng() + min(error.retry_after_s or 0.0, 3600.0)
        return replace(job, attempts=attempts, error=str(error), due_at=self._clock() + pause_s)


def _may_end(error: CisternError) -> bool:
    """Whether trying again later makes sense: after an outage, and not for what can never be kept here."""
    return isinstance(error, OUTAGES) and error.reason != "too_large"
