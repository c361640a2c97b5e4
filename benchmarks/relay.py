"""The least that one Python process can spend on a cold blob that it sends on, writes down and hashes.

What a cold pull through Cistern is held against: each request is passed on as it came, the answer's body is received
into large buffers, written and hashed in one thread, and sent from the file by `sendfile`. It joins nobody, keeps
nothing, checks nothing, and survives no fault.
"""

import argparse
import asyncio
import hashlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Final

BUFFER: Final = 1 << 20
BUFFERS: Final = 4


class Answer(asyncio.BufferedProtocol):
    """One answer of the upstream: its head, then its body in buffers, received while earlier ones are worked on."""

    def __init__(self) -> None:
        self.size = 0
        self.written = self.hashed = 0
        self.moved = asyncio.Event()
        self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed with the connection
        self.head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._hash = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1)
        self._free = [memoryview(bytearray(BUFFER)) for _ in range(BUFFERS)]
        self._buffer = self._free.pop()
        self._filled = self._received = 0
        self._is_busy = self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if not self.head.done():
            head, end, rest = bytes(self._buffer[: self._filled]).partition(b"\r\n\r\n")
            if not end:
                return
            self.size = int(head.lower().partition(b"content-length:")[2].split()[0])
            self._buffer[: len(rest)] = rest
            self._filled = len(rest)
            self.head.set_result(head + end)
        self._turn()

    def _turn(self) -> None:
        """Hand over what has come, once the thread is free; wait where no buffer is left."""
        if self._filled and not self._is_busy and self._free:
            self._is_busy = True
            self._thread.submit(self._work, self._buffer, self._filled, self._received)
            self._received += self._filled
            self._buffer, self._filled = self._free.pop(), 0
        must_wait = self._filled == BUFFER
        if must_wait and not self._is_paused:
            self.transport.pause_reading()
        elif self._is_paused and not must_wait:
            self.transport.resume_reading()
        self._is_paused = must_wait

    def _work(self, buffer: memoryview, length: int, offset: int) -> None:
        self.file.seek(offset)
        self.file.write(buffer[:length])
        self._loop.call_soon_threadsafe(self._wrote, length)
        self._hash.update(buffer[:length])
        self._loop.call_soon_threadsafe(self._hashed, buffer, length)

    def _wrote(self, length: int) -> None:
        self.written += length
        self.moved.set()

    def _hashed(self, buffer: memoryview, length: int) -> None:
        self.hashed += length
        self._free.append(buffer)
        self._is_busy = False
        self.moved.set()
        self._turn()

    def close(self) -> None:
        self.transport.close()
        self._thread.shutdown()
        self.file.close()


async def main() -> None:
    """Serve until killed; one ready line."""
    parser = argparse.ArgumentParser(description="a relay that keeps and hashes")
    parser.add_argument("--upstream", required=True, type=int, metavar="PORT")
    port = parser.parse_args().upstream
    loop = asyncio.get_running_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        transport, answer = await loop.create_connection(Answer, "127.0.0.1", port)
        transport.write(request)
        writer.write(await answer.head)
        sent = 0
        while sent < answer.size:
            end = answer.size if answer.hashed == answer.size else min(answer.written, answer.size - 1)
            if end > sent:
                await loop.sendfile(writer.transport, answer.file, sent, end - sent, fallback=False)
                sent = end
            else:
                answer.moved.clear()
                await answer.moved.wait()
        answer.close()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(f"relay ready port={server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
