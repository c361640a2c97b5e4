"""The engine process: everything but the clients' sockets, and the counter at which serving processes ask."""

import asyncio

from proxy.log import Format, server_log
from proxy.processes.children import Inherited
from proxy.reload import Source
from proxy.serve import serve
from proxy.workers.apart import Apart


def run(source: Source, apart: Apart, inherited: Inherited, *, log_format: Format) -> int:
    """Run the engine until the parent says otherwise, or is gone; the exit code. Raises CisternError or OSError."""
    config = source.load()
    with server_log(log_format, is_shared=True):
        return asyncio.run(serve(source, config, announce=inherited.say, apart=apart, life=inherited.life))
