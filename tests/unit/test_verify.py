"""The checks of what is stored: everything on demand, and a round in the background at an even pace."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from proxy.ground import Ground
from proxy.oci import Digest
from proxy.store.base import Verdict
from proxy.store.seals import Due
from proxy.tasks import Tasks
from proxy.verify import Bad, Pace, Report
from proxy.verify.room import Verify
from proxy.verify.scrub import IDLE_S, Scrub
from tests.support.checked import Bench
from tests.support.damage import flip_a_bit, silently
from tests.support.waiting import settled

MIB = 1 << 20
DAY = 86_400.0
DIGEST = Digest.of(b"x")


class Mender:
    """Stands for the upstream: puts again what it knows."""

    def __init__(self, bench: Bench, bodies: list[bytes]) -> None:
        self._bench = bench
        self._bodies = {Digest.of(body): body for body in bodies}
        self.asked: list[Digest] = []

    async def __call__(self, digest: Digest) -> str | None:
        self.asked.append(digest)
        if digest not in self._bodies:
            return "the upstream has it no more"
        await self._bench.store.put(self._bodies[digest], digest)
        return None


@pytest.mark.parametrize(
    ("age_s", "total", "wanted"),
    [
        (0.0, 1000 * MIB, None),
        (4.9 * DAY, 1000 * MIB, None),
        (5.1 * DAY, 1000 * MIB, 1000 * MIB / (10 * DAY)),
        (10 * DAY, 1000 * MIB, 8.0 * MIB),
        (300 * DAY, 1000 * MIB, 8.0 * MIB),
        (-DAY, 1000 * MIB, 1000 * MIB / (10 * DAY)),
        (6 * DAY, 10, 1.0),
        (6 * DAY, 10**15, 8.0 * MIB),
    ],
    ids=["fresh", "early", "in time", "due", "overdue", "the clock went back", "tiny store", "huge store"],
)
def test_the_pace_of_a_round(age_s: float, total: int, wanted: float | None) -> None:
    """Evenly over the period; what is overdue at the full bandwidth; what was checked lately not at all."""
    due = Due(DIGEST, 10, checked_at=1000 * DAY - age_s)
    assert Pace(10 * DAY, 8.0 * MIB).rate_for(due, total, 1000 * DAY) == wanted


def test_a_bandwidth_too_small_for_the_period_is_known() -> None:
    """A round that cannot be done in time can be told."""
    assert Pace(DAY, 1.0 * MIB).is_too_slow(10**12)
    assert not Pace(DAY, math.inf).is_too_slow(10**18)


def test_a_report_is_clean_when_all_is_mended() -> None:
    """What is bad and mended does not fail a check; what is not mended does."""
    mended, left = Bad(DIGEST, "bad", mended=True), Bad(DIGEST, "bad", why_not="gone")
    assert [Report(1, 1, 1.0, bad).is_clean for bad in ((), (mended,), (mended, left))] == [True, True, False]


class Rooms:
    """What `Verify` and `Scrub` stand on, of a ground: a bench, and pauses that a test lets pass."""

    def __init__(self, bench: Bench) -> None:
        self.blobs = bench.store
        self.clock = bench.clock
        self.monotonic = bench.clock
        self.tasks = Tasks()
        self.slept: list[float] = []
        self.waiting = asyncio.Event()
        self.go = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if seconds < IDLE_S:
            return
        self.waiting.set()
        await self.go.acquire()

    async def turned(self) -> None:
        """Let one idle pause pass, and wait for the next one."""
        await self.waiting.wait()
        self.waiting.clear()
        self.go.release()
        await self.waiting.wait()


def ground_of(rooms: Rooms) -> Ground:
    """Of a ground they are the part that is asked for."""
    return cast(Ground, rooms)


BODIES = [b"%d" % n * 1000 for n in range(10)]


async def stored(bench: Bench, *, synced: bool = True) -> list[Digest]:
    for body in BODIES:
        await bench.store.put(body, Digest.of(body))
    if synced:
        await bench.seals.sync()
    return [Digest.of(body) for body in BODIES]


async def test_everything_is_hashed(bench: Bench) -> None:
    """A check reads every byte of every blob, and finds nothing where nothing is bad."""
    await stored(bench)
    report = await Verify(ground_of(Rooms(bench)), Mender(bench, [])).all(repair=True)
    assert (report.blobs, report.bytes, report.bad) == (10, sum(map(len, BODIES)), ())
    assert report.is_clean


@pytest.mark.parametrize("repair", [False, True])
async def test_rot_is_found_and_mended(bench: Bench, repair: bool) -> None:
    """Silent rot is found; without repair it is set aside, with it fetched again, as far as anybody has it."""
    digests = await stored(bench)
    for digest in digests[:2]:
        silently(flip_a_bit, bench.store.path_of(digest))
    mender = Mender(bench, BODIES[1:])
    report = await Verify(ground_of(Rooms(bench)), mender).all(repair=repair)
    assert {found.digest: found.mended for found in report.bad} == {digests[0]: False, digests[1]: repair}
    assert not report.is_clean
    assert await bench.store.stat(digests[0]) is None
    assert await bench.store.stat(digests[1]) == (len(BODIES[1]) if repair else None)
    assert len(bench.quarantined) == 2
    again = await Verify(ground_of(Rooms(bench)), mender).all(repair=repair)
    assert again.is_clean


async def test_two_checks_at_once_are_one(bench: Bench) -> None:
    """Who asks while a check runs gets the same findings; each blob is hashed once."""
    digests = await stored(bench)
    silently(flip_a_bit, bench.store.path_of(digests[3]))
    verify = Verify(ground_of(Rooms(bench)), Mender(bench, BODIES))
    first, second = await asyncio.gather(verify.all(repair=False), verify.all(repair=True))
    assert [found.digest for found in first.bad] == [found.digest for found in second.bad] == [digests[3]]
    assert second.is_clean
    assert len(bench.bad) == 1


async def scrubbed(bench: Bench, pace: Pace, mender: Mender, turns: int) -> Scrub:
    """A scrub that had so many idle pauses."""
    rooms = Rooms(bench)
    scrub = Scrub(ground_of(rooms), bench.seals, lambda: pace, mender)
    rooms.tasks.start(scrub.run(), name="scrub")
    for _ in range(turns):
        await rooms.turned()
    await rooms.tasks.stop()
    await settled()
    return scrub


async def test_what_nobody_checked_is_scrubbed_first(bench: Bench) -> None:
    """Blobs without a seal, as after an unclean stop, are hashed and sealed at the first walk; bad ones are mended."""
    digests = await stored(bench, synced=False)
    bench.seals._noted.clear()  # as if killed before the sync point
    bench.seals._known.clear()
    silently(flip_a_bit, bench.store.path_of(digests[4]))
    mender = Mender(bench, BODIES)
    scrub = await scrubbed(bench, Pace(30 * DAY, math.inf), mender, 1)
    assert mender.asked == [digests[4]]
    assert scrub.checked_bytes == sum(map(len, BODIES))
    assert await bench.seals.unsealed(digests) == []


async def test_a_round_finds_rot_within_its_period(bench: Bench) -> None:
    """Rot in a blob that nobody reads is found once the blob is due, and each blob is hashed once a round (F07)."""
    digests = await stored(bench)
    silently(flip_a_bit, bench.store.path_of(digests[5]))
    mender = Mender(bench, BODIES)
    pace = Pace(10 * DAY, math.inf)
    assert (await scrubbed(bench, pace, mender, 1)).checked_bytes == 0
    bench.clock.advance(10 * DAY)
    scrub = await scrubbed(bench, pace, mender, 2)
    assert scrub.checked_bytes == sum(map(len, BODIES))
    assert (scrub.found_bad, mender.asked) == (1, [digests[5]])
    assert await bench.store.stat(digests[5]) == len(BODIES[5])


async def test_a_scrub_can_be_switched_off(bench: Bench) -> None:
    """With `forever` nothing is read."""
    await stored(bench)
    bench.clock.advance(1000 * DAY)
    assert (await scrubbed(bench, Pace(math.inf, math.inf), Mender(bench, []), 2)).checked_bytes == 0


async def test_what_cannot_be_read_is_not_tried_without_a_pause(bench: Bench) -> None:
    """A blob that the disk does not give now costs one try an idle pause, and loses its seal: the walks that follow
    come back to it, and those behind it have their turn (no spin, nobody starves).
    """
    digests = await stored(bench)
    unreadable = {digests[0]}
    bench.clock.advance(10 * DAY)
    tries: list[Digest] = []
    check = bench.store.check

    async def counting(digest: Digest, pause: Callable[[int], Awaitable[None]]) -> Verdict:
        tries.append(digest)
        return Verdict.UNREADABLE if digest in unreadable else await check(digest, pause)

    bench.store.check = counting  # type: ignore[method-assign]  # the disk's refusal, whoever runs the test
    rooms = Rooms(bench)
    scrub = Scrub(ground_of(rooms), bench.seals, lambda: Pace(10 * DAY, math.inf), Mender(bench, []))
    rooms.tasks.start(scrub.run(), name="scrub")
    for _ in range(5):
        await rooms.turned()
    assert tries.count(digests[0]) == 1
    assert set(tries) == set(digests)
    unreadable.clear()
    bench.clock.advance(3601)
    await rooms.turned()
    await rooms.tasks.stop()
    assert tries.count(digests[0]) == 2
    assert await bench.seals.unsealed(digests) == []
