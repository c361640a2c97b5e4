"""A bare aiohttp handler in a storm: so many bytes for each path it was told of, and 503 for every other.

What the storm's figures are held against: the client process shares the machine's cores, and is late there as well.
"""

import asyncio
import json
import sys
from pathlib import Path

from aiohttp import web

REFUSAL = b'{"errors":[{"code":"UNAVAILABLE","message":"the upstream is left alone","detail":null}]}'


async def main() -> None:
    """Serve {path: size} of a file of JSON until killed; one ready line."""
    sizes: dict[str, int] = json.loads(Path(sys.argv[1]).read_text())  # noqa: ASYNC240 - nothing is served yet
    bodies = {size: bytes(size) for size in sizes.values()}

    async def answer(request: web.BaseRequest) -> web.Response:
        size = sizes.get(request.raw_path)
        if size is None:
            return web.Response(status=503, body=REFUSAL, headers={"Retry-After": "30"})
        return web.Response(body=bodies[size])

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"bare ready port={runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
