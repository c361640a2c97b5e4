"""The commands' face: help, version, exit codes, what goes to which stream, and words that a person can act on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import __version__
from proxy.cli.failures import CommandFailed, lines_of
from proxy.errors import ConfigInvalid, NameUnknown, StoreBusy
from tests.support.commands import DIGEST, ROOT, Cistern, Ran, in_a_process


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
