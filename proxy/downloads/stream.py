"""One answer of an upstream on its way into the part, for the bytes that a claim holds."""

from collections.abc import Callable

from proxy.downloads.appender import Appender
from proxy.downloads.part import Part
from proxy.downloads.pieces import Claim
from proxy.errors import UpstreamLied
from proxy.tasks import Tasks
from proxy.upstream.base import BlobBody, Buffer


class GaveWay(Exception):
    """A transfer without readers hung up, for clients to go first."""


class Answer:
    """A body whose next bytes stand at `at`. `knows_ranges`: it begins and ends where it was asked to, so its rest can
    be asked for again; else to hang up would mean to begin from zero. `gives_whole`: the upstream did so lately, which
    an answer from zero on does not show.
    """

    def __init__(self, body: BlobBody, asked_from: int, *, gives_whole: bool = False) -> None:
        self.at = body.start
        self.knows_ranges = body.start == asked_from and (asked_from > 0 or not gives_whole)
        self.has_ended = False
        self._chunks = body.chunks
        self._back: Buffer | None = None

    async def take(self, offset: int) -> Buffer | None:
        """What comes next of the bytes from `offset` on, None at the end; those before it are passed over."""
        while True:
            chunk, self._back = self._back, None
            if chunk is None:
                chunk = await anext(self._chunks, None)
            if chunk is None:
                self.has_ended = True
                return None
            start, self.at = self.at, self.at + len(chunk)
            if self.at > offset:
                return chunk[max(0, offset - start) :]

    def give_back(self, rest: Buffer, *, is_cut: bool) -> None:
        """Of what was taken last this is another's, if the claim `is_cut`, or was not asked for: it comes again."""
        self._back, self.at = rest, self.at - len(rest)
        self.knows_ranges = self.knows_ranges and is_cut


async def receive(
    answer: Answer,
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

    Ends with the answer, where the claim was cut meanwhile, or with the claim, if the answer knows no ranges. `limit`
    is the blob's size, or the most it may have. Raises UpstreamLied (longer than that), GaveWay, what reading the body
    raises, and OSError: the disk refuses.
    """
    appender = Appender(part, claim.at, tasks, grown)
    try:
        while (fresh := await answer.take(claim.at)) is not None:
            if claim.at + len(fresh) > limit:
                raise UpstreamLied(upstream, f"the body is longer than {limit} bytes")
            if claim.stop is not None and claim.at + len(fresh) > claim.stop:
                answer.give_back(fresh[claim.stop - claim.at :], is_cut=claim.is_cut)
                fresh = fresh[: claim.stop - claim.at]
            if fresh:
                claim.at += len(fresh)  # before any await: nobody else may take these bytes
                await appender.feed(fresh)
            if claim.at == claim.stop and (claim.is_cut or not answer.knows_ranges):
                return
            if answer.knows_ranges and claim.at < limit and must_leave():
                raise GaveWay
    finally:
        await appender.flush()  # a cut upstream keeps what it gave: those bytes are not fetched again
