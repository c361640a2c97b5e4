"""Budgets of size: a room that outgrows them is two rooms."""

import ast
from pathlib import Path
from typing import Final

import pytest

from tests.house.source import name_of, python_files, tree_of

FILE_LINES: Final = 300
FUNCTION_LINES: Final = 60


@pytest.mark.parametrize("path", python_files("proxy"), ids=name_of)
def test_a_file_keeps_its_budget(path: Path) -> None:
    """No file of the package is longer than 300 lines."""
    lines = len(path.read_text().splitlines())
    assert lines <= FILE_LINES, f"{name_of(path)} has {lines} lines"


@pytest.mark.parametrize("path", python_files("proxy"), ids=name_of)
def test_a_function_keeps_its_budget(path: Path) -> None:
    """No function is longer than 60 lines, docstring and decorators not counted as an excuse."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{name_of(path)}:{node.lineno} {node.name} has {lines} lines"
