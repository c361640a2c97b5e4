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
PACKAGE: Final = python_files("proxy")
TESTS: Final = [path for path in PYTHON if path.name.startswith("test_")]

# Written in halves, so that this file does not hold what it forbids.
FORBIDDEN: Final = {
    "an unfinished thought": rf"\b({'TO' + 'DO'}|{'FIX' + 'ME'}|{'XX' + 'X'})\b",
    "a path of one machine": rf"(?<![\w./}}-])/({'wo' + 'rk'}|{'tm' + 'p'}|{'ro' + 'ot'})(/|\b)",
    "the host of a package index": rf"({'py' + 'pi'}\.org|{'python' + 'hosted'}|{'debian' + '.org'}|{'npm' + 'js'}\.)",
}
# An exemption says why, in words, after its code.
UNREASONED: Final = re.compile(r"#\s*(type:\s*ignore|noqa)(\[[\w, -]+\]|:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*)?\s*$")


# One test for each rule, not one for each file: there are hundreds of files, and a list of faults says as much.


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    """Nothing unfinished, nothing of the machine it was written on, and no index host."""
    assert lines_with(re.compile(FORBIDDEN[what]), written_files()) == []


def test_an_exemption_gives_its_reason() -> None:
    """A lint or type exemption names its rule and says why, on its own line."""
    assert lines_with(UNREASONED, PYTHON) == []


def test_a_background_task_has_an_owner() -> None:
    """Only proxy/tasks.py makes a task of the loop: all others are named, kept and ended at stop."""
    bare = {"asyncio.create_task", "asyncio.ensure_future", "loop.create_task"}
    others = [path for path in PACKAGE if path.name != "tasks.py"]
    uses = [(name_of(path), line, name) for path in others for line, name in (*calls_in(path), *imports_of(path))]
    assert [use for use in uses if use[2] in bare] == []


def test_only_commands_print() -> None:
    """What a server has to say goes to its log; standard output belongs to the commands, and to the one ready line."""
    silent = [path for path in PACKAGE if "cli" not in path.parts and path.name != "serve.py"]
    assert [(name_of(path), line) for path in silent for line, name in calls_in(path) if name == "print"] == []


def test_no_except_is_bare() -> None:
    """A bare except would swallow a cancellation."""
    handlers = [(path, node) for path in PYTHON for node in ast.walk(tree_of(path))]
    bare = [(path, node) for path, node in handlers if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert [(name_of(path), node.lineno) for path, node in bare] == []


def test_every_module_says_its_job() -> None:
    """A module opens with a docstring; only an empty one has nothing to say."""
    assert [name_of(path) for path in PYTHON if path.read_text().strip() and not ast.get_docstring(tree_of(path))] == []


def test_every_test_is_a_promise() -> None:
    """Each test says in its docstring what it promises."""
    assert [
        (name_of(path), test.name) for path in TESTS for test in _tests_of(path) if not ast.get_docstring(test)
    ] == []


def test_every_test_runs_and_can_fail() -> None:
    """No test is skipped, expected to fail, fed by patches of our own code, or left to a sleep: what it must wait for
    without a gate, tests/support/waiting.py waits for.
    """
    banned = {"pytest.skip", "pytest.xfail", "pytest.importorskip", "pytest.mark.skip", "pytest.mark.skipif"}
    banned |= {"pytest.mark.xfail", "unittest.mock", "time.sleep", "asyncio.sleep"}
    used = {
        (name_of(path), dotted(n)) for path in TESTS for n in ast.walk(tree_of(path)) if isinstance(n, ast.Attribute)
    }
    used |= {(name_of(path), name) for path in TESTS for _, name in imports_of(path)}
    assert sorted(use for use in used if use[1] in banned or use[1].startswith("unittest")) == []


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


def lines_with(pattern: re.Pattern[str], paths: list[Path]) -> list[tuple[str, int, str]]:
    """Where in these files the pattern stands: file, line number, line."""
    return [
        (name_of(path), number, line.strip())
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]


def _tests_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node
