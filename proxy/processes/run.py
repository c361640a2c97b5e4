"""A server of several processes, from its configuration: sockets bound, processes started, served until a signal."""

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

from proxy import serve
from proxy.config import Address, Config
from proxy.edge import CannotListen
from proxy.log import Format, configure_loosely
from proxy.processes import engine, serving
from proxy.processes.children import Inherited
from proxy.processes.parent import Parent
from proxy.processes.serving import Sockets
from proxy.reload import Source
from proxy.serve import print_line
from proxy.server.listen import BACKLOG, bind, bind_shared, url_of
from proxy.workers.apart import DATA, REGISTRY, Apart
from proxy.workers.board import Board
from proxy.workers.channel import listening

BESIDE_DRAIN_S: Final = 10.0  # who retires has two drains at most; and so much to close what is open
KEYS: Final = {REGISTRY: "registry.listen", DATA: "blobs.listen"}


def processes_of(config: Config) -> int:
    """How many serving processes a configuration asks for."""
    return config.registry.workers or len(os.sched_getaffinity(0))


def run(source: Source, *, log_format: Format, failed: Callable[[Exception], int]) -> int:
    """Serve until a signal, in as many processes as the configuration says; the exit code. `failed` tells an error of a
    process of several, and gives its exit code. Raises CisternError or OSError when it cannot start.
    """
    config = source.load()
    if processes_of(config) == 1:
        return serve.run(source, config, log_format=log_format)
    configure_loosely(log_format)
    return _run_apart(source, config, log_format, failed)


def _run_apart(source: Source, config: Config, log_format: Format, failed: Callable[[Exception], int]) -> int:
    count, board = processes_of(config), Board()
    board.drain_s = config.registry.drain_s
    with ExitStack() as stack:
        asked = stack.enter_context(listening())
        has_tls = config.registry.tls is not None
        addresses = {REGISTRY: config.registry.listen}
        if config.blobs.listen is not None:
            addresses[DATA] = config.blobs.listen
        bound = {door: _bound(stack, KEYS[door], address, count) for door, address in addresses.items()}
        urls = {
            door: url_of(address, bound[door][0], is_tls=has_tls and address.path is None)
            for door, address in addresses.items()
        }
        apart = Apart(asked, board, urls[REGISTRY], urls.get(DATA), count)
        name = bytes(asked.getsockname())
        every = [asked, *(one for several in bound.values() for one in several)]

        def engine_main(inherited: Inherited) -> int:
            _close_but(every, [asked])
            return engine.run(source, apart, inherited, log_format=log_format)

        def serving_main(number: int, inherited: Inherited) -> int:
            doors = {door: (address, bound[door][number]) for door, address in addresses.items()}
            _close_but(every, [one for _, one in doors.values()])
            return serving.run(Sockets(number + 1, doors, name, board), inherited, log_format=log_format)

        parent = Parent(
            engine_main,
            [partial(serving_main, number) for number in range(count)],
            announce=print_line,
            failed=failed,
            let_go=lambda: _close_but(every, [asked]),
            leave_s=lambda: 2 * board.drain_s + BESIDE_DRAIN_S,
        )
        return parent.run()


def _close_but(every: list[socket.socket], kept: list[socket.socket]) -> None:
    """Close what is not this process's: a socket is heard as long as anybody holds it."""
    for one in every:
        if one not in kept:
            one.close()


def _bound(stack: ExitStack, key: str, address: Address, count: int) -> list[socket.socket]:
    """A listening socket for each process; of a Unix path there is one for all, which the kernel cannot share out."""
    try:
        if address.path is None:
            bound = bind_shared(address, count)
        else:
            one = bind(address)
            stack.callback(address.path.unlink, missing_ok=True)
            one.listen(BACKLOG)
            bound = [one, *(one.dup() for _ in range(count - 1))]
    except OSError as cause:
        raise CannotListen(f"{key}: cannot listen on {address}: {cause.strerror or cause}") from cause
    for one in bound:
        stack.callback(one.close)
    return bound
