"""A serving process's question, and an engine's end of it in the hands of a test."""

import asyncio
import socket

from proxy.workers.channel import Channel
from proxy.workers.words import Ask, Blob, Hello, Message

QUESTION = Ask("registry", "GET", "/blob", ("/blob", "", ""), (1, 1), (), "::1", None)


def blob(length: int | None = 100, *, parts: int = 1) -> Blob:
    spans = tuple(("", 0, length or 0) for _ in range(parts))
    return Blob(200, (), length, spans, "", False, "sha256:0", None, None)


class Desk:
    """An engine's end, in the hands of a test."""

    def __init__(self, bound: socket.socket) -> None:
        self._bound = bound
        self.channel: Channel | None = None

    async def take(self) -> Channel:
        """Take the next one in line, and greet it."""
        accepted, _ = await asyncio.get_running_loop().sock_accept(self._bound)
        self.channel = Channel(accepted)
        self.channel.post(Hello())
        return self.channel

    async def hears(self, kind: type[Message]) -> Message:
        assert self.channel is not None
        return (await self.channel.expect(kind)).message

    def says(self, message: Message, data: bytes = b"", file: int | None = None) -> None:
        assert self.channel is not None
        self.channel.post(message, data, file)

    def die(self) -> None:
        assert self.channel is not None
        self.channel.close()
