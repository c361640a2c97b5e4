"""The direction of the house: a room imports only from lower layers, and each foreign library has one owner."""

import sys
from pathlib import Path
from typing import Final

from tests.house.source import PACKAGE, imports_of, name_of, python_files

LAYERS: Final = [
    "__init__ collector errors sink",
    "oci",
    "clients contents freshness lately ledger log outcome paths redirect reference remembered signing",
    "cells failures tasks",
    "exits flights",
    "config",
    "rules",
    "check current events exchange",
    "store upstream",
    "capacity heap",
    "ground",
    "downloads grace holdings keyring manifests missing uses",
    "listings places pulled reindex tags",
    "pull",
    "evict explain health hydrate images journal metrics verify",
    "server",
    "workers",
    "app",
    "edge reload",
    "serve",
    "processes",
    "cli",
    "__main__",
]
RANK: Final = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms.split()}

# Replacing a library is then one room's change. A longer name wins over a shorter one.
OWNERS: Final = {
    "aiohttp": "upstream",
    "aiohttp.hdrs": "server upstream workers",
    "aiohttp.http_parser": "server upstream",
    "aiohttp.streams": "server upstream",
    "aiohttp.web": "server app workers",
    "aiofiles": "store downloads",
    "prometheus_client": "metrics",
    "pybreaker": "upstream",
    "rich": "cli",
    "sqlite3": "store",
    "structlog": "log",
    "typer": "cli",
    "werkzeug": "server upstream",
    "yaml": "config",
    # aiohttp's own words for headers and addresses: they come and go with it.
    "multidict": "upstream server workers",
    "yarl": "upstream server log workers",
}

# A bounded map and a codec: values that any room may use, as it uses the standard library's.
TOOLS: Final = {"cachetools", "orjson"}

FILES: Final = python_files("proxy")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_room(name: str) -> str:
    """`pull` for `proxy.pull.Pull`; the package's own facts, `proxy.__version__`, are of `__init__`."""
    second = name.split(".")[1]
    return second if (PACKAGE / second).is_dir() or (PACKAGE / f"{second}.py").is_file() else "__init__"


def owners_of(name: str) -> set[str] | None:
    """The rooms that may import this name, or None if it is not a library with an owner."""
    library, _, part = name.partition(".")
    # aiohttp is two libraries: its modules web, web_log, web_exceptions… are the server.
    face = "web" if part.startswith("web") else part.partition(".")[0]
    owners = OWNERS.get(f"{library}.{face}", OWNERS.get(library))
    return None if owners is None else set(owners.split())


def test_a_room_imports_only_from_lower_layers() -> None:
    """What must travel upward travels as an event; every room stands in a layer, a new one included."""
    faults = []
    for path in FILES:
        room = room_of(path)
        assert room in RANK, f"{name_of(path)}: give the room {room} its place in LAYERS"
        for line, name in imports_of(path):
            imported = imported_room(name) if name.startswith("proxy.") else room
            if name.startswith(".") or (imported != room and RANK.get(imported, len(LAYERS)) >= RANK[room]):
                faults.append(f"{name_of(path)}:{line} {room} imports {name}")
    assert faults == []


def test_a_foreign_library_stays_in_its_owner_room() -> None:
    """A library is imported by the room that owns it and by no other."""
    faults = []
    for path in FILES:
        for line, name in imports_of(path):
            owners = owners_of(name)
            if owners is not None and room_of(path) not in owners:
                faults.append(f"{name_of(path)}:{line} imports {name}, which belongs to {sorted(owners)}")
    assert faults == []


def test_a_foreign_library_is_known() -> None:
    """A library new to the house is given an owner before its first use."""
    known = OWNERS.keys() | TOOLS | sys.stdlib_module_names | {"proxy"}
    imported = [(name_of(path), line, name) for path in FILES for line, name in imports_of(path)]
    assert [use for use in imported if not use[2].startswith(".") and use[2].split(".")[0] not in known] == []


def test_a_room_stands_in_one_layer() -> None:
    """No room is named twice: a second place would make the first one mean nothing."""
    rooms = [room for layer in LAYERS for room in layer.split()]
    assert len(rooms) == len(set(rooms))
