"""One answer of an upstream on its way into the part, for the bytes that one claim holds."""

from collections.abc import Callable

from proxy.downloads.appender import Appender
from proxy.downloads.part import Part
from proxy.downloads.pieces import Claim
from proxy.errors import UpstreamLied
from proxy.tasks import Tasks
from proxy.upstream.base import BlobBody


class GaveWay(Exception):
    """A transfer without readers hung up, for clients to go first."""


async def receive(
    body: BlobBody,
    claim: Claim,
    part: Part,
    tasks: Tasks,
    *,
    upstream: str,
    limit: int,
    must_leave: Callable[[], bool],
    grown: Callable[[], None],
) -> None:
    """Receive and write side by side: while one batch is written, and one hashed, the next one is received.

    Ends with the body, or where the claim was cut meanwhile. `limit` is the blob's size, or the most it may have.
    Raises UpstreamLied (longer than that), GaveWay, what reading the body raises, and OSError: the disk refuses.
    """
    skip = claim.at - body.start
    can_go_on = skip == 0  # else it ignores ranges: to hang up would mean to begin from zero each time
    appender = Appender(part, claim.at, tasks, grown)
    try:
        async for chunk in body.chunks:
            fresh, skip = chunk[skip:], max(0, skip - len(chunk))
            if claim.at + len(fresh) > limit:
                raise UpstreamLied(upstream, f"the body is longer than {limit} bytes")
            if claim.stop is not None:
                fresh = fresh[: claim.stop - claim.at]
            if fresh:
                claim.at += len(fresh)  # before any await: nobody else may take these bytes
                await appender.feed(fresh)
            if claim.at == claim.stop and (claim.is_cut or not can_go_on):
                return
            if can_go_on and claim.at < limit and must_leave():
                raise GaveWay
    finally:
        await appender.flush()  # a cut upstream keeps what it gave: those bytes are not fetched again
