"""Crowds on one cold blob: what the upstream sends, when the last is done, and whether slow ones slow a fast one."""

import random
import time
from dataclasses import replace
from typing import Any

from benchmarks.bench import GIGABIT, LEAD_S, MB, MIB, Bench, Pulled, seconds_of, whole
from benchmarks.figures import CISTERN, REGISTRY, Figure, Row, at_most, ratios, summary
from benchmarks.peers import Subject

ONCE = at_most(1.00)
LAST = at_most(1.10)
SLOWED = at_most(1.10)
SLOW_RATE = 2 * MB  # bytes per second of a slow client
JOIN_WITHIN_S = 0.1
BEHIND_S = 0.005  # how far the fast client is behind its leaders: more would be a head start for it
PATIENCE_S = 12.0  # after that a client among slow ones counts as having taken so long
SLOW_ROUND_S = 4.0
JOINERS = (8, 64)
HERD = 32
WANDERERS = 64
SPARE = 8 * MIB  # that hanging up in mid-answer may cost
# A crowd's way out must not be what limits it: 32 clients at 1 Gbit/s are more than a small machine's loopback carries.
HERD_RATE = GIGABIT // 4


def measure(bench: Bench) -> list[Row]:
    """Upstream bytes, the last of a herd, a fast client among slow ones."""
    with bench.caches() as caches:
        rows = [*_upstream_bytes(bench, caches), _from_anywhere(bench, caches)]
        if bench.quick:  # every client of it goes upstream for itself: too long for a quick run
            caches = [subject for subject in caches if subject.name != REGISTRY]
        return [*rows, _herd(bench, caches), *_slow_joiners(bench, caches)]


def _upstream_bytes(bench: Bench, caches: list[Subject]) -> list[Row]:
    rows = []
    chance = random.Random(7)
    bench.upstream.limit(None)
    for count in (1, 8, 64, 256, 1000)[: bench.pick(5, 3)]:
        bench.say(f"upstream bytes with {count} clients")
        size = (8 if count > 64 else 32 if count < 64 else 16) * MIB
        cells = {}
        for subject in caches:
            if count > 256 and subject.name == REGISTRY:  # every client of it goes upstream for itself
                continue
            [digest] = bench.upstream.blobs(size)
            joins = [chance.random() * JOIN_WITHIN_S for _ in range(count)]
            _all_whole(bench, subject, digest, joins)
            copies = bench.upstream.sent(digest)[1] / size
            cells[subject.name] = Figure(copies, copies, copies, 1)
        name = f"upstream bytes / blob size, {count} client{'s' if count > 1 else ''}"
        rows.append(Row("crowd", name, "x", cells, cells[CISTERN].value, ONCE))
    return rows


def _from_anywhere(bench: Bench, caches: list[Subject]) -> Row:
    """The same where every second client wants the blob from a random offset on, while it is being filled."""
    bench.say(f"upstream bytes with {WANDERERS} clients at random offsets")
    bench.upstream.limit(GIGABIT)
    size = 64 * MIB
    chance = random.Random(7)
    cells = {}
    for subject in caches:
        if subject.name == REGISTRY:  # every client of it goes upstream for itself
            continue
        [digest] = bench.upstream.blobs(size)
        fetches: list[dict[str, Any]] = [
            {
                "path": subject.blob(digest),
                "at_s": chance.random() * size / GIGABIT,
                "range": f"bytes={chance.randrange(size)}-" if number % 2 else None,
            }
            for number in range(WANDERERS)
        ]
        for one in bench.fleet(subject, fetches, mode="discard"):
            whole(subject, one)
        copies = bench.upstream.sent(digest)[1] / size
        cells[subject.name] = Figure(copies, copies, copies, 1)
    name = f"upstream bytes / blob size, {WANDERERS} clients, half of them at random offsets"
    return Row("crowd", name, "x", cells, cells[CISTERN].value, at_most(1 + SPARE / size), "the goal allows 8 MiB more")


