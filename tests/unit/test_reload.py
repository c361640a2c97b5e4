"""Reloads without a server: which files count, when a change is one, and which keys cannot change."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from proxy.config import FIXED, fixed, parse
from proxy.current import Current
from proxy.events import ConfigRefused, ConfigTaken, Events
from proxy.reload import Reload, Source
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from proxy.upstream.client import Clients

CHANGED: Final[dict[str, str]] = {
    "registry.listen": "127.0.0.1:1",
    "registry.name": "another",
    "registry.workers": "2",
    "registry.tls": "{certificate: /none.crt, key: /none.key}",
    "admin.listen": "127.0.0.1:1",
    "blobs.listen": "127.0.0.1:1",
    "cache.directory": "/elsewhere",
}
BESIDE: Final = {"registry": "drain: 7s", "cache": "keep_free: 7%", "admin": "", "blobs": "key: {env: KEY}"}


@pytest.mark.parametrize("key", CHANGED)
def test_a_key_that_needs_a_restart_keeps_its_running_value(key: str) -> None:
    """It is named; everything beside it, in its own section too, is what the file says."""
    section, _, name = key.partition(".")
    running = parse("")
    config, waiting = fixed(running, parse(f"{section}: {{{name}: {CHANGED[key]}, {BESIDE[section]}}}"))
    assert waiting == (key,)
    assert config == parse(f"{section}: {{{BESIDE[section]}}}")


def test_every_such_key_is_tried() -> None:
    """A key that joins them joins these."""
    assert set(FIXED) == CHANGED.keys()


def test_other_certificate_files_need_no_restart() -> None:
    """Only whether TLS is spoken at all is fixed."""
    running, found = (parse(f"registry: {{tls: {{certificate: /{n}.crt, key: /{n}.key}}}}") for n in "ab")
    assert fixed(running, found) == (found, ())


# Watching


class Looks:
    """The pause between two looks at the files: the test ends each."""

    def __init__(self) -> None:
        self._begun: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def __call__(self, _seconds: float) -> None:
        ends = asyncio.Event()
        self._begun.put_nowait(ends)
        await ends.wait()

    async def look(self, times: int = 1) -> None:
        """Have the watcher look so often, and wait until it has looked."""
        for _ in range(times):
            (await self._begun.get()).set()
        self._begun.put_nowait(await self._begun.get())  # it pauses again


class Watched:
    """A reload room over a config file; `asked` is whether the watcher asked for a reload."""

    def __init__(self, path: Path, reload: Reload, asked: asyncio.Event, looks: Looks, heard: list[object]) -> None:
        self.path = path
        self.reload = reload
        self._asked = asked
        self.look = looks.look
        self.heard = heard

    def asked(self) -> bool:
        """Whether a reload was asked for since the last time."""
        was_asked = self._asked.is_set()
        self._asked.clear()
        return was_asked


CONFIG: Final = """
upstreams: {one.test: {credentials: team}}
credentials: {team: {username: me, password: {file: PASSWORD}}}
"""


@asynccontextmanager
async def watched(path: Path) -> AsyncIterator[Watched]:
    source, events, asked, looks, heard = Source(path, {}), Events(), asyncio.Event(), Looks(), list[object]()
    current = Current(source.load())
    for kind in (ConfigTaken, ConfigRefused):
        events.listen(kind, heard.append)
    async with Threads() as threads, Tasks() as tasks, Clients(current.config, tasks, environ={}) as upstreams:
        reload = Reload(source, current, upstreams, None, events, threads, asked=asked)
        tasks.start(reload.watch(looks), name="watch")
        yield Watched(path, reload, asked, looks, heard)
        await tasks.stop()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with a config file and the password that it names."""
    (tmp_path / "password").write_text("first")
    (tmp_path / "cistern.yaml").write_text(CONFIG.replace("PASSWORD", str(tmp_path / "password")))
    return tmp_path


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def replaced(path: Path, text: str) -> None:
    """As editors and configuration management write: another file, renamed over the old one."""
    other = path.with_name("other")
    other.write_text(text)
    other.replace(path)


@pytest.mark.parametrize("write", [in_place, replaced])
@pytest.mark.parametrize("name", ["cistern.yaml", "password"])
async def test_a_changed_file_asks_for_one_reload(home: Path, name: str, write: Callable[[Path, str], None]) -> None:
    """Once it has been the same at two looks; and not again until it changes again."""
    async with watched(home / "cistern.yaml") as server:
        await server.look(3)
        assert not server.asked()
        for number in range(3):
            write(
                home / name,
                (home / "cistern.yaml").read_text() + f"# {number}\n" if name != "password" else f"{number}",
            )
            await server.look()
            assert not server.asked()  # it may still be written
            await server.look()
            assert server.asked()
            await server.reload.reload()
            await server.look(2)
            assert not server.asked()


