"""Answers that stand ready leave as soon as their request is parsed: no task, no request object, no turn of the loop.

For each request aiohttp makes a writer, a request, a future and a task, and takes two turns of the loop: a third of the
CPU that a hot manifest cost (benchmarks, `manifests`: 28 000 per CPU second before, 42 000 since). The lane stands
where aiohttp's parser stood, and keeps back the requests that were answered in here. Whatever is not plain, a body or
a request behind it for one, takes the ordinary road, in its order.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD

from proxy.log import logger

if TYPE_CHECKING:
    from proxy.server.connection import Connection

Message = RawRequestMessage  # a request's line and headers, as aiohttp's parser gives them
Parsed = tuple[Sequence[tuple[Message, Any]], bool, bytes]
NOTHING: Final = ()
log = logger("listen")


@runtime_checkable
class Prompt(Protocol):
    """A handler that can answer before anything is awaited."""

    def at_once(self, message: Message, connection: "Connection") -> bytes | None:
        """A whole answer, head and body, its exchange told; None if the ordinary road is to be taken."""


class Lane:
    """aiohttp's parser as its connection sees it, less the requests that `handler` answers at once, if there is one.

    A request that offers an upgrade is the last one of its connection, since the parser may have dropped what stood
    behind it: a body that comes later would be read as the next request.
    """

    def __init__(self, parser: HttpRequestParser, connection: "Connection", handler: Prompt | None) -> None:
        self._parser = parser
        self._connection = connection
        self._handler = handler
        self.feed_eof = parser.feed_eof
        self.message_consumed = parser.message_consumed
        self.pause_reading = parser.pause_reading
        self.set_upgraded = parser.set_upgraded

    def feed_data(self, data: bytes) -> Parsed:
        """What aiohttp is still to answer. Raises HttpProcessingError: it is no HTTP."""
        messages, upgraded, tail = self._parser.feed_data(data)
        if messages and messages[-1][0].upgrade:
            *before, (message, payload) = messages
            return [*before, (message._replace(should_close=True), payload)], upgraded, tail
        if len(messages) == 1 and not upgraded:
            [(message, payload)] = messages
            if payload is EMPTY_PAYLOAD and self._goes(message):
                self._parser.message_consumed()
                return NOTHING, False, tail
        return messages, upgraded, tail

    def _goes(self, message: Message) -> bool:
        connection = self._connection
        if self._handler is None or message.should_close or message.version < (1, 1) or not connection.is_free:
            return False
        try:
            answer = self._handler.at_once(message, connection)
        except Exception as error:  # on the ordinary road it is a 500; from here asyncio would drop the client, unsaid
            log.exception("a ready answer failed", error=repr(error))
            return False
        if answer is None:
            return False
        connection.give(answer)
        return True
