"""The registry address in a serving process: what it keeps is answered here, all else by asking the engine.

HTTP only, as `proxy.server.registry` is for one process. An asked request is the engine's in log and metrics; one that
was answered from what is kept, or that no engine answered, is told here.
"""

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import hdrs, web

from proxy.errors import CisternError, NameInvalid
from proxy.exchange import Exchange
from proxy.oci import Digest, Span
from proxy.outcome import HIT
from proxy.paths import Kind
from proxy.server.blobs import Outgoing, decide, send_out
from proxy.server.door import Door
from proxy.server.ready import Prepared, head
from proxy.server.send import BodyDropped
from proxy.server.streams import Streams
from proxy.store.threads import Threads
from proxy.workers.asking import Engine, unexpected
from proxy.workers.bodies import AskedBody, WholeBody
from proxy.workers.channel import Channel, Received
from proxy.workers.kept import HEARD_AGAIN_AFTER_S, Kept, Manifest
from proxy.workers.kept import Blob as KeptBlob
from proxy.workers.words import Ask, Blob, Facts, Heard, More, Small

# The request headers that an answer may depend on; the last one is a web server's at the data address.
TOLD: Final = (hdrs.RANGE, hdrs.IF_RANGE, hdrs.IF_NONE_MATCH, hdrs.IF_MATCH, "X-Accel-Below")
TARGET_MAX: Final = 1024  # characters of a request target whose answer is kept
QUESTION_MAX: Final = 96 << 10  # characters of one question


@dataclass(slots=True)
class Served(Exchange):
    """One request as this process tells it. `facts` is what the engine said of the answer that is given again;
    `is_asked`: the engine answered, and tells it.
    """

    facts: Facts | None = None
    is_asked: bool = False

    @property
    def rule(self) -> str:
        return "" if self.facts is None else self.facts.rule


