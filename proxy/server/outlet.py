"""From a file to a client's socket by sendfile(2), as much at a time as the socket takes; and what may be sent so.

asyncio's own sendfile enters and leaves its selector around every call. Here the descriptor stays in it until all is
sent. The descriptor is a copy of the transport's: whatever becomes of that one, no byte ever goes to a stranger's.
"""

import asyncio
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import Final

# One look into the page cache tells of so many bytes: as many as the kernel reads ahead where one is missing.
# Memory that ran short leaves holes in a file: of 16 MiB the looks cost 49 us, one for each MiB 7 us; sending, 2 ms.
PROBE: Final = 128 << 10
TURN: Final = 1 << 20  # bytes after which others have their turn; and those read from a disk at once
NO_SENDFILE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})  # of a file system that has none
# What sendfile(2) says of the client's socket, and not of the file.
CLIENT_LOST: Final = frozenset(
    {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ENOTCONN}
)
Waiting = Callable[[], AbstractAsyncContextManager[None]]


def told(error: OSError, sent: int) -> OSError:
    """What an error of sendfile(2) means, after so many bytes: the client's end, the file's fault, or no sendfile."""
    if error.errno in CLIENT_LOST:
        return ConnectionResetError(error.errno, error.strerror)
    if sent and error.errno in NO_SENDFILE:  # it did send: to begin again some other way would send twice
        return OSError(errno.EIO, f"sendfile ended: {error.strerror}")
    return error


class Outlet:
    """A client's socket to send files to. Whoever sends has seen to it that nothing waits in the transport's buffer.
    `sent` is how many bytes it has taken in all.
    """

    def __init__(self, transport: asyncio.Transport, descriptor: int) -> None:
        self._transport = transport
        self._descriptor = descriptor
        self.sent = 0

    async def send(self, file: io.FileIO, offset: int, length: int, waiting: Waiting = nullcontext) -> int:
        """Send bytes of a file; how many: less than `length` only where the file ends. What the client does not take at
        once is waited for inside of `waiting()`. OSError: the file's or the client's, who left for ConnectionError.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        source, sent = file.fileno(), 0

        def push() -> None:
            nonlocal sent
            if done.done():  # cancelled, and about to be taken out of the selector
                return
            try:
                count = os.sendfile(self._descriptor, source, offset + sent, length - sent)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                done.set_exception(told(error, sent))
                return
            sent += count
            self.sent += count
            if count == 0 or sent == length:
                done.set_result(sent)

        push()
        if done.done():
            if length >= TURN:  # a client that takes all at once must not keep the loop from the others
                await asyncio.sleep(0)
            return done.result()
        # What the client asks for meanwhile waits in the kernel: a crowd of requests here would fill our memory. It may
        # wait there already, and not for us: then it is not for us to go on.
        was_reading = self._transport.is_reading()
        self._transport.pause_reading()
        loop.add_writer(self._descriptor, push)
        try:
            async with waiting():
                return await done
        finally:
            loop.remove_writer(self._descriptor)
            if was_reading:
                self._transport.resume_reading()


@contextmanager
def outlet(transport: asyncio.Transport | None) -> Iterator[Outlet | None]:
    """The socket of a transport to send files to; None where bytes must pass through this process (TLS, no descriptor
    is left), or nobody is there.
    """
    if transport is None or transport.is_closing() or transport.get_extra_info("sslcontext") is not None:
        yield None
        return
    try:
        descriptor = os.dup(transport.get_extra_info("socket").fileno())
    except OSError:
        yield None
        return
    try:
        yield Outlet(transport, descriptor)
    finally:
        os.close(descriptor)


def is_cached(file: io.FileIO, offset: int, length: int) -> bool:
    """Whether the page cache holds these bytes, as far as a look at each PROBE of them tells: then sending them waits
    for no disk. True also where the file system cannot tell: that is no disk's fault.
    """
    byte, descriptor = [bytearray(1)], file.fileno()
    try:
        for at in range(offset, offset + length, PROBE):
            os.preadv(descriptor, byte, at, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def read_in(file: io.FileIO, offset: int, length: int) -> None:
    """Bring bytes of a file into the page cache, and have the disk begin with as many behind them. Blocks."""
    descriptor, buffer = file.fileno(), [bytearray(TURN)]
    os.posix_fadvise(descriptor, offset, 2 * length, os.POSIX_FADV_WILLNEED)
    for at in range(offset, offset + length, TURN):
        os.preadv(descriptor, buffer, at)
