"""How the engine answers a question: as the registry address does, but for what leaves the process.

The decision is the very one that a single process makes. Small answers are told as they are. Of a blob the head is
told and its file handed over; the serving process then asks how far it may send, until it says that it is done.
"""

import io
import os
from collections.abc import Callable, Mapping
from typing import Final, cast

from aiohttp import web

from proxy.downloads.left import Finds
from proxy.errors import CisternError
from proxy.events import BlobAsked, ManifestFetched
from proxy.exchange import Exchange
from proxy.oci import Digest, Span
from proxy.outcome import HIT
from proxy.paths import Kind
from proxy.pull import Pull
from proxy.pulled import BlobAnswer, ManifestAnswer, Standing
from proxy.server.asked import Asked
from proxy.server.blobs import Outgoing, send_blob
from proxy.server.carrier import Carrier
from proxy.server.ready import Prepared
from proxy.server.registry import Registry
from proxy.server.send import Body, BodyDropped
from proxy.store.base import OpenBlob
from proxy.store.threads import Threads
from proxy.workers.apart import REGISTRY
from proxy.workers.channel import Channel, pieces
from proxy.workers.question import Question
from proxy.workers.wire import WireBroken
from proxy.workers.words import At, Blob, Bytes, End, Facts, Failed, Fault, Taken, UpTo

GONE: Final = "the engine is gone, and what it gave is not what is verified now"


class AskedRegistry(Registry):
    """The registry's handler for questions: it keeps no answer, and tells which of them may be kept."""

    def _prepared(self, _method: str, _target: str, _headers: Mapping[str, str]) -> Prepared | None:
        return None

    def heard(self, target: str, digest: Digest) -> BlobAsked | ManifestFetched | None:
        """What it means that a serving process gave content again without a question; None if that cannot be told."""
        asked = self._reading.recall(target, self._rules())
        if asked is None or asked.route is None:
            return None
        return (BlobAsked if asked.call.kind is Kind.BLOB else ManifestFetched)(asked.route, digest)

    def _keep(
        self, request: web.BaseRequest, asked: Asked, found: ManifestAnswer, headers: dict[str, str], exchange: Exchange
    ) -> None:
        if found.standing is not None and asked.is_short:
            question = _question(request)
            question.facts = _facts(question, exchange, found.descriptor.digest, found.standing)


class HandedCarrier(Carrier):
    """Carries blobs that are asked for: their bytes leave by another process. `finds` tells whether a client of an
    earlier engine may go on.
    """

    def __init__(self, member: str, pull: Pull, threads: Threads, finds: Finds) -> None:
        super().__init__(member, pull, threads)
        self._finds = finds

    def _goes_on(self, digest: Digest, file: io.FileIO | None, taken: Taken | None) -> bool:
        """Whether bytes may follow those that an earlier engine gave; `file` is None for bytes in memory."""
        if taken is None or taken.start == taken.stop:
            return True
        if file is None:
            return False
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino) != (taken.device, taken.inode):
            return False
        return self._finds.stand(digest, file, Span(taken.start, taken.stop))

    async def _carry(
        self, request: web.BaseRequest, found: BlobAnswer, digest: Digest, exchange: Exchange
    ) -> web.StreamResponse:
        question = _question(request)
        taken = question.ask.taken
        if taken is not None and found.reader is not None:  # now, before anything is awaited: it is one that has begun
            found.reader.taken, found.reader.reached = True, taken.stop

        async def send(outgoing: Outgoing, body: Body) -> web.StreamResponse:
            is_whole = isinstance(body, OpenBlob) and body.verdict is None
            question.is_answered = True
            exchange.begin(outgoing.status)
            if is_whole and not self._goes_on(digest, body.file, taken):
                raise _refused(question, GONE)
            facts = _facts_of_blob(question, found, digest, exchange) if is_whole else None
            head = _head(outgoing, digest, found.size if is_whole else None, facts)
            question.channel.post(head, file=body.file.fileno() if is_whole else None)
            await _let_leave(question, body, exchange, lambda file: self._goes_on(digest, file, taken))
            return web.StreamResponse(status=outgoing.status)

        return await send_blob(request, found, digest, self.member, exchange, send)


def _head(outgoing: Outgoing, digest: Digest, size: int | None, facts: Facts | None) -> Blob:
    return Blob(
        status=outgoing.status,
        headers=tuple(outgoing.headers.items()),
        length=outgoing.length,
        parts=tuple((text.decode(), span.start, span.stop) for text, span in outgoing.parts),
        tail=outgoing.tail.decode(),
        is_open_ended=outgoing.is_open_ended,
        digest=str(digest),
        size=size,
        facts=facts,
    )


def _facts_of_blob(question: Question, found: BlobAnswer, digest: Digest, exchange: Exchange) -> Facts | None:
    """For how long a whole blob's answer stands. Where another address may be told, and at the data address itself,
    each request is asked for: it depends on the client, or on the time.
    """
    route = exchange.route
    if found.standing is None or found.outcome is not HIT or question.ask.door != REGISTRY:
        return None
    return None if route is None or route.redirect is not None else _facts(question, exchange, digest, found.standing)


def _refused(question: Question, why: str) -> BodyDropped:
    question.channel.post(Failed(why))
    return BodyDropped(why)


class Steps:
    """Tells how far bytes of a body may leave, one step at a time. `goes_on` is asked before the first of them."""

    def __init__(self, channel: Channel, body: Body, goes_on: Callable[[io.FileIO | None], bool]) -> None:
        self._channel = channel
        self._body = body
        self._goes_on = goes_on
        self._has_begun = False
        self._shown: io.FileIO | None = None

    async def take(self, offset: int) -> None:
        """One step. Raises CisternError or OSError: none of its bytes may leave any more."""
        body = self._body
        end = await body.ready(offset)
        data = body.memory(offset, end) if end > offset else None
        if not self._has_begun and end > offset and not self._goes_on(None if data is not None else body.file):
            raise CisternError(GONE)
        self._has_begun = self._has_begun or end > offset
        if data is not None:
            await self._channel.send(Bytes(), pieces(data)[0])
            return
        file = body.file if end > offset else self._shown
        self._channel.post(UpTo(end), file=None if file is self._shown or file is None else file.fileno())
        self._shown = file


async def _let_leave(
    question: Question, body: Body, exchange: Exchange, goes_on: Callable[[io.FileIO | None], bool]
) -> None:
    """Answer how far bytes may leave, until the serving process is done. `goes_on` is asked before the first of them.
    Raises ConnectionError.
    """
    steps = Steps(question.channel, body, goes_on)
    while True:
        found = await question.channel.receive()
        found.drop()
        match found.message:
            case At(offset):
                try:
                    await steps.take(offset)
                except ConnectionError:
                    raise
                except (CisternError, OSError) as error:
                    raise _refused(question, str(error)) from error
                except Exception:  # unsaid, it would look as if this engine had died: it would be asked again
                    _refused(question, "an internal error; the engine's log has its trace")
                    raise
            case Fault(errno, why):
                body.failed(OSError(errno, why))
            case End(sent, why_not_all):
                exchange.sent = sent
                if why_not_all is not None:
                    raise BodyDropped(why_not_all)
                return
            case other:
                raise WireBroken(f"{type(other).__name__} while a body leaves")


def _question(request: web.BaseRequest) -> Question:
    return cast("Question", request)


def _facts(question: Question, exchange: Exchange, digest: Digest, standing: Standing) -> Facts:
    return Facts(
        exchange.kind,
        exchange.rule,
        exchange.reference,
        str(digest),
        question.changes,
        standing.checked_at,
        standing.fresh_for_s,
    )