class Front(Door):
    """The handler of one address in one serving process. `kept` is None where no answer may be given again; `heard`
    hears which content was used without a question.
    """

    def __init__(
        self,
        door: str,
        engine: Engine,
        kept: Kept | None,
        threads: Threads,
        *,
        observe: Callable[[Exchange], None],
        heard: Callable[[Heard], None],
        mark: str,
    ) -> None:
        super().__init__(observe=self._tell, mark=mark)
        self._told = observe
        self._door = door
        self._engine = engine
        self._kept = kept
        self._threads = threads
        self._heard = heard
        self.streams = Streams()

    def _tell(self, exchange: Exchange) -> None:
        """What the engine answered it tells itself."""
        if not (isinstance(exchange, Served) and exchange.is_asked):
            self._told(exchange)

    def _begin(self, client: str, method: str) -> Served:
        return Served(id=self._name(), client=client, method=method)

    # What is kept

    def _prepared(self, method: str, target: str, headers: Mapping[str, str]) -> Prepared | None:
        if self._kept is None or hdrs.IF_NONE_MATCH in headers:
            return None
        found = self._kept.manifest(method, target)
        return (
            None if found is None else Prepared(found.head, found.body, partial(self._repeat, found, target, headers))
        )

    def _repeat(self, found: Manifest, target: str, headers: Mapping[str, str], exchange: Exchange) -> None:
        self._note(exchange, headers, found.facts)
        found.heard_at = self._hear(target, found.facts, exchange, found.heard_at)

    def _note(self, exchange: Exchange, headers: Mapping[str, str], facts: Facts) -> None:
        if isinstance(exchange, Served):
            exchange.facts = facts
        exchange.kind, exchange.reference, exchange.outcome = facts.kind, facts.reference, HIT
        exchange.range = headers.get(hdrs.RANGE)

    def _hear(self, target: str, facts: Facts, exchange: Exchange, heard_at: float) -> float:
        """Tell that content was used, once a second at most; when it was told."""
        if exchange.method != "GET" or exchange.started - heard_at < HEARD_AGAIN_AFTER_S:
            return heard_at
        self._heard(Heard(target, facts.digest))
        return exchange.started

    async def _kept_blob(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse | None:
        """A blob whose file is open here, None if the engine has to be asked."""
        kept = self._kept
        if kept is None or request.method != "GET" or hdrs.IF_NONE_MATCH in request.headers:
            return None
        blob = kept.blob(request.raw_path)
        if blob is None:
            return None
        try:
            try:
                outgoing = decide(request.headers, blob.size, blob.headers)
            except CisternError:  # a range that is refused: the engine says how
                return None
            self._note(exchange, request.headers, blob.facts)
            blob.heard_at = self._hear(request.raw_path, blob.facts, exchange, blob.heard_at)
            body = WholeBody(blob, lambda _error: kept.forget_blob(request.raw_path))
            with self.streams.carrying(Digest.parse(blob.facts.digest), lambda: exchange.status != 0):
                return await send_out(request, outgoing, body, self._threads, exchange)
        finally:
            blob.release()

    # What is asked

    async def _answer(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        if (response := await self._kept_blob(request, exchange)) is not None:
            return response
        question = self._question(request)
        channel, found = await self._engine.ask(question)
        if isinstance(exchange, Served):
            exchange.is_asked = True
        match found.message:
            case Small():
                return await self._small(request, exchange, channel, found, found.message)
            case Blob():
                body = AskedBody(self._engine, question, channel, found, found.message)
                return await self._blob(request, exchange, body, found.message)
        channel.close()
        raise unexpected(found)

    def _question(self, request: web.BaseRequest) -> Ask:
        url = request.rel_url
        question = Ask(
            door=self._door,
            method=_plain(request.method),
            target=_plain(request.raw_path),
            url=(_plain(url.raw_path), _plain(url.raw_query_string), _plain(url.raw_fragment)),
            version=(request.version.major, request.version.minor),
            headers=tuple((name, _plain(request.headers[name])) for name in TOLD if name in request.headers),
            client=request.remote or "",
            taken=None,
        )
        length = len(question.method) + 2 * len(question.target) + sum(len(text) for _, text in question.headers)
        if length > QUESTION_MAX:
            raise NameInvalid("the request's line is too long")
        return question

    async def _small(
        self, request: web.BaseRequest, exchange: Exchange, channel: Channel, found: Received, told: Small
    ) -> web.StreamResponse:
        try:
            body = bytearray(found.data)
            while len(body) < told.length:
                body += (await channel.expect(More)).data
        except BaseException:
            channel.close()
            raise
        self._engine.release(channel)
        headers = dict(told.headers)
        exchange.begin(told.status)
        if self._kept is not None and told.facts is not None and len(request.raw_path) <= TARGET_MAX:
            sent = b"" if request.method == "HEAD" else bytes(body)
            entry = Manifest(facts=told.facts, head=head(told.status, headers), body=sent, heard_at=exchange.started)
            self._kept.keep_manifest(request.method, request.raw_path, entry)
        if request.method == "HEAD" or told.status == 304:
            return web.Response(status=told.status, headers=headers)
        return web.Response(status=told.status, body=bytes(body), headers=headers)

    async def _blob(
        self, request: web.BaseRequest, exchange: Exchange, body: AskedBody, told: Blob
    ) -> web.StreamResponse:
        has_told = False
        try:
            self._keep_blob(request, exchange, body, told)
            parts = tuple((text.encode(), Span(start, stop)) for text, start, stop in told.parts)
            outgoing = Outgoing(
                told.status, dict(told.headers), told.length, parts, told.tail.encode(), told.is_open_ended
            )
            with self.streams.carrying(Digest.parse(told.digest), lambda: exchange.status != 0):
                response = await send_out(request, outgoing, body, self._threads, exchange)
            has_told = body.end(exchange.sent, None)
        except BodyDropped as error:
            has_told = body.end(exchange.sent, str(error))
            raise
        finally:
            body.leave()
            if not has_told and isinstance(exchange, Served):  # no engine is left that would tell of it
                exchange.kind, exchange.reference, exchange.is_asked = Kind.BLOB.value, told.digest, False
        return response

    def _keep_blob(self, request: web.BaseRequest, exchange: Exchange, body: AskedBody, told: Blob) -> None:
        if self._kept is None or told.facts is None or not self._kept.stands(told.facts):
            return
        if told.size is None or told.tail or len(request.raw_path) > TARGET_MAX:
            return
        headers = {name: text for name, text in told.headers if name != hdrs.CONTENT_RANGE}
        try:
            file = io.FileIO(os.dup(body.file.fileno()), "rb")
        except OSError:  # no descriptor is left: it is sent all the same, and asked for again
            return
        self._kept.keep_blob(request.raw_path, KeptBlob(told.facts, file, told.size, headers, exchange.started))


def _plain(text: str) -> str:
    """Text as JSON can hold it: a byte that is no UTF-8 becomes a character that no name may have."""
    return text if text.isascii() else text.encode(errors="surrogateescape").decode(errors="replace")
