"""An OCI registry in a process of its own: as fast as `sendfile` allows, or limited in bandwidth over all connections.

Every blob is its own 64 bytes of name and then a common body, so a thousand cold blobs cost no disk. The orchestrator
makes blobs, sets the limit and reads the counts under `/-/`. Bytes are counted when they are handed to the kernel: a
client that leaves early is charged up to one block too much.
"""

import argparse
import asyncio
import hashlib
import json
import mmap
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO
from urllib.parse import parse_qs, urlsplit

from benchmarks.bucket import TokenBucket

HEAD = 64  # bytes that make a blob unlike every other
PIECE = 1 << 20
LARGEST = 512 << 20
BLOCK = 1 << 20  # bytes per sendfile when nothing is limited
LIMITED_BLOCK = 64 << 10  # half a millisecond at 1 Gbit/s
BURST = 256 << 10
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCTETS = "application/octet-stream"
ERRORS = {"503": "503 Service Unavailable", "429": "429 Too Many Requests"}  # what a storm meets; `hang` is the third


@dataclass(frozen=True, slots=True)
class Held:
    """A blob: its first bytes, and how many of the common body follow. A manifest is all head."""

    head: bytes
    size: int
    media_type: str = OCTETS


@dataclass(slots=True)
class Content:
    """Everything that is served, by digest and tag."""

    file: IO[bytes]
    body: mmap.mmap
    blobs: dict[str, Held] = field(default_factory=dict)
    manifests: dict[str, Held] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def create(cls) -> "Content":
        """The common body: a piece of noise, repeated with a mark, since nothing here compresses or deduplicates."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server lives
        piece = random.Random(1).randbytes(PIECE - 8)
        for number in range(LARGEST // PIECE):
            file.write(number.to_bytes(8, "big") + piece)
        file.flush()
        return cls(file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))

    def blob(self, size: int, media_type: str = OCTETS) -> str:
        """Make one blob nobody has seen; its digest."""
        head = f"{len(self.blobs):032d}{time.time_ns():032d}".encode()[: min(size, HEAD)]
        hasher = hashlib.sha256(head)
        with memoryview(self.body) as view, view[len(head) : size] as rest:
            hasher.update(rest)
        digest = f"sha256:{hasher.hexdigest()}"
        self.blobs[digest] = Held(head, size, media_type)
        return digest

    def image(self, sizes: list[int]) -> dict[str, object]:
        """Make an image of layers of these sizes under a tag of its own."""
        layers = [(self.blob(size), size) for size in sizes]
        config = (self.blob(1500), 1500)
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": config[0], "size": config[1]},
            "layers": [{"mediaType": OCI_LAYER, "digest": digest, "size": size} for digest, size in layers],
        }
        body = json.dumps(document, indent=3).encode()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        self.manifests[digest] = Held(body, len(body), OCI_MANIFEST)
        tag = f"t{len(self.tags)}"
        self.tags[tag] = digest
        return {"tag": tag, "digest": digest, "size": len(body), "blobs": [config[0], *(name for name, _ in layers)]}

    def find(self, path: str) -> tuple[str, Held] | None:
        """The content of `/v2/REPOSITORY/(manifests|blobs)/TARGET`."""
        _, kind, target = path.rsplit("/", 2)
        if kind == "manifests":
            digest = self.tags.get(target, target)
            held = self.manifests.get(digest)
        else:
            digest, held = target, self.blobs.get(target)
        return None if held is None else (digest, held)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]

    @classmethod
    def parse(cls, head: bytes) -> "Request":
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        url = urlsplit(target)
        pairs = (line.split(":", 1) for line in lines if line)
        headers = {name.lower(): value.strip() for name, value in pairs}
        return cls(method, url.path, parse_qs(url.query), headers)


class Upstream:
    """The server. One bucket for all connections."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._bucket = TokenBucket(None, BURST)
        self._each: int | None = None  # bytes per second of one connection
        self._block = BLOCK
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._trouble = ""
        self._healed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        try:
            while True:
                request = Request.parse((await reader.readuntil(b"\r\n\r\n"))[:-4])
                await self._answer(request, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.path.startswith("/-/"):
            body = json.dumps(self._control(request)).encode()
            writer.write(_head("200 OK", len(body), {"Content-Type": "application/json"}) + body)
            return
        self._asked["ping" if request.path == "/v2/" else "content"] += 1
        if self._trouble == "hang":
            await self._healed.wait()
        if self._trouble in ERRORS:
            writer.write(_head(ERRORS[self._trouble], 0, {}))
        elif request.path == "/v2/":
            writer.write(_head("200 OK", 2, {"Content-Type": "application/json"}) + b"{}")
        elif (found := self._content.find(request.path)) is None:
            writer.write(_head("404 Not Found", 0, {}))
        else:
            await self._send(request, *found, writer)

    async def _send(self, request: Request, digest: str, held: Held, writer: asyncio.StreamWriter) -> None:
        span = span_of(request.headers.get("range"), held.size)
        headers = {
            "Content-Type": held.media_type,
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
        }
        status = "200 OK"
        if span is not None:
            status, headers["Content-Range"] = "206 Partial Content", f"bytes {span[0]}-{span[1] - 1}/{held.size}"
        offset, stop = span or (0, held.size)
        head = _head(status, stop - offset, headers)
        if request.method == "HEAD":
            writer.write(head)
            return
        self._requests[digest] += 1
        own = TokenBucket(self._each, BURST)
        first = held.head[offset:stop]
        self._bytes[digest] += len(first)
        await self._wait(len(first), own)
        writer.write(head + first)
        for place, length in _blocks(offset + len(first), stop, self._block):
            self._bytes[digest] += length
            await self._wait(length, own)
            await asyncio.get_running_loop().sendfile(
                writer.transport, self._content.file, place, length, fallback=False
            )

    async def _wait(self, size: int, own: TokenBucket) -> None:
        """Until both the bandwidth of all and that of this answer allow so many bytes."""
        now = time.monotonic()
        delay = max(self._bucket.reserve(size, now), own.reserve(size, now))
        if delay > 0:
            await asyncio.sleep(delay)

    def _control(self, request: Request) -> object:
        """What the orchestrator asks: `blobs`, `image`, `limit`, `sent`, `trouble`, `asked`."""
        if request.path.startswith("/-/trouble/"):
            self._healed.set()
            self._trouble, self._healed = request.path.removeprefix("/-/trouble/"), asyncio.Event()
            self._asked.clear()
            return self._trouble
        numbers = {name: [int(value) for value in values] for name, values in request.query.items()}
        match request.path.removeprefix("/-/"):
            case "blobs":
                [size], [count] = numbers["size"], numbers["count"]
                return [self._content.blob(size) for _ in range(count)]
            case "image":
                return self._content.image(numbers["size"])
            case "limit":
                [rate], [each] = numbers["rate"], numbers.get("each", [0])
                self._bucket, self._each = TokenBucket(rate or None, BURST), each or None
                self._block = LIMITED_BLOCK if rate or each else BLOCK
                return rate
            case "sent":
                return {digest: [count, self._bytes[digest]] for digest, count in self._requests.items()}
            case "asked":
                return dict(self._asked)
            case unknown:
                raise ConnectionError(f"no such control: {unknown}")


def span_of(header: str | None, size: int) -> tuple[int, int] | None:
    """Where `bytes=A-` or `bytes=A-B` begins and ends; anything else is answered whole."""
    first, _, last = (header or "").removeprefix("bytes=").partition("-")
    if not (header or "").startswith("bytes=") or not first.isdigit() or (last and not last.isdigit()):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def _blocks(start: int, stop: int, block: int) -> Iterator[tuple[int, int]]:
    for offset in range(start, stop, block):
        yield offset, min(block, stop - offset)


def _head(status: str, length: int, headers: dict[str, str]) -> bytes:
    common = {"Docker-Distribution-Api-Version": "registry/2.0", "Content-Length": str(length)}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in (common | headers).items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def main() -> None:
    """Serve until killed; one ready line."""
    parser = argparse.ArgumentParser(description="the upstream of the benchmarks")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    host, _, port = parser.parse_args().listen.rpartition(":")
    upstream = Upstream(Content.create())
    server = await asyncio.start_server(upstream.serve, host, int(port), backlog=1024)
    print(f"upstream ready port={server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
