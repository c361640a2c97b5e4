"""What no file of the project may hold, and what every one must."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.house.source import ROOT, calls_in, dotted, imports_of, name_of, python_files, tree_of, written_files

PYTHON: Final = python_files("proxy", "tests", "benchmarks")
TESTS: Final = [path for path in PYTHON if path.name.startswith("test_")]

# Written in halves, so that this file does not hold what it forbids.
FORBIDDEN: Final = {
    "an unfinished thought": rf"\b({'TO' + 'DO'}|{'FIX' + 'ME'}|{'XX' + 'X'})\b",
    "a path of one machine": rf"(?<![\w./}}-])/({'wo' + 'rk'}|{'tm' + 'p'}|{'ro' + 'ot'})(/|\b)",
    "the host of a package index": rf"({'py' + 'pi'}\.org|{'python' + 'hosted'}|{'debian' + '.org'}|{'npm' + 'js'}\.)",
}
# An exemption says why, in words, after its code.
UNREASONED: Final = re.compile(r"#\s*(type:\s*ignore|noqa)(\[[\w, -]+\]|:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*)?\s*$")


@pytest.mark.parametrize("path", written_files(), ids=name_of)
@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(path: Path, what: str) -> None:
    """Nothing unfinished, nothing of the machine it was written on, and no index host."""
    pattern = re.compile(FORBIDDEN[what])
    found = [(n, line) for n, line in enumerate(path.read_text().splitlines(), 1) if pattern.search(line)]
    assert not found, f"{name_of(path)}: {what}"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_an_exemption_gives_its_reason(path: Path) -> None:
    """A lint or type exemption names its rule and says why, on its own line."""
    found = [n for n, line in enumerate(path.read_text().splitlines(), 1) if UNREASONED.search(line)]
    assert not found, f"{name_of(path)}: lines {found}"


@pytest.mark.parametrize("path", python_files("proxy"), ids=name_of)
def test_a_background_task_has_an_owner(path: Path) -> None:
    """Only proxy/tasks.py makes a task of the loop: all others are named, kept and ended at stop."""
    if path.name == "tasks.py":
        return
    bare = {"asyncio.create_task", "asyncio.ensure_future", "loop.create_task"}
    assert not [line for line, name in calls_in(path) if name in bare], name_of(path)
    assert not [line for line, name in imports_of(path) if name in bare], name_of(path)


@pytest.mark.parametrize("path", python_files("proxy"), ids=name_of)
def test_only_commands_print(path: Path) -> None:
    """What a server has to say goes to its log; standard output belongs to the commands, and to the one ready line."""
    if "cli" in path.parts or path.name == "serve.py":
        return
    assert not [line for line, name in calls_in(path) if name == "print"], name_of(path)


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_no_except_is_bare(path: Path) -> None:
    """A bare except would swallow a cancellation."""
    bare = [n.lineno for n in ast.walk(tree_of(path)) if isinstance(n, ast.ExceptHandler) and n.type is None]
    assert not bare, f"{name_of(path)}: lines {bare}"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_every_module_says_its_job(path: Path) -> None:
    """A module opens with a docstring; only an empty one has nothing to say."""
    assert not path.read_text().strip() or ast.get_docstring(tree_of(path)), name_of(path)


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_every_test_is_a_promise(path: Path) -> None:
    """Each test says in its docstring what it promises."""
    silent = [node.name for node in _tests_of(path) if not ast.get_docstring(node)]
    assert not silent, f"{name_of(path)}: {silent}"


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_every_test_runs_and_can_fail(path: Path) -> None:
    """No test is skipped, expected to fail, fed by patches of our own code, or left to a fixed sleep."""
    names = {dotted(node) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
    banned = {"pytest.skip", "pytest.xfail", "pytest.importorskip", "pytest.mark.skip", "pytest.mark.skipif"}
    banned |= {"pytest.mark.xfail", "unittest.mock", "time.sleep"}
    assert not names & banned, f"{name_of(path)}: {names & banned}"
    assert not [name for _, name in imports_of(path) if name.startswith("unittest")], name_of(path)


def test_the_lock_file_holds_names_versions_and_hashes_only() -> None:
    """The lock file says what is installed and never where it comes from, and covers the build backend too."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    allowed = re.compile(r"[a-z0-9._-]+==[\w.!+]+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert [line for line in lines if not allowed.fullmatch(line)] == []
    locked = {line.split("==")[0] for line in lines if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["build-system"]["requires"] + project["project"]["dependencies"]
    wanted += project["dependency-groups"]["dev"]
    assert {re.split(r"[<>=~!\[ ]", item)[0].lower() for item in wanted} - locked == set()


def _tests_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node
