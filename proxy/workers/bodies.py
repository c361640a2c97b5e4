"""A blob's bytes as a serving process sends them: from a file it keeps, or as far as the engine lets them leave."""

import io
import os
from collections.abc import Callable
from dataclasses import replace

from aiohttp import hdrs

from proxy.errors import CisternError
from proxy.oci import Span
from proxy.workers.asking import TRIES, Engine, unexpected
from proxy.workers.channel import Channel, Received
from proxy.workers.kept import Blob as KeptBlob
from proxy.workers.wire import WireBroken
from proxy.workers.words import Ask, At, Blob, Bytes, End, Failed, Fault, Taken, UpTo


class BodyLost(CisternError):
    """The body cannot be finished, and why."""


class WholeBody:
    """A kept blob. `on_fault` hears of an error that reading its file met."""

    def __init__(self, blob: KeptBlob, on_fault: Callable[[OSError], None]) -> None:
        self._blob = blob
        self._on_fault = on_fault

    @property
    def file(self) -> io.FileIO:
        return self._blob.file

    async def ready(self, _offset: int) -> int:
        return self._blob.size

    def memory(self, _offset: int, _end: int) -> memoryview | None:
        return None

    def failed(self, error: OSError) -> None:
        self._on_fault(error)


class AskedBody:
    """A body that the engine lets leave step by step. `question` is what was asked, `blob` what was answered."""

    def __init__(self, engine: Engine, question: Ask, channel: Channel, found: Received, blob: Blob) -> None:
        self._engine = engine
        self._question = question
        self._channel = channel
        self._blob = blob
        self._file: io.FileIO | None = None
        self._data: bytes = b""
        self._taken: Span | None = None
        self._asked_again = 0  # times since the last byte
        self._has_ended = self._is_told = False
        self._show(found)

    @property
    def file(self) -> io.FileIO:
        if self._file is None:
            raise BodyLost("the engine gave no file")
        return self._file

    async def ready(self, offset: int) -> int:
        """As `Body.ready` has it; asked again of the next engine when this one dies. Raises CisternError."""
        self._data = b""
        if self._blob.size is not None:
            return self._blob.size
        while True:
            try:
                self._channel.post(At(offset))
                found = await self._channel.receive()
            except WireBroken as error:  # perhaps no descriptor is left for the file
                raise BodyLost(f"the engine's answer cannot be taken: {error}") from error
            except ConnectionError as lost:
                await self._ask_again(offset, lost)
                continue
            match found.message:
                case UpTo(end):
                    self._show(found)
                case Bytes():
                    self._data = found.data
                    end = offset + len(found.data)
                case Failed(why):
                    self._is_told = True
                    raise BodyLost(why)
                case _:
                    raise unexpected(found)
            start = offset if self._taken is None else self._taken.start
            self._taken = Span(start, max(end, start))
            self._asked_again = 0
            return end

    def memory(self, offset: int, end: int) -> memoryview | None:
        return memoryview(self._data)[: end - offset] if self._data else None

    def failed(self, error: OSError) -> None:
        if self._channel.is_open:
            self._channel.post(Fault(error.errno or 0, str(error)))

    def end(self, sent: int, error: str | None) -> bool:
        """The answer is over; whether the engine heard it."""
        if self._is_told or not self._channel.is_open:
            return self._is_told
        self._channel.post(End(sent, error))
        self._engine.release(self._channel)
        self._has_ended = True
        return True

    def leave(self) -> None:
        """Nobody takes this body any more; call it always."""
        if not self._has_ended:
            self._channel.close()
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _show(self, found: Received) -> None:
        """Take the file that came along, in the place of an earlier engine's."""
        if found.file is not None:
            self._close()
            self._file, found.file = io.FileIO(found.file, "rb"), None

    async def _ask_again(self, offset: int, lost: ConnectionError) -> None:
        """Have the next engine go on. What has left must be what it will verify: it is told which bytes those are, and
        refuses if they may have changed since.
        """
        self._channel.close()
        self._asked_again += 1
        if self._asked_again > TRIES:
            raise BodyLost("engine after engine is gone over it, or one that answers no more of it") from lost
        if len(self._blob.parts) != 1 or (self._file is None and self._taken is not None):
            raise BodyLost("the engine is gone, and what was sent cannot be told to the next one") from lost
        taken = None
        if self._file is not None:
            status = os.fstat(self._file.fileno())
            start = offset if self._taken is None else self._taken.start
            taken = Taken(status.st_dev, status.st_ino, min(start, offset), offset)
        self._channel, found = await self._engine.ask(replace(self._question, taken=taken))
        again = found.message
        if not isinstance(again, Blob):
            self._channel.close()
            raise unexpected(found) from lost
        if _promised(again) != _promised(self._blob):
            found.drop()
            raise BodyLost("the engine is gone, and the next one has another answer") from lost
        self._blob = again
        self._show(found)


def _promised(blob: Blob) -> tuple[object, ...]:
    """What a head says of the bytes that follow: the same for two engines, or their bytes do not fit together."""
    ranges = [text for name, text in blob.headers if name == hdrs.CONTENT_RANGE]
    return blob.status, blob.length, blob.parts, ranges