def _herd(bench: Bench, caches: list[Subject]) -> Row:
    """The last of 32 clients that start together, over one client alone; both cold."""
    bench.say("the last of 32 clients")
    bench.upstream.limit(HERD_RATE)
    size = bench.pick(32, 16) * MIB
    alone: dict[str, list[float]] = {}
    last: dict[str, list[float]] = {}
    for _ in range(bench.rounds):
        for subject in caches:
            if _is_slow(last.get(subject.name, [])):
                continue
            single, herd = bench.upstream.blobs(size, 2)
            alone.setdefault(subject.name, []).append(_last_s(_all_whole(bench, subject, single, [0.0])))
            last.setdefault(subject.name, []).append(_last_s(_all_whole(bench, subject, herd, [0.0] * HERD)))
    cells = {subject: summary(ratios(taken, alone[subject])) for subject, taken in last.items()}
    note = f"one client {summary(alone[CISTERN]).value:.2f} s, upstream {HERD_RATE * 8 // MB} Mbit/s"
    name = f"last of {HERD} clients / one client, cold"
    return Row("crowd", name, "x", cells, cells[CISTERN].value, LAST, note, last)


def _slow_joiners(bench: Bench, caches: list[Subject]) -> list[Row]:
    """A fast client's time with slow joiners, over its time alone."""
    bench.say("a fast client among slow ones")
    bench.upstream.limit(GIGABIT)
    size = bench.pick(128, 64) * MIB
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(bench.rounds):
        for subject in caches:
            if any(_is_slow(seconds.get((subject.name, count), [])) for count in JOINERS):
                continue
            for count in (0, *JOINERS):
                [digest] = bench.upstream.blobs(size)
                taken = seconds_of(fast_among_slow(bench, subject, digest, count))
                seconds.setdefault((subject.name, count), []).append(taken)
    rows = []
    for count in JOINERS:
        cells = {
            subject.name: summary(ratios(seconds[subject.name, count], seconds[subject.name, 0])) for subject in caches
        }
        name = f"fast client with {count} slow joiners / alone, cold"
        note = f"alone {summary(seconds[CISTERN, 0]).value:.2f} s, upstream 1 Gbit/s"
        rows.append(Row("crowd", name, "x", cells, cells[CISTERN].value, SLOWED, note))
    return rows


def _is_slow(taken: list[float]) -> bool:
    """One round tells enough of a cache that goes upstream client by client."""
    return bool(taken) and max(taken) > SLOW_ROUND_S


def fast_among_slow(bench: Bench, subject: Subject, digest: str, slow: int, rate: int = SLOW_RATE) -> Pulled:
    """One fast client of a cold blob, and slow ones: half of them there just before it, half after."""
    begin_at = time.monotonic() + LEAD_S
    path = subject.blob(digest)
    # The first slow one leads: a cache that lets its leader set the pace shows it here.
    fetches: list[dict[str, Any]] = [
        {"path": path, "at_s": 0.0 if n % 2 == 0 else JOIN_WITHIN_S * n / slow, "rate": rate} for n in range(slow)
    ]
    fast: list[dict[str, Any]] = [{"path": path, "at_s": BEHIND_S}]
    with (
        bench.started(subject, fetches, mode="read", begin_at=begin_at, until_s=PATIENCE_S),
        bench.started(subject, fast, mode="verify", begin_at=begin_at, until_s=PATIENCE_S) as finish,
    ):
        [pulled] = finish()
    if pulled.error:
        return whole(subject, pulled)
    # A cache that never finished within our patience took at least that long.
    return pulled if pulled.ok else replace(pulled, ok=True, seconds=PATIENCE_S, ended_s=PATIENCE_S)


def _all_whole(bench: Bench, subject: Subject, digest: str, joins: list[float]) -> list[Pulled]:
    fetches = [{"path": subject.blob(digest), "at_s": at_s} for at_s in joins]
    return [whole(subject, one) for one in bench.fleet(subject, fetches, mode="discard")]


def _last_s(pulled: list[Pulled]) -> float:
    """From the first request to the end of the last client."""
    return max(one.ended_s or 0.0 for one in pulled) - min(one.started_s for one in pulled)
