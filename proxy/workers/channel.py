"""One connection between a serving process and the engine: whole messages, with open files beside them.

A Unix socket of the kind SOCK_SEQPACKET: the kernel keeps messages apart, each arrives whole or not at all, and files
come with the message that they were sent with. What cannot be understood ends the connection, never the process.
"""

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from proxy.workers.wire import DATA_MAX, WireBroken, decode, encode
from proxy.workers.words import Message

MESSAGE_MAX: Final = 192 << 10  # bytes; the kernel's default buffer takes 208 KiB, and each message whole
FILES_MAX: Final = 1
UNREAD_MAX: Final = 16  # messages that wait to be received; the rest waits in the kernel
UNSENT_MAX: Final = 4096  # who lets so many wait is given up, and has to begin anew
BACKLOG: Final = 4096
CREDENTIALS: Final = struct.Struct("3i")  # of SO_PEERCRED: process, user, group


class Received:
    """One message as it arrived. `file` is a descriptor and the receiver's to close, None if none came with it."""

    __slots__ = ("data", "file", "message")

    def __init__(self, message: Message, data: bytes, file: int | None) -> None:
        self.message = message
        self.data = data
        self.file = file

    def drop(self) -> None:
        """Close the file that came with it, if one did."""
        if self.file is not None:
            os.close(self.file)
            self.file = None


class Channel:
    """One end. `on_lost` is called once when the other end is gone, or is not understood; not on `close`."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._unread: deque[Received] = deque()
        self._unsent: deque[tuple[bytes, int | None]] = deque()
        self._receiver: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._lost: ConnectionError | None = None
        self._is_reading = False
        self.on_lost: Callable[[], object] | None = None
        self._read_on()

    @property
    def is_open(self) -> bool:
        return self._lost is None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing waits on it, in either direction."""
        return self.is_open and not self._unread and not self._unsent

    def post(self, message: Message, data: "bytes | memoryview" = b"", file: int | None = None) -> None:
        """Send a message as soon as there is room for it. The file stays the caller's. ConnectionError: it is lost."""
        if self._lost is not None:
            raise self._lost
        whole = encode(message, data)
        if len(whole) > MESSAGE_MAX:
            raise ValueError(f"a message of {len(whole)} bytes")
        if not self._unsent and self._has_sent(whole, file):
            return
        if self._lost is not None:
            raise self._lost
        if len(self._unsent) >= UNSENT_MAX:
            self._lose(ConnectionResetError("the other end takes nothing any more"))
            return
        if not self._unsent:
            self._loop.add_writer(self._socket.fileno(), self._writable)
        self._unsent.append((whole, None if file is None else os.dup(file)))

    async def send(self, message: Message, data: "bytes | memoryview" = b"", file: int | None = None) -> None:
        """Send a message, and wait until it is the kernel's. ConnectionError: it is lost."""
        self.post(message, data, file)
        while self._unsent and self._lost is None:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)
        if self._lost is not None:
            raise self._lost

    async def receive(self) -> Received:
        """The next message; for one caller at a time. ConnectionError: none will come, WireBroken: or none of ours."""
        while not self._unread:
            if self._lost is not None:
                raise self._lost
            self._receiver = self._loop.create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        found = self._unread.popleft()
        if len(self._unread) < UNREAD_MAX and self._lost is None:
            self._read_on()
        return found

    async def expect(self, kind: type[Message]) -> Received:
        """The next message, which has to be of one kind. ConnectionError: it is lost, WireBroken: it is another."""
        found = await self.receive()
        if not isinstance(found.message, kind):
            found.drop()
            raise WireBroken(f"{type(found.message).__name__} where {kind.__name__} was due")
        return found

    def close(self) -> None:
        """End it; what waits is dropped."""
        if self._lost is None:
            self.on_lost = None
            self._lose(ConnectionAbortedError("the channel is closed"))
        while self._unread:
            self._unread.popleft().drop()

    def _read_on(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        if len(self._unread) >= UNREAD_MAX:
            self._loop.remove_reader(self._socket.fileno())
            self._is_reading = False
            return
        files: list[int] = []
        try:
            whole, files, flags, _ = socket.recv_fds(self._socket, MESSAGE_MAX, FILES_MAX, socket.MSG_CMSG_CLOEXEC)
            if not whole:
                raise ConnectionResetError("the other end is gone")
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise WireBroken("a message, or the files with it, were cut short")
            self._unread.append(Received(*decode(whole), files.pop() if files else None))
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionError as error:
            self._lose(error)
        except OSError as error:
            self._lose(ConnectionResetError(str(error)))
        finally:
            for file in files:
                os.close(file)
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    def _has_sent(self, whole: bytes, file: int | None) -> bool:
        try:
            if file is None:
                self._socket.send(whole)
            else:
                socket.send_fds(self._socket, [whole], [file])
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lose(ConnectionResetError(f"the other end is gone: {error}"))
            return False
        return True

    def _writable(self) -> None:
        while self._unsent and self._lost is None:
            whole, file = self._unsent[0]
            if not self._has_sent(whole, file):
                return
            self._unsent.popleft()
            if file is not None:
                os.close(file)
        if self._lost is None:
            self._loop.remove_writer(self._socket.fileno())
        self._wake_senders()

    def _wake_senders(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def _lose(self, error: ConnectionError) -> None:
        if self._lost is not None:
            return
        self._lost = error
        descriptor = self._socket.fileno()
        self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)
        self._socket.close()
        while self._unsent:
            _, file = self._unsent.popleft()
            if file is not None:
                os.close(file)
        self._wake_senders()
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)
        told, self.on_lost = self.on_lost, None
        if told is not None:
            told()


def listening() -> socket.socket:
    """A socket for `connected` to reach, under a name that the kernel picks: no file that could be left, or be in the
    way. The engine lets nobody in who runs as another user (`is_ours`).
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bound.bind("")
    bound.listen(BACKLOG)
    bound.setblocking(False)
    return bound


def is_ours(accepted: socket.socket) -> bool:
    """Whether a process of this very user is at the other end."""
    told = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return bool(CREDENTIALS.unpack(told)[1] == os.geteuid())


def connect(address: bytes) -> Channel:
    """A channel to the engine at the name that `listening` got; it waits there until an engine takes it.

    BlockingIOError: too many wait already; another OSError: the kernel has no room for one more.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        made.setblocking(False)
        made.connect(address)
        return Channel(made)
    except BaseException:
        made.close()
        raise


def pieces(data: bytes | memoryview) -> Sequence[memoryview]:
    """`data` in pieces of one message each."""
    view = memoryview(data)
    return [view[start : start + DATA_MAX] for start in range(0, len(view), DATA_MAX)]
