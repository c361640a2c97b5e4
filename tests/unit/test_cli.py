"""The commands: exit codes, what goes to which stream, and words that a person can act on."""

import json
import os
import re
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from proxy import __version__
from proxy.__main__ import main as serve_here
from proxy.cli import become, main, tables
from proxy.cli.client_config import Client
from proxy.cli.failures import CommandFailed, lines_of
from proxy.clients import CLIENTS, Mirror
from proxy.config import WELL_KNOWN
from proxy.errors import ConfigInvalid, NameUnknown, StoreBusy
from tests.support.desk import CannedDesk, canned_desk
from tests.support.leaks import Canaries

ROOT: Final = Path(__file__).parents[2]
DIGEST: Final = "sha256:" + "1f" * 32


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended in this process."""

    code: int
    out: str
    err: str


class Cistern:
    """`cistern` in this process, with an environment of the test's own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Ran:
        code = main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        return Ran(code, captured.out, captured.err)


@pytest.fixture
def cistern(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, short_tmp: Path, tmp_path: Path
) -> Cistern:
    """The command, without the variables of whoever runs the tests, and with a cache directory of its own."""
    for name in list(os.environ):
        if name.startswith("CISTERN_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    config = tmp_path / "given.yaml"
    config.write_text(f"cache: {{directory: {short_tmp}}}\n")
    monkeypatch.setenv("CISTERN_CONFIG", str(config))
    monkeypatch.setattr(become, "become", serve_here)  # another program would take the test's place
    return Cistern(capsys)


@pytest.fixture
def desk(short_tmp: Path) -> Iterator[CannedDesk]:
    """A server at the control socket of that cache directory."""
    with canned_desk(short_tmp / "control.sock") as started:
        yield started


def in_a_process(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CISTERN_")}
    return subprocess.run(
        [sys.executable, "-m", "proxy.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=kept | variables,
        timeout=60,
        check=False,
    )


# The face


def test_version_is_one_line(cistern: Cistern) -> None:
    """Name and version, and nothing else."""
    assert cistern("--version") == Ran(0, f"cistern {__version__}\n", "")


def test_help_names_every_command(cistern: Cistern) -> None:
    """The commands of the contract, in its order."""
    ran = cistern("--help")
    assert ran.code == 0
    listed = re.findall(r"^  ([a-z][a-z-]+)  ", ran.out.partition("Commands:")[2], re.MULTILINE)
    assert listed == [
        "serve",
        "check",
        "client-config",
        "explain",
        "images",
        "usage",
        "status",
        "refresh",
        "evict",
        "verify",
    ]


def test_help_is_quick() -> None:
    """It imports neither the server nor the config."""
    code = "import sys; from proxy.cli import main; main(['--help']); print(*sorted(sys.modules), file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    modules = set(ran.stderr.split())
    assert "typer" in modules
    assert not modules & {"aiohttp", "pydantic", "yaml", "rich.table", "proxy.config", "proxy.app"}


def test_a_server_is_without_the_command_line() -> None:
    """What only reads flags takes no memory while it serves."""
    code = "import sys; import proxy.__main__; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    modules = set(ran.stdout.split())
    assert "proxy.serve" in modules
    assert not modules & {"typer", "pydantic", "pydantic_core", "rich", "proxy.cli"}


def test_serve_becomes_the_server(tmp_path: Path) -> None:
    """With the flags it was given, in the process and directory it was started in, whatever lies there."""
    (tmp_path / "yaml.py").write_text("raise SystemExit('a stranger')")
    (tmp_path / "bad.yaml").write_text("registry: {drain: 1}\n")
    told = [sys.executable, "-P", "-m", "proxy.cli", "serve", "--config", "bad.yaml", "--listen", "nowhere"]
    ran = subprocess.run(told, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines() == [
        "--listen: registry.listen: must be HOST:PORT (port 0 to 65535) or unix:/PATH",
        "bad.yaml:1: registry.drain: must be a time such as 30s: a number and one of ms s m h d, or forever",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing command"),
        (("sevre",), "Did you mean 'serve'?"),
        (("check", "--nothing"), "No such option: --nothing (see cistern check --help)"),
        (("explain",), "Missing argument"),
        (("serve", "--log-format", "xml"), "'json', 'human'"),
        (("client-config", "crio"), "'containerd'"),
        (("images", "a", "b"), "unexpected extra argument"),
        (("explain", "NOT A NAME"), "not a repository name"),
        (("evict", "nginx@sha256:1"), "64 lower-case hexadecimal digits"),
        (("refresh", f"nginx@{DIGEST}"), "a digest never changes"),
        (("images", "--admin", "localhost:5091"), "--admin must be unix:PATH, or http://HOST:PORT"),
        (("images", "--admin", "http://me:pw@localhost"), "--admin must be"),
        (("images", "--admin", "http://localhost:x"), "--admin must be"),
        (("images", "--admin", "unix:"), "--admin must be"),
        (("client-config", "docker", "--into", "x"), "needs --write"),
        (("client-config", "docker", "--url", "cache:5090"), "--url: 'cache:5090' is not http://HOST:PORT"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_use_is_told_in_one_line(cistern: Cistern, arguments: tuple[str, ...], words: str) -> None:
    """Exit code 2, one line on standard error, nothing on standard output."""
    ran = cistern(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert ran.err.startswith("cistern: ")
    assert ran.err.count("\n") == 1


def test_a_process_ends_with_the_code() -> None:
    """What `main` returns is the exit code, and no traceback is anywhere."""
    ran = in_a_process("images", "--admin", "http://127.0.0.1:1")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("cistern: no server at http://127.0.0.1:1: start it with `cistern serve`")
    assert ran.stderr.count("\n") == 1
    assert in_a_process("nothing").returncode == 2
    assert in_a_process("--version").stdout == f"cistern {__version__}\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    """`cistern check | head -1` says nothing more."""
    ran = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m proxy.cli check --egress | (exec <&-)"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert ran.stderr == ""


def test_a_narrow_encoding_gets_escapes(tmp_path: Path) -> None:
    """What a terminal's encoding cannot say is escaped, not an error."""
    ran = in_a_process("check", "--config", str(tmp_path / "日.yaml"), PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert ran.returncode == 2
    assert "\\u65e5.yaml:1: cannot be read: No such file or directory" in ran.stderr


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigInvalid(["a.yaml:1: x: y", "a.yaml:2: z: w"]), 2, "a.yaml:1: x: y"),
        (CommandFailed("it failed"), 1, "cistern: it failed"),
        (StoreBusy("in use by pid 7"), 1, "cistern: in use by pid 7"),
        (NameUnknown("no rule"), 1, "cistern: no rule"),
        (FileNotFoundError(2, "x", "/some/file"), 1, "cistern: /some/file: No such file or directory"),
        (OSError("odd"), 1, "cistern: odd"),
        (RuntimeError("a\nb"), 1, "cistern: an internal error, please report it: RuntimeError: a b"),
        (CommandFailed("esc\x1b[31m\r\n!"), 1, "cistern: esc [31m !"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_becomes_a_line(error: Exception, code: int, line: str) -> None:
    """One line, printable, with the code of its kind."""
    found, lines = lines_of(error)
    assert (found, lines[0]) == (code, line)


# check


def test_check_lists_every_problem(cistern: Cistern, tmp_path: Path) -> None:
    """`FILE:LINE: key: reason` for each of them, and exit code 2."""
    config = tmp_path / "bad.yaml"
    config.write_text("registry:\n  listen: nowhere\nhydrat: {}\ntags: {fresh_for: soon}\n")
    ran = cistern("check", "--config", config)
    assert (ran.code, ran.out) == (2, "")
    assert [line.split(": ")[:2] for line in ran.err.splitlines()] == [
        [f"{config}:2", "registry.listen"],
        [f"{config}:3", "hydrat"],
        [f"{config}:4", "tags.fresh_for"],
    ]


def test_a_command_that_needs_a_bad_config_lists_its_problems_too(cistern: Cistern, tmp_path: Path) -> None:
    """`serve` and the asking commands refuse it as `check` does."""
    config = tmp_path / "bad.yaml"
    config.write_text("hydrat: {}\n")
    for command in ("serve", "images", "status"):
        ran = cistern(command, "--config", config)
        assert (ran.code, ran.err) == (2, f"{config}:1: hydrat: unknown key, did you mean hydrate?\n")


def test_check_prints_the_rules(cistern: Cistern) -> None:
    """The built-in ones: every well-known registry."""
    ran = cistern("check")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == list(WELL_KNOWN)


def test_check_prints_warnings_beside_the_rules(cistern: Cistern, tmp_path: Path) -> None:
    """What is allowed but deserves a word goes to standard error."""
    config = tmp_path / "idle.yaml"
    config.write_text("credentials: {idle: {username: me, password: {env: NOT_SET_HERE}}}\n")
    ran = cistern("check", "--config", config)
    assert ran.code == 0
    assert "cistern: warning: credentials.idle.password: environment variable NOT_SET_HERE" in ran.err
    assert "warning" not in ran.out


def test_check_prints_what_a_firewall_must_let_through(cistern: Cistern) -> None:
    """Hosts and ports only, one a line."""
    ran = cistern("check", "--egress")
    assert ran.code == 0
    assert "registry-1.docker.io:443" in [line.split()[0] for line in ran.out.splitlines()]
    assert all(re.match(r"\S+:\d+ +# ", line) for line in ran.out.splitlines())


# serve


def test_serve_flags_win_and_are_checked(cistern: Cistern) -> None:
    """A bad flag is named as such, with all others."""
    ran = cistern("serve", "--listen", "nowhere", "--admin", "here", "--workers", "many")
    assert ran.code == 2
    assert {line.partition(": ")[0] for line in ran.err.splitlines()} == {"--admin", "--listen", "--workers"}


# client-config


def test_the_clients_are_those_that_files_are_made_for() -> None:
    """The argument knows exactly the clients of `proxy.clients`."""
    assert [client.value for client in Client] == list(CLIENTS)


@pytest.mark.parametrize("client", CLIENTS)
def test_client_config_prints_the_file_and_nothing_else(cistern: Cistern, client: str) -> None:
    """Redirected to a file it is the file; its name goes beside it."""
    ran = cistern("client-config", client)
    [(name, text)] = CLIENTS[client](Mirror.parse("http://127.0.0.1:5090"), list(WELL_KNOWN)).items()
    assert (ran.code, ran.out) == (0, text)
    assert ran.err.endswith(f"/{name}\n")


def test_client_config_writes_files(cistern: Cistern, tmp_path: Path) -> None:
    """Whole, readable by the client's user; a second run finds them as they are."""
    for _ in range(2):
        ran = cistern("client-config", "containerd", "--url", "https://cache:1", "--write", "--into", tmp_path / "etc")
        assert (ran.code, ran.out) == (0, "")
    written = tmp_path / "etc" / "certs.d" / "_default" / "hosts.toml"
    assert '[host."https://cache:1"]' in written.read_text()
    assert written.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in written.parent.iterdir()] == ["hosts.toml"]


@pytest.mark.parametrize(
    ("client", "into", "file"),
    [
        ("containerd", "certs.d", "certs.d/_default/hosts.toml"),
        ("containerd", "certs.d/_default", "certs.d/_default/hosts.toml"),
        ("containerd", "etc", "etc/certs.d/_default/hosts.toml"),
        ("podman", "registries.conf.d", "registries.conf.d/050-cistern.conf"),
        ("docker", "daemon.json", "daemon.json/daemon.json"),
    ],
)
def test_client_config_makes_no_folder_within_itself(
    cistern: Cistern, tmp_path: Path, client: str, into: str, file: str
) -> None:
    """Whoever names the folder that clients look into, and not the one above it, means that folder."""
    assert cistern("client-config", client, "--write", "--into", tmp_path / into).code == 0
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written - {"given.yaml"} == {file}


def test_client_config_writes_over_nothing(cistern: Cistern, tmp_path: Path) -> None:
    """Somebody else's file stays as it is, and is named."""
    held = tmp_path / "daemon.json"
    held.write_text('{"debug": true}')
    ran = cistern("client-config", "docker", "--write", "--into", tmp_path)
    assert ran.code == 1
    assert f"{held} is there already" in ran.err
    assert held.read_text() == '{"debug": true}'


def test_a_folder_that_cannot_be_written_is_told(cistern: Cistern, tmp_path: Path) -> None:
    """The path and the system's word for it."""
    (tmp_path / "file").write_text("")
    ran = cistern("client-config", "docker", "--write", "--into", tmp_path / "file")
    assert ran.code == 1
    assert "Not a directory" in ran.err


@pytest.mark.parametrize("listen", ["0.0.0.0:5090", "'[::]:5090'", "127.0.0.1:0", "unix:/run/cistern.sock"])
def test_an_address_that_no_client_can_use_needs_a_url(cistern: Cistern, tmp_path: Path, listen: str) -> None:
    """Where clients reach it is not guessed."""
    config = tmp_path / "open.yaml"
    config.write_text(f"registry: {{listen: {listen}}}\n")
    ran = cistern("client-config", "docker", "--config", config)
    assert (ran.code, ran.out) == (2, "")
    assert "--url is needed" in ran.err
    assert cistern("client-config", "docker", "--config", config, "--url", "http://cache:5090").code == 0


# Asking a server


IMAGE: Final[dict[str, Any]] = {
    "reference": "docker.io/library/nginx:1.27",
    "repository": "docker.io/library/nginx",
    "tags": ["1.27", "latest"],
    "digest": DIGEST,
    "platforms": [{"platform": "linux/amd64", "digest": DIGEST, "here": True}],
    "complete": True,
    "manifest_here": True,
    "blobs_present": 7,
    "blobs_total": 7,
    "own_bytes": 3 << 20,
    "shared_bytes": 512,
    "last_used": None,
}


def test_images_are_a_table(cistern: Cistern, desk: CannedDesk) -> None:
    """One row an image, aligned, and not wrapped where nobody looks at it."""
    partly = IMAGE | {"tags": [], "complete": False, "blobs_present": 3, "last_used": time.time() - 7300}
    long = IMAGE | {"repository": "registry.example/" + "a" * 200, "complete": False, "manifest_here": False}
    desk.answer("/api/v1/images", {"images": [IMAGE, partly, long]})
    ran = cistern("images")
    assert (ran.code, ran.err) == (0, "")
    headings, first, second, third = ran.out.splitlines()
    assert headings.split() == ["IMAGE", "TAGS", "DIGEST", "PLATFORMS", "HERE", "OWN", "SHARED", "USED"]
    assert re.split(r" {2,}", first) == [
        "docker.io/library/nginx",
        "1.27, latest",
        DIGEST[7:19],
        "amd64",
        "whole",
        "3.0 MiB",
        "512 B",
        "-",
    ]
    assert "3 of 7 blobs" in second
    assert "2h ago" in second
    assert "a" * 200 in third
    assert "tag only" in third


def test_an_index_alone_is_told(cistern: Cistern, desk: CannedDesk) -> None:
    """No platform of it was pulled."""
    platforms = [{"platform": "linux/amd64", "digest": DIGEST, "here": False}]
    desk.answer("/api/v1/images", {"images": [IMAGE | {"complete": False, "platforms": platforms}]})
    assert "index only" in cistern("images").out


def test_a_reference_is_asked_for(cistern: Cistern, desk: CannedDesk) -> None:
    """It goes along as it was written, encoded."""
    desk.answer("/api/v1/images", {"images": []})
    ran = cistern("images", "host:5000/x@" + DIGEST)
    assert ran.code == 0
    assert desk.asked[0].target == f"/api/v1/images?reference=host%3A5000%2Fx%40{DIGEST.replace(':', '%3A')}"


@pytest.mark.parametrize(
    ("command", "path", "document"),
    [
        (("images",), "/api/v1/images", {"images": [IMAGE]}),
        (("usage",), "/api/v1/usage", {"bytes": 1}),
        (("status",), "/health", {"status": "ok"}),
        (("explain", "nginx"), "/api/v1/explain", {"text": ["x"], "works": True}),
        (("refresh", "nginx"), "/api/v1/refresh", {"digest": DIGEST}),
        (("evict", "nginx"), "/api/v1/evict", {"blobs": 1}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_json_is_for_scripts(
    cistern: Cistern, desk: CannedDesk, command: tuple[str, ...], path: str, document: Any
) -> None:
    """With --json the server's own facts come out, and nothing else."""
    desk.answer(path, document)
    ran = cistern(*command, "--json")
    assert ran.code == 0
    assert json.loads(ran.out) == document.get("images", document)


@pytest.mark.parametrize(
    ("growth", "days", "told"),
    [
        (None, None, "growth: not known yet"),
        (1.5 * (1 << 30), 29.3, "growth: 1.5 GiB a day, full in 29.3 days"),
        (-2048.0, None, "growth: -2.0 KiB a day"),
    ],
    ids=["young", "growing", "shrinking"],
)
def test_usage_is_tables(
    cistern: Cistern, desk: CannedDesk, growth: float | None, days: float | None, told: str
) -> None:
    """What is kept in all and on the disk, how it grows, by upstream and rule, and the largest images."""
    share = {"name": "docker.io", "bytes": 5 << 30, "blobs": 12}
    desk.answer(
        "/api/v1/usage",
        {
            "bytes": 5 << 30,
            "blobs": 12,
            "unused_bytes": 0,
            "unused_blobs": 0,
            "used_bytes": 6 << 30,
            "reserved_bytes": 1 << 20,
            "parts_bytes": 1536,
            "limit_bytes": 50 << 30,
            "free_bytes": 2 << 40,
            "keep_free_bytes": 1 << 40,
            "growth_per_day_bytes": growth,
            "days_to_full": days,
            "upstreams": [share],
            "rules": [share | {"limit_bytes": 10 << 30}],
            "images": [{"reference": f"docker.io/x:{n}", "own_bytes": 10, "shared_bytes": 0} for n in range(30)],
        },
    )
    ran = cistern("usage")
    assert ran.code == 0
    rows = [re.split(r" {2,}", line.strip()) for line in ran.out.splitlines()]
    assert ["kept", "5.0 GiB", "12"] in rows
    assert ["unfinished", "1.5 KiB", "-"] in rows
    assert ["of the disk", "6.0 GiB", "-"] in rows
    assert ["disk free", "2.0 TiB", "-"] in rows
    assert [told] in rows
    assert ["docker.io", "5.0 GiB", "12"] in rows
    assert ["docker.io", "5.0 GiB", "12", "10.0 GiB"] in rows
    assert sum(row[0].startswith("docker.io/x:") for row in rows) == 10


def test_status_shows_every_part(cistern: Cistern, desk: CannedDesk) -> None:
    """However deep it stands, with why it is not well."""
    desk.answer(
        "/health",
        {
            "status": "degraded",
            "storage": {"status": "ok", "free_bytes": 10},
            "upstreams": {
                "docker.io": {
                    "status": "degraded",
                    "endpoints": {"https://registry-1.docker.io": {"status": "degraded", "why": "it failed too often"}},
                }
            },
        },
    )
    ran = cistern("status")
    assert ran.code == 0
    rows = [re.split(r" {2,}", line) for line in ran.out.splitlines()]
    assert ["server", "degraded"] in rows
    assert ["storage", "ok", "free_bytes=10"] in rows
    assert ["upstreams docker.io endpoints https://registry-1.docker.io", "degraded", "it failed too often"] in rows


@pytest.mark.parametrize("http_status", [200, 503])
def test_a_failing_server_has_a_failing_status(cistern: Cistern, desk: CannedDesk, http_status: int) -> None:
    """Exit code 1, so that a script need not read."""
    desk.answer("/health", {"status": "failing"}, http_status)
    ran = cistern("status")
    assert (ran.code, ran.err) == (1, "")
    assert "failing" in ran.out


@pytest.mark.parametrize("as_json", [(), ("--json",)])
@pytest.mark.parametrize(("works", "code"), [(True, 0), (False, 1)])
def test_explain_ends_as_the_pull_would(
    cistern: Cistern, desk: CannedDesk, works: bool, code: int, as_json: tuple[str, ...]
) -> None:
    """Exit code 1 when the pull would fail, for scripts; what it says is the same."""
    desk.answer("/api/v1/explain", {"text": ["nginx:latest"], "works": works})
    ran = cistern("explain", "nginx", *as_json)
    assert (ran.code, "nginx:latest" in ran.out) == (code, True)


def test_explain_prints_its_lines(cistern: Cistern, desk: CannedDesk) -> None:
    """As the server wrote them, but nothing that moves a cursor."""
    desk.answer("/api/v1/explain", {"text": ["nginx:latest", "  rule          docker.io\x1b[2J"], "works": True})
    ran = cistern("explain", "nginx")
    assert (ran.code, ran.out) == (0, "nginx:latest\n  rule          docker.io [2J\n")
    assert desk.asked[0].target == "/api/v1/explain?reference=nginx"


@pytest.mark.parametrize(
    ("told", "words"),
    [({"moved": True}, "moved"), ({"moved": False}, "unchanged"), ({}, "checked")],
)
def test_refresh_says_what_the_tag_is_now(cistern: Cistern, desk: CannedDesk, told: dict[str, Any], words: str) -> None:
    """Its digest, and whether it moved."""
    desk.answer("/api/v1/refresh", {"digest": DIGEST, **told})
    ran = cistern("refresh", "nginx:1")
    assert (ran.code, ran.out) == (0, f"nginx:1 is {DIGEST}: {words}\n")
    assert (desk.asked[0].method, desk.asked[0].body) == ("POST", b'{"reference": "nginx:1"}')


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"tags": 1, "manifests": 2, "blobs": 3, "bytes": 4096}, "2 manifests and 3 blobs, 4.0 KiB"),
        ({"tags": 1, "manifests": 0, "blobs": 0, "bytes": 0}, "still uses its content"),
        ({"tags": 0, "manifests": 0, "blobs": 0, "bytes": 0}, "nothing of it was stored"),
    ],
)
def test_evict_says_what_went(cistern: Cistern, desk: CannedDesk, told: dict[str, int], words: str) -> None:
    """Counts and bytes, or why nothing went."""
    desk.answer("/api/v1/evict", told)
    ran = cistern("evict", "nginx:1")
    assert ran.code == 0
    assert words in ran.out


CLEAN: Final = {"blobs": 7, "bytes": 4096, "seconds": 0.5, "clean": True, "bad": []}


@pytest.mark.parametrize(
    ("told", "code", "words"),
    [
        (CLEAN, 0, "7 blobs, 4.0 KiB, 0.5 s: 0 bad"),
        (CLEAN | {"bad": [{"digest": DIGEST, "found": "bad", "mended": True}]}, 0, f"{DIGEST} bad: fetched again"),
        (
            CLEAN | {"clean": False, "bad": [{"digest": DIGEST, "found": "bad", "mended": False, "why_not": "lost"}]},
            1,
            f"{DIGEST} bad: lost",
        ),
        (CLEAN | {"clean": False, "bad": [{"digest": DIGEST, "found": "bad", "mended": False}]}, 1, "set aside"),
    ],
    ids=["clean", "mended", "not mended", "no repair"],
)
def test_verify_says_what_was_bad(
    cistern: Cistern, desk: CannedDesk, told: dict[str, Any], code: int, words: str
) -> None:
    """Each bad blob and what became of it; exit code 1 as long as any is not mended."""
    desk.answer("/api/v1/verify", told)
    ran = cistern("verify", "--repair")
    assert (ran.code, desk.asked[0].body) == (code, b'{"repair": true}')
    assert words in ran.out
    assert cistern("verify", "--json").code == code
    assert desk.asked[1].body == b'{"repair": false}'


# Which server, and who may


def test_the_token_goes_over_a_url_only(
    cistern: Cistern, desk: CannedDesk, monkeypatch: pytest.MonkeyPatch, canaries: Canaries
) -> None:
    """A bearer token for what changes state; the control socket needs none, and reading needs none."""
    token = canaries.secret("token")
    monkeypatch.setenv("CISTERN_ADMIN_TOKEN", token)
    with canned_desk() as remote:
        for one in (desk, remote):
            one.answer("/api/v1/evict", {"tags": 1, "manifests": 1, "blobs": 1, "bytes": 1})
            one.answer("/health", {"status": "ok"})
        ran = [cistern(*words, "--admin", remote.where) for words in (("evict", "x"), ("status",))]
        ran += [cistern("evict", "x")]
    assert [item.code for item in ran] == [0, 0, 0]
    assert [item.headers.get("Authorization") for item in remote.asked] == [f"Bearer {token}", None]
    assert [item.headers.get("Authorization") for item in desk.asked] == [None]
    canaries.assert_absent(*(item.out + item.err for item in ran))


def test_a_token_that_is_no_header_is_not_sent(
    cistern: Cistern, monkeypatch: pytest.MonkeyPatch, canaries: Canaries
) -> None:
    """It is refused without being repeated."""
    monkeypatch.setenv("CISTERN_ADMIN_TOKEN", canaries.secret("token") + "\r\nX-Evil: 1")
    with canned_desk() as remote:
        ran = cistern("evict", "x", "--admin", remote.where)
    assert (ran.code, remote.asked) == (2, [])
    canaries.assert_absent(ran.err)


def test_the_variable_names_the_server(cistern: Cistern, monkeypatch: pytest.MonkeyPatch) -> None:
    """CISTERN_ADMIN is as good as --admin, and no config is read for it."""
    with canned_desk() as remote:
        remote.answer("/health", {"status": "ok"})
        monkeypatch.setenv("CISTERN_ADMIN", remote.where)
        monkeypatch.setenv("CISTERN_CONFIG", "/nowhere.yaml")
        assert cistern("status").code == 0


@pytest.mark.parametrize(
    ("status", "document", "code", "words"),
    [
        (403, {"errors": [{"code": "denied", "message": "use the control socket"}]}, 1, "use the control socket"),
        (403, {}, 1, "CISTERN_ADMIN_TOKEN"),
        (404, {"errors": [{"code": "x", "message": "nginx:1 is not here"}]}, 1, "nginx:1 is not here"),
        (400, {"errors": [{"code": "x", "message": "not a tag"}]}, 2, "not a tag"),
        (503, {"error": "draining"}, 1, "draining"),
        (500, {}, 1, "answers 500"),
        (200, b"<html>", 1, "no JSON: is that the admin address"),
        (200, b"", 1, "no JSON"),
    ],
)
def test_the_servers_refusal_is_told_in_its_words(
    cistern: Cistern, desk: CannedDesk, status: int, document: Any, code: int, words: str
) -> None:
    """One line, and the exit code that fits."""
    desk.answer("/api/v1/evict", document, status)
    ran = cistern("evict", "nginx:1")
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
    assert ran.err.count("\n") == 1


def test_a_server_of_another_version_is_told(cistern: Cistern, desk: CannedDesk) -> None:
    """An answer of another shape is no traceback."""
    desk.answer("/api/v1/images", {"pictures": []})
    ran = cistern("images")
    assert ran.code == 1
    assert "holds no images" in ran.err


def test_a_socket_that_nobody_listens_on_is_told(cistern: Cistern, short_tmp: Path) -> None:
    """A dead server leaves its socket: the same words as without one."""
    never = cistern("images")
    with canned_desk(short_tmp / "control.sock"):
        assert (short_tmp / "control.sock").is_socket()
    dead = cistern("images")
    assert never == dead
    assert dead.code == 1
    assert f"no server at unix:{short_tmp}/control.sock" in dead.err


def test_a_name_too_long_for_a_socket_is_told(cistern: Cistern) -> None:
    """The system's limit is explained, with the way around it."""
    ran = cistern("images", "--admin", f"unix:/{'x' * 200}")
    assert ran.code == 1
    assert "too long for a socket" in ran.err


# Tables


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (3 << 39, "1.5 TiB")],
)
def test_a_size_is_short(count: int | None, text: str) -> None:
    """In the largest unit that fits."""
    assert tables.size(count) == text


@pytest.mark.parametrize(("ago", "text"), [(0, "0s ago"), (61, "1m ago"), (7200, "2h ago"), (1e6, "11d ago")])
def test_an_age_is_short(ago: float, text: str) -> None:
    """In the largest unit that fits; a clock that was set back gives no negative age."""
    assert tables.age(1e9 - ago, 1e9) == text
    assert tables.age(1e9 + 5, 1e9) == "0s ago"
    assert tables.age(None, 1e9) == "-"


@pytest.mark.parametrize(("columns", "folds"), [(100, True), (60, False)])
def test_a_terminal_gets_a_table_of_its_width(short_tmp: Path, columns: int, folds: bool) -> None:
    """Names are folded, not cut, where there is room to; a terminal too narrow for a table gets plain lines."""
    name = "registry.example/[bold]/" + "x" * 90
    with canned_desk(short_tmp / "control.sock") as desk:
        desk.answer("/api/v1/images", {"images": [IMAGE | {"repository": name}]})
        leader, follower = os.openpty()
        termios.tcsetwinsize(follower, (24, columns))
        with subprocess.Popen(
            [sys.executable, "-m", "proxy.cli", "images", "--admin", desk.where],
            stdout=follower,
            stderr=follower,
            cwd=ROOT,
            env={"TERM": "xterm", "PATH": os.environ["PATH"]},
        ) as process:
            os.close(follower)
            shown = re.sub(r"\x1b\[[0-9;]*m", "", read_terminal(leader))
        os.close(leader)
    assert process.returncode == 0
    assert ("3.0 MiB" in shown, shown.count("x")) == (True, 91)  # 90 of the name, one of "registry.example"
    assert (max(map(len, shown.splitlines())) <= columns) == folds
    assert (name in shown) == (not folds)
    assert "[bold]" in shown


def read_terminal(leader: int) -> str:
    """Everything until the other side has closed."""
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # EIO: the last one on the other side has left
            return shown.decode()
        if not piece:
            return shown.decode()
        shown += piece
