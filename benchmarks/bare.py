"""The least that aiohttp can do: one handler that answers every path with the same bytes and headers.

What a hot manifest is held against: the distance to it is what a cache's own work costs.
"""

import argparse
import asyncio
import base64
import json

from aiohttp import web


async def main() -> None:
    """Serve until killed; one ready line."""
    parser = argparse.ArgumentParser(description="a bare aiohttp server")
    parser.add_argument("--headers", required=True, help="JSON")
    parser.add_argument("--body", required=True, help="base64")
    arguments = parser.parse_args()
    headers, body = json.loads(arguments.headers), base64.b64decode(arguments.body)

    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=body, headers=headers)

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"bare ready port={runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
