"""Listeners that are closed at the end."""

import ssl
from collections.abc import AsyncIterator

import pytest

from proxy.config import Address
from proxy.server.listen import Listener, listen
from tests.support.listening import LOOPBACK, Listen, echo


@pytest.fixture
async def open_at() -> AsyncIterator[Listen]:
    """Listen at an address for the length of a test."""
    opened: list[Listener] = []

    async def start(address: Address = LOOPBACK, tls: ssl.SSLContext | None = None) -> Listener:
        opened.append(await listen(address, echo, tls))
        return opened[-1]

    yield start
    for listener in opened:
        await listener.stop_accepting()
        await listener.close()