async def test_a_file_that_is_still_written_is_waited_for(home: Path) -> None:
    """While each look finds another one, nothing is read."""
    async with watched(home / "cistern.yaml") as server:
        for number in range(5):
            in_place(home / "password", "x" * number)
            await server.look()
            assert not server.asked()
        await server.look()
        assert server.asked()


async def test_a_kubernetes_mount_is_followed(tmp_path: Path) -> None:
    """The file is a link into a directory that is itself swapped by a link; its own name never changes."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "cistern.yaml").write_text(f"upstreams: {{{version}.test: {{}}}}\n")
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "cistern.yaml").symlink_to("..data/cistern.yaml")
    async with watched(tmp_path / "cistern.yaml") as server:
        os.symlink("two", tmp_path / "..data_tmp")
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
        await server.look(2)
        assert server.asked()
        assert await server.reload.reload()
        [taken] = server.heard
        assert isinstance(taken, ConfigTaken)
        assert list(taken.config.upstreams) == ["two.test"]


async def test_a_file_that_goes_and_comes_back_is_taken(home: Path) -> None:
    """Gone, it is refused and the old configuration stays; back, it counts."""
    async with watched(home / "cistern.yaml") as server:
        text = server.path.read_text()
        server.path.unlink()
        await server.look(2)
        assert server.asked()
        assert not await server.reload.reload()
        server.path.write_text(text)
        await server.look(2)
        assert server.asked()
        assert await server.reload.reload()
        assert [type(event) for event in server.heard] == [ConfigRefused, ConfigTaken]


async def test_a_file_that_a_refused_configuration_lacked_is_waited_for(home: Path) -> None:
    """An authority that comes after the configuration that names it needs no second change of the file."""
    async with watched(home / "cistern.yaml") as server:
        good = server.path.read_text()
        server.path.write_text(good.replace("credentials: team", f"credentials: team, tls: {{ca: {home}/ca.pem}}"))
        await server.look(2)
        assert server.asked()
        assert not await server.reload.reload()
        await server.look(2)
        assert not server.asked()
        (home / "ca.pem").write_text("not one either")
        await server.look(2)
        assert server.asked()


async def test_files_of_a_new_configuration_are_watched(home: Path) -> None:
    """And those of the old one no more."""
    async with watched(home / "cistern.yaml") as server:
        (home / "new-password").write_text("1")
        server.path.write_text(CONFIG.replace("PASSWORD", str(home / "new-password")))
        await server.look(2)
        assert server.asked()
        assert await server.reload.reload()
        (home / "password").write_text("of no interest")
        await server.look(2)
        assert not server.asked()
        (home / "new-password").write_text("22")
        await server.look(2)
        assert server.asked()


async def test_a_change_while_the_files_are_read_is_not_lost(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read may be old by then: the next looks ask again."""
    async with watched(home / "cistern.yaml") as server:
        load = server.reload._source.load

        def load_and_change() -> object:
            loaded = load()
            server.path.write_text(server.path.read_text() + "implicit_rules: false\n")
            return loaded

        monkeypatch.setattr(server.reload._source, "load", load_and_change)
        assert await server.reload.reload()
        await server.look(2)
        assert server.asked()


async def test_what_goes_wrong_in_a_reload_is_told_and_stops_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours is no reason to stop serving: it counts as a refused configuration."""
    async with watched(home / "cistern.yaml") as server:

        def broken() -> object:
            raise RuntimeError("a bug")

        monkeypatch.setattr(server.reload._source, "load", broken)
        assert not await server.reload.reload()
        [refused] = server.heard
        assert isinstance(refused, ConfigRefused)
        assert "RuntimeError" in refused.problems[0]
        assert "a bug" not in refused.problems[0]  # whatever it says may be a secret


async def test_files_that_cannot_be_read_hold_up_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that hangs: told after a while, and the next reload is another try."""
    release = threading.Event()
    async with watched(home / "cistern.yaml") as server:
        load = server.reload._source.load
        monkeypatch.setattr(server.reload._source, "load", lambda: release.wait(20) and load())
        monkeypatch.setattr(server.reload, "_read_within_s", 0.01)
        assert not await server.reload.reload()
        release.set()
        monkeypatch.setattr(server.reload, "_read_within_s", 20.0)
        assert await server.reload.reload()
        [refused, _taken] = server.heard
        assert refused == ConfigRefused(("its files could not be read within 0.01 s",))


async def test_so_many_problems_are_told_and_no_more(home: Path) -> None:
    """A file of nothing but mistakes fills neither the log nor health."""
    async with watched(home / "cistern.yaml") as server:
        server.path.write_text("".join(f"wrong{n}: 1\n" for n in range(250)))
        assert not await server.reload.reload()
        [refused] = server.heard
        assert isinstance(refused, ConfigRefused)
        assert (len(refused.problems), refused.problems[-1]) == (101, "and 150 more: see `cistern check`")
