"""Checks of everything stored, asked for by a person: one at a time, behind every client, for as long as it takes."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from proxy.flights import Flights
from proxy.ground import Ground
from proxy.log import logger
from proxy.oci import Digest
from proxy.store.base import Verdict
from proxy.verify.report import Bad, Report

log = logger("verify")


class Verify:
    """Whoever asks while a check runs gets that one's report; nobody's leaving ends it."""

    def __init__(self, ground: Ground, mend: Callable[[Digest], Awaitable[str | None]]) -> None:
        self._store = ground.blobs
        self._monotonic = ground.monotonic
        self._mend = mend
        self._checks: Flights[str, Report] = Flights(ground.tasks, "verify")
        self._blobs = self._bytes = 0

    def as_json(self) -> dict[str, Any]:
        """How far the check has come that runs now, or came that ran last."""
        return {"running": self._checks.running("all"), "blobs": self._blobs, "bytes": self._bytes}

    async def all(self, *, repair: bool) -> Report:
        """Hash everything; bad content is set aside, and with `repair` fetched again. OSError: the disk refuses."""
        report = await self._checks.fly("all", self._all)
        if repair and report.bad:
            report = replace(report, bad=tuple([await self._repaired(found) for found in report.bad]))
        log.info("everything stored was checked", blobs=report.blobs, bytes=report.bytes, bad=len(report.bad))
        return report

    async def _all(self) -> Report:
        started, bad = self._monotonic(), list[Bad]()
        self._blobs = self._bytes = 0
        async for stored in self._store.list():
            verdict = await self._store.check(stored.digest, self._count)
            self._blobs += verdict is not Verdict.GONE
            if verdict in (Verdict.BAD, Verdict.UNREADABLE):
                bad.append(Bad(stored.digest, verdict.value))
        return Report(self._blobs, self._bytes, self._monotonic() - started, tuple(bad))

    async def _count(self, read: int) -> None:
        self._bytes += read

    async def _repaired(self, found: Bad) -> Bad:
        if found.found == Verdict.UNREADABLE.value:
            return replace(found, why_not="the disk does not give it, and it was left where it is")
        why_not = await self._mend(found.digest)
        return replace(found, mended=why_not is None, why_not=why_not)
