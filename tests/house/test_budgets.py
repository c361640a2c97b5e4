"""Budgets of size: a room that outgrows them is two rooms."""

import ast
from typing import Final

from tests.house.source import name_of, python_files, tree_of

FILE_LINES: Final = 300
FUNCTION_LINES: Final = 60


def test_a_file_keeps_its_budget() -> None:
    """No file is longer than 300 lines, of the package, its tests or its benchmarks."""
    lengths = {
        name_of(path): len(path.read_text().splitlines()) for path in python_files("proxy", "tests", "benchmarks")
    }
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES} == {}


def test_a_function_keeps_its_budget() -> None:
    """No function is longer than 60 lines, docstring and decorators not counted as an excuse."""
    lengths = {
        f"{name_of(path)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in python_files("proxy", "tests", "benchmarks")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES} == {}
