"""A real HAProxy in front of two or more members, by the configuration that config/haproxy.cfg gives operators.

Knows addresses and a rule's name; everything else is the example's.
"""

import asyncio
import csv
import socket
from collections.abc import Mapping
from pathlib import Path

from tests.support.process import Server
from tests.support.waiting import answered

EXAMPLE = Path(__file__).parents[2] / "config" / "haproxy.cfg"
# What an example for two machines has to say otherwise on one.
ELSEWHERE = (
    ("stats socket /run/haproxy/cistern.sock", "stats socket {home}/stats.sock"),
    ("bind :5000", "bind 127.0.0.1:{port}"),
    ("/-/rules/docker.io", "/-/rules/{rule}"),
    ("inter 2s", "inter {inter_ms}ms"),
    ("  server one 10.0.0.11:5090\n  server two 10.0.0.12:5090\n", "{servers}\n"),
)


class HAProxy:
    """`members` are name -> HOST:PORT; `rule` is what their probe is asked for."""

    def __init__(self, home: Path, members: Mapping[str, str], rule: str, *, inter_ms: int = 200) -> None:
        self.home = home
        self.members = dict(members)
        self.rule = rule
        self.inter_ms = inter_ms
        self._server: Server | None = None
        self._port = 0

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"http://{self.netloc}"

    async def start(self) -> None:
        """Start it, and return when it serves."""
        self._port = self._port or _free_port()
        await asyncio.to_thread(self._configure)
        # -db: in the foreground. It says nothing when it is ready, but both its addresses answer then.
        self._server = Server(["haproxy", "-db", "-f", self.home / "haproxy.cfg"])
        await answered(self._answers, within_s=10)

    async def stop(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)
            self._server = None

    async def __aenter__(self) -> "HAProxy":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def states(self) -> dict[str, str]:
        """What it thinks of each member: `UP`, `DOWN`, or on its way to one of them (`UP 1/2`)."""
        return {name: row["status"] for name, row in (await self._stats()).items()}

    async def sessions(self) -> dict[str, int]:
        """How many requests each member is answering through it now."""
        return {name: int(row["scur"]) for name, row in (await self._stats()).items()}

    async def busiest(self) -> str:
        """Wait until a member answers a request; the one that answers most."""
        found: dict[str, int] = {}

        async def is_busy() -> bool:
            found.update(await self.sessions())
            return any(found.values())

        await answered(is_busy, within_s=30, every_s=self.inter_ms / 4000)
        return max(found, key=lambda name: found[name])

    async def _stats(self) -> dict[str, dict[str, str]]:
        reader, writer = await asyncio.open_unix_connection(self.home / "stats.sock")
        writer.write(b"show stat\n")
        text = (await reader.read()).decode()
        writer.close()
        rows = csv.DictReader(text.removeprefix("# ").splitlines())
        return {row["svname"]: row for row in rows if row["svname"] in self.members}

    async def until(self, **wanted: str) -> None:
        """Wait until it thinks so of these members: `until(one="DOWN")`."""

        async def thinks_so() -> bool:
            return wanted.items() <= (await self.states()).items()

        await answered(thinks_so, within_s=30, every_s=self.inter_ms / 4000)

    def _configure(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        servers = "\n".join(f"  server {name} {netloc}" for name, netloc in self.members.items())
        text = EXAMPLE.read_text()
        for written, here in ELSEWHERE:
            assert text.count(written) == 1, written
            text = text.replace(
                written,
                here.format(home=self.home, port=self._port, rule=self.rule, inter_ms=self.inter_ms, servers=servers),
            )
        (self.home / "haproxy.cfg").write_text(text)

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.close()
            await self._stats()
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
