"""What an engine has that stands apart from its clients: where its serving processes ask, and how many they are."""

import socket
from dataclasses import dataclass
from typing import Final

from proxy.workers.board import Board

REGISTRY: Final = "registry"  # the doors: at which address a client asks
DATA: Final = "data"


@dataclass(frozen=True, slots=True)
class Apart:
    """`url` is the registry address that they serve, `data_url` the data address if they serve one."""

    listening: socket.socket
    board: Board
    url: str
    data_url: str | None
    processes: int
